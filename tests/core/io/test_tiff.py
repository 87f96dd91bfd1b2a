"""TIFF: every coding and depth, what a sample is, what is carried over, what is refused before it is unpacked."""

import contextlib
import struct
import zlib

import imagecodecs
import numpy as np
import pytest
import tifffile

from attn.core import memory
from attn.core.errors import InputError
from attn.core.io import Derivation, read_grey, write_grey

RNG = np.random.default_rng(0)
IMAGE = RNG.integers(0, 65536, (40, 48)).astype(np.uint16)
DERIVED = Derivation("how", "denoised", "1")


def written(path, array, **options):
    tifffile.imwrite(path, array, **{"photometric": "minisblack", "metadata": None} | options)
    return read_grey(path)


def again(image, tmp_path):
    write_grey(image, image.pixels, tmp_path / "out.tif", DERIVED)
    return read_grey(tmp_path / "out.tif")


@pytest.mark.parametrize("coding", [None, "lzw", "zstd", "deflate", "packbits", "lzma"])
@pytest.mark.parametrize("layout", [{}, {"tile": (16, 32)}, {"predictor": True}, {"byteorder": ">", "bigtiff": True}],
                         ids=["strips", "tiles", "predictor", "big"])  # fmt: skip
def test_every_coding_of_every_type(coding, layout, tmp_path):
    layout = {} if "predictor" in layout and coding in (None, "packbits") else layout
    for dtype in ("u1", "u2", "i2", "u4", "f2", "f4", "f8"):
        array = IMAGE >> 8 if dtype == "u1" else IMAGE / 4 if dtype == "f2" else IMAGE // 3
        array = array.astype(dtype)
        image = written(tmp_path / "a.tif", np.stack([array, array[::-1]]), compression=coding, **layout)
        np.testing.assert_array_equal(image.stored, [array, array[::-1]])
        assert image.stored.dtype == np.dtype(dtype)
        assert image.warnings == ()


@pytest.mark.parametrize("bits", [1, 2, 4, 10, 12, 14])
@pytest.mark.parametrize("coding", ["none", "lzw"])
def test_packed_bits(bits, coding, tmp_path):
    array = IMAGE >> (16 - bits)
    raw = np.packbits((array[..., None] >> np.arange(bits - 1, -1, -1) & 1).astype(bool)).tobytes()
    strip = imagecodecs.lzw_encode(raw) if coding == "lzw" else raw
    (tmp_path / "a.tif").write_bytes(handmade(strip, bits=bits, coding=5 if coding == "lzw" else 1))
    image = read_grey(tmp_path / "a.tif")
    np.testing.assert_array_equal(image.pixels[0], array)
    assert any(f"{bits} bits" in text for text in image.warnings) == (bits != 1)
    np.testing.assert_array_equal(again(image, tmp_path).pixels[0], array)


def test_float24(tmp_path):
    values = np.linspace(-5, 5, IMAGE.size, dtype=np.float32).reshape(IMAGE.shape)
    raw = imagecodecs.float24_encode(values, byteorder="<")
    (tmp_path / "a.tif").write_bytes(handmade(raw, bits=24, extra=[(339, 3, 1, 3)]))
    np.testing.assert_allclose(read_grey(tmp_path / "a.tif").pixels[0], values, rtol=2e-5)


def handmade(strip, *, bits=8, coding=1, size=(40, 48), extra=(), photometric=1):
    """A little TIFF of one strip, as no writer would make it."""
    tags = {256: (4, 1, size[1]), 257: (4, 1, size[0]), 258: (3, 1, bits), 259: (3, 1, coding)}
    tags |= {262: (3, 1, photometric), 273: (4, 1, 8), 277: (3, 1, 1), 278: (4, 1, size[0]), 279: (4, 1, len(strip))}
    tags |= {code: (kind, count, value) for code, kind, count, value in extra}
    place = 8 + len(strip) + len(strip) % 2
    ifd = struct.pack("<H", len(tags))
    for code in sorted(tags):
        kind, count, value = tags[code]
        ifd += struct.pack("<HHI", code, kind, count) + struct.pack(
            "<I" if kind == 4 else "<HH", *([value] if kind == 4 else [value, 0])
        )
    return b"II*\0" + struct.pack("<I", place) + strip + b"\0" * (len(strip) % 2) + ifd + bytes(4)


@pytest.mark.parametrize("coding", ["jpeg", "jpeg2000"])
def test_pictures_in_tiles(coding, tmp_path):
    smooth = np.broadcast_to(np.arange(48, dtype=np.uint8) * 2, (40, 48)).copy()
    if coding == "jpeg":
        image = written(tmp_path / "a.tif", smooth, compression="jpeg", compressionargs={"level": 100}, tile=(16, 16))
        assert np.abs(image.pixels[0] - smooth).max() <= 2
    else:
        image = written(tmp_path / "a.tif", IMAGE, compression="jpeg2000", compressionargs={"level": 0}, tile=(16, 16))
        np.testing.assert_array_equal(image.pixels[0], IMAGE)


@pytest.mark.parametrize("planar", ["contig", "separate"])
@pytest.mark.parametrize("coding", [None, "lzw", "zstd"])
def test_equal_colours_of_16_bits_keep_their_values(planar, coding, tmp_path):
    rgb = np.stack([IMAGE] * 3, -1 if planar == "contig" else 0)
    image = written(tmp_path / "a.tif", rgb, photometric="rgb", planarconfig=planar, compression=coding)
    np.testing.assert_array_equal(image.stored[0], IMAGE)
    np.testing.assert_array_equal(again(image, tmp_path).stored[0], IMAGE)


@pytest.mark.parametrize("dtype", [np.uint8, np.uint16])
def test_cmyk(dtype, tmp_path):
    top, black = np.iinfo(dtype).max, (IMAGE >> (16 - 8 * np.dtype(dtype).itemsize)).astype(dtype)
    none = np.zeros_like(black)
    image = written(tmp_path / "a.tif", np.stack([none, none, none, black], -1), photometric="separated")
    np.testing.assert_array_equal(image.stored[0], top - black)
    assert "black ink only" in image.warnings[0]
    coloured = np.stack([black, none, none, none + top // 2], -1)
    with pytest.raises(InputError, match=r"colour.*--luma"):
        written(tmp_path / "b.tif", coloured, photometric="separated")
    grey = read_grey(tmp_path / "b.tif", luma=True).pixels[0, 0, 0]
    light = top - top // 2
    assert grey == pytest.approx(0.299 * (top - black[0, 0]) * light / top + 0.701 * light, abs=1)


@pytest.mark.parametrize(
    ("extra", "alpha", "outcome"),
    [
        ("unassalpha", "any", "the alpha channel was dropped"),
        ("assocalpha", "full", "the alpha channel was dropped"),
        ("assocalpha", "any", InputError),
        ("unspecified", "any", InputError),
        (None, "any", InputError),
    ],
)
def test_a_second_sample_is_what_the_header_says(extra, alpha, outcome, tmp_path):
    other = IMAGE if alpha == "any" else np.full_like(IMAGE, 65535)
    pair, extras = np.stack([IMAGE[::-1], other], -1), [extra] if extra else None
    if outcome is InputError:
        with pytest.raises(InputError, match=r"associated alpha|2 channels, and does not say what they are"):
            written(tmp_path / "a.tif", pair, planarconfig="contig", extrasamples=extras)
    else:
        image = written(tmp_path / "a.tif", pair, planarconfig="contig", extrasamples=extras)
        np.testing.assert_array_equal(image.stored[0], IMAGE[::-1])
        assert outcome in image.warnings


def test_colour_with_more_channels_and_bands_without_colour(tmp_path):
    rgbx = np.stack([IMAGE] * 3 + [IMAGE[::-1]], -1)
    image = written(tmp_path / "a.tif", rgbx, photometric="rgb", extrasamples=["unspecified"])
    np.testing.assert_array_equal(image.stored[0], IMAGE)
    assert any("no stated meaning" in text for text in image.warnings)
    with pytest.raises(InputError, match="5 channels, and does not say"):
        written(tmp_path / "b.tif", np.stack([IMAGE] * 5, -1), planarconfig="contig")


@pytest.mark.parametrize(
    ("code", "word"), [(8, "CIE L"), (32803, "colour filter array"), (4, "mask|no pages|0 images")]
)
def test_other_colour_spaces_are_named(code, word, tmp_path):
    (tmp_path / "a.tif").write_bytes(handmade(bytes(40 * 48), photometric=code))
    with pytest.raises(InputError, match=word):
        read_grey(tmp_path / "a.tif")


def test_ycbcr_without_jpeg_is_refused(tmp_path):
    tifffile.imwrite(tmp_path / "a.tif", np.zeros((40, 48, 3), np.uint8), photometric="ycbcr")
    with pytest.raises(InputError, match="YCbCr"):
        read_grey(tmp_path / "a.tif")
    grey = np.broadcast_to(np.arange(48, dtype=np.uint8) * 5, (40, 48))
    strip = imagecodecs.jpeg8_encode(np.ascontiguousarray(np.stack([grey] * 3, -1)), level=98)  # itself in YCbCr
    (tmp_path / "b.tif").write_bytes(handmade(strip, coding=7, photometric=6, extra=[(277, 3, 1, 3)]))
    assert np.abs(read_grey(tmp_path / "b.tif", luma=True).pixels[0] - grey).max() <= 3


def test_palette_of_16_bits(tmp_path):
    index = (IMAGE >> 8).astype(np.uint8)
    ramp = np.arange(256, dtype=np.uint16) * 200 + 7
    image = written(tmp_path / "a.tif", index, photometric="palette", colormap=np.stack([ramp] * 3))
    np.testing.assert_array_equal(image.stored[0], ramp[index])


def test_ome_xml_is_carried_over(tmp_path):
    stack = np.stack([IMAGE, IMAGE[::-1], IMAGE // 2])
    sizes = {"PhysicalSizeX": 0.5, "PhysicalSizeXUnit": "µm", "PhysicalSizeZ": 2.5}
    tifffile.imwrite(tmp_path / "a.ome.tif", stack, metadata={"axes": "ZYX", **sizes})
    image = read_grey(tmp_path / "a.ome.tif")
    write_grey(image, image.pixels, tmp_path / "out.ome.tif", DERIVED)
    with tifffile.TiffFile(tmp_path / "a.ome.tif") as before, tifffile.TiffFile(tmp_path / "out.ome.tif") as after:
        assert after.ome_metadata == before.ome_metadata
        assert 'PhysicalSizeX="0.5"' in after.ome_metadata
        assert (after.series[0].axes, after.series[0].shape) == ("ZYX", (3, 40, 48))
        np.testing.assert_array_equal(after.asarray(), stack)


def test_ome_xml_that_would_be_wrong_is_told(tmp_path):
    tifffile.imwrite(tmp_path / "a.ome.tif", np.stack([IMAGE] * 3, -1), photometric="rgb", metadata={"axes": "YXS"})
    assert "not carried over: OME-XML" in read_grey(tmp_path / "a.ome.tif").warnings


def test_imagej_labels_and_hyperstack(tmp_path):
    stack = np.stack([IMAGE, IMAGE[::-1]])
    tifffile.imwrite(tmp_path / "a.tif", stack, imagej=True,
                     metadata={"axes": "ZYX", "Labels": ["first", "second"], "spacing": 2.5, "unit": "um"})  # fmt: skip
    image = read_grey(tmp_path / "a.tif")
    np.testing.assert_array_equal(again(image, tmp_path).stored, stack)
    with tifffile.TiffFile(tmp_path / "out.tif") as tiff:
        assert tiff.imagej_metadata["Labels"] == ["first", "second"]
        assert tiff.imagej_metadata["spacing"] == 2.5
        assert tiff.series[0].shape == (2, 40, 48)


def test_geography_orientation_and_no_data(tmp_path):
    values = IMAGE.astype(np.float32)
    values[:3] = -9999
    tags = [(33550, "d", 3, (10.0, 10.0, 0.0), True), (33922, "d", 6, (0.0, 0, 0, 5e5, 6e6, 0), True),
            (34735, "H", 8, (1, 1, 0, 1, 1024, 0, 1, 1), True), (42113, "s", 0, "-9999", True),
            (274, "H", 1, 6, True), (315, "s", 0, "Ann Örtlich".encode(), True)]  # fmt: skip
    image = written(tmp_path / "a.tif", values, extratags=tags)
    np.testing.assert_array_equal(image.valid[0], values != -9999)
    assert any("144 pixels are -9999" in text for text in image.warnings)
    write_grey(image, image.pixels + 1, tmp_path / "out.tif", DERIVED)
    with tifffile.TiffFile(tmp_path / "a.tif") as before, tifffile.TiffFile(tmp_path / "out.tif") as after:
        for code in (33550, 33922, 34735, 42113, 274, 315):
            assert after.pages[0].tags[code].value == before.pages[0].tags[code].value
        np.testing.assert_array_equal(after.asarray()[:3], -9999)
        assert after.asarray()[5, 5] == values[5, 5] + 1


def test_what_is_not_carried_over_is_named(tmp_path):
    image = written(tmp_path / "a.tif", IMAGE, extratags=[(37510, "s", 0, "comment", True)])
    assert image.warnings == ("not carried over: UserComment",)


def test_reduced_copies_and_missing_tiles_are_told(tmp_path):
    with tifffile.TiffWriter(tmp_path / "a.tif") as writer:
        writer.write(IMAGE, metadata=None)
        writer.write(IMAGE[::2, ::2], metadata=None, subfiletype=1)
    assert "1 reduced copies or masks beside the image are left out" in read_grey(tmp_path / "a.tif").warnings
    tiles = iter([IMAGE[:16, :16].copy(), None, None, None])
    tifffile.imwrite(
        tmp_path / "b.tif", tiles, shape=(32, 32), dtype=np.uint16, tile=(16, 16), metadata=None, compression="zlib"
    )
    assert any("3 of 4 strips or tiles are not in the file" in text for text in read_grey(tmp_path / "b.tif").warnings)


@pytest.mark.parametrize("coding", ["zlib", "lzma", "zstd", "packbits", "lzw"])
def test_a_strip_unpacks_to_its_place_and_no_further(coding, tmp_path, monkeypatch):
    codes = {"zlib": 8, "lzma": 34925, "zstd": 50000, "packbits": 32773, "lzw": 5}
    # 128 zeros are two bytes of PackBits; its encoder takes minutes for what the others do at once
    strip = b"\x81\0" * 2**17 if coding == "packbits" else getattr(imagecodecs, f"{coding}_encode")(bytes(2**24))
    (tmp_path / "a.tif").write_bytes(handmade(strip, coding=codes[coding]))
    given = []
    decode = getattr(imagecodecs, f"{coding}_decode")
    monkeypatch.setattr(
        imagecodecs, f"{coding}_decode", lambda data, out=None: given.append(out) or decode(data, out=out)
    )
    with contextlib.suppress(InputError):  # some decoders call a strip that unpacks to more damaged
        assert read_grey(tmp_path / "a.tif").pixels.shape == (1, 40, 48)
    assert given in ([40 * 48], [])


def test_a_tile_larger_than_the_budget_is_refused(tmp_path):
    extra = [(322, 4, 1, 65536), (323, 4, 1, 65536), (324, 4, 1, 8), (325, 4, 1, 10)]
    (tmp_path / "a.tif").write_bytes(handmade(zlib.compress(bytes(99)), coding=8, extra=extra))
    memory.set_budget(2**30)
    try:
        with pytest.raises(InputError, match=r"tiles takes 12.* GiB"):
            read_grey(tmp_path / "a.tif")
    finally:
        memory.set_budget(None)


def test_a_picture_larger_than_its_tile_is_refused(tmp_path):
    large = imagecodecs.jpeg2k_encode(np.zeros((900, 900), np.uint8))
    (tmp_path / "a.tif").write_bytes(handmade(large, coding=34712))
    with pytest.raises(InputError, match="900 x 900 pixels in a place of 48 x 40"):
        read_grey(tmp_path / "a.tif")
    (tmp_path / "b.tif").write_bytes(handmade(bytes(99), coding=50002))
    with pytest.raises(InputError, match="coded as JPEGXL, uint8, which is not read"):
        read_grey(tmp_path / "b.tif")


def test_a_damaged_strip_says_how_it_is_coded(tmp_path):
    values = IMAGE.astype(np.float64)
    tifffile.imwrite(
        tmp_path / "a.tif", values, compression="lzw", metadata=None, predictor=True, photometric="minisblack"
    )
    data = bytearray((tmp_path / "a.tif").read_bytes())
    with tifffile.TiffFile(tmp_path / "a.tif") as tiff:
        start = tiff.pages[0].dataoffsets[0]
    data[start : start + 200] = bytes(200)
    (tmp_path / "a.tif").write_bytes(data)
    with pytest.raises(InputError, match="LZW, float64, predictor 3"):
        read_grey(tmp_path / "a.tif")


def test_without_imagecodecs_the_package_is_named(tmp_path, monkeypatch):
    import importlib.util

    written(tmp_path / "a.tif", IMAGE.astype(np.float64), compression="lzw")
    written(tmp_path / "b.tif", IMAGE, compression="lzw")
    tifffile.imwrite(tmp_path / "c.tif", np.stack([IMAGE] * 3, -1), compression="lzw", photometric="rgb", metadata=None)
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    np.testing.assert_array_equal(read_grey(tmp_path / "b.tif").stored[0], IMAGE)  # Pillow is exact here
    with pytest.raises(InputError, match=r"LZW, uint16.*pip install imagecodecs"):
        read_grey(tmp_path / "c.tif")
