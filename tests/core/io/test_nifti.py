import importlib.util

import numpy as np
import pytest

from attn.core.errors import InputError
from attn.core.io import read_grey, write_grey

nibabel = pytest.importorskip("nibabel", reason="nibabel is an optional extra: pip install nibabel")
AFFINE = np.array([[-0.5, 0, 0, 9], [0, 0.75, 0, 8], [0, 0, 3, 7], [0, 0, 0, 1.0]])


def volume(path, dtype=np.int16, slope=None, kind=nibabel.Nifti1Image):
    data = np.random.default_rng(0).integers(-99, 999, (5, 6, 7)).astype(dtype)
    image = kind(data, AFFINE)
    if slope:
        image.header.set_slope_inter(*slope)
    image.to_filename(path)
    return np.asarray(nibabel.load(path).dataobj)


@pytest.mark.parametrize("name", ["a.nii", "a.nii.gz"])
@pytest.mark.parametrize("kind", ["Nifti1Image", "Nifti2Image"])
@pytest.mark.parametrize("dtype", [np.uint8, np.int16, np.float32])
def test_only_the_voxels_change(name, kind, dtype, tmp_path):
    truth = volume(tmp_path / name, dtype, kind=getattr(nibabel, kind))
    image = read_grey(tmp_path / name)
    assert image.pixels.shape == (7, 6, 5)  # [Z, H, W]
    assert image.spacing_mm == (0.75, 0.5)
    np.testing.assert_array_equal(image.pixels.transpose(2, 1, 0), truth)
    write_grey(image, image.pixels, tmp_path / f"same-{name}")
    same = nibabel.load(tmp_path / f"same-{name}")
    np.testing.assert_array_equal(np.asarray(same.dataobj), truth)
    np.testing.assert_array_equal(same.affine, AFFINE)
    assert same.header == nibabel.load(tmp_path / name).header
    if name == "a.nii":
        assert (tmp_path / f"same-{name}").read_bytes() == (tmp_path / name).read_bytes()
    pixels = image.pixels.copy()
    pixels[2, 3, 4] = 55
    write_grey(image, pixels, tmp_path / f"new-{name}")
    truth[4, 3, 2] = 55
    np.testing.assert_array_equal(np.asarray(nibabel.load(tmp_path / f"new-{name}").dataobj), truth)


def test_slope_and_intercept(tmp_path):
    volume(tmp_path / "a.nii", slope=(2.0, -1024.0))
    truth = np.asarray(nibabel.load(tmp_path / "a.nii").dataobj)
    image = read_grey(tmp_path / "a.nii")
    np.testing.assert_allclose(image.pixels.transpose(2, 1, 0), truth)
    write_grey(image, image.pixels + 2, tmp_path / "b.nii")
    np.testing.assert_allclose(np.asarray(nibabel.load(tmp_path / "b.nii").dataobj), truth + 2)


def test_four_dimensions_are_refused_and_damage_is_named(tmp_path):
    nibabel.Nifti1Image(np.zeros((3, 4, 5, 2), np.int16), AFFINE).to_filename(tmp_path / "a.nii.gz")
    with pytest.raises(InputError, match="4 axes"):
        read_grey(tmp_path / "a.nii.gz")
    volume(tmp_path / "b.nii")
    (tmp_path / "c.nii").write_bytes((tmp_path / "b.nii").read_bytes()[:-50])
    with pytest.raises(InputError, match="expected 420 bytes, found 370"):
        read_grey(tmp_path / "c.nii")
    import gzip

    (tmp_path / "d.nii.gz").write_bytes(gzip.compress(b"something else" * 99))
    with pytest.raises(InputError, match="compressed, but not NIfTI"):
        read_grey(tmp_path / "d.nii.gz")


def test_without_nibabel_the_package_is_named(tmp_path, monkeypatch):
    volume(tmp_path / "a.nii")
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    with pytest.raises(InputError, match="pip install nibabel"):
        read_grey(tmp_path / "a.nii")
