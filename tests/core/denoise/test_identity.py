"""One series, one SeriesInstanceUID: whatever a run is resumed with, unless it changes pixels."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from attn.core.bundles import Placement
from attn.core.denoise.base import Box, FitOptions, Region
from attn.core.denoise.identity import identity
from attn.core.denoise.options import DenoiseOptions
from attn.core.denoise.run import run
from attn.core.errors import UsageError

TV = DenoiseOptions(method="tv")


@pytest.fixture
def study(tmp_path, make_dicom, monkeypatch):
    rng = np.random.default_rng(0)
    for number in range(3):
        stored = rng.normal(0, 40, (16, 16)).astype(np.int16)
        uids = {"SeriesInstanceUID": "1.2.3", "SOPInstanceUID": f"1.2.3.{number + 1}", "InstanceNumber": number + 1}
        make_dicom(tmp_path / "study" / f"s{number}.dcm", stored, **uids)
    monkeypatch.chdir(tmp_path)
    return tmp_path


def series(folder):
    from pydicom import dcmread

    return {dcmread(path).SeriesInstanceUID for path in Path(folder).glob("*.dcm")}


@pytest.fixture
def make_dicom(tmp_path):
    """As that of the io tests, with a series."""
    from pydicom import dcmwrite
    from pydicom.dataset import Dataset, FileMetaDataset
    from pydicom.uid import ExplicitVRLittleEndian

    def make(path, stored, **elements):
        data = Dataset()
        data.SOPClassUID, data.StudyInstanceUID, data.Modality = "1.2.840.10008.5.1.4.1.1.2", "1.2", "CT"
        data.Rows, data.Columns = stored.shape
        data.SamplesPerPixel, data.PhotometricInterpretation = 1, "MONOCHROME2"
        data.BitsAllocated, data.BitsStored, data.HighBit, data.PixelRepresentation = 16, 16, 15, 1
        data.RescaleSlope, data.RescaleIntercept = 1, 0
        for key, value in elements.items():
            setattr(data, key, value)
        data.PixelData = stored.tobytes()
        data.file_meta = FileMetaDataset()
        data.file_meta.TransferSyntaxUID = ExplicitVRLittleEndian
        path.parent.mkdir(exist_ok=True)
        dcmwrite(path, data, enforce_file_format=True)

    return make


def test_a_resumed_run_goes_on_in_the_same_series(study):
    assert run(["study"], "out", TV).exit_code == 0
    for change, inputs, out in (
        (replace(TV, figure=True), ["study"], "out"),  # --report r.html
        (replace(TV, compare=False, device="cpu", window="auto", dtype="fp32"), [str(study / "study")], "out/"),
        (replace(TV, reference=Path("study")), ["study/s0.dcm"], study / "out"),
        (replace(TV, fit=FitOptions(seed=1)), ["study"], "./out"),
    ):
        (study / "out" / "s0.dcm").unlink()
        report = run(inputs, out, change, Placement(threads=1))
        assert report.items[0].status == "ok"
        assert not [note for item in report.items for note in item.warnings if "other options" in note]
        assert len(series("out")) == 1


def test_options_of_another_method_are_refused(study):
    for change, field in (
        ({"fit": FitOptions(stages=3)}, "stages"), ({"fit": FitOptions(edge_weight=3.0)}, "edge_weight"),
        ({"strength": 2.0}, "strength"), ({"maps": True}, "maps"),
    ):  # fmt: skip
        assert field in ("strength", "maps") or identity(replace(TV, **change)) == identity(TV)
        with pytest.raises(UsageError, match=rf"{field} works with method .*filter2noise only, not with tv\."):
            run(["study"], "out", replace(TV, **change))


def test_what_changes_pixels_is_another_series_and_is_told(study):
    run(["study"], "out", TV)
    report = run(["study"], "out", replace(TV, fit=FitOptions(sigma=0.3)))
    assert [item.status for item in report.items] == ["skipped"] * 3
    assert all("made with other options" in item.warnings[0] for item in report.items)
    run(["study/s0.dcm"], "out", replace(TV, fit=FitOptions(sigma=0.3)), Placement(overwrite=True))
    assert len(series("out")) == 2


def test_another_release_is_the_same_series_and_is_told(study, monkeypatch):
    run(["study"], "out", TV)
    (study / "out" / "s0.dcm").unlink()
    monkeypatch.setattr("attn.__version__", "99.1")
    report = run(["study"], "out", TV)
    assert len(series("out")) == 1
    assert ["made by attn 0" in " ".join(item.warnings) for item in report.items] == [False, True, True]


def test_every_option_that_may_change_pixels_counts(tmp_path):
    base = DenoiseOptions(method="filter2noise")
    same = [
        replace(base, maps=True), replace(base, figure=True), replace(base, compare=True),
        replace(base, rois=(Box(0, 0, 16, 16),)), replace(base, physics=True),
        replace(base, reference=Path("r")), replace(base, save_filter=Path("f")), replace(base, dtype="fp32"),
        replace(base, device="cpu"), replace(base, strength=1), replace(base, fit=FitOptions(sigma=0.1)),
    ]  # fmt: skip
    assert {identity(one) for one in same} == {identity(base)}
    assert identity(replace(base, window="lung")) == identity(replace(base, window="-600,1500.0"))
    filters = [tmp_path / name for name in ("a", "b", "c")]
    for path, data in zip(filters, (b"1", b"1", b"2"), strict=True):
        path.write_bytes(data)
    first, alike, _ = (identity(replace(base, filter=path)) for path in filters)
    assert first == alike
    other_pixels = [
        base, replace(base, method="tv"), replace(base, method="nlm"), replace(base, window="lung"),
        replace(base, strength=2.0), replace(base, regions=(Region(0, 0, 1, 1, 2.0),)), replace(base, fit_on="middle"),
        replace(base, simulate_dose=0.5), replace(base, simulate_dose=0.25), replace(base, dtype="float64"),
        replace(base, luma=True), replace(base, fill=0.0), replace(base, filter=filters[0]),
        replace(base, filter=filters[2]),
        *(replace(base, fit=FitOptions(**change)) for change in (
            {"quality": "fast"}, {"steps": 9}, {"stages": 3}, {"patch_size": 4}, {"edge_weight": 1.0},
            {"learning_rate": 0.1}, {"seed": 1},
        )),
    ]  # fmt: skip
    assert len({identity(one) for one in other_pixels}) == len(other_pixels)


def test_what_adaptive_reads_counts_and_nothing_else():
    base = DenoiseOptions()
    assert base.method == "adaptive"
    unread = [{"steps": 9}, {"quality": "fast"}, {"stages": 3}, {"sigma": 0.1}]
    assert {identity(replace(base, fit=FitOptions(**one))) for one in unread} == {identity(base)}
    read = [
        base, replace(base, fit=FitOptions(preset="full-dose")), replace(base, fit=FitOptions(seed=1)),
        replace(base, strength=0.5), replace(base, regions=(Region(0, 0, 1, 1, 2.0),)), replace(base, fit_on="first"),
    ]  # fmt: skip
    assert len({identity(one) for one in read}) == len(read)


def test_a_report_names_the_device_that_worked(tmp_path, monkeypatch):
    import torch

    monkeypatch.chdir(tmp_path)
    np.save("a.npy", np.random.default_rng(0).random((16, 16), np.float32))
    monkeypatch.setattr("attn.core.denoise.run.pick_device", lambda name: torch.device("cuda"))
    for device, told in (("cuda", True), ("auto", False)):
        report = run(["a.npy"], f"{device}.npy", replace(TV, device=device))
        assert report.device == "cpu"
        assert ("warning: tv runs on the CPU, not on cuda" in report.remarks) == told
    double = replace(TV, dtype="float64")
    assert "warning: tv computes in float32, not in float64" in run(["a.npy"], "double.npy", double).remarks
    assert identity(double) == identity(TV)


def test_files_beside_results_do_not_meet(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    image = np.random.default_rng(0).random((16, 16), np.float32)
    np.save("a.npy", image)
    np.savez("a.npz", image)
    report = run(["a.npy", "a.npz"], "out", replace(TV, figure=True))
    names = [Path(item.files["figure"]).name for item in report.items]
    assert names == ["a.npy.figure.png", "a.npz.figure.png"]
    assert run(["out"], None, TV).to_dict()["summary"]["skipped_files"][0]["files"] == 2  # and are known as results


def test_one_filter_is_kept_or_none(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    image = np.random.default_rng(0).random((16, 16), np.float32)
    np.save("a.npy", image)
    np.save("stack.npy", np.stack([image] * 3))
    (tmp_path / "b").mkdir()
    np.save("b/a.npy", image)
    keep = DenoiseOptions(
        "filter2noise", save_filter=Path("new/f.safetensors"), fit=FitOptions(steps=1, edge_weight=400.0)
    )
    with pytest.raises(UsageError, match="has 3 slices"):
        run(["stack.npy"], "out", keep)
    with pytest.raises(UsageError, match="has 2 series"):
        run(["a.npy", "b/a.npy"], "out", replace(keep, fit_on="first"))
    assert not (tmp_path / "new").exists()
    assert run(["a.npy"], "out", keep).exit_code == 0
    assert (tmp_path / "new" / "f.safetensors").exists()
    (item,) = run(["a.npy"], "out", keep).items
    assert "was not written" in item.warnings[0]
