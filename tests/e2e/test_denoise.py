"""`attn denoise` on files, as a user runs it."""

import csv
import hashlib
import json
import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest

FAST = (
    "--method",
    "filter2noise",
    "--steps",
    "2",
    "--lambda",
    "400",
)  # enough to go through every part; quality has tests of its own
SLOW = ("--method", "filter2noise", "--steps", "60", "--lambda", "400")  # a moment for each image


@pytest.fixture
def noisy(tmp_path):
    """An NPY image and its clean version, 48 x 40."""
    rng = np.random.default_rng(0)
    rows, columns = np.mgrid[:48, :40]
    clean = (np.sin(rows / 9) + np.cos(columns / 7)).astype(np.float32)
    np.save(tmp_path / "clean.npy", clean)
    np.save(tmp_path / "scan.npy", clean + rng.normal(0, 0.2, clean.shape).astype(np.float32))
    return tmp_path / "scan.npy"


def digest(path: Path) -> str:
    return hashlib.sha256(path.read_bytes()).hexdigest()


@pytest.mark.parametrize("options", [[], ["-m", "filter2noise", "--steps", "20"]], ids=str)
def test_example_ct_gives_a_valid_dicom_file(cli, tmp_path, options):
    import pydicom
    from pydicom.data import get_testdata_file

    source = Path(get_testdata_file("CT_small.dcm", download=False))
    before = digest(source)
    ran = cli("denoise", "example:ct", *options, "--json")
    assert ran.code == 0, ran.stderr
    item = ran.report["items"][0]
    assert item["status"] == "ok"
    assert item["metrics"]["noise_std_after"] < item["metrics"]["noise_std_before"]
    written = pydicom.dcmread(tmp_path / item["output"])
    original = pydicom.dcmread(source)
    assert written.ImageType[0] == "DERIVED"
    assert written.SOPInstanceUID != original.SOPInstanceUID
    assert written.SourceImageSequence[0].ReferencedSOPInstanceUID == original.SOPInstanceUID
    assert written.pixel_array.shape == original.pixel_array.shape
    assert digest(source) == before


def test_report_schema(cli, noisy):
    report = cli("denoise", noisy, *FAST, "--json").report
    assert {"command", "version", "arguments", "device", "seconds", "items", "summary"} <= set(report)
    item = report["items"][0]
    assert {"input", "output", "status", "error", "seconds", "metrics", "files"} <= set(item)
    wanted = {"noise_std_before", "noise_std_after", "parameters", "steps", "fit_seconds", "apply_seconds"}
    assert wanted <= set(item["metrics"])
    assert item["metrics"]["steps"] == 2
    assert item["metrics"]["parameters"] == 3638


def test_json_is_the_only_thing_on_stdout_and_quiet_says_nothing(attn, noisy):
    json.loads(attn("denoise", noisy, *FAST, "--json").stdout)
    ran = attn("denoise", noisy, *FAST, "--overwrite", "--quiet")
    assert (ran.code, ran.stdout, ran.stderr) == (0, "", "")


def test_same_seed_same_bytes(attn, cli, noisy, tmp_path):
    for run, name in ((attn, "a.npy"), (cli, "b.npy")):
        assert run("denoise", noisy, "-o", tmp_path / name, *FAST).code == 0
    assert digest(tmp_path / "a.npy") == digest(tmp_path / "b.npy")
    cli("denoise", noisy, "-o", tmp_path / "c.npy", *FAST, "--seed", "1")
    assert digest(tmp_path / "c.npy") != digest(tmp_path / "a.npy")


def test_where_results_land(cli, noisy, tmp_path):
    before = digest(noisy)
    assert cli("denoise", "scan.npy", "-m", "tv").code == 0
    assert (tmp_path / "scan.denoised.npy").exists()
    assert cli("denoise", "scan.npy", "-m", "tv", "-o", "one.npy").code == 0
    assert cli("denoise", "scan.npy", "-m", "tv", "-o", "new folder/").code == 0
    assert (tmp_path / "new folder" / "scan.npy").exists()
    assert cli("denoise", "scan.npy", "clean.npy", "-m", "tv", "-o", "two").code == 0
    assert {path.name for path in (tmp_path / "two").iterdir()} == {"scan.npy", "clean.npy"}
    assert digest(tmp_path / "one.npy") == digest(tmp_path / "scan.denoised.npy")
    assert digest(noisy) == before


def test_the_input_is_never_overwritten(cli, noisy, tmp_path):
    before = digest(noisy)
    ran = cli("denoise", "scan.npy", "-o", "scan.npy", "-m", "tv", "--overwrite")
    assert ran.code == 2
    assert digest(noisy) == before
    assert cli("denoise", "scan.npy", "-o", tmp_path, "-m", "tv", "--overwrite").code == 2
    assert digest(noisy) == before


def test_names_with_spaces_and_umlauts_from_another_directory(cli, noisy, tmp_path):
    folder = tmp_path / "Ärzte & Co"
    folder.mkdir()
    source = folder / "Schädel 1 (a).npy"
    shutil.copy(noisy, source)
    other = tmp_path / "elsewhere"
    other.mkdir()
    ran = cli("denoise", source, "-m", "tv", "--json", "--report", "r <1>.html", cwd=other)
    assert ran.code == 0, ran.stderr
    assert (folder / "Schädel 1 (a).denoised.npy").exists()
    assert "Schädel 1 (a)" in (other / "r <1>.html").read_text(encoding="utf-8")


def test_paths_on_stdin_and_quoted_globs(cli, noisy, tmp_path):
    assert cli("denoise", "-", "-m", "tv", "-o", "out", "--json", stdin="scan.npy\nclean.npy\n").code == 0
    assert len(list((tmp_path / "out").iterdir())) == 2
    assert cli("denoise", "*.npy", "-m", "tv", "-o", "out2").code == 0
    assert len(list((tmp_path / "out2").iterdir())) == 2
    assert cli("denoise", "-", "-m", "tv", stdin="").code == 2


def test_a_batch_resumes_and_overwrites_on_demand(cli, noisy, tmp_path):
    first = cli("denoise", tmp_path, "-m", "tv", "-o", "out", "--json").report
    assert [item["status"] for item in first["items"]] == ["ok", "ok"]
    (tmp_path / "out" / "scan.npy").unlink()
    second = cli("denoise", noisy, "clean.npy", "-m", "tv", "-o", "out", "--json").report
    assert sorted(item["status"] for item in second["items"]) == ["ok", "skipped"]


def test_broken_files_fail_alone(cli, noisy, tmp_path):
    (tmp_path / "bad.npy").write_bytes(noisy.read_bytes()[:300])
    (tmp_path / "text.dcm").write_text("hello")
    ran = cli("denoise", "bad.npy", "scan.npy", "gone.npy", "text.dcm", "-m", "tv", "-o", "out", "--json")
    assert ran.code == 1
    assert [item["status"] for item in ran.report["items"]] == ["failed", "ok", "failed", "failed"]
    lines = ran.stderr.strip().splitlines()
    assert len(lines) == 3
    for line, name in zip(lines, ["bad.npy", "gone.npy", "text.dcm"], strict=True):
        assert line.startswith(f"attn: {name}: ")
    assert [path.name for path in (tmp_path / "out").iterdir()] == ["scan.npy"]


@pytest.mark.parametrize("suffix", [".json", ".csv", ".md", ".html"])
def test_reports(cli, noisy, tmp_path, suffix):
    report = tmp_path / f"report{suffix}"
    assert cli("denoise", noisy, *FAST, "--report", report, "--reference", "clean.npy").code == 0
    text = report.read_text(encoding="utf-8")
    if suffix == ".json":
        assert json.loads(text)["items"][0]["metrics"]["psnr"] > 0
    elif suffix == ".csv":
        row = next(csv.DictReader(text.splitlines()))
        assert row["status"] == "ok"
        assert float(row["psnr"]) > float(row["psnr_noisy"])
    elif suffix == ".md":
        assert "| scan.npy" in text.replace(str(tmp_path) + "/", "")
    else:
        assert "data:image/png;base64," in text  # self-contained: pictures inline
        assert 'src="http' not in text
        assert "Not for diagnosis" in text


def test_reference_figures_maps_and_filter(cli, noisy, tmp_path):
    extras = ("--reference", "clean.npy", "--maps", "--figure", "--save-filter", "f.safetensors")
    ran = cli("denoise", "scan.npy", *FAST, *extras, "--json")
    assert ran.code == 0, ran.stderr
    item = ran.report["items"][0]
    metrics = item["metrics"]
    assert metrics["psnr"] > metrics["psnr_noisy"]
    assert metrics["ssim"] > metrics["ssim_noisy"]
    assert np.load(tmp_path / item["files"]["sigma"]).shape == (1, 2, 3, 48, 40)
    for name in ("sigma_figure", "figure"):
        assert Path(tmp_path, item["files"][name]).read_bytes().startswith(b"\x89PNG")
    again = cli("denoise", "scan.npy", "-m", "filter2noise", "--filter", "f.safetensors", "-o", "again.npy", "--json")
    assert again.code == 0, again.stderr
    assert again.report["items"][0]["metrics"]["steps"] == 0
    np.testing.assert_array_equal(np.load(tmp_path / "again.npy"), np.load(tmp_path / "scan.denoised.npy"))


def test_figures_show_what_a_viewer_shows(cli, tmp_path):
    from PIL import Image
    from pydicom import dcmread
    from pydicom.data import get_testdata_file

    dataset = dcmread(get_testdata_file("CT_small.dcm", download=False))
    pictures = {}
    for name in ("MONOCHROME2", "MONOCHROME1"):
        dataset.PhotometricInterpretation, dataset.PixelSpacing = name, [0.6, 1.2]
        dataset.save_as(tmp_path / f"{name}.dcm")
        ran = cli("denoise", f"{name}.dcm", "--method", "wavelet", "--figure", "-o", "out")
        assert ran.code == 0, ran.stderr
        with Image.open(tmp_path / "out" / f"{name}.figure.png") as image:
            pictures[name] = np.asarray(image.convert("L"), int)
    normal, inverted = pictures.values()
    assert normal.shape == inverted.shape
    rows, columns = slice(124, 370), slice(40, 500)  # inside the panel "before", 512 by 256 pixels
    assert np.abs(normal[rows, columns] + inverted[rows, columns] - 255).max() <= 2
    assert 20 < np.median(normal[300:370, columns]) < 200  # muscle: grey, not lost in -1024 to 3071 HU
    assert normal[rows, columns].std() > 60


def test_strength_and_region_change_what_they_should(cli, noisy, tmp_path):
    cli("denoise", "scan.npy", *FAST, "--save-filter", "f.safetensors", "-o", "plain.npy")
    common = ("denoise", "scan.npy", "-m", "filter2noise", "--filter", "f.safetensors")
    assert cli(*common, "--strength", "0", "-o", "none.npy").code == 0
    assert cli(*common, "--region", "0,0,10,12=0.01", "-o", "region.npy").code == 0
    plain, none, region, source = (np.load(tmp_path / f"{n}.npy") for n in ("plain", "none", "region", "scan"))
    np.testing.assert_allclose(none, source, atol=1e-6)  # no range sigma: every pixel keeps to itself
    np.testing.assert_array_equal(region[24:, 20:], plain[24:, 20:])
    assert np.abs(region[:10, :8] - source[:10, :8]).max() < np.abs(plain[:10, :8] - source[:10, :8]).max()


def test_compare_shows_every_method(cli, noisy, tmp_path):
    from attn.core.denoise import METHODS

    ran = cli("denoise", "scan.npy", *FAST, "--compare", "--reference", "clean.npy", "--json")
    assert ran.code == 0, ran.stderr
    rows = ran.report["items"][0]["details"]["comparison"]
    assert [row["method"] for row in rows] == list(METHODS)
    assert all("psnr" in row or "note" in row for row in rows)
    assert Path(tmp_path, ran.report["items"][0]["files"]["compare"]).exists()
    assert {row["method"] for row in ran.report["summary"]["comparison"]} == set(METHODS)


def test_stack_and_shared_fit(cli, tmp_path):
    rng = np.random.default_rng(3)
    np.save(tmp_path / "stack.npy", rng.normal(0.5, 0.1, (3, 32, 32)).astype(np.float32))
    each = cli("denoise", "stack.npy", *FAST, "--json").report["items"][0]
    assert each["metrics"]["steps"] == 6
    one = cli("denoise", "stack.npy", *FAST, "--fit", "middle", "-o", "one.npy", "--json").report["items"][0]
    assert one["metrics"]["steps"] == 2
    assert cli("denoise", "stack.npy", *FAST, "--fit", "3", "-o", "bad.npy").code == 2


def test_workers_give_the_same_bytes_as_one_process(attn, cli, noisy, tmp_path):
    for number in range(3):
        shutil.copy(noisy, tmp_path / f"s{number}.npy")
    names = [f"s{number}.npy" for number in range(3)]
    assert cli("denoise", *names, *FAST, "-o", "one", "--threads", "1").code == 0
    ran = attn("denoise", *names, *FAST, "-o", "two", "--workers", "2", "--threads", "1", "--json")
    assert ran.code == 0, ran.stderr
    assert [item["input"] for item in ran.report["items"]] == names
    for name in names:
        assert digest(tmp_path / "one" / name) == digest(tmp_path / "two" / name)


def start(tmp_path, *args):
    return subprocess.Popen(
        [sys.executable, "-m", "attn", *map(str, args)],
        cwd=tmp_path, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, env={**os.environ, "NO_COLOR": "1"},
    )  # fmt: skip


def wait_for(path: Path, process: subprocess.Popen, count: int, seconds: float = 120) -> None:
    deadline = time.monotonic() + seconds
    while time.monotonic() < deadline:
        assert process.poll() is None, process.communicate()
        if path.exists() and len([p for p in path.iterdir() if not p.name.startswith(".")]) >= count:
            return
        time.sleep(0.02)
    raise AssertionError(f"{count} outputs did not appear in {seconds} s")


@pytest.fixture
def many(tmp_path):
    """Twelve images that take a moment each."""
    folder = tmp_path / "in"
    folder.mkdir()
    rng = np.random.default_rng(1)
    for number in range(12):
        np.save(folder / f"{number:02d}.npy", rng.random((64, 64), np.float32))
    return folder


@pytest.mark.slow
@pytest.mark.parametrize("how", [signal.SIGINT, signal.SIGTERM])
def test_interrupted_batch_keeps_whole_files_and_says_what_is_left(many, tmp_path, how):
    process = start(tmp_path, "denoise", many, "-o", "out", *SLOW, "--json")
    wait_for(tmp_path / "out", process, 2)
    process.send_signal(how)
    stdout, stderr = process.communicate(timeout=60)
    assert process.returncode == 130
    assert "Traceback" not in stderr
    report = json.loads(stdout)
    assert report["summary"]["interrupted"] is True
    done = [item for item in report["items"] if item["status"] == "ok"]
    assert len(done) + len(report["summary"]["left"]) == 12
    for path in (tmp_path / "out").iterdir():
        assert np.load(path).shape == (64, 64)


@pytest.mark.slow
def test_killed_batch_resumes_with_nothing_lost_or_half_written(cli, many, tmp_path):
    process = start(tmp_path, "denoise", many, "-o", "out", *SLOW)
    wait_for(tmp_path / "out", process, 3)
    process.kill()
    process.communicate()
    done = {path.name: digest(path) for path in (tmp_path / "out").iterdir() if not path.name.startswith(".")}
    assert 3 <= len(done) < 12
    ran = cli("denoise", many, "-o", "out", *SLOW, "--json")
    assert ran.code == 0, ran.stderr
    statuses = [item["status"] for item in ran.report["items"]]
    assert statuses.count("skipped") == len(done)
    assert statuses.count("ok") == 12 - len(done)
    assert sorted(p.name for p in (tmp_path / "out").iterdir()) == [f"{n:02d}.npy" for n in range(12)]  # no leftovers
    for name, before in done.items():
        assert digest(tmp_path / "out" / name) == before


def test_a_series_shares_one_fit_and_one_window(cli, dicom_dir, tmp_path):
    series = dicom_dir / "series_ge_head_tilt"
    ran = cli("denoise", series, "-o", "out", *FAST, "--fit", "middle", "--save-filter", "head.safetensors", "--json")
    assert ran.code == 0, ran.stderr
    report = ran.report
    assert len(report["items"]) == 8
    assert {item["metrics"]["steps"] for item in report["items"]} == {0}  # fitted once, before
    assert len({item["details"]["window"] for item in report["items"]}) == 1
    (fitted,) = report["summary"]["series"]
    assert fitted["files"] == 8
    assert any("spacing" in text for text in fitted["warnings"])
    assert (tmp_path / "head.safetensors").exists()


def test_everything_in_the_dicom_folder_in_one_go(attn, dicom_dir, tmp_path):
    """17 broken files and three colour pictures fail with one line each; every other file is written and opens."""
    import pydicom

    ran = attn("denoise", dicom_dir, "-o", "out", *FAST, "--fit", "middle", "--json", timeout=290)
    assert ran.code == 1
    items = ran.report["items"]
    failed = [item for item in items if item["status"] == "failed"]
    assert len([item for item in failed if "/broken/" in item["input"]]) == 17
    assert len(failed) == 20
    assert len(items) == len([path for path in dicom_dir.rglob("*") if path.is_file() and path.name != "README.md"])
    complaints = [line for line in ran.stderr.splitlines() if "warning:" not in line]
    assert [line for line in complaints if "passed by" in line] == [
        f"attn: passed by, files of an unknown suffix: 1 ({dicom_dir}/README.md)"
    ]
    assert len(complaints) == 21
    assert not [item["error"] for item in failed if "internal" in item["error"]]
    for item in items:
        if item["status"] == "ok":
            assert pydicom.dcmread(tmp_path / item["output"]).pixel_array.size
    written = {path for path in (tmp_path / "out").rglob("*") if path.is_file()}
    assert len(written) == len(items) - 20


@pytest.mark.parametrize("dtype", ["float64", "fp64"])
def test_float64_agrees_with_float32(cli, noisy, tmp_path, dtype):
    assert cli("denoise", noisy, *FAST, "-o", "single.npy").code == 0
    ran = cli("denoise", noisy, *FAST, "--dtype", dtype, "--strength", "1.5", "--maps", "-o", "edited.npy")
    assert ran.code == 0, ran.stderr
    assert cli("denoise", noisy, *FAST, "--dtype", dtype, "-o", "double.npy").code == 0
    single, double = np.load(tmp_path / "single.npy"), np.load(tmp_path / "double.npy")
    np.testing.assert_allclose(double, single, atol=2e-5)
    assert not np.array_equal(np.load(tmp_path / "edited.npy"), double)


def test_a_name_too_long_for_a_picture_is_the_fault_of_one_file(cli, tmp_path):
    for name in ("a" * 251, "b"):
        np.save(tmp_path / f"{name}.npy", np.random.default_rng(0).normal(size=(12, 12)))
    ran = cli("denoise", ".", "-m", "tv", "--figure", "-o", "out", "--json")
    assert ran.code == 1
    first, second = ran.report["items"]
    assert "too long (255 are possible)" in first["error"]
    assert second["status"] == "ok"


def test_a_report_says_what_was_lost(cli, tmp_path):
    np.save(tmp_path / "even.npy", np.random.default_rng(0).normal(5, 1, (96, 96)).astype(np.float32))
    plain = cli("denoise", "even.npy", "-m", "tv")
    assert "noise power" not in plain.stdout
    told = cli("denoise", "even.npy", "-m", "tv", "--overwrite", "--report", "r.csv")
    assert told.code == 0, told.stderr
    assert "noise power" in told.stdout
    assert "spectrum" not in told.stdout  # a curve for every input is for files
    before, after = csv.DictReader((tmp_path / "r.noise_power.csv").open(encoding="utf-8"))
    assert (before["image"], before["chosen_by"]) == ("before", "image")
    assert float(before["noise_sd"]) == pytest.approx(1, rel=0.1)
    assert float(after["noise_sd"]) < 0.5
    assert len(list(csv.DictReader((tmp_path / "r.noise_power_spectrum.csv").open(encoding="utf-8")))) == 16


def test_uniform_regions_are_named(cli, tmp_path):
    np.save(tmp_path / "even.npy", np.random.default_rng(0).normal(5, 1, (96, 96)).astype(np.float32))
    ran = cli("denoise", "even.npy", "-m", "tv", "--roi", "0,0,40,40", "--roi", "50,50,90,90")
    assert ran.code == 0, ran.stderr
    assert "user" in ran.stdout
    beyond = cli("denoise", "even.npy", "-m", "tv", "--roi", "60,0,100,40", "--overwrite")
    assert "noise power is not measured: the region 60,0,100,40 is not inside the image of 96 x 96" in beyond.stderr
    small = cli("denoise", "even.npy", "-m", "tv", "--roi", "0,0,9,40")
    assert small.code == 2
    assert "--roi: '0,0,9,40' is no uniform region" in small.stderr
