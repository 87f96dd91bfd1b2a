import json
import warnings

import numpy as np
import pytest
from PIL import Image
from scipy.ndimage import distance_transform_edt
from skimage import filters
from skimage.morphology import skeletonize

from attn.core.segment.ridge import RIDGES, fill_outside, vesselness
from attn.core.segment.score.metrics import scores

PUBLISHED = {"frangi": (0.6348, 0.8659), "sato": (0.7342, 0.9345), "meijering": (0.7206, 0.9089)}
"""F1 and AUC, means over the DRIVE test half: methods/fsg-net.md, section 6."""
ROWS = {
    "frangi": (0.2377, {"sigmas": (1, 2, 3), "beta": 0.5, "gamma": 0.01}),
    "sato": (0.01026, {"sigmas": (1, 2, 3)}),
    "meijering": (0.0743, {"sigmas": (1.5, 2.5)}),
}
"""Threshold and settings of the same rows, typed again: a change of the filters' own must show."""
METHODS = list(RIDGES)


@pytest.fixture(autouse=True)
def _no_warnings():
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        yield


def fundus(diameter=200, size=(220, 210), sign=-1, scale=1.0):
    """A bright disc with two vessels, drawn at a scale: photo, field of view, vessels."""
    y, x = np.mgrid[: size[0], : size[1]].astype(float)
    y, x = y - size[0] / 2, x - size[1] / 2
    fov = np.hypot(y, x) < diameter / 2
    vessels = (np.abs(y - 0.3 * x) < 2.5 * scale) | (np.abs(x + 50 * scale) < 2 * scale)
    green = 0.5 + 0.05 * x / size[1] + sign * 0.12 * vessels
    pixels = np.stack([green * 1.4, green, green * 0.5]) * fov
    return pixels.astype(np.float32), fov, vessels & fov


def read(path, mode):
    return np.array(Image.open(path).convert(mode))


def drive(place, number):
    """Photo, field of view and truth."""
    pixels = np.moveaxis(read(place / "images" / f"{number}.png", "RGB"), -1, 0).astype(np.float32) / 255
    return pixels, read(place / "fov" / f"{number}.png", "L") > 0, read(place / "manual" / f"{number}.png", "L") > 0


@pytest.mark.slow
@pytest.mark.parametrize("method", METHODS)
def test_published_rows_on_the_drive_test_half(data_dir, method):
    place = data_dir / "fundus" / "DRIVE"
    rows = []
    for number in json.loads((place / "splits.json").read_text())["test"]:
        pixels, fov, truth = drive(place, number)
        rows.append(scores(vesselness(pixels, fov, method), truth, fov, threshold=0.5))
    assert len(rows) == 20
    f1, auc = PUBLISHED[method]
    assert np.mean([row["f1"] for row in rows]) == pytest.approx(f1, abs=0.003)
    assert np.mean([row["auc"] for row in rows]) == pytest.approx(auc, abs=0.003)


@pytest.mark.parametrize("method", METHODS)
def test_one_half_is_the_published_threshold(data_dir, method):
    pixels, fov, _ = drive(data_dir / "fundus" / "DRIVE", 21)
    prob = vesselness(pixels, fov, method)
    threshold, settings = ROWS[method]
    response = getattr(filters, method)(fill_outside(pixels[1], fov), **settings)
    inside = distance_transform_edt(fov) > 3
    assert prob.dtype == np.float32
    assert (prob >= 0).all()
    assert (prob < 1).all()
    assert not prob[~inside].any()
    clear = inside & (np.abs(response - threshold) > 1e-6)
    assert np.array_equal((prob >= 0.5)[clear], (response >= threshold)[clear])
    order = np.argsort(response[inside], kind="stable")
    assert (np.diff(prob[inside][order]) >= 0).all()


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize(("diameter", "size"), [(270, (300, 320)), (1100, (1150, 1200))])
def test_vessels_are_found_at_every_scale(method, diameter, size):
    pixels, fov, truth = fundus(diameter, size, scale=diameter / 540)
    prob = vesselness(pixels, fov, method)
    assert prob.shape == size
    found = scores(prob, truth, fov, threshold=0.5)
    assert found["auc"] > 0.95
    assert found["cldice"] > 0.8
    assert not prob[~fov].any()


@pytest.mark.parametrize("method", METHODS)
def test_bright_lines_are_no_vessels(method):
    dark, fov, truth = fundus()
    bright = fundus(sign=1)[0]
    line = skeletonize(truth) & (distance_transform_edt(fov) > 3)  # beside a bright line it is dark, and they fire
    assert np.median(vesselness(dark, fov, method, scale=1.0)[line]) > 0.5
    assert np.median(vesselness(bright, fov, method, scale=1.0)[line]) < 0.1


def test_green_alone_counts_and_what_is_outside_does_not():
    pixels, fov, _ = fundus()
    other = pixels[[2, 1, 0]].copy()
    other[:, ~fov] = np.random.default_rng(0).random((3, np.count_nonzero(~fov)))
    before = other.copy()
    assert np.array_equal(vesselness(pixels, fov, "sato", scale=1.0), vesselness(other, fov, "sato", scale=1.0))
    assert np.array_equal(other, before)


@pytest.mark.parametrize("method", METHODS)
def test_no_false_vessel_on_the_rim(method):
    """The step from field to black surround would outshine every vessel."""
    pixels, fov, truth = fundus()
    prob = vesselness(pixels, fov, method, scale=1.0)
    depth = distance_transform_edt(fov)
    assert not prob[depth <= 3].any()
    assert prob[(depth > 3) & (depth < 10) & ~truth & (distance_transform_edt(~truth) > 8)].max() < 0.5


def test_the_frame_is_no_rim():
    green = np.full((200, 200), 0.5, np.float32)
    green[:, 98:103] = green[:, :3] = 0.35
    prob = vesselness(np.stack([green] * 3), np.ones((200, 200), bool), "sato", scale=1.0)
    assert (prob[[0, -1], 100] > 0.5).all()
    assert (prob[:, 0] > 0.5).all()  # corners as well


def test_scale_may_be_given():
    pixels, fov, _ = fundus(800, (820, 820), scale=800 / 540)
    by_itself = vesselness(pixels, fov, "sato")
    assert np.abs(vesselness(pixels, fov, "sato", scale=800 / 540) - by_itself).max() < 0.02
    assert np.abs(vesselness(pixels, fov, "sato", scale=1.0) - by_itself).max() > 0.2


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("shape", [(1, 1), (1, 7), (2, 2), (16, 16), (3, 900)])
def test_small_and_flat_photos(method, shape):
    prob = vesselness(np.full((3, *shape), 0.5, np.float32), np.ones(shape, bool), method)
    assert prob.shape == shape
    assert not prob.any()  # Meijering's filter would stretch the rounding errors of resizing to 1


def test_a_speck_in_a_large_photo_stays_small():
    """Brought to 540 px across, the whole frame would have 55 000 pixels a side."""
    fov = np.zeros((2048, 2048), bool)
    fov[1000:1020, 1000:1020] = True
    prob = vesselness(np.random.default_rng(0).random((3, 2048, 2048), np.float32), fov, "sato")
    assert not prob[~fov].any()
    assert np.isfinite(prob).all()
    far = np.zeros((2048, 2048), bool)
    far[2, 3] = far[2000, 1800] = True  # two pixels that reduction loses
    assert np.isfinite(vesselness(np.ones((3, 2048, 2048), np.float32), far, "sato")).all()


def test_mask_of_bytes_of_255():
    pixels, fov, _ = fundus()
    other = (fov * np.uint8(255)).view(bool)
    assert np.array_equal(vesselness(pixels, other, "sato", scale=1.0), vesselness(pixels, fov, "sato", scale=1.0))


def test_what_does_not_fit_is_refused():
    pixels, fov, _ = fundus()
    with pytest.raises(ValueError, match="Did you mean frangi"):
        vesselness(pixels, fov, "frangy")
    with pytest.raises(ValueError, match=r"\[3, H, W\]"):
        vesselness(pixels[:1], fov, "sato")
    with pytest.raises(ValueError, match=r"\[3, H, W\]"):
        vesselness(pixels, fov[1:], "sato")
    with pytest.raises(ValueError, match="empty"):
        vesselness(pixels, np.zeros_like(fov), "sato")
    with pytest.raises(ValueError, match="positive"):
        vesselness(pixels, fov, "sato", scale=0.0)
