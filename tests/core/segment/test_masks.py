"""Masks as people save them: which pixels count, which way up they are, and what is said about it."""

import io

import numpy as np
import pytest
import tifffile
from PIL import Image

from attn.core.errors import InputError
from attn.core.io.photo.read import read_photo
from attn.core.segment.masks import darkness, mask_of, read_mask

YY, XX = np.mgrid[:90, :120]
VESSEL = (abs(XX - 40 - 8 * np.sin(YY / 9)) < 3) | (abs(YY - 60) < 2)
SIDE = (XX > 60) & VESSEL  # a part of the vessels, as another class


def put(folder, array, name="m.png", **options):
    Image.fromarray(array).save(folder / name, **options)
    return folder / name


def eight(value=255):
    return VESSEL.astype(np.uint8) * np.uint8(value)


def test_black_and_white_of_every_depth(tmp_path):
    palette = Image.fromarray(VESSEL.astype(np.uint8), "L").convert("P")
    palette.putdata(VESSEL.ravel().astype(int).tolist())
    palette.putpalette([0, 0, 0, 90, 0, 0])  # a dark red: half of full scale is no limit for two values
    palette.save(tmp_path / "palette.png")
    put(tmp_path, VESSEL, "one.png")
    put(tmp_path, VESSEL, "one.tif")
    put(tmp_path, eight(), "full.png")
    put(tmp_path, eight(1), "ones.png")
    put(tmp_path, eight(), "full.gif")
    put(tmp_path, VESSEL.astype(np.uint16) * np.uint16(65535), "deep.png")
    put(tmp_path, VESSEL.astype(np.uint16), "deep_ones.png")
    tifffile.imwrite(tmp_path / "float.tif", VESSEL.astype(np.float32))
    tifffile.imwrite(
        tmp_path / "white_is_zero.tif", (~VESSEL).astype(np.uint8) * np.uint8(255), photometric="miniswhite"
    )
    np.save(tmp_path / "bool.npy", VESSEL)
    for path in sorted(tmp_path.iterdir()):
        found = read_mask(path)
        assert np.array_equal(found.pixels, VESSEL), path.name
        assert found.notes == (), path.name


def test_soft_edges_and_the_noise_of_jpeg(tmp_path):
    for quality in (60, 95, 100):
        found = read_mask(put(tmp_path, eight(), "m.jpg", quality=quality))
        assert (found.pixels == VESSEL).mean() > 0.99
        put(tmp_path, np.asarray(Image.open(tmp_path / "m.jpg")), "again.png")  # the noise is kept, the name is not
        assert np.array_equal(read_mask(tmp_path / "again.png").pixels, found.pixels)
    soft = np.asarray(Image.fromarray(eight()).resize((60, 45), Image.Resampling.BOX))
    assert np.array_equal(read_mask(put(tmp_path, soft)).pixels, soft >= 128)


@pytest.mark.parametrize("values", [(1, 2), (3, 1), (20, 200), (80, 255), (128, 255), (85, 170)], ids=str)
def test_labels_are_vessels(tmp_path, values):
    labels = np.where(SIDE, values[1], eight(values[0])).astype(np.uint8)
    found = read_mask(put(tmp_path, labels))
    assert np.array_equal(found.pixels, VESSEL)
    assert "labels 0, " in found.notes[0]
    colours = np.stack([np.where(SIDE, 255, 0), np.where(VESSEL, 60, 0), np.zeros_like(labels)], -1).astype(np.uint8)
    assert np.array_equal(read_mask(put(tmp_path, colours)).pixels, VESSEL)


def test_labels_from_one_on(tmp_path):
    found = read_mask(put(tmp_path, VESSEL.astype(np.uint8) + np.uint8(1)))  # MATLAB: 1 is background
    assert np.array_equal(found.pixels, VESSEL)
    assert "no 0" in found.notes[0]


def test_uniform_masks(tmp_path):
    assert not read_mask(put(tmp_path, np.zeros((9, 9), np.uint8))).pixels.any()
    assert read_mask(put(tmp_path, np.full((9, 9), 255, np.uint8))).pixels.all()
    assert not read_mask(put(tmp_path, np.zeros((9, 9), bool))).pixels.any()


def test_drawn_in_the_alpha_channel(tmp_path):
    for colour in (0, 255):
        drawn = np.dstack([np.full((90, 120, 3), colour, np.uint8), eight()])
        found = read_mask(put(tmp_path, drawn))
        assert np.array_equal(found.pixels, VESSEL)
        assert "alpha" in found.notes[0]
    both = np.dstack([np.repeat(eight()[..., None], 3, -1), np.where(XX > 60, 255, 0).astype(np.uint8)])
    found = read_mask(put(tmp_path, both))
    assert np.array_equal(found.pixels, SIDE)
    assert "transparent" in found.notes[0]
    opaque = np.dstack([np.repeat(eight()[..., None], 3, -1), np.full((90, 120), 255, np.uint8)])
    assert np.array_equal(read_mask(put(tmp_path, opaque)).pixels, VESSEL)
    deep = tifffile_rgba(tmp_path / "m.tif")
    assert np.array_equal(read_mask(deep).pixels, VESSEL)


def tifffile_rgba(path):
    drawn = np.dstack([np.zeros((90, 120, 3), np.uint16), VESSEL.astype(np.uint16) * np.uint16(65535)])
    tifffile.imwrite(path, drawn, photometric="rgb", extrasamples=["unassalpha"])
    return path


def test_a_grey_picture_is_said_to_be_no_mask(tmp_path):
    found = read_mask(put(tmp_path, (2 * YY + XX // 3).astype(np.uint8)))
    assert "no mask in black and white" in found.notes[0]


def test_labels_of_a_reduced_mask_are_not_averaged(tmp_path):
    labels = np.where(SIDE, 3, eight(1)).astype(np.uint8)
    found = read_mask(put(tmp_path, labels), max_side=60)
    assert found.size == (90, 120)
    assert found.pixels.shape == (45, 60)
    share = VESSEL.reshape(45, 2, 60, 2).mean((1, 3))
    assert np.array_equal(found.pixels, share >= 0.5)


def photo_of(path, orientation, array, **options):
    exif = Image.Exif()
    exif[274] = orientation
    Image.fromarray(array).save(path, exif=exif, **options)
    return read_photo(path)


PICTURE = np.dstack([np.full((90, 120), 180), 120 - 60 * VESSEL, np.full((90, 120), 40)]).astype(np.uint8)
TURNS = {3: lambda a: np.rot90(a, 2), 6: lambda a: np.rot90(a, -1), 8: np.rot90, 2: np.fliplr}


@pytest.mark.parametrize("orientation", [2, 3, 6, 8])
@pytest.mark.parametrize("drawn", ["as stored", "upright", "tagged"])
@pytest.mark.parametrize("square", [False, True])
def test_a_truth_is_turned_with_its_photo_where_it_must_be(tmp_path, orientation, drawn, square):
    part = (slice(None), slice(0, 90)) if square else (slice(None), slice(None))
    photo = photo_of(tmp_path / "p.png", orientation, PICTURE[part])
    upright = TURNS[orientation](VESSEL[part])
    assert photo.orientation == orientation
    exif = Image.Exif()
    if drawn == "tagged":
        exif[274] = orientation
    stored = upright if drawn == "upright" else VESSEL[part]
    put(tmp_path, np.ascontiguousarray(stored), exif=exif)
    notes = []
    found = mask_of(photo, tmp_path / "m.png", "truth", notes, lambda: darkness(photo.pixels))
    assert np.array_equal(found.pixels, upright)
    assert bool(notes) == (drawn != "tagged")
    if notes:
        assert "EXIF orientation" in notes[0]


def test_another_size_is_named_with_its_cause(tmp_path):
    photo = photo_of(tmp_path / "p.png", 6, PICTURE)
    with pytest.raises(InputError, match=r"has 50 x 40 pixels, the photo 90 x 120 once it is turned by its EXIF"):
        mask_of(photo, put(tmp_path, np.eye(40, 50, dtype=bool)), "truth", [], lambda: darkness(photo.pixels))
    plain = photo_of(tmp_path / "p.png", 1, PICTURE)
    with pytest.raises(InputError, match="lies on its side"):
        mask_of(plain, put(tmp_path, VESSEL.T.copy()), "truth", [], lambda: darkness(plain.pixels))


def test_alpha_and_orientation_of_a_photo(tmp_path):
    drawn = np.dstack([PICTURE, eight()])
    buffer = io.BytesIO()
    Image.fromarray(drawn).save(buffer, "WEBP", lossless=True)
    (tmp_path / "a.webp").write_bytes(buffer.getvalue())
    assert np.array_equal(read_photo(tmp_path / "a.webp", alpha=True).pixels[0], VESSEL)
    assert (read_photo(put(tmp_path, PICTURE), alpha=True).pixels == 1).all()
    photo_of(tmp_path / "p.tif", 6, PICTURE, compression="tiff_lzw")  # Pillow turns it itself
    for path, wanted in (("p.tif", TURNS[6](PICTURE)), ("p.tif", PICTURE)):
        found = read_photo(tmp_path / path, orientation=None if wanted is not PICTURE else 1)
        np.testing.assert_allclose(np.moveaxis(found.pixels, 0, -1), wanted / 255, atol=1e-6)
