"""A phantom series: what is measurable in every slice; where its slices lie; lesions in one slice alone."""

import numpy as np
import pytest

from attn.core.denoise.phantoms.lesions import LEVELS, RADII_MM, draw_lesions
from attn.core.denoise.phantoms.single import BACKGROUND
from attn.core.denoise.phantoms.stack import draw_series


def test_inserts_are_the_same_in_every_slice():
    phantom = draw_series("inserts", 0, slices=3, side=128, pixel_mm=1.05)
    assert phantom.positions_mm == (-2.5, 0, 2.5)
    assert phantom.inserts
    assert not phantom.rods
    rows, columns = np.ogrid[:128, :128]
    for disc in phantom.inserts:
        if disc.radius >= 4:
            middle = phantom.truth[:, np.hypot(rows - disc.row, columns - disc.column) <= disc.radius - 2.5]
            np.testing.assert_allclose(middle.mean(1), BACKGROUND + disc.contrast, atol=0.5)
    even = phantom.uniform
    pixels = phantom.truth[:, np.hypot(rows - even.row, columns - even.column) <= even.radius]
    assert np.abs(pixels - BACKGROUND).max() <= 0.5


def test_neighbouring_slices_are_alike():
    near = draw_series("abdomen", 1, slices=2, side=48, pixel_mm=3.0, spacing_mm=1.0).truth
    far = draw_series("abdomen", 1, slices=2, side=48, pixel_mm=3.0, spacing_mm=20.0).truth
    assert 0 < (near[0] - near[1]).std() < 0.5 * (far[0] - far[1]).std()


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"kind": "heart"}, "there are abdomen"),
        ({"seed": -1}, "seed"),
        ({"slices": 0}, "at least one slice"),
        ({"positions_mm": [0.0, float("nan")]}, "finite positions"),
        ({"thickness_mm": 0.0}, "thickness_mm must be positive"),
    ],
)
def test_what_cannot_be_drawn(change, message):
    with pytest.raises(ValueError, match=message):
        draw_series(**{"kind": "head", "seed": 0, "side": 16, **change})


def test_lesions_lie_in_one_slice():
    drawn = draw_lesions(1, dose=0.25, slices=3, side=64, pixel_mm=2.0)
    assert drawn.present == (1,)
    np.testing.assert_array_equal(drawn.truth[[0, 2]], drawn.plain.truth[[0, 2]])
    assert {(lesion.level, lesion.radius_mm) for lesion in drawn.lesions} == {(c, r) for c in LEVELS for r in RADII_MM}
    added = drawn.truth[1] - drawn.plain.truth[1]
    for lesion in drawn.lesions:
        assert np.sign(added[lesion.core((64, 64))].mean()) == np.sign(lesion.contrast)
        assert abs(lesion.contrast) == pytest.approx(lesion.level * drawn.noise_std)
