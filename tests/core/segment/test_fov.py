import numpy as np
import pytest
from PIL import Image

from attn.core.io.photo.read import read_photo
from attn.core.segment.fov import find_fov, fov_from_mask, whole_image


def disc(shape, radius, centre=None):
    yy, xx = np.mgrid[0 : shape[0], 0 : shape[1]]
    cy, cx = centre or ((shape[0] - 1) / 2, (shape[1] - 1) / 2)
    return np.hypot(yy - cy, xx - cx) < radius


def photo(mask, surround=0.01, inside=(0.7, 0.4, 0.2)):
    """[3, H, W]: an evenly lit fundus on its surround, with noise."""
    noise = np.random.default_rng(0).normal(0, 0.003, (3, *mask.shape))
    return (np.where(mask, np.array(inside)[:, None, None], surround) + noise).clip(0, 1).astype(np.float32)


def overlap(a, b):
    return (a & b).sum() / (a | b).sum()


@pytest.mark.parametrize(
    ("shape", "radius"), [((300, 320), 130), ((200, 320), 130), ((300, 200), 140), ((1500, 2300), 1000)]
)
def test_disc_is_found_cut_off_or_not(shape, radius):
    mask = disc(shape, radius)
    fov = find_fov(photo(mask))
    assert overlap(fov.mask, mask) > 0.985
    assert fov.diameter == pytest.approx(2 * radius, rel=0.01)
    assert not fov.warnings
    rows, columns = np.flatnonzero(fov.mask.any(1)), np.flatnonzero(fov.mask.any(0))
    assert fov.box == (rows[0], columns[0], rows[-1] + 1, columns[-1] + 1)


def test_diameter_ignores_a_cut_inside_the_frame_and_a_notch():
    mask = disc((400, 400), 180)
    assert fov_from_mask(mask).diameter == pytest.approx(360, abs=2)
    assert fov_from_mask(mask).roundness == pytest.approx(1, abs=0.015)
    cut = mask.copy()
    cut[:60] = cut[330:] = False
    cut[180:220, 370:] = True  # a tab at the side, as some cameras show
    fov = fov_from_mask(cut)
    assert fov.diameter == pytest.approx(360, rel=0.015)
    assert 0.6 < fov.roundness < 0.95


def test_holes_hairs_and_other_lights_do_not_count():
    mask = disc((300, 300), 120)
    picture = photo(mask)
    picture[:, 140:150, 140:150] = 0  # a dark spot inside
    picture[:, 10:20, 10:40] = 0.9  # printed text
    picture[:, 149:151, 260:300] = 0.9  # a ray of light from the rim
    fov = find_fov(picture)
    assert overlap(fov.mask, mask) > 0.985
    assert fov.mask[145, 145]
    assert not fov.mask[15, 30]
    assert not fov.mask[150, 290]


@pytest.mark.parametrize("surround", [0.3, 1.0])
def test_grey_and_white_surrounds(surround):
    mask = disc((300, 300), 120)
    fov = find_fov(photo(mask, surround))
    assert overlap(fov.mask, mask) > 0.985
    assert not fov.warnings


@pytest.mark.parametrize("value", [0, 0.5, 1])
def test_black_and_constant_photos(value):
    with pytest.raises(ValueError, match="no field of view found"):
        find_fov(np.full((3, 40, 50), value, np.float32))
    with pytest.raises(ValueError, match="no field of view found"):
        find_fov(np.full((3, 1, 1), value, np.float32))


@pytest.mark.parametrize("shape", [(90, 120), (100, 100), (1200, 1600)])
def test_natural_photos_warn(shape):
    small = np.random.default_rng(1).random((3, 10, 10)).astype(np.float32) * 0.8 + 0.1
    picture = np.repeat(np.repeat(small, shape[0] // 10, 1), shape[1] // 10, 2)
    fov = find_fov(picture)
    assert "does not look like a fundus photograph" in fov.warnings[0]
    assert fov.diameter == max(shape)


def test_long_shapes_warn():
    mask = np.zeros((200, 300), bool)
    mask[90:120, 20:280] = True
    fov = find_fov(photo(mask))
    assert "covers" in fov.warnings[0]
    assert fov.roundness < 0.3


def test_masks_and_the_whole_image():
    with pytest.raises(ValueError, match="empty"):
        fov_from_mask(np.zeros((5, 5), bool))
    with pytest.raises(ValueError, match=r"\[H, W\]"):
        fov_from_mask(np.ones((3, 5, 5), bool))
    with pytest.raises(ValueError, match=r"\[3, H, W\]"):
        find_fov(np.ones((1, 5, 5), np.float32))
    with pytest.raises(ValueError, match="no pixels"):
        whole_image((0, 5))
    mask = disc((50, 60), 20)
    np.testing.assert_array_equal(fov_from_mask(mask.astype(np.uint8) * 255).mask, mask)
    fov = whole_image((30, 40))
    assert (fov.box, fov.diameter, fov.mask.all(), fov.warnings) == ((0, 0, 30, 40), 40, True, ())
    one = fov_from_mask(np.ones((1, 1), bool))
    assert one.box == (0, 0, 1, 1)
    assert one.diameter == 1


def test_the_same_photo_gives_the_same_answer():
    picture = photo(disc((200, 300), 140))
    first, second = find_fov(picture), find_fov(picture)
    assert first.diameter == second.diameter
    np.testing.assert_array_equal(first.mask, second.mask)


def test_drive_training_half(data_dir):
    overlaps, diameters = [], []
    for number in range(21, 41):
        place = data_dir / "fundus" / "DRIVE"
        truth = np.asarray(Image.open(place / "fov" / f"{number}.png")).astype(bool)
        fov = find_fov(read_photo(place / "images" / f"{number}.png").pixels)
        overlaps.append(overlap(fov.mask, truth))
        diameters.append(fov.diameter / fov_from_mask(truth).diameter)
        assert not fov.warnings
    assert np.mean(overlaps) > 0.98
    assert min(overlaps) > 0.97
    assert np.abs(np.array(diameters) - 1).max() < 0.01


CHANGED = {
    "dark end lifted": lambda pixels: pixels**0.6,
    "little red": lambda pixels: (pixels * np.array([0.5, 1, 1.6], np.float32)[:, None, None]).clip(0, 1),
    "stray light": lambda pixels: 0.15 + 0.85 * pixels,
}


@pytest.mark.parametrize("change", CHANGED)
@pytest.mark.parametrize("name", ["25", "36"])
def test_drive_as_other_cameras_would_take_it(data_dir, name, change):
    """A fixed share of the brightest light does not part these from their surround; the best split does."""
    drive = data_dir / "fundus" / "DRIVE"
    fov = find_fov(CHANGED[change](read_photo(drive / "images" / f"{name}.png").pixels))
    truth = read_photo(drive / "fov" / f"{name}.png", uniform=True).pixels[0] > 0.5
    assert overlap(fov.mask, truth) > 0.98
    assert fov.diameter == pytest.approx(538, rel=0.01)
    assert not fov.warnings
