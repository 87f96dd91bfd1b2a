"""`attn denoise` with its default method on every kind of file, and all that can be done with its filter."""

import json
from pathlib import Path

import numpy as np
import pytest

RNG = np.random.default_rng(0)
NOISE = RNG.normal(0, 30, (24, 20))
CLEAN = np.where(np.arange(20) < 10, 0.0, 200.0)
SCAN = (CLEAN + NOISE).astype(np.float32)


def dicom(path: Path, name: str = "CT_small.dcm", **changes) -> None:
    from pydicom import dcmread
    from pydicom.data import get_testdata_file

    dataset = dcmread(get_testdata_file(name, download=False))
    pixels = dataset.pixel_array[:40, :36].copy()
    padding = changes.pop("padding", None)
    if padding is not None:
        pixels[:, :8] = padding
        dataset.PixelPaddingValue = padding
    dataset.Rows, dataset.Columns = pixels.shape
    for key, value in changes.items():
        setattr(dataset, key, value)
    dataset.PixelData = pixels.tobytes()
    dataset.save_as(path)


def raster(path: Path, array: np.ndarray) -> None:
    from PIL import Image

    Image.fromarray(array).save(path)


def nifti(path: Path) -> None:
    nibabel = pytest.importorskip("nibabel")
    nibabel.save(nibabel.Nifti1Image(np.stack([SCAN, SCAN[::-1]], -1), np.diag([1.0, 2.0, 5.0, 1.0])), path)


GREY16 = np.clip(SCAN * 100 + 20000, 0, 65535).astype(np.uint16)
COLOUR = np.clip(SCAN[..., None] / 4 + [90, 100, 110], 0, 255).astype(np.uint8)
KINDS = {
    "ct.dcm": (lambda path: dicom(path), ()),
    "mr.dcm": (lambda path: dicom(path, "MR_small.dcm"), ()),
    "padded.dcm": (lambda path: dicom(path, padding=-2000), ()),
    "oblong.dcm": (lambda path: dicom(path, PixelSpacing=[1.0, 0.4]), ("--maps", "--figure")),
    "a.npy": (lambda path: np.save(path, SCAN), ("--preset", "full-dose")),
    "wide.npy": (lambda path: np.save(path, SCAN.astype(np.float64)), ("--unit", "hu", "--window", "brain")),
    "stack.npy": (lambda path: np.save(path, np.stack([SCAN, SCAN + 1, SCAN[::-1]])), ("--fit", "middle", "--maps")),
    "part.npy": (lambda path: np.save(path, np.stack([SCAN, 0 * SCAN])), ()),
    "a.npz": (lambda path: np.savez(path, SCAN), ("--strength", "0.5")),
    "grey.png": (lambda path: raster(path, GREY16), ()),
    "colour.png": (lambda path: raster(path, COLOUR), ("--luma",)),
    "a.tif": (lambda path: raster(path, SCAN), ("--region", "0,0,5,5=2")),
    "a.nii": (nifti, ()),
    "row.npy": (lambda path: np.save(path, SCAN[:1]), ()),
    "pixel.npy": (lambda path: np.save(path, SCAN[:1, :1]), ("--maps", "--figure")),
    "tiny.npy": (lambda path: np.save(path, SCAN[:2, 9:12]), ()),
    "constant.npy": (lambda path: np.save(path, 0 * SCAN + 7), ("--maps", "--figure")),
}


def pixels(path: Path) -> np.ndarray:
    from attn.core.io import read_grey

    return read_grey(path, luma=True).pixels


@pytest.mark.parametrize("name", KINDS)
def test_every_kind_of_file(cli, tmp_path, name):
    make, options = KINDS[name]
    make(tmp_path / name)
    ran = cli("denoise", name, "-o", "out/", "--json", *options)
    assert ran.code == 0, ran.stderr
    (item,) = ran.report["items"]
    assert ran.report["arguments"]["method"] == "adaptive"
    before, after = pixels(tmp_path / name), pixels(tmp_path / item["output"])
    assert before.shape == after.shape
    assert np.isfinite(after).all()
    if before.size > 6 and np.ptp(before):
        assert (after != before).any()
        assert item["metrics"]["removed_std"] > 0
        assert item["metrics"]["steps"] == 0
    else:
        assert np.abs(after - before).max() <= np.ptp(before)
    if name == "padded.dcm":
        np.testing.assert_array_equal(after[..., :8], before[..., :8])
        assert (after[..., 8:] != before[..., 8:]).any()
    if name == "wide.npy":  # brain: 0 to 80 HU
        outside = (before < 0) | (before > 80)
        np.testing.assert_array_equal(after[outside], before[outside])
        assert (after[~outside] != before[~outside]).any()
    for kind in ("maps", "maps_figure", "figure"):
        assert kind not in item["files"] or (tmp_path / item["files"][kind]).stat().st_size > 0
    assert ("maps" in item["files"]) == ("--maps" in options and name not in ("constant.npy", "pixel.npy"))


def test_maps_are_in_the_unit_of_the_image(cli, tmp_path):
    np.save(tmp_path / "a.npy", SCAN)
    ran = cli("denoise", "a.npy", "--unit", "hu", "--maps", "--json")
    (item,) = ran.report["items"]
    with np.load(tmp_path / item["files"]["maps"]) as maps:
        assert set(maps) == {"noise_level", "sigma_r", "sigma_s", "weights", "unit", "window"}
        assert maps["unit"] == "HU"
        low, high = maps["window"]
        assert (low, high) == (SCAN.min(), SCAN.max())
        assert maps["noise_level"].shape == maps["sigma_r"].shape == maps["sigma_s"].shape == (1, *SCAN.shape)
        assert maps["weights"].shape == (1, 6, *SCAN.shape)
        assert maps["noise_level"].mean() == pytest.approx(30, rel=0.35)
        settings = item["details"]["settings"]
        assert settings["noise_std"] * (high - low) == pytest.approx(maps["noise_level"].mean(), rel=0.35)
        sigma_r = maps["sigma_r"]
    assert cli("denoise", "a.npy", "--unit", "hu", "--maps", "--strength", "2", "--overwrite").code == 0
    np.testing.assert_allclose(np.load(tmp_path / "a.maps.npz")["sigma_r"], 2 * sigma_r, rtol=1e-5)
    skipped = cli("denoise", ".", "-o", "out", "--json").report
    assert [item["input"] for item in skipped["items"]] == ["a.npy"]  # maps are no input


def test_a_kept_filter_gives_the_same_bytes(cli, tmp_path):
    np.save(tmp_path / "a.npy", SCAN)
    assert cli("denoise", "a.npy", "--save-filter", "f.safetensors", "-o", "one.npy").code == 0
    assert cli("denoise", "a.npy", "--filter", "f.safetensors", "-o", "two.npy").code == 0
    assert (tmp_path / "one.npy").read_bytes() == (tmp_path / "two.npy").read_bytes()
    assert cli("denoise", "a.npy", "--filter", "f.safetensors", "--strength", "0", "-o", "none.npy").code == 0
    np.testing.assert_allclose(np.load(tmp_path / "none.npy"), SCAN, atol=1e-4)


def test_a_filter_that_does_not_suit_is_refused_in_one_line(cli, tmp_path):
    np.save(tmp_path / "a.npy", SCAN)
    np.save(tmp_path / "b.npy", SCAN[:20])
    assert cli("denoise", "a.npy", "--save-filter", "f.safetensors", "-o", "one.npy").code == 0
    ran = cli("denoise", "a.npy", "-m", "filter2noise", "--filter", "f.safetensors", "-o", "out/")
    assert ran.code == 2
    assert "--filter: f.safetensors is a filter of adaptive, not of filter2noise. Add --method adaptive." in ran.stderr
    ran = cli("denoise", "b.npy", "a.npy", "--filter", "f.safetensors", "-o", "out/", "--json")
    assert ran.code == 1
    assert [item["status"] for item in ran.report["items"]] == ["failed", "ok"]
    assert "b.npy: has slices of 20 x 20 pixels, the filter is for 24 x 20. Fit one for it" in ran.stderr
    (tmp_path / "f.safetensors").write_bytes((tmp_path / "f.safetensors").read_bytes()[:-9])
    ran = cli("denoise", "a.npy", "--filter", "f.safetensors", "-o", "out/", "--overwrite")
    assert ran.code == 2
    assert len(ran.stderr.strip().splitlines()) == 1


def test_a_region_beside_the_image_is_told(cli, tmp_path):
    np.save(tmp_path / "a.npy", SCAN)
    ran = cli("denoise", "a.npy", "-o", "out/", "--region", "20,0,40,9=0", "--region", "19,0,40,9=0", "--json")
    assert ran.code == 0
    (told,) = ran.report["items"][0]["warnings"]
    assert told == "the region 20,0,40,9 is not inside the image of 20 x 24 pixels"


def test_a_stack_of_one_noise_model(cli, tmp_path):
    """Level and correlation come from the chosen slice; each slice has weights of its own."""
    stack = np.stack([SCAN, SCAN[::-1], SCAN[:, ::-1]])
    np.save(tmp_path / "stack.npy", stack)
    np.save(tmp_path / "middle.npy", stack[1])
    window = ("--window", "100,800")
    assert cli("denoise", "stack.npy", "--fit", "1", "--maps", *window, "-o", "shared.npy").code == 0
    assert cli("denoise", "middle.npy", *window, "-o", "alone.npy").code == 0
    np.testing.assert_array_equal(np.load(tmp_path / "shared.npy")[1], np.load(tmp_path / "alone.npy"))
    with np.load(tmp_path / "shared.maps.npz") as maps:
        np.testing.assert_array_equal(maps["noise_level"][0], maps["noise_level"][2])
        assert not np.array_equal(maps["weights"][0], maps["weights"][2])


def test_comparison_takes_what_other_methods_read(cli, tmp_path):
    np.save(tmp_path / "a.npy", SCAN)
    train = ("--quality", "fast", "--steps", "1", "--lambda", "400", "--sigma", "0.1")
    ran = cli("denoise", "a.npy", "--compare", *train, "--json")
    assert ran.code == 0, ran.stderr
    rows = {row["method"]: row for row in ran.report["items"][0]["details"]["comparison"]}
    assert next(iter(rows)) == "adaptive"
    assert "note" not in rows["filter2noise"]
    assert cli("denoise", "a.npy", *train, "--overwrite").code == 2


def test_the_list_says_whose_method_it_is(cli):
    first = json.loads(cli("denoise", "--list", "--json").stdout)[0]
    assert (first["method"], first["status"]) == ("adaptive", "ours")
    assert "ours" in first["paper"]
    assert "Not a published method" in first["note"]


@pytest.mark.parametrize("method", ["adaptive", "filter2noise"])
def test_a_filter_in_another_window_is_told(cli, tmp_path, method):
    np.save(tmp_path / "a.npy", SCAN)
    fit = ["--steps", "1"] if method == "filter2noise" else []
    assert cli("denoise", "a.npy", "-m", method, *fit, "--save-filter", "f.safetensors", "-o", "one.npy").code == 0
    same = cli("denoise", "a.npy", "-m", method, "--filter", "f.safetensors", "-o", "two.npy")
    assert "fitted in the window" not in same.stderr
    wide = cli("denoise", "a.npy", "-m", method, "--filter", "f.safetensors", "--window", "0,2000", "-o", "three.npy")
    assert wide.code == 0
    assert "fitted in the window" in wide.stderr


def test_a_window_of_pictures_without_pictures_is_refused(cli, tmp_path):
    np.save(tmp_path / "a.npy", SCAN)
    refused = cli("denoise", "a.npy", "--display", "100,200")
    assert refused.code == 2
    assert "--display is for pictures" in refused.stderr
    assert cli("denoise", "a.npy", "--display", "100,200", "--report", "r.html", "-o", "one.npy").code == 0
