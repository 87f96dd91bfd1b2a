from dataclasses import asdict

import numpy as np
import pytest
import torch

from attn.core.segment.fov import Fov, fov_from_mask
from attn.core.segment.prepare import (
    IMAGENET_MEAN,
    IMAGENET_STD,
    LEAST_STD,
    SAME_SCALE,
    Preparation,
    normalise,
    prepare,
    rescale,
    scaled_size,
    statistics,
)


def disc(shape=(90, 110), radius=30):
    yy, xx = np.mgrid[: shape[0], : shape[1]]
    return fov_from_mask(np.hypot(yy - 40, xx - 60) < radius)


def photo(shape=(90, 110)):
    return np.random.default_rng(0).random((3, *shape), dtype=np.float32)


def test_same_scale_only_cuts():
    fov, pixels = disc(), photo()
    ready = prepare(pixels, fov, Preparation(fov_diameter=fov.diameter * (1 + 0.9 * SAME_SCALE)))
    top, left, bottom, right = ready.box
    assert ready.box == fov.box
    assert np.array_equal(ready.pixels.numpy(), pixels[:, top:bottom, left:right])
    assert np.array_equal(ready.mask.numpy(), fov.mask[top:bottom, left:right])


@pytest.mark.parametrize("factor", [0.5, 0.9, 1.5])
def test_field_of_view_gets_the_wanted_diameter(factor):
    fov = disc()
    ready = prepare(photo(), fov, Preparation(fov_diameter=fov.diameter * factor))
    assert fov_from_mask(ready.mask.numpy()).diameter == pytest.approx(fov.diameter * factor, rel=0.03)
    assert ready.pixels.shape[1:] == ready.mask.shape
    assert 0 <= float(ready.pixels.min()) <= float(ready.pixels.max()) <= 1
    assert ready.box == fov.box


def test_neither_the_photo_nor_the_mask_is_changed():
    fov, pixels = disc(), photo()
    before = pixels.copy(), fov.mask.copy()
    ready = prepare(pixels, fov, Preparation(fov_diameter=fov.diameter))
    normalise(ready.pixels, ready.mask, Preparation())
    assert np.array_equal(pixels, before[0])
    assert np.array_equal(fov.mask, before[1])


def test_cut_off_field_of_view_is_scaled_by_its_circle_and_not_its_box():
    fov = Fov(np.ones((40, 80), bool), (0, 0, 40, 80), 80.0, 0.6)
    ready = prepare(photo((40, 80)), fov, Preparation(fov_diameter=40))
    assert ready.mask.shape == (20, 40)


@pytest.mark.parametrize(
    ("scale", "expected"),
    [
        (1.0, (101, 7)),
        (1 + SAME_SCALE * 0.99, (101, 7)),
        (1 - SAME_SCALE * 0.99, (101, 7)),
        (1.04, (105, 7)),
        (0.5, (50, 4)),
        (1e-4, (1, 1)),
    ],
)
def test_scaled_size(scale, expected):
    assert scaled_size((101, 7), scale) == expected


def test_rescale_is_anti_aliased():
    stripes = (torch.arange(64) % 2).float().expand(1, 64, 64)
    assert float((rescale(stripes, (16, 16))[:, :, 1:-1] - 0.5).abs().max()) < 0.05
    torch.testing.assert_close(rescale(torch.full((3, 10, 10), 0.7), (23, 4)), torch.full((3, 23, 4), 0.7))


def test_statistics_with_a_flat_channel():
    samples = torch.rand(3, 500)
    samples[2] = 0.25
    mean, deviation = statistics(samples)
    assert mean.shape == deviation.shape == (3, 1, 1)
    np.testing.assert_allclose(mean[:, 0, 0], samples.numpy().mean(1), rtol=1e-5)
    np.testing.assert_allclose(deviation[:2, 0, 0], samples[:2].numpy().std(1), rtol=1e-5)
    assert float(deviation[2]) == pytest.approx(LEAST_STD)
    out = normalise(samples.reshape(3, 20, 25), torch.ones(20, 25, dtype=torch.bool), Preparation())
    assert float(out[2].abs().max()) < 1e-4  # its noise is not stretched


def test_normalised_by_the_field_of_view():
    pixels, mask = torch.rand(3, 30, 40) * torch.tensor([0.9, 0.5, 0.2])[:, None, None], torch.rand(30, 40) > 0.3
    pixels[:, ~mask] = 0.9  # what lies outside does not count
    out = normalise(pixels, mask, Preparation())
    assert not out[:, ~mask].any()
    torch.testing.assert_close(out[:, mask].mean(1), torch.zeros(3), rtol=0, atol=1e-5)
    torch.testing.assert_close(out[:, mask].std(1, correction=0), torch.ones(3), rtol=1e-4, atol=0)
    other = normalise(pixels * 0.7 + 0.1, mask, Preparation())  # exposure and offset drop out
    torch.testing.assert_close(other, out, rtol=0, atol=1e-4)


def test_normalised_by_given_samples():
    pixels, mask, samples = torch.rand(3, 8, 8), torch.ones(8, 8, dtype=torch.bool), torch.rand(3, 100) * 0.5
    mean, deviation = samples.mean(1), samples.std(1, correction=0)
    expected = (pixels - mean[:, None, None]) / deviation[:, None, None]
    torch.testing.assert_close(normalise(pixels, mask, Preparation(), samples), expected)


def test_normalised_by_fixed_values():
    pixels, mask = torch.rand(3, 8, 9), torch.rand(8, 9) > 0.5
    out = normalise(pixels, mask, Preparation(normalise="imagenet"), torch.rand(3, 5))
    for channel, (mean, deviation) in enumerate(zip(IMAGENET_MEAN, IMAGENET_STD, strict=True)):
        torch.testing.assert_close(out[channel][mask], (pixels[channel][mask] - mean) / deviation)
        # black outside, as the official code pads before it normalises
        torch.testing.assert_close(out[channel][~mask], torch.full_like(out[channel][~mask], -mean / deviation))


def test_preparation_round_trips():
    one = Preparation(400.0, "imagenet")
    assert Preparation(**asdict(one)) == one
    assert Preparation().fov_diameter == 540
