"""The models behind the command: photo in, probabilities at its size out, whatever its size."""

import numpy as np
import pytest
import torch

from attn.core.cpu import Cpu, cpu_as
from attn.core.errors import UsageError
from attn.core.segment import MODELS, models
from attn.core.segment import network as networks
from attn.core.segment import prepare as prepared
from attn.core.segment.fov import find_fov, whole_image
from attn.core.segment.fsgnet.checkpoint import FSGNetArchitecture, FSGNetCheckpoint
from attn.core.segment.prepare import Preparation, normalise, padded, prepare


def network(diameter=96.0, fine=None, calibre=None, **architecture):
    torch.manual_seed(3)
    shape = FSGNetArchitecture(**{"width": 2, "depths": (1, 1, 1, 1), **architecture})
    net = shape.build()
    with torch.no_grad():  # probabilities that differ from place to place
        for parameter in net.parameters():
            parameter.add_(0.2 * torch.randn_like(parameter))
    checkpoint = FSGNetCheckpoint(
        "mine", shape, Preparation(diameter, fine_diameter=fine, calibre=calibre), 0.4, net.state_dict()
    )
    return networks.NetworkSegmenter(checkpoint, torch.device("cpu"), torch.float32), checkpoint.build()


def photo(height=120, width=140, seed=0):
    rng = np.random.default_rng(seed)
    y, x = np.mgrid[:height, :width]
    inside = (y - height / 2) ** 2 + (x - width / 2) ** 2 < (0.45 * min(height, width)) ** 2
    pixels = np.array([0.6, 0.4, 0.2])[:, None, None] * (1 + 0.2 * rng.standard_normal((3, height, width)))
    return np.where(inside, pixels.clip(0.1, 1), 0).astype(np.float32)


def test_prediction_is_the_network_on_the_prepared_photo():
    segmenter, net = network()
    pixels = photo()
    fov = find_fov(pixels)
    found = segmenter(pixels, fov)
    ready = prepare(pixels, fov, Preparation(96.0))
    x = normalise(ready.pixels, ready.mask, Preparation(96.0))[None]
    with torch.inference_mode():
        expected = net(padded(x)).out1[..., : x.shape[2], : x.shape[3]]
    top, left, bottom, right = fov.box
    if expected.shape[2:] != (bottom - top, right - left):
        expected = torch.nn.functional.interpolate(
            expected, size=(bottom - top, right - left), mode="bilinear", antialias=True
        )
    inside = fov.mask[top:bottom, left:right]
    np.testing.assert_allclose(found.prob[top:bottom, left:right][inside], expected[0, 0].numpy()[inside], atol=2e-5)
    assert found.prob.shape == pixels.shape[1:]
    assert found.prob.dtype == np.float32
    assert not found.prob[~fov.mask].any()


@pytest.mark.parametrize("size", [(120, 140), (61, 75), (300, 200)], ids=str)
def test_any_size(size):
    segmenter, _ = network()
    found = segmenter(photo(*size), find_fov(photo(*size)))
    assert found.prob.shape == size
    assert 0 <= found.prob.min() <= found.prob.max() <= 1


def test_a_photo_of_many_pixels_keeps_them_up_to_the_fine_diameter():
    both, plain = network(fine=150.0)[0], network()[0]
    for size, expected in ((100, 96), (136, 122), (300, 150)):  # the field is 0.9 of the photo
        pixels = photo(size, size)
        fov = find_fov(pixels)
        assert both(pixels, fov).diameter == pytest.approx(expected, abs=3)
        assert plain(pixels, fov).diameter == pytest.approx(96, abs=3)
    assert Preparation(540.0).diameter(1300.0) == Preparation(540.0).diameter(300.0) == 540.0
    assert [Preparation(540.0, fine_diameter=810.0).diameter(n) for n in (300.0, 700.0, 1300.0)] == [
        540.0,
        700.0,
        810.0,
    ]


@pytest.mark.parametrize("width", [1, 2, 5])
def test_calibre_is_the_width_of_bars_of_any_direction(width):
    y, x = torch.meshgrid(torch.arange(400.0), torch.arange(400.0), indexing="ij")
    found = []
    for angle in np.linspace(0, np.pi, 16, endpoint=False) + 0.05:
        across = x * np.cos(angle) + y * np.sin(angle)
        found.append(prepared.calibre((across % 40 < width).float(), torch.ones(400, 400, dtype=torch.bool)))
    assert np.mean(found) == pytest.approx(width, rel=0.1)
    everywhere = torch.ones(40, 40, dtype=torch.bool)
    assert prepared.calibre(torch.zeros(40, 40), everywhere) is None
    assert prepared.calibre(torch.ones(40, 40), everywhere) is None
    assert prepared.calibre(torch.eye(40), ~everywhere) is None


def test_the_second_scale_is_that_of_the_best_calibre_within_the_photos_pixels():
    preparation = Preparation(540.0, fine_diameter=1296.0, calibre=4.0)
    rescaled = prepared.finer_diameter
    assert rescaled(4.0, 3000.0, preparation) is rescaled(4.2, 3000.0, preparation) is None
    assert rescaled(3.0, 3000.0, preparation) == pytest.approx(540 * (4 / 3) ** (1 / 0.6))
    assert rescaled(3.0, 700.0, preparation) == pytest.approx(700)  # its own pixels
    assert rescaled(3.0, 540.0, preparation) is rescaled(3.0, 300.0, preparation) is None
    assert rescaled(0.5, 3000.0, preparation) == pytest.approx(1296)
    assert rescaled(20.0, 3000.0, preparation) is None  # wide vessels are left as they are
    assert rescaled(None, 3000.0, preparation) is rescaled(3.0, 3000.0, Preparation(540.0, calibre=4.0)) is None


def test_a_photo_whose_vessels_are_thin_is_seen_again_at_a_finer_scale(monkeypatch):
    twice, pixels = network(fine=300.0, calibre=4.0)[0], photo(300, 300)
    fov = find_fov(pixels)
    assert twice(photo(100, 100), find_fov(photo(100, 100))).diameter == pytest.approx(96, abs=6)
    monkeypatch.setattr(networks, "calibre", lambda prob, mask: 3.0)
    found = twice(pixels, fov, attention=True)
    assert found.diameter == pytest.approx(96 * (4 / 3) ** (1 / 0.6), rel=0.02)
    finer = network(diameter=found.diameter)[0](pixels, fov, attention=True)
    np.testing.assert_allclose(found.prob, finer.prob, atol=1e-5)
    assert found.attention["att1"].shape == finer.attention["att1"].shape
    assert twice(pixels, fov, tta=True).diameter == found.diameter


def test_tiles_are_much_like_the_whole():
    segmenter, _ = network(diameter=400.0, attention=False)
    pixels = photo(400, 400)
    fov = whole_image((400, 400))
    whole, tiled = segmenter(pixels, fov).prob, segmenter(pixels, fov, tile=256).prob
    # not equal: resizing with aligned corners samples a tile at slightly other places than the whole
    assert np.corrcoef(whole.ravel(), tiled.ravel())[0, 1] > 0.97
    segmenter.whole_pixels, segmenter.tile = 100_000, 256
    np.testing.assert_array_equal(segmenter(pixels, fov).prob, tiled)  # large photos are tiled unasked


def test_tiles_cover_everything_once():
    for length in (100, 256, 257, 600, 1000):
        spans = list(networks._spans(length, 256))
        total = torch.zeros(length)
        for span in spans:
            total[slice(*span)] += networks._ramp(span, length)
        assert spans[-1][1] == length
        assert total.min() > 0
        assert all(stop - start <= 256 for start, stop in spans)


def test_tile_too_small():
    segmenter, _ = network()
    with pytest.raises(ValueError, match="too small"):
        segmenter(photo(), find_fov(photo()), tile=100)


def test_tta_is_the_mean_over_mirror_images():
    segmenter, _ = network(diameter=96.0)
    pixels = photo(96, 96)
    fov = whole_image((96, 96))
    flipped = [
        segmenter(np.ascontiguousarray(pixels[:, ::a, ::b]), fov).prob[::a, ::b] for a in (1, -1) for b in (1, -1)
    ]
    np.testing.assert_allclose(segmenter(pixels, fov, tta=True).prob, np.mean(flipped, 0), atol=1e-6)


def test_attention_maps_only_when_asked_for():
    segmenter, _ = network()
    pixels, fov = photo(), find_fov(photo())
    assert not segmenter(pixels, fov).attention
    found = segmenter(pixels, fov, attention=True)
    assert sorted(found.attention) == ["att1", "att2", "att3"]
    assert all(value.ndim == 2 and 0 <= value.min() <= value.max() <= 1 for value in found.attention.values())
    plain, _ = network(guided=False)
    assert plain(pixels, fov, attention=True).warnings


def test_colour_balance_does_not_matter():
    """Normalising by the field of view takes out gain per channel: another camera's white balance."""
    segmenter, _ = network()
    pixels = photo() * 0.8
    fov = find_fov(pixels)
    tinted = (pixels * np.array([1.2, 0.8, 1.1], np.float32)[:, None, None]).astype(np.float32)
    np.testing.assert_allclose(segmenter(tinted, fov).prob, segmenter(pixels, fov).prob, atol=1e-3)


def test_half_is_refused():
    checkpoint = FSGNetCheckpoint("x", FSGNetArchitecture(width=2), Preparation(), 0.5, {})
    with pytest.raises(UsageError, match="float16"):
        networks.NetworkSegmenter(checkpoint, torch.device("cpu"), torch.float16)


def test_bfloat16_is_near_float32_on_every_processor():
    pixels, fov = photo(), find_fov(photo())
    expected = networks.packaged("fsgnet", torch.device("cpu"), torch.float32)(pixels, fov).prob
    coarse = networks.packaged("fsgnet", torch.device("cpu"), torch.bfloat16)(pixels, fov, attention=True)
    assert 0 < np.abs(coarse.prob - expected).max() < 0.05
    assert len(np.unique(coarse.prob)) > 5000  # no fewer probabilities than of float32: the head is not rounded
    assert all(value.dtype == np.float32 for value in coarse.attention.values())


@pytest.mark.parametrize(("bfloat16", "told"), [(True, 0), (False, 1)])
def test_emulated_bfloat16_is_told(bfloat16: bool, told: int):
    with cpu_as(Cpu("here", "nobody", "AVX2", avx512_bf16=bfloat16)):
        segmenter = networks.packaged("fsgnet", torch.device("cpu"), torch.bfloat16)
    assert len(segmenter.warnings) == told
    assert not networks.packaged("fsgnet", torch.device("cpu"), torch.float32).warnings


def test_long_thin_field_is_refused():
    segmenter, _ = network()
    fov = whole_image((60, 2000))
    thin = type(fov)(fov.mask, fov.box, 60.0, fov.roundness)
    with pytest.raises(ValueError, match="too long"):
        segmenter(np.random.default_rng(0).random((3, 60, 2000), np.float32), thin)


def test_names():
    for name, row in MODELS.items():
        if row.trained:
            assert models.load(name).name == name
    with pytest.raises(UsageError, match="Did you mean fsgnet"):
        models.load("fsgnett")
    with pytest.raises(UsageError, match="--trunk halo"):
        models.load("halo-unet")
    with pytest.raises(UsageError, match="does not exist"):
        models.load("nowhere.safetensors")
