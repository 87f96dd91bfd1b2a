import io
import random
import struct
import zlib

import numpy as np
import pytest
import tifffile
from PIL import Image

from attn.core.errors import InputError
from attn.core.io.photo.read import PHOTO_SUFFIXES, read_photo

RNG = np.random.default_rng(0)
RGB8 = RNG.integers(0, 256, (11, 14, 3)).astype(np.uint8)
RGB16 = RNG.integers(0, 65536, (11, 14, 3)).astype(np.uint16)
YY, XX = np.mgrid[0:120, 0:160]
SMOOTH = np.stack([YY * 2, XX * 1.5, 200 - YY], -1).astype(np.uint8)  # survives JPEG
FLOAT = RGB8.astype(np.float32) / 255


def planes(array):
    """[H, W, 3] uint8 or uint16 -> float32 [3, H, W]"""
    return np.moveaxis(array.astype(np.float32) / np.iinfo(array.dtype).max, -1, 0)


def encoded(array, kind, **options):
    buffer = io.BytesIO()
    Image.fromarray(array).save(buffer, kind, **options)
    return buffer.getvalue()


def png16(array, *, interlaced=False):
    """A 16-bit PNG with the Sub filter, which Pillow cannot write: [H, W, C] -> bytes."""
    height, width, channels = array.shape
    colour = {1: 0, 2: 4, 3: 2, 4: 6}[channels]
    rows = b""
    adam7 = [(0, 0, 8, 8), (0, 4, 8, 8), (4, 0, 8, 4), (0, 2, 4, 4), (2, 0, 4, 2), (0, 1, 2, 2), (1, 0, 2, 1)]
    for top, left, down, across in adam7 if interlaced else [(0, 0, 1, 1)]:
        part = array[top::down, left::across]
        if not part.size:
            continue
        for row in part:
            flat = np.frombuffer(row.astype(">u2").tobytes(), np.uint8)
            before = np.concatenate([np.zeros(2 * channels, np.uint8), flat[: -2 * channels]])
            rows += b"\x01" + (flat - before).tobytes()

    def chunk(name, data):
        return struct.pack(">I", len(data)) + name + data + struct.pack(">I", zlib.crc32(name + data))

    header = struct.pack(">IIBBBBB", width, height, 16, colour, 0, 0, int(interlaced))
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", zlib.compress(rows)) + chunk(b"IEND", b"")


def tiff(array, **options):
    buffer = io.BytesIO()
    tifffile.imwrite(buffer, array, **{"photometric": "rgb", **options})
    return buffer.getvalue()


def put(tmp_path, data, name="photo"):
    path = tmp_path / name
    path.write_bytes(data)
    return path


EXACT = {
    "png": (encoded(RGB8, "PNG"), RGB8, 8),
    "bmp": (encoded(RGB8, "BMP"), RGB8, 8),
    "ppm": (encoded(RGB8, "PPM"), RGB8, 8),
    "webp": (encoded(RGB8, "WEBP", lossless=True), RGB8, 8),
    "png16": (png16(RGB16), RGB16, 16),
    "png16 interlaced": (png16(RGB16, interlaced=True), RGB16, 16),
    "tiff": (tiff(RGB8), RGB8, 8),
    "tiff16": (tiff(RGB16), RGB16, 16),
    "tiff16 big-endian": (tiff(RGB16, byteorder=">"), RGB16, 16),
    "tiff16 deflate": (tiff(RGB16, compression="zlib", predictor=True), RGB16, 16),
    "tiff tiled": (tiff(RGB8, tile=(16, 16)), RGB8, 8),
    "tiff planar": (tiff(np.moveaxis(RGB8, -1, 0), planarconfig="separate"), RGB8, 8),
    "tiff lzw": (encoded(RGB8, "TIFF", compression="tiff_lzw"), RGB8, 8),
    "bigtiff": (tiff(RGB8, bigtiff=True), RGB8, 8),
}


@pytest.mark.parametrize("name", EXACT)
def test_lossless_kinds_come_back_exactly(name, tmp_path):
    data, array, bits = EXACT[name]
    photo = read_photo(put(tmp_path, data, "misnamed.txt"))
    np.testing.assert_allclose(photo.pixels, planes(array), atol=1e-6)
    assert (photo.pixels.dtype, photo.size, photo.bits, photo.warnings) == (np.float32, (11, 14), bits, ())


def test_low_bytes_of_16_bit_colour_behind_libtiff(tmp_path, monkeypatch):
    from attn.core.io.photo import decode as photo_decode

    monkeypatch.setattr(photo_decode, "_TIFFFILE_CODINGS", ())  # as if Deflate needed imagecodecs, as LZW does
    for order in "<>":
        path = put(tmp_path, tiff(RGB16, compression="zlib", predictor=True, byteorder=order))
        photo = read_photo(path)
        np.testing.assert_allclose(photo.pixels, planes(RGB16), atol=1e-6)
        assert photo.bits == 16


@pytest.mark.parametrize("channels", [2, 4])
@pytest.mark.parametrize("deep", [False, True])
def test_alpha_is_dropped_with_a_warning(channels, deep, tmp_path):
    array = RNG.integers(0, 65536, (11, 14, channels)).astype(np.uint16)
    array = array if deep else (array >> 8).astype(np.uint8)
    photo = read_photo(put(tmp_path, png16(array) if deep else encoded(array, "PNG")))
    colour = np.repeat(array[..., :1], 3, -1) if channels == 2 else array[..., :3]
    np.testing.assert_allclose(photo.pixels, planes(colour), atol=1e-6)
    assert "the alpha channel was dropped" in photo.warnings


def test_alpha_of_tiff(tmp_path):
    array = np.dstack([RGB8, RGB8[..., :1]])
    photo = read_photo(put(tmp_path, tiff(array, extrasamples=["unassalpha"])))
    np.testing.assert_allclose(photo.pixels, planes(RGB8), atol=1e-6)
    assert "the alpha channel was dropped" in photo.warnings


GREY = {
    "1": (encoded(RGB8[..., 0] > 99, "PNG"), (RGB8[..., 0] > 99) * np.uint8(255), 1),
    "8": (encoded(RGB8[..., 0], "PNG"), RGB8[..., 0], 8),
    "16": (encoded(RGB16[..., 0], "PNG"), RGB16[..., 0], 16),
    "tiff 1": (encoded(RGB8[..., 0] > 99, "TIFF"), (RGB8[..., 0] > 99) * np.uint8(255), 1),
    "tiff 16": (tiff(RGB16[..., 0], photometric="minisblack"), RGB16[..., 0], 16),
    "tiff white is 0": (tiff(255 - RGB8[..., 0], photometric="miniswhite"), RGB8[..., 0], 8),
    "equal channels": (encoded(np.repeat(RGB8[..., :1], 3, -1), "PNG"), RGB8[..., 0], 8),
}


@pytest.mark.parametrize("name", GREY)
def test_grey_is_replicated_with_a_warning(name, tmp_path):
    data, array, bits = GREY[name]
    photo = read_photo(put(tmp_path, data))
    np.testing.assert_allclose(photo.pixels, planes(np.dstack([array] * 3)), atol=1e-6)
    assert photo.bits == bits
    assert any(text.startswith("grey") for text in photo.warnings)


def test_palettes(tmp_path):
    table = RNG.integers(0, 256, (256, 3)).astype(np.uint8)
    index = RNG.integers(0, 256, (11, 14)).astype(np.uint8)
    picture = Image.fromarray(index)
    picture.putpalette(table.tobytes())
    for kind in ("PNG", "GIF", "TIFF", "BMP"):
        picture.save(tmp_path / "palette", kind)
        photo = read_photo(tmp_path / "palette")
        np.testing.assert_allclose(photo.pixels, planes(table[index]), atol=1e-6, err_msg=kind)
        assert photo.bits == 8


def test_jpeg_colour_grey_and_cmyk(tmp_path):
    photo = read_photo(put(tmp_path, encoded(SMOOTH, "JPEG", quality=95)))
    assert np.abs(photo.pixels - planes(SMOOTH)).mean() < 0.01
    photo = read_photo(put(tmp_path, encoded(SMOOTH[..., 0], "JPEG", quality=95)))
    assert np.abs(photo.pixels - planes(SMOOTH)[0]).mean() < 0.01
    # Adobe stores CMYK inverted, and so does Pillow: without the inversion the picture would be a negative
    Image.fromarray(SMOOTH).convert("CMYK").save(tmp_path / "cmyk.jpg", quality=95)
    assert b"Adobe" in (tmp_path / "cmyk.jpg").read_bytes()
    photo = read_photo(tmp_path / "cmyk.jpg")
    assert np.abs(photo.pixels - planes(SMOOTH)).mean() < 0.02
    assert any("CMYK" in text for text in photo.warnings)


@pytest.mark.parametrize("orientation", range(1, 9))
@pytest.mark.parametrize("kind", ["JPEG", "PNG", "TIFF", "LZW"])
@pytest.mark.parametrize("max_side", [None, 80])
def test_orientation_is_applied(orientation, kind, max_side, tmp_path):
    turn = {2: 0, 3: 3, 4: 1, 5: 5, 6: 4, 7: 6, 8: 2}  # Pillow's transpositions that undo EXIF's numbers
    exif = Image.Exif()
    exif[274] = orientation
    picture = Image.fromarray(SMOOTH)
    options = {"compression": "tiff_lzw"} if kind == "LZW" else {}
    picture.save(tmp_path / "p", "TIFF" if kind == "LZW" else kind, exif=exif.tobytes(), **options)
    upright = np.asarray(picture if orientation == 1 else picture.transpose(turn[orientation]))
    photo = read_photo(tmp_path / "p", max_side=max_side)
    assert photo.size == upright.shape[:2]
    if max_side:
        upright = upright.reshape(upright.shape[0] // 2, 2, upright.shape[1] // 2, 2, 3).mean((1, 3)) / 255
        assert photo.pixels.shape == (3, *upright.shape[:2])
        assert np.abs(photo.pixels - np.moveaxis(upright, -1, 0)).mean() < 0.02
    else:
        assert np.abs(photo.pixels - planes(upright)).mean() < 0.02


@pytest.mark.parametrize("kind", ["PNG", "TIFF", "NPY"])
def test_reduction_is_the_mean_of_the_area(kind, tmp_path):
    strip = 3 * 30 * 40  # several of them
    array = RNG.integers(0, 256, (90, 120, 3)).astype(np.uint8)
    if kind == "NPY":
        np.save(tmp_path / "p.npy", array)
        path = tmp_path / "p.npy"
    else:
        path = put(tmp_path, encoded(array, kind))
    photo = read_photo(path, max_side=40, strip=strip)
    mean = array.reshape(30, 3, 40, 3, 3).mean((1, 3)) / 255
    np.testing.assert_allclose(photo.pixels, np.moveaxis(mean, -1, 0), atol=1e-5)
    assert photo.size == (90, 120)
    uneven = read_photo(
        path, max_side=37, strip=strip
    )  # 120 / 37 is no integer: fractions of pixels count as fractions
    assert uneven.pixels.shape == (3, 28, 37)
    np.testing.assert_allclose(uneven.pixels.mean((1, 2)), array.mean((0, 1)) / 255, atol=1e-5)
    assert read_photo(path, max_side=500).pixels.shape == (3, 90, 120)


@pytest.mark.parametrize("size", [(397, 501), (400, 512)])
def test_reduced_jpeg_keeps_its_geometry(size, tmp_path):
    yy, xx = np.mgrid[0 : size[0], 0 : size[1]]
    ramp = np.stack([yy * 0.5, xx * 0.5, 0 * xx], -1)
    path = put(tmp_path, encoded(ramp.astype(np.uint8), "JPEG", quality=100, subsampling=0))
    pixels = read_photo(path, max_side=50).pixels * 255
    height, width = pixels.shape[1:]
    rows = (np.arange(height) + 0.5) * size[0] / height - 0.5
    columns = (np.arange(width) + 0.5) * size[1] / width - 0.5
    assert np.abs(pixels[0].mean(1) - (rows * 0.5 - 0.25)).max() < 1.5  # 1.5 grey levels are 3 pixels of 8
    assert np.abs(pixels[1].mean(0) - (columns * 0.5 - 0.25)).max() < 1.5


def test_arrays(tmp_path):
    path = tmp_path / "a.npy"
    for array in (RGB8, np.moveaxis(RGB8, -1, 0), RGB8.astype(np.int64), FLOAT, FLOAT.astype(np.float64) * 255):
        np.save(path, array)
        np.testing.assert_allclose(read_photo(path).pixels, planes(RGB8), atol=1e-6)
    np.save(path, RGB16 >> 4)
    photo = read_photo(path)
    assert "12-bit" in photo.warnings[0]
    np.testing.assert_allclose(photo.pixels, np.moveaxis((RGB16 >> 4) / 4095, -1, 0), atol=1e-6)


@pytest.mark.parametrize(
    ("data", "words"),
    [
        (b"", "is empty"),
        (b"just some text\n" * 9, "it is text"),
        (encoded(RGB8, "PNG")[:300], "PNG"),
        (encoded(SMOOTH, "JPEG")[:900], "JPEG"),
        (tiff(RGB8)[:300], "TIFF"),
        (encoded(RGB8, "BMP")[:100], "BMP"),
        (b"\xff\xd8\xff", "JPEG"),
        (b"\x89PNG\r\n\x1a\n", "PNG header"),
        (b"%PDF-1.4" + bytes(99), "PDF"),
        (encoded(np.zeros((9, 9, 3), np.uint8), "PNG"), "all black: nothing is to be seen"),
        (encoded(np.full((1, 1, 3), 77, np.uint8), "PNG"), "all of one colour"),
        (tiff(np.where(FLOAT > 0.9, np.nan, FLOAT)), "NaN"),
        (tiff(FLOAT * 1000), "values up to"),
        (tiff(FLOAT - 0.5), "negative"),
    ],
)
def test_bad_files(data, words, tmp_path):
    with pytest.raises(InputError, match=words) as caught:
        read_photo(put(tmp_path, data, "photo.jpg"))
    assert "\n" not in str(caught.value)
    assert caught.value.fix


def test_bad_paths_and_sizes(tmp_path):
    with pytest.raises(InputError, match="is a directory"):
        read_photo(tmp_path)
    with pytest.raises(InputError, match="does not exist"):
        read_photo(tmp_path / "no.png")
    with pytest.raises(ValueError, match="max_side"):
        read_photo(tmp_path, max_side=0)
    data = bytearray(encoded(RGB8, "PNG"))
    data[16:24] = struct.pack(">II", 40000, 40000)
    with pytest.raises(InputError, match="more than the budget"):
        read_photo(put(tmp_path, bytes(data)))
    data[16:24] = struct.pack(">II", 20000, 20000)  # allowed, but not with so few bytes
    with pytest.raises(InputError, match="cut off"):
        read_photo(put(tmp_path, bytes(data)))
    assert {".jpg", ".png", ".tif"} < set(PHOTO_SUFFIXES)


def test_masks_may_be_of_one_colour(tmp_path):
    for value in (0, 255):
        path = put(tmp_path, encoded(np.full((5, 6), value, np.uint8), "PNG"))
        assert (read_photo(path, uniform=True).pixels == value / 255).all()


def test_damaged_tiff_whose_depth_is_a_tuple(tmp_path):
    data = bytearray(tiff(RGB8))
    with tifffile.TiffFile(io.BytesIO(data)) as file:
        tags = file.pages.first.tags
        data[tags["BitsPerSample"].valueoffset + 2] = 127  # channels of 8, 127 and 8 bits
        struct.pack_into("<HHII", data, tags["ImageWidth"].offset, 256, 4, 1, 2**24)
    with pytest.raises(InputError, match="different depth"):  # it repeated the tuple 2**24 times and more
        read_photo(put(tmp_path, bytes(data)))


def test_damaged_files_raise_nothing_but_input_errors(tmp_path, capfd):
    files = [data for data, _, _ in (*EXACT.values(), *GREY.values())]
    files += [encoded(SMOOTH, "JPEG"), encoded(SMOOTH, "JPEG", progressive=True), encoded(RGB8[..., 0], "GIF")]
    dice = random.Random(0)
    read = refused = 0
    lines = set()
    for data in files:
        for _ in range(20):
            damaged = bytearray(data)
            for _ in range(dice.choice((1, 3, 10))):
                damaged[dice.randrange(min(len(damaged), dice.choice((60, 10**6))))] = dice.choice((0, 1, 127, 255))
            if dice.random() < 0.2:
                del damaged[dice.randrange(len(damaged)) :]
            try:
                photo = read_photo(put(tmp_path, bytes(damaged)), max_side=dice.choice((None, 8)))
            except InputError as error:
                refused += 1
                lines.add(len(str(error).splitlines()))
            else:
                assert np.isfinite(photo.pixels).all()
                assert photo.pixels.shape[0] == 3
                read += 1
    assert read > 20 < refused
    assert lines == {1}
    assert capfd.readouterr().err == ""
