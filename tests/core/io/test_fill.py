"""--fill: every NaN and infinity is replaced, in what is filtered and in what is written."""

import numpy as np
import pytest

from attn.core.errors import InputError, UsageError
from attn.core.io import read_grey, write_grey

SICK = (np.nan, np.inf, -np.inf)


def noisy(dtype=np.float32):
    array = np.random.default_rng(0).normal(40, 9, (2, 12, 9)).astype(dtype)
    array[0, 0, :3], array[1, 5, 5] = SICK, np.nan
    return array


@pytest.mark.parametrize("suffix", [".npy", ".npz", ".tif"])
@pytest.mark.parametrize("dtype", [np.float16, np.float32, np.float64])
def test_nothing_that_is_not_finite_comes_back(suffix, dtype, tmp_path):
    path, array = tmp_path / f"a{suffix}", noisy(dtype)
    if suffix == ".tif":
        import tifffile

        tifffile.imwrite(path, array, photometric="minisblack")
    else:
        (np.save if suffix == ".npy" else np.savez)(path, array)
    image = read_grey(path, fill=-1000)
    assert image.warnings[-1] == "4 NaN or infinite values were replaced by -1000"
    changed = image.pixels.copy()
    changed[0, 3] += 1  # as after filtering: some values are others, the filled ones are not
    write_grey(image, changed, tmp_path / f"out{suffix}")
    again = read_grey(tmp_path / f"out{suffix}")
    assert np.isfinite(again.stored).all()
    np.testing.assert_array_equal(again.pixels[~np.isfinite(array)], -1000)
    assert again.stored.dtype == dtype


@pytest.mark.parametrize("name", ["a.nii", "a.nii.gz"])
def test_fill_is_in_physical_units(name, tmp_path):
    nibabel = pytest.importorskip("nibabel", reason="nibabel is an optional extra: pip install nibabel")
    volume = nibabel.Nifti1Image(noisy().T, np.eye(4))
    volume.header.set_slope_inter(2.0, -1024.0)
    volume.to_filename(tmp_path / name)
    truth = np.asarray(nibabel.load(tmp_path / name).dataobj)
    image = read_grey(tmp_path / name, fill=-1000)
    assert any(text.startswith("4 NaN") for text in image.warnings)
    write_grey(image, image.pixels, tmp_path / f"out-{name}")
    again = nibabel.load(tmp_path / f"out-{name}")
    values = np.asarray(again.dataobj)
    np.testing.assert_array_equal(values[~np.isfinite(truth)], -1000)
    np.testing.assert_array_equal(values[np.isfinite(truth)], truth[np.isfinite(truth)])
    assert np.isfinite(np.asarray(again.dataobj.get_unscaled())).all()


@pytest.mark.parametrize("slope", [None, 2.0])
def test_float_dicom(slope, tmp_path, make_dicom):
    stored = noisy()[0]
    elements = {"BitsAllocated": 32, "PixelRepresentation": None, "BitsStored": None, "HighBit": None}
    elements |= {"RescaleSlope": slope, "RescaleIntercept": None if slope is None else -1024}
    dataset = make_dicom(tmp_path / "a.dcm", stored, **elements)
    dataset.add_new(0x7FE00008, "OF", dataset.PixelData)
    del dataset.PixelData
    dataset.save_as(tmp_path / "a.dcm", enforce_file_format=True)
    with pytest.raises(InputError, match="NaN or infinite values: 3"):
        read_grey(tmp_path / "a.dcm")
    image = read_grey(tmp_path / "a.dcm", fill=-1000)
    np.testing.assert_array_equal(image.pixels[0][~np.isfinite(stored)], -1000)
    write_grey(image, image.pixels, tmp_path / "b.dcm")
    again = read_grey(tmp_path / "b.dcm")  # finite, or it would be refused
    np.testing.assert_array_equal(again.pixels, image.pixels)


def test_a_fill_that_cannot_be_stored_is_refused(tmp_path):
    np.save(tmp_path / "a.npy", noisy(np.float16))
    with pytest.raises(InputError, match=r"float16, up to 65504, and the fill value 1e\+06 does not fit"):
        read_grey(tmp_path / "a.npy", fill=1e6)
    for fill in SICK:
        with pytest.raises(UsageError, match="no finite number"):
            read_grey(tmp_path / "a.npy", fill=fill)


def test_what_is_cut_when_written_is_counted(tmp_path):
    np.save(tmp_path / "a.npy", np.zeros((1, 5), np.int8))
    image = read_grey(tmp_path / "a.npy")
    pixels = np.array([[[127.4, 127.6, -128.5, -129, 3]]], np.float32)  # rounded half to even first: 127, 128, -128
    assert write_grey(image, pixels, tmp_path / "b.npy") == (
        "2 values do not fit into the file's int8: cut to -128 ... 127",
    )
    np.testing.assert_array_equal(np.load(tmp_path / "b.npy"), [[127, 127, -128, -128, 3]])
    assert write_grey(image, image.pixels + 1, tmp_path / "b.npy") == ()
