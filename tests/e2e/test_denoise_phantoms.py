"""`attn denoise phantom:KIND`: drawn for the run, scanned, compared with a truth that has no noise."""

import shutil
import subprocess

import numpy as np
import pydicom
import pytest

from attn.core.denoise.phantoms.files import phantom_of, write_phantom
from attn.core.denoise.phantoms.names import parse_phantom
from attn.core.io import read_grey

QUICK = ("--method", "wavelet", "--simulate-dose", "0.1", "--json")


def test_a_phantom_is_compared_with_its_noise_free_truth(cli, tmp_path):
    ran = cli("denoise", "phantom:inserts", *QUICK)
    assert ran.code == 0, ran.stderr
    item = ran.report["items"][0]
    assert item["input"] == "phantom:inserts"
    assert item["output"] == "phantom-inserts-0.denoised.dcm"
    assert sorted(path.name for path in tmp_path.iterdir()) == [
        "phantom-inserts-0.denoised.dcm",
        "phantom-inserts-0.lowdose.dcm",
        "phantom-inserts-0.truth.dcm",
    ]  # and nothing hidden
    truth, lowdose = (read_grey(tmp_path / f"phantom-inserts-0.{word}.dcm") for word in ("truth", "lowdose"))
    assert (truth.unit, truth.spacing_mm, truth.modality) == ("HU", (0.7, 0.7), "CT")
    np.testing.assert_allclose(truth.pixels, parse_phantom("phantom:inserts").draw().truth, atol=0.0626)
    noise = lowdose.pixels - truth.pixels
    assert item["metrics"]["rmse_hu_noisy"] == pytest.approx(noise.std(), rel=0.01)
    assert 0.8 < noise.std() / (10.0 * 10**0.5) < 1.2  # 9 to 14 HU at full dose, sqrt(10) times that at a tenth
    assert pydicom.dcmread(tmp_path / "phantom-inserts-0.lowdose.dcm").ImageType[0] == "DERIVED"


def test_a_truth_that_was_written_is_still_one(cli, tmp_path):
    """The file says that it has no noise; what was simulated from it does not."""
    first = cli("denoise", "phantom:inserts:3", *QUICK)
    again = cli("denoise", "phantom-inserts-3.truth.dcm", *QUICK)
    for word in ("rmse_hu_noisy", "psnr"):
        assert again.report["items"][0]["metrics"][word] == first.report["items"][0]["metrics"][word]
    before = read_grey(tmp_path / "phantom-inserts-3.lowdose.dcm").pixels
    cli("denoise", "phantom-inserts-3.lowdose.dcm", *QUICK)
    added = read_grey(tmp_path / "phantom-inserts-3.lowdose.lowdose.dcm").pixels - before
    noisy = first.report["items"][0]["metrics"]["rmse_hu_noisy"]
    assert added.std() == pytest.approx(noisy * (1 / 0.1 - 1) ** 0.5 / (1 / 0.1) ** 0.5, rel=0.05)
    assert not (tmp_path / "phantom-inserts-3.lowdose.truth.dcm").exists()


def test_a_series_is_a_file_for_each_slice(cli, tmp_path):
    ran = cli("denoise", "phantom:inserts:1x2", "phantom:inserts:1x2", *QUICK, "-o", "out")
    assert ran.code == 0, ran.stderr
    assert [item["input"] for item in ran.report["items"]] == ["phantom:inserts:1x2/1", "phantom:inserts:1x2/2"]
    names = [f"out/phantom-inserts-1x2-{z}" for z in (1, 2)]
    assert [item["output"] for item in ran.report["items"]] == [f"{name}.dcm" for name in names]
    slices = [read_grey(tmp_path / f"{name}.dcm") for name in names]
    assert [image.pixels.shape for image in slices] == [(1, 192, 192)] * 2
    assert [image.series["position"] for image in slices] == [-1.25, 1.25]
    assert len({image.series["uid"] for image in slices}) == 1
    noise = [
        read_grey(tmp_path / f"{n}.lowdose.dcm").pixels - read_grey(tmp_path / f"{n}.truth.dcm").pixels for n in names
    ]
    assert abs(np.corrcoef(noise[0].ravel(), noise[1].ravel())[0, 1]) < 0.1
    drawn = parse_phantom("phantom:inserts:1x2").draw()
    truth = read_grey(tmp_path / f"{names[1]}.truth.dcm")
    np.testing.assert_array_equal(phantom_of(truth).truth, drawn.truth[1:])
    assert phantom_of(truth).inserts == drawn.inserts
    assert phantom_of(slices[1]) is None


@pytest.mark.skipif(shutil.which("dciodvfy") is None, reason="dciodvfy is not installed")
@pytest.mark.parametrize("name", ["phantom:inserts:1", "phantom:head:0x2"])
def test_the_files_are_what_the_standard_says(tmp_path, name):
    for path in write_phantom(parse_phantom(name), tmp_path):
        done = subprocess.run(["dciodvfy", path], capture_output=True, text=True, check=False)
        said = (done.stdout + done.stderr).splitlines()
        assert "CTImage" in said
        assert [line for line in said if line.startswith("Error")] == []


@pytest.mark.parametrize(
    ("text", "more", "message"),
    [
        ("phantom:abdomn", QUICK, "phantom:abdomn: no such phantom. Did you mean abdomen? There are: abdomen, chest"),
        ("phantom:", QUICK, "no such phantom. There are"),
        ("phantom:head:x", QUICK, "'x' is no seed. Use a whole number"),
        ("phantom:head:-1", QUICK, "'-1' is no seed"),
        ("phantom:head:4294967296", QUICK, "is no seed"),
        ("phantom:head:3x1", QUICK, "2 to 512 slices, not 1"),
        ("phantom:head", ("--json",), "phantom:head has no noise: say with --simulate-dose"),
    ],
)
def test_bad_names(cli, tmp_path, text, more, message):
    ran = cli("denoise", text, *more)
    assert ran.code == 2
    assert message in " ".join(ran.stderr.split())
    assert ran.stderr.count("\n") == 1
    assert list(tmp_path.iterdir()) == []


def test_names_come_from_stdin_too(cli, tmp_path):
    ran = cli("denoise", "-", *QUICK, stdin="phantom:inserts:2\n")
    assert ran.code == 0, ran.stderr
    assert (tmp_path / "phantom-inserts-2.denoised.dcm").exists()
