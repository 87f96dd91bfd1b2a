"""`attn denoise` on files that do not say what their values and axes are."""

import os

import numpy as np
import pytest

NOISY = np.random.default_rng(0).normal(40, 30, (24, 20)).astype(np.float32)
BRIEF = ("--method", "tv", "-o", "out/", "--json")


def test_one_image_of_three_axes_with_nan_in_hounsfield_units(cli, tmp_path):
    array = NOISY[..., None].copy()
    array[3, :4] = np.nan
    np.save(tmp_path / "a.npy", array)
    ran = cli("denoise", "a.npy", *BRIEF, "--fill=-1000", "--unit", "hu", "--window", "abdomen")
    assert ran.code == 0, ran.stderr
    (item,) = ran.report["items"]
    assert item["details"]["unit"] == "HU"
    assert any("one image of 24 x 20" in text for text in item["warnings"])
    assert any("4 NaN" in text for text in item["warnings"])
    out = np.load(tmp_path / "out" / "a.npy")
    assert out.shape == array.shape
    assert np.isfinite(out).all()
    assert (out[3, :4] == -1000).all()


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (("--fill", "nan"), "--fill: "),
        (("--fill", "inf"), "--fill: "),
        (("--unit", "mm"), "--unit: 'mm'"),
    ],
    ids=str,
)
def test_what_cannot_be_is_refused_in_one_line(options, message, cli, tmp_path):
    np.save(tmp_path / "a.npy", NOISY)
    ran = cli("denoise", "a.npy", *BRIEF, *options)
    assert ran.code == 2
    assert message in ran.stderr
    assert not (tmp_path / "out" / "a.npy").exists()


def test_a_window_in_another_unit_is_told(cli, tmp_path):
    np.save(tmp_path / "a.npy", NOISY)
    ran = cli("denoise", "a.npy", *BRIEF, "--window", "5000,10")
    assert any("only 0.0% of its pixels lie in the window" in text for text in ran.report["items"][0]["warnings"])


def test_a_filter_that_is_no_file(cli, tmp_path):
    np.save(tmp_path / "a.npy", NOISY)
    os.mkfifo(tmp_path / "pipe")
    ran = cli("denoise", "a.npy", "-o", "out/", "--filter", "pipe")  # would wait for ever
    assert ran.code == 2
    assert "--filter: pipe: not a safetensors file" in ran.stderr
    assert "regular file" in ran.stderr


def test_a_window_in_hu_fails_the_file_without_hu_and_not_the_others(cli, tmp_path):
    np.save(tmp_path / "a.npy", NOISY)
    ran = cli("denoise", "a.npy", "example:ct", *BRIEF, "--window", "brain")
    assert ran.code == 1
    assert "a.npy: has no HU, or does not say so, and the window brain is in HU. Add --unit hu" in ran.stderr
    assert not (tmp_path / "out" / "a.npy").exists()
    assert (tmp_path / "out" / "CT_small.dcm").exists()
