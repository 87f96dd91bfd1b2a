"""One slice of a phantom: what is said to be measurable on it is there; the same seed gives the same pixels."""

import numpy as np
import pytest

from attn.core.denoise.phantoms.phantom import Insert, Phantom
from attn.core.denoise.phantoms.scan import scan
from attn.core.denoise.phantoms.single import BACKGROUND, draw_slice


@pytest.fixture(scope="module")
def inserts() -> Phantom:
    return draw_slice("inserts", 3, side=192, pixel_mm=1.2)


def within(phantom: Phantom, place: Insert, radius: float) -> np.ndarray:
    rows, columns = np.mgrid[: phantom.truth.shape[1], : phantom.truth.shape[2]]
    return phantom.truth[0][np.hypot(rows - place.row, columns - place.column) <= radius]


def test_inserts_have_their_contrast(inserts):
    assert len(inserts.inserts) == 14
    assert sorted(disc.contrast for disc in inserts.rods) == [-1040, 960]
    for disc in (*inserts.inserts, *inserts.rods):
        if disc.radius >= 3:  # smaller ones are all edge
            middle = within(inserts, disc, disc.radius - 2.5).mean() - BACKGROUND
            assert middle == pytest.approx(disc.contrast, abs=0.2 + 0.01 * abs(disc.contrast))


def test_uniform_region_holds_nothing(inserts):
    pixels = within(inserts, inserts.uniform, inserts.uniform.radius)
    assert pixels.size > 1000
    assert np.abs(pixels - BACKGROUND).max() < 3  # pixels of 1.2 mm are coarse for the kernel: the rim of 1040 HU rings
    assert pixels.std() < 0.3


def test_same_seed_same_pixels():
    first, again, other = (draw_slice("chest", seed, side=48, pixel_mm=4.0) for seed in (1, 1, 2))
    np.testing.assert_array_equal(first.truth, again.truth)
    assert (first.truth != other.truth).any()
    np.testing.assert_array_equal(scan(first, 0.5, seed=4), scan(again, 0.5, seed=4))


def test_a_scan_at_a_tenth_has_three_times_the_noise(inserts):
    full, tenth = ((scan(inserts, dose, seed=5) - inserts.truth).std() for dose in (1.0, 0.1))
    assert tenth / full == pytest.approx(10**0.5, rel=0.05)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"kind": "abdomn"}, "there are abdomen"),
        ({"side": 8}, "at least 16"),
        ({"pixel_mm": 0.0}, "pixel_mm must be positive"),
        ({"cutoff_per_mm": float("nan")}, "cutoff_per_mm must be positive"),
        ({"seed": -1}, "seed"),
    ],
)
def test_what_cannot_be_drawn(change, message):
    with pytest.raises(ValueError, match=message):
        draw_slice(**{"kind": "head", "seed": 0, **change})


@pytest.mark.parametrize("dose", [0.0, -1.0, float("nan"), float("inf")])
def test_no_dose(inserts, dose):
    with pytest.raises(ValueError, match="dose must be positive"):
        scan(inserts, dose, seed=0)
