from pathlib import Path

import numpy as np
import pytest
from scipy.ndimage import gaussian_filter

from attn.core.denoise.base import Box
from attn.core.denoise.physics.edges import distance
from attn.core.denoise.physics.places import even, slices_measured, uniform_places, usable
from attn.core.denoise.window import Window
from attn.core.io.image import GreyImage

WINDOW = Window(-1024.0, 1500.0)


def scan(side: int = 192, slices: int = 1, valid: np.ndarray | None = None) -> tuple[GreyImage, np.ndarray]:
    """A disc of water with two rods in air, and its truth."""
    away = distance((side, side), side / 2, side / 2)
    truth = np.where(away < 0.45 * side, 0.0, -1000.0)
    truth[distance(truth.shape, side / 2, 0.3 * side) < 8] = 200
    truth[distance(truth.shape, side / 2, 0.7 * side) < 8] = -90
    truth = np.repeat(gaussian_filter(truth, 0.8)[None], slices, 0)
    noise = gaussian_filter(np.random.default_rng(0).standard_normal(truth.shape), (0, 0.7, 0.7))
    pixels = (truth + 20 * noise / noise.std()).astype(np.float32)
    return GreyImage(Path("x"), "npy", pixels, unit="HU", valid=valid), truth


@pytest.mark.parametrize("known", [True, False])
def test_the_disc_is_found_and_neither_air_nor_rods(known: bool) -> None:
    image, truth = scan()
    squares, chosen = uniform_places(image, WINDOW, (), truth if known else None)
    assert chosen == ("truth" if known else "image")
    inside = squares.cut(truth)
    assert np.abs(inside.mean((1, 2))).max() < 1
    assert np.abs(inside).max() < (1 if known else 250)  # a rim of a rod may be in a tenth of one


def test_padding_and_clipped_pixels_are_never_measured() -> None:
    valid = np.ones((1, 192, 192), bool)
    valid[0, :, :96] = False
    image, truth = scan(valid=valid)
    image.pixels[0, :80] = WINDOW.low
    for known in (truth, None):
        squares, _ = uniform_places(image, WINDOW, (), known)
        assert (squares.corners[:, 1] >= 80).all()
        assert (squares.corners[:, 2] >= 96).all()


def test_a_user_names_places() -> None:
    image, _ = scan(slices=7)
    squares, chosen = uniform_places(image, WINDOW, (Box(80, 40, 112, 72),), None)
    assert chosen == "user"
    assert squares.side == 32
    assert sorted(squares.corners[:, 0]) == slices_measured(7) == [0, 2, 3, 4, 6]


@pytest.mark.parametrize(
    ("roi", "message"),
    [
        (Box(180, 0, 200, 20), "180,0,200,20 is not inside the image of 192 x 192"),
        (Box(80, 40, 112, 72), "80,40,112,72 has padding, or pixels that are clipped"),
    ],
)
def test_places_that_cannot_be_measured(roi: Box, message: str) -> None:
    image, _ = scan()
    image.pixels[0, 60, 90:100] = 3000
    with pytest.raises(ValueError, match=message):
        uniform_places(image, WINDOW, (roi,), None)


def test_where_nothing_is_uniform() -> None:
    image, _ = scan()
    image.pixels[0] += 300 * (np.indices((192, 192)).sum(0) // 6 % 2)
    with pytest.raises(ValueError, match="no uniform region large enough"):
        uniform_places(image, WINDOW, (), None)


def test_even() -> None:
    truth = np.zeros((40, 40))
    truth[20, 20], truth[:, :5] = 5, -1000
    assert not even(truth, 2)[18:23, 18:23].any()
    assert even(truth, 2)[15, 15]
    assert not even(truth, 2)[:2].any()  # the image ends
    assert not even(truth, 2)[:, :7].any()


@pytest.mark.parametrize(("count", "slices"), [(1, [0]), (5, [0, 1, 2, 3, 4]), (11, [1, 3, 5, 7, 9])])
def test_slices_measured(count: int, slices: list[int]) -> None:
    assert slices_measured(count) == slices


def test_the_extremes_of_an_image_are_not_clipped() -> None:
    pixels = np.random.default_rng(0).normal(0, 1, (1, 64, 64)).astype(np.float32)
    image = GreyImage(Path("x"), "npy", pixels)
    window = Window(float(pixels.min()), float(pixels.max()))  # as the automatic one is
    assert usable(image, window, 0).all()
    assert usable(image, Window(-1, 5), 0).mean() == pytest.approx(0.84, abs=0.02)
