"""A series is a volume: files in order of position, nothing mixed, and the same bytes however the work is cut up."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from pydicom import dcmread, dcmwrite
from pydicom.dataset import Dataset, FileMetaDataset
from pydicom.uid import ExplicitVRLittleEndian

from attn.core.bundles import Placement
from attn.core.denoise.base import Region
from attn.core.denoise.options import DenoiseOptions
from attn.core.denoise.run import run
from attn.core.errors import UsageError

AUTO, OFF = DenoiseOptions(), DenoiseOptions(volume="off")
SIDE = 40


def stored(z, seed=0):
    """A slice of a cone and a plate, with noise of its own."""
    y, x = np.mgrid[:SIDE, :SIDE] - SIDE / 2
    clean = np.where(np.hypot(x, y) < 14 - z, 60, -40) + 40 * (x > 8)
    return (clean + np.random.default_rng((seed, z)).normal(0, 15, clean.shape)).astype(np.int16)


def write_slice(path, pixels, mm, uid, *, series="1.2.3", **elements):
    data = Dataset()
    data.SOPClassUID, data.StudyInstanceUID, data.Modality = "1.2.840.10008.5.1.4.1.1.2", "1.2", "CT"
    data.SeriesInstanceUID, data.SOPInstanceUID = series, uid
    data.Rows, data.Columns = pixels.shape
    data.SamplesPerPixel, data.PhotometricInterpretation = 1, "MONOCHROME2"
    data.BitsAllocated, data.BitsStored, data.HighBit, data.PixelRepresentation = 16, 16, 15, 1
    data.RescaleSlope, data.RescaleIntercept, data.PixelSpacing = 1, 0, [1, 1]
    if mm is not None:
        data.ImagePositionPatient, data.ImageOrientationPatient = [0, 0, mm], [1, 0, 0, 0, 1, 0]
    for key, value in elements.items():
        setattr(data, key, value)
    data.PixelData = pixels.tobytes()
    data.file_meta = FileMetaDataset()
    data.file_meta.TransferSyntaxUID = ExplicitVRLittleEndian
    path.parent.mkdir(exist_ok=True)
    dcmwrite(path, data, enforce_file_format=True)


def write_series(folder, count=4, seed=0, series="1.2.3", **elements):
    """Slices 2 mm apart; the names run against the positions."""
    for z in range(count):
        write_slice(
            folder / f"{'fedcba'[z]}.dcm", stored(z, seed), 2.0 * z, f"{series}.{z + 1}", series=series, **elements
        )


@pytest.fixture
def study(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    write_series(tmp_path / "in")
    return tmp_path


def pixels(folder):
    return {path.name: dcmread(path).pixel_array for path in sorted(Path(folder).glob("*.dcm"))}


def files(folder):
    return {path.name: path.read_bytes() for path in sorted(Path(folder).glob("*.dcm"))}


def same(one, other):
    return sorted(one) == sorted(other) and all(np.array_equal(one[name], other[name]) for name in one)


def notes(report):
    return [note for item in report.items for note in item.warnings]


def test_neighbours_are_by_position_and_the_scale_is_of_all(study):
    report = run(["in"], "out", AUTO)
    assert report.exit_code == 0
    assert [item.metrics["neighbours"] for item in report.items] == [3, 3, 3, 3]
    assert all(0 < item.metrics["from_neighbours"] < 1 for item in report.items)
    assert len({item.details["window"] for item in report.items}) == 1
    (row,) = report.to_dict()["summary"]["volumes"]
    assert (row["slices"], row["spacing_mm"], row["notes"]) == (4, "2", "")
    run(["in"], "off", OFF)
    assert not same(pixels("out"), pixels("off"))
    assert "neighbours 3" in dcmread("out/f.dcm").DerivationDescription


def test_it_is_what_the_method_makes_of_the_stack(study):
    """The files' results against `denoise_volume`, which knows nothing of files."""
    from attn.core.denoise.adaptive.mixture import PRESETS
    from attn.core.denoise.adaptive.neighbours import SliceGeometry
    from attn.core.denoise.adaptive.volume import denoise_with, slicewise

    stack = np.stack([stored(z) for z in range(4)]).astype(np.float32)
    low, high = stack.min(), stack.max()
    slices = [slicewise((x - low) / (high - low), None, PRESETS["default"]) for x in stack]
    geometry = SliceGeometry((0.0, 2.0, 4.0, 6.0), ((0.0, 0.0),) * 4)
    run(["in"], "out", AUTO)
    for z, name in enumerate(("f", "e", "d", "c")):
        near = [(slices[j], shift) for j, shift in geometry.near(z, (SIDE, SIDE))]
        result = np.clip(denoise_with(slices[z], near, PRESETS["default"]).result, 0, 1) * (high - low) + low
        assert np.abs(dcmread(f"out/{name}.dcm").pixel_array - result).max() <= 0.51


def test_off_and_one_file_are_slice_wise_to_the_bit(study):
    run(["in"], "off", OFF)
    for name in "cdef":
        run([f"in/{name}.dcm"], "alone", AUTO)
    assert files("off") == files("alone")


def test_two_series_in_a_folder_are_each_alone(study):
    write_series(study / "other", seed=5, series="1.2.9")
    run(["in"], "one", AUTO)
    run(["other"], "two", AUTO)
    for name, path in ((f"x{path.name}", path) for path in (study / "other").iterdir()):
        path.rename(study / "in" / name)
    report = run(["in"], "both", AUTO)
    expected = files("one") | {f"x{name}": data for name, data in files("two").items()}
    assert files("both") == expected
    assert len(report.to_dict()["summary"]["volumes"]) == 2


def test_a_resumed_run_gives_the_same_bytes(study):
    run(["in"], "out", AUTO)
    whole = files("out")
    (study / "out" / "d.dcm").unlink()
    report = run(["in"], "out", AUTO)
    assert [item.status for item in report.items] == ["skipped", "ok", "skipped", "skipped"]
    assert notes(report) == []
    assert files("out") == whole
    assert notes(run(["in"], "out", AUTO)) == []  # nothing left to do: no file is read for its pixels


def test_a_slice_that_came_later_is_told(study):
    run(["in"], "out", AUTO)
    write_slice(study / "in" / "b.dcm", stored(4), 8.0, "1.2.3.5")
    report = run(["in"], "out", AUTO)
    assert [item.status for item in report.items] == ["ok", "skipped", "skipped", "skipped", "skipped"]
    assert all("made with other options, or other slices" in item.warnings[0] for item in report.items[1:])
    assert all("made with other" in note for note in notes(run(["in"], "out", AUTO)))
    assert len(notes(run(["in"], "out", OFF))) == 5
    assert len({dcmread(path).SeriesInstanceUID for path in (study / "out").iterdir()}) == 2


def test_a_broken_slice_is_no_neighbour_and_is_told(study):
    whole = (study / "in" / "e.dcm").read_bytes()
    (study / "in" / "e.dcm").write_bytes(whole[:-900])
    report = run(["in"], "out", AUTO)
    assert [item.status for item in report.items] == ["ok", "ok", "failed", "ok"]
    assert all("done without in/e.dcm" in item.warnings[-1] for item in report.items if item.status == "ok")
    assert any("no neighbours: 1 of its files (in/e.dcm)" in text for text in report.remarks)
    (study / "in" / "e.dcm").write_bytes(whole)
    report = run(["in"], "out", AUTO)
    assert [item.status for item in report.items] == ["skipped", "skipped", "ok", "skipped"]
    assert all("--overwrite" in item.warnings[0] for item in report.items if item.status == "skipped")


def test_a_neighbour_that_breaks_on_the_way_is_told(study, monkeypatch):
    from attn.core.denoise import series_volume

    survey = series_volume.survey

    def then_break(*args):
        found = survey(*args)
        (study / "in" / "c.dcm").write_bytes(b"gone")
        return found

    monkeypatch.setattr(series_volume, "survey", then_break)
    report = run(["in"], "out", AUTO)
    assert [item.status for item in report.items] == ["failed", "ok", "ok", "ok"]
    assert "done without in/c.dcm, which cannot be used" in report.items[1].warnings[-1]


def test_a_series_without_positions_is_slice_wise_and_told(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    for z in range(2):
        write_slice(tmp_path / "in" / f"{z}.dcm", stored(z), None, f"1.2.3.{z}", InstanceNumber=z)
    report = run(["in"], "out", AUTO)
    assert any("2 slices (in/0.dcm, in/1.dcm) without a position" in text for text in report.remarks)
    assert "neighbours" not in report.items[0].metrics
    run(["in"], "off", OFF)
    assert files("out") == files("off")


def test_an_overview_image_is_no_slice(study):
    write_slice(study / "in" / "a.dcm", stored(9), 8.0, "1.2.3.9", ImageType=["ORIGINAL", "PRIMARY", "LOCALIZER"])
    report = run(["in"], "out", AUTO)
    assert "neighbours" not in report.items[0].metrics
    assert any("1 localizer (in/a.dcm): denoised alone" in text for text in report.remarks)
    (study / "in" / "e.dcm").write_bytes((study / "in" / "e.dcm").read_bytes()[:-900])
    again = run(["in"], "out", AUTO, Placement(overwrite=True))
    assert any("1 localizer" in text for text in again.remarks)
    assert any("no neighbours: 1 of its files" in text for text in again.remarks)


def test_a_slice_in_another_unit_is_no_neighbour(study):
    write_slice(study / "in" / "b.dcm", stored(4), 8.0, "1.2.3.5", RescaleSlope=None, RescaleIntercept=None)
    report = run(["in"], "out", AUTO)
    assert [item.status for item in report.items] == ["ok"] * 5
    assert any("in another unit, and so no neighbours: 1 of its files (in/b.dcm)" in text for text in report.remarks)
    assert [item.metrics.get("neighbours") for item in report.items] == [None, 3, 3, 3, 3]


def test_other_options_go_with_it(study):
    edited = replace(AUTO, strength=0.5, regions=(Region(0, 0, 9, 9, 2.0),), maps=True, window="0,300")
    for options in (edited, replace(AUTO, fit_on="3"), replace(AUTO, simulate_dose=0.5)):
        report = run(["in"], "out", options, Placement(overwrite=True))
        assert report.exit_code == 0, [item.error for item in report.items]
        assert all(item.metrics["neighbours"] == 3 for item in report.items)
        if options.maps:
            maps = np.load(report.items[0].files["maps"])
            np.testing.assert_allclose(maps["candidates"].sum(1), 1, atol=1e-5)
            assert abs(maps["from_neighbours"].mean() - report.items[0].metrics["from_neighbours"]) < 1e-6


def test_strength_without_neighbours_is_that_of_a_slice(study):
    """Slices too far apart to be neighbours: the volume's way and the slice's way end in the same bits."""
    for z, name in enumerate("fedc"):
        write_slice(study / "far" / f"{name}.dcm", stored(z), 20.0 * z, f"1.2.3.{z + 1}")
    for options in (
        AUTO,
        replace(AUTO, strength=0.5, regions=(Region(0, 0, 9, 9, 2.0),)),
        replace(AUTO, fit_on="first"),
    ):
        options = replace(options, window="0,300")  # the scale of all is another than that of each
        report = run(["far"], "out", options, Placement(overwrite=True))
        assert [item.metrics["neighbours"] for item in report.items] == [0] * 4
        run(["far"], "off", replace(options, volume="off"), Placement(overwrite=True))
        assert same(pixels("out"), pixels("off"))


def test_other_methods_have_no_volume(study):
    run(["in"], "out", DenoiseOptions(method="tv"))
    with pytest.raises(UsageError, match="volume works with method adaptive only, not with tv"):
        run(["in"], "out", DenoiseOptions(method="tv", volume="off"))


def test_too_little_memory_is_told(study):
    from attn.core import memory

    try:
        memory.set_budget(SIDE * SIDE * 700)
        report = run(["in"], "out", AUTO)
    finally:
        memory.set_budget(None)
    assert all("the slices around it take" in item.error for item in report.items)


def test_enhanced_multi_frame_and_nifti_are_volumes(dicom_dir, tmp_path, monkeypatch):
    import nibabel

    monkeypatch.chdir(tmp_path)
    stack = np.stack([stored(z) for z in range(3)]).transpose(2, 1, 0)  # x, y, z
    nibabel.save(nibabel.Nifti1Image(stack, np.diag([1, 1, 2, 1])), "known.nii")
    nibabel.save(nibabel.Nifti1Image(stack, None), "unknown.nii")
    np.save("stack.npy", stack.T)
    known, unknown, plain = run(["known.nii", "unknown.nii", "stack.npy"], "out", AUTO).items
    assert known.metrics["neighbours"] == 2
    assert [row["neighbours"] for row in known.sections[1].rows()] == [2, 2, 2]
    assert any("does not say how its slices lie" in note for note in unknown.warnings)
    assert not plain.warnings
    assert "neighbours" not in unknown.metrics | plain.metrics
    voxels = [np.asarray(nibabel.load(f"out/{name}.nii").dataobj) for name in ("known", "unknown")]
    assert (voxels[0] != voxels[1]).any()
    np.testing.assert_array_equal(voxels[1].T, np.load("out/stack.npy"))


def test_frames_have_neighbours_and_a_skipped_result_is_known(dicom_dir, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    data = dcmread(dicom_dir / "enhanced/enhanced_ct_2frames.dcm")
    frames = data.pixel_array[:, 160:288, 160:288].copy()
    data.Rows, data.Columns, data.PixelData = 128, 128, frames.tobytes()
    data.file_meta.TransferSyntaxUID = ExplicitVRLittleEndian
    data.save_as("frames.dcm")
    (item,) = run(["frames.dcm"], "out", AUTO).items
    assert item.metrics["neighbours"] == 1
    assert run(["frames.dcm"], "out", AUTO).items[0].warnings == ()
    assert "made with other" in run(["frames.dcm"], "out", OFF).items[0].warnings[0]


def test_a_stack_of_the_library_is_a_volume_where_its_spacing_is_given(study):
    import attn

    stack = np.stack([stored(z) for z in range(4)]).astype(np.float32)
    result = attn.denoise(stack, slice_spacing_mm=2.0)
    assert [drawn.neighbours for drawn in result.drawn] == [3] * 4
    run(["in"], "out", AUTO)
    for z, name in enumerate("fedc"):
        assert np.abs(dcmread(f"out/{name}.dcm").pixel_array - result.pixels[z]).max() <= 0.51
    order = [2, 0, 3, 1]
    shuffled = attn.denoise(stack[order], positions_mm=[2.0 * z for z in order])
    np.testing.assert_array_equal(shuffled.pixels, result.pixels[order])
    assert attn.denoise(stack[:2]).drawn == ()
    for wrong in (
        {"slice_spacing_mm": 0.0}, {"positions_mm": [1.0]}, {"offsets_px": [(0, 0)] * 4},
        {"slice_spacing_mm": 1.0, "positions_mm": [0, 1, 2, 3]}, {"slice_spacing_mm": 1.0, "offsets_px": [(0, 0)]},
        {"slice_spacing_mm": 1.0, "method": "tv"}, {"slice_spacing_mm": "5"}, {"positions_mm": ["a"] * 4},
        {"slice_spacing_mm": 1.0, "offsets_px": [(0,)] * 4},
    ):  # fmt: skip
        with pytest.raises(ValueError, match=r"slice|positions|offsets|volume"):
            attn.denoise(stack, **wrong)


@pytest.mark.slow
def test_workers_give_the_same_bytes(study):
    write_series(study / "in", 6)
    run(["in"], "one", AUTO)
    run(["in"], "two", AUTO, Placement(workers=2))
    assert files("one") == files("two")


def test_a_file_without_the_slice_to_fit_on_fails_by_itself(tmp_path):
    for name, count in (("a/one.npy", 1), ("b/four.npy", 4)):  # files of one folder would be a series
        (tmp_path / name).parent.mkdir()
        np.save(tmp_path / name, np.random.default_rng(0).normal(100, 9, (count, 24, 24)).astype(np.float32))
    report = run([str(tmp_path / "a"), str(tmp_path / "b")], tmp_path / "out", DenoiseOptions(fit_on="2"))
    assert [item.status for item in report.items] == ["failed", "ok"]
    assert "none of index 2" in str(report.items[0].error)
