"""Which axes are slices, rows and columns: arrays of every kind, read, denoised and written."""

import warnings

import numpy as np
import pytest

import attn
from attn.core.errors import InputError
from attn.core.io import read_grey, write, write_grey
from attn.core.io.axes import axes_note, plain_shape

IMAGE = np.random.default_rng(0).integers(0, 4096, (12, 9)).astype(np.int16)


@pytest.mark.parametrize(
    ("shape", "plain"),
    [
        ((64, 64, 1), (64, 64)),
        ((64, 1, 64), (64, 64)),
        ((1, 64, 64), (1, 64, 64)),
        ((1, 5, 64, 64), (5, 64, 64)),
        ((5, 64, 64, 1), (5, 64, 64)),
        ((5, 1, 64, 64), (5, 64, 64)),
        ((1, 1, 64, 64, 1), (64, 64)),
        ((1, 64, 64, 3), (64, 64, 3)),
        ((2, 5, 64, 64), (2, 5, 64, 64)),
        ((1, 9, 1), (1, 9, 1)),
        ((7, 1, 1), (7, 1, 1)),
    ],
)
def test_axes_of_length_one_make_no_slices(shape, plain):
    assert plain_shape(shape) == plain


@pytest.mark.parametrize("suffix", [".npy", ".npz"])
@pytest.mark.parametrize("shape", [(12, 9, 1), (12, 1, 9), (1, 1, 12, 9), (1, 12, 9), (12, 9), (1, 12, 9, 1)])
def test_the_shape_that_was_read_is_written(shape, suffix, tmp_path):
    save = np.save if suffix == ".npy" else np.savez
    save(tmp_path / f"a{suffix}", IMAGE.reshape(shape))
    image = read_grey(tmp_path / f"a{suffix}")
    np.testing.assert_array_equal(image.pixels, IMAGE[None])
    assert bool(image.warnings) == (len(shape) > 2 and shape != (1, 12, 9))
    write_grey(image, image.pixels + 1, tmp_path / f"b{suffix}")
    again = np.load(tmp_path / f"b{suffix}")
    again = again if suffix == ".npy" else again["arr_0"]
    np.testing.assert_array_equal(again, IMAGE.reshape(shape) + 1)


def test_fortran_order_and_big_endian(tmp_path):
    stack = np.arange(2 * 3 * 5, dtype=">i4").reshape(2, 3, 5)
    np.save(tmp_path / "a.npy", np.asfortranarray(stack))
    np.testing.assert_array_equal(read_grey(tmp_path / "a.npy").pixels, stack)


def test_slices_that_lie_last_are_told_and_not_guessed(tmp_path):
    np.save(tmp_path / "a.npy", np.zeros((40, 44, 9)))
    image = read_grey(tmp_path / "a.npy")
    assert image.pixels.shape == (40, 44, 9)
    (text,) = image.warnings
    assert text == (
        "shape [40, 44, 9] was read as 40 slices of 44 x 9 pixels; if the 9 are the slices, put them first: "
        "numpy.moveaxis(a, 2, 0)"
    )
    assert "moveaxis(a, 1, 0)" in axes_note((40, 9, 44), (40, 9, 44))[0]
    assert axes_note((9, 40, 44), (9, 40, 44)) == []
    assert axes_note((100, 40, 200), (100, 40, 200)) == []


@pytest.mark.parametrize("channels", [3, 4])
def test_a_last_axis_of_colours_may_be_slices(channels, tmp_path):
    np.save(tmp_path / "a.npy", np.random.default_rng(0).random((12, 9, channels)))
    with pytest.raises(InputError, match=rf"colour.*--luma.*if these are {channels} slices.*moveaxis"):
        read_grey(tmp_path / "a.npy")
    assert any("slices" in text for text in read_grey(tmp_path / "a.npy", luma=True).warnings)


def test_nifti_with_axes_of_length_one(tmp_path):
    nibabel = pytest.importorskip("nibabel", reason="nibabel is an optional extra: pip install nibabel")
    for number, (shape, read) in enumerate(
        {(12, 9, 1): (1, 9, 12), (12, 9, 1, 1): (1, 9, 12), (1, 12, 9): (1, 9, 12), (12, 1, 9): (1, 9, 12),
         (12, 9, 1, 5): (5, 9, 12), (12, 9, 5, 1): (5, 9, 12)}.items()
    ):  # fmt: skip
        data = np.arange(np.prod(shape), dtype=np.int16).reshape(shape)
        nibabel.Nifti1Image(data, np.diag([2.0, 3, 4, 1])).to_filename(tmp_path / f"{number}.nii")
        image = read_grey(tmp_path / f"{number}.nii")
        assert image.pixels.shape == read, shape
        write_grey(image, image.pixels + 1, tmp_path / "out.nii")
        np.testing.assert_array_equal(np.asarray(nibabel.load(tmp_path / "out.nii").dataobj), data + 1)
    assert read_grey(tmp_path / "2.nii").spacing_mm == (4, 3)
    nibabel.Nifti1Image(np.zeros((40, 9, 44), np.uint8), np.eye(4)).to_filename(tmp_path / "a.nii")
    assert "come third" in read_grey(tmp_path / "a.nii").warnings[0]


def test_the_library_reads_writes_and_denoises_one_image_too(tmp_path):
    one = IMAGE.astype(np.float32)[..., None]
    write(tmp_path / "a.tif", one)
    assert read_grey(tmp_path / "a.tif").pixels.shape == (1, 12, 9)
    write(tmp_path / "b.tif", one, like=read_grey(tmp_path / "a.tif"))
    np.testing.assert_array_equal(read_grey(tmp_path / "b.tif").pixels[0], one[..., 0])
    result = attn.denoise(one, "tv")
    assert result.pixels.shape == one.shape
    np.testing.assert_array_equal(result.pixels[..., 0], attn.denoise(one[..., 0], "tv").pixels)
    with pytest.raises(ValueError, match="looks like colour"):
        write(tmp_path / "c.tif", np.zeros((12, 9, 3), np.uint8))


def test_what_the_library_notices_is_a_python_warning(tmp_path):
    np.save(tmp_path / "a.npy", np.array([[1.0, np.nan]]))
    with pytest.warns(UserWarning, match="1 NaN or infinite values were replaced by 7"):
        np.testing.assert_array_equal(attn.read(tmp_path / "a.npy", fill=7), [[[1, 7]]])
    np.save(tmp_path / "b.npy", np.array([[1, 2]], np.uint8))
    with pytest.warns(UserWarning, match=r"1 values do not fit into the file's uint8: cut to 0 \.\.\. 255"):
        write(tmp_path / "c.npy", np.array([[1.0, 300]]), like=read_grey(tmp_path / "b.npy"))
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert attn.read(tmp_path / "c.npy")[0, 0, 1] == 255
    with pytest.raises(ValueError, match="NaN or infinite"):
        write(tmp_path / "d.npy", np.array([[np.inf]]))
