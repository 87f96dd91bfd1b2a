import os
import struct
import zlib

import numpy as np
import pytest
import tifffile
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from PIL import Image

from attn.core.errors import InputError
from attn.core.io import Derivation, read, read_grey, write, write_grey
from attn.core.io.raster import silenced

IMAGE16 = np.random.default_rng(0).integers(0, 65536, (13, 17)).astype(np.uint16)
IMAGE8 = (IMAGE16 >> 8).astype(np.uint8)


def again(image, tmp_path, pixels=None, name="out"):
    write_grey(image, image.pixels if pixels is None else pixels, tmp_path / name, Derivation("how", "denoised", "1"))
    return read_grey(tmp_path / name)


@pytest.mark.parametrize("array", [IMAGE8, IMAGE16, IMAGE8 > 99], ids=["8", "16", "1"])
@pytest.mark.parametrize("suffix", [".png", ".tif"])
def test_depth_is_kept(array, suffix, tmp_path):
    Image.fromarray(array).save(tmp_path / f"a{suffix}")
    image = read_grey(tmp_path / f"a{suffix}")
    np.testing.assert_array_equal(image.pixels[0], array)
    assert image.stored.dtype == array.dtype
    changed = image.pixels + 0.4  # rounds back for all but the 1-bit image, where 0.4 is below one half
    for pixels in (image.pixels, changed):
        out = again(image, tmp_path, pixels, f"out{suffix}")
        np.testing.assert_array_equal(out.stored, image.stored)
        assert out.stored.dtype == array.dtype
    with Image.open(tmp_path / f"out{suffix}") as picture:  # another reader
        np.testing.assert_array_equal(np.asarray(picture), array)


@settings(max_examples=25, deadline=None)
@given(data=st.data())
@pytest.mark.parametrize(("suffix", "dtypes"), [(".png", "u1 u2 ?"), (".tif", "u1 u2 i2 i4 f4 f8 ?")])
def test_write_then_read_gives_the_same_pixels(suffix, dtypes, data, tmp_path_factory):
    dtype = np.dtype(data.draw(st.sampled_from(dtypes.split())))
    slices = 1 if suffix == ".png" else data.draw(st.integers(1, 3))
    shape = (slices, data.draw(st.integers(1, 9)), data.draw(st.integers(1, 9)))
    finite = {"allow_nan": False, "allow_infinity": False} if dtype.kind == "f" else {}
    array = data.draw(arrays(dtype, shape, elements=finite or None))
    path = tmp_path_factory.mktemp("x") / f"a{suffix}"
    write(path, array)
    image = read_grey(path)
    np.testing.assert_array_equal(image.stored.reshape(shape), array)  # [Z, H, 1] and [Z, 1, W] are one image
    write_grey(image, image.pixels, path.with_name("b" + suffix))
    np.testing.assert_array_equal(read_grey(path.with_name("b" + suffix)).stored, image.stored)


def test_values_are_clipped_and_rounded_half_to_even(tmp_path):
    Image.fromarray(IMAGE8[:1, :5]).save(tmp_path / "a.png")
    pixels = np.array([[[-3, 0.5, 1.5, 254.6, 999]]], np.float32)
    np.testing.assert_array_equal(
        again(read_grey(tmp_path / "a.png"), tmp_path, pixels).stored, [[[0, 0, 2, 255, 255]]]
    )


@pytest.mark.parametrize("suffix", [".png", ".tif"])
def test_colour(suffix, tmp_path):
    rgb = np.stack([IMAGE8, IMAGE8, IMAGE8], -1)
    Image.fromarray(rgb).save(tmp_path / f"equal{suffix}")
    image = read_grey(tmp_path / f"equal{suffix}")
    np.testing.assert_array_equal(image.pixels[0], IMAGE8)
    assert any("equal" in text for text in image.warnings)
    rgb[0, 0] = (200, 100, 50)
    Image.fromarray(rgb).save(tmp_path / f"colour{suffix}")
    with pytest.raises(InputError, match=r"colour image.*--luma"):
        read_grey(tmp_path / f"colour{suffix}")
    luma = read_grey(tmp_path / f"colour{suffix}", luma=True)
    assert luma.pixels[0, 0, 0] == round(0.299 * 200 + 0.587 * 100 + 0.114 * 50)
    assert again(luma, tmp_path).stored.shape == (1, 13, 17)


def test_png_transparency_is_kept_and_hidden_pixels_are_not_touched(tmp_path):
    alpha = np.full((13, 17), 255, np.uint8)
    alpha[:4] = 0
    Image.merge("LA", (Image.fromarray(IMAGE8), Image.fromarray(alpha))).save(tmp_path / "a.png")
    image = read_grey(tmp_path / "a.png")
    np.testing.assert_array_equal(image.valid[0], alpha > 0)
    out = again(image, tmp_path, np.full_like(image.pixels, 7), "out.png")
    np.testing.assert_array_equal(out.stored[0][:4], IMAGE8[:4])
    assert (out.stored[0][4:] == 7).all()
    np.testing.assert_array_equal(np.asarray(Image.open(tmp_path / "out.png"))[..., 1], alpha)


def test_palette_and_metadata(tmp_path):
    Image.fromarray(IMAGE8).convert("P").save(tmp_path / "p.png")
    assert read_grey(tmp_path / "p.png").pixels.shape == (1, 13, 17)
    Image.fromarray(IMAGE8).save(tmp_path / "d.png", dpi=(300, 150), icc_profile=b"profile")
    again(read_grey(tmp_path / "d.png"), tmp_path, name="out.png")
    with Image.open(tmp_path / "out.png") as picture:
        assert [round(value) for value in picture.info["dpi"]] == [300, 150]
        assert picture.info["icc_profile"] == b"profile"
        assert picture.text["Description"] == "how"


def test_sixteen_bit_colour_png_is_not_cut_to_eight_as_pillow_does(tmp_path):
    header = struct.pack(">IIBBBBB", 1, 1, 16, 2, 0, 0, 0)
    chunks = [(b"IHDR", header), (b"IDAT", zlib.compress(b"\0" + b"\1\2" * 3)), (b"IEND", b"")]
    data = b"\x89PNG\r\n\x1a\n" + b"".join(
        struct.pack(">I", len(body)) + kind + body + struct.pack(">I", zlib.crc32(kind + body)) for kind, body in chunks
    )
    (tmp_path / "a.png").write_bytes(data)
    assert read_grey(tmp_path / "a.png").stored.tolist() == [[[0x0102]]]


@pytest.mark.parametrize("compression", [None, "zlib", "packbits", "lzw", "lzw-float"])
@pytest.mark.parametrize("order", ["<", ">"])
def test_tiff_stacks_of_every_coding(compression, order, tmp_path):
    stack = np.stack([IMAGE16, IMAGE16[::-1], IMAGE16 // 2])
    if compression == "lzw-float":
        stack = stack.astype(np.float32) / 7
    if compression and compression.startswith("lzw"):
        pages = [Image.fromarray(page) for page in stack]
        pages[0].save(tmp_path / "a.tif", compression="tiff_lzw", save_all=True, append_images=pages[1:])
    elif compression == "packbits":
        pages = [Image.fromarray(page) for page in stack]
        pages[0].save(tmp_path / "a.tif", compression="packbits", save_all=True, append_images=pages[1:])
    else:
        tifffile.imwrite(
            tmp_path / "a.tif", stack, byteorder=order, compression=compression, photometric="minisblack",
            resolution=(1000, 500), resolutionunit=3,
        )  # fmt: skip
    image = read_grey(tmp_path / "a.tif")
    np.testing.assert_array_equal(image.stored, stack)
    out = again(image, tmp_path, name="out.tif")
    np.testing.assert_array_equal(out.stored, stack)
    with tifffile.TiffFile(tmp_path / "out.tif") as tiff:
        assert len(tiff.pages) == 3
        assert (int(tiff.pages[0].compression) != 1) == (compression is not None)
        if compression is None:
            assert tiff.byteorder == order
            assert tiff.pages[0].tags["XResolution"].value[0] == 1000
            assert int(tiff.pages[0].tags["ResolutionUnit"].value) == 3


@pytest.mark.parametrize("compression", [None, "tiff_lzw"])
def test_white_is_zero_stays_as_stored(compression, tmp_path):
    options = {"compression": compression} if compression else {}
    Image.fromarray(IMAGE8).save(tmp_path / "a.tif", tiffinfo={262: 0}, **options)
    with tifffile.TiffFile(tmp_path / "a.tif") as tiff:
        assert int(tiff.pages[0].photometric) == 0
    image = read_grey(tmp_path / "a.tif")
    shown = 255 - np.asarray(Image.open(tmp_path / "a.tif"))  # Pillow turns the values around for display
    np.testing.assert_array_equal(image.stored[0], shown)
    again(image, tmp_path, name="out.tif")
    np.testing.assert_array_equal(np.asarray(Image.open(tmp_path / "out.tif")), 255 - shown)


def test_tiff_that_cannot_be_one_stack_is_refused(tmp_path):
    with tifffile.TiffWriter(tmp_path / "a.tif") as writer:
        writer.write(IMAGE16, metadata=None)
        writer.write(IMAGE16[:5], metadata=None)
    with pytest.raises(InputError, match="2 images of different sizes"):
        read_grey(tmp_path / "a.tif")
    tifffile.imwrite(tmp_path / "b.tif", np.zeros((2, 3, 5, 6), np.uint16), imagej=True)
    with pytest.raises(InputError, match="axes"):
        read_grey(tmp_path / "b.tif")


def test_nan_names_count_and_place(tmp_path):
    array = np.ones((2, 3, 4), np.float32)
    array[1, 2, 3], array[1, 0, 1] = np.nan, np.inf
    tifffile.imwrite(tmp_path / "a.tif", array, photometric="minisblack")
    with pytest.raises(InputError, match=r"2, the first at slice 1, row 0, column 1.*--fill"):
        read_grey(tmp_path / "a.tif")
    image = read_grey(tmp_path / "a.tif", fill=-5)
    assert image.pixels[1, 2, 3] == -5
    assert any("2 NaN" in text for text in image.warnings)


@pytest.mark.parametrize("sides", [(60000, 60000), (0, 5), (16000, 16000)])
def test_png_bombs_are_refused_before_they_are_unpacked(sides, tmp_path):
    Image.fromarray(IMAGE8).save(tmp_path / "a.png")
    data = bytearray((tmp_path / "a.png").read_bytes())
    data[16:24] = struct.pack(">II", *sides)
    data[29:33] = struct.pack(">I", zlib.crc32(data[12:29]))
    (tmp_path / "a.png").write_bytes(data)
    with pytest.raises(InputError, match=r"claims|no pixels|cut off"):
        read_grey(tmp_path / "a.png")


def test_read_is_the_short_form(tmp_path):
    write(tmp_path / "a.png", IMAGE8)
    np.testing.assert_array_equal(read(tmp_path / "a.png"), IMAGE8[None])
    with pytest.raises(ValueError, match="uint8"):
        write(tmp_path / "b.png", IMAGE8.astype(np.float32))
    with pytest.raises(InputError, match="from an array alone"):
        write(tmp_path / "b.dcm", IMAGE8)


def test_what_libtiff_says_is_swallowed_and_nothing_after_it(capfd):
    with silenced():
        os.write(2, b"a complaint")
    os.write(2, b"a message")
    assert capfd.readouterr().err == "a message"
