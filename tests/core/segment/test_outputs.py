"""What lands on disk: pictures written in bands, the record in the mask, the table; and which files belong together."""

import csv
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
from PIL import Image, PngImagePlugin

from attn.core.compare import Comparison
from attn.core.errors import InputError, UsageError
from attn.core.io import bands as io_bands
from attn.core.io.walk import Input, expand_inputs
from attn.core.segment import outputs
from attn.core.segment.companions import companions, core_of
from attn.core.segment.naming import places
from attn.core.segment.options import SegmentOptions
from attn.core.segment.outputs import Segmented
from attn.core.segment.record import Record, SourcePhoto, read_record
from attn.core.segment.threshold import Threshold


def segmented(size=(60, 50), reduced=None, threshold=0.5):
    """A round field of view with one vertical vessel, ``size`` in the file and ``reduced`` in the work."""
    h, w = reduced or size
    rows, columns = np.mgrid[:h, :w]
    fov = np.hypot(rows - (h - 1) / 2, columns - (w - 1) / 2) < min(h, w) / 2 - 2
    prob = np.where(abs(columns - w // 2) < max(1, w // 25), 0.9, 0.1).astype(np.float32)
    pixels = np.broadcast_to(np.float32((0.6, 0.2, 0.4))[:, None, None], (3, h, w)) * fov
    stored = outputs.quantise(prob, fov)
    photo = SimpleNamespace(pixels=pixels, size=size)
    fov = SimpleNamespace(mask=fov)
    return Segmented(photo, fov, stored, stored >= outputs.least(threshold), "sato", Threshold(threshold, "given"))


def pixels_of(path):
    return np.asarray(Image.open(path))


@pytest.mark.parametrize("name", ["21.mask.png", "21.png"])
def test_side_files_stand_beside_the_mask(name):
    assert outputs.side_path(Path("out", name), "prob") == Path("out/21.prob.png")
    assert outputs.side_path(Path("out", name), "attention", ".npz") == Path("out/21.attention.npz")
    assert outputs.side_path(Path("a.b.mask.png"), "prob") == Path("a.b.prob.png")


@pytest.mark.parametrize(
    ("bits", "shape"), [(8, (37, 21)), (16, (37, 21)), (8, (37, 21, 3)), (8, (1, 1)), (16, (5, 1))]
)
@pytest.mark.parametrize("rows", [1, 10, 100])
def test_png_in_bands_reads_back_exactly(tmp_path, bits, shape, rows):
    values = np.random.default_rng(0).integers(0, 2**bits, shape).astype(f"uint{bits}")
    bands = (values[start : start + rows] for start in range(0, shape[0], rows))
    channels = shape[2] if len(shape) == 3 else 1
    io_bands.write_png(tmp_path / "x.png", shape[:2], bands, bits=bits, channels=channels, text={"Description": "a"})
    with Image.open(tmp_path / "x.png") as picture:
        picture.verify()  # checksums
    np.testing.assert_array_equal(pixels_of(tmp_path / "x.png"), values)
    assert Image.open(tmp_path / "x.png").text == {"Description": "a"}


def test_a_fault_within_the_bands_leaves_no_file(tmp_path):
    def bands():
        yield np.zeros((2, 4), np.uint8)
        raise MemoryError

    with pytest.raises(MemoryError):
        io_bands.write_png(tmp_path / "x.png", (4, 4), bands())
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("threshold", [1e-9, 0.25, 0.43, 0.5, 30000 / 65535, 0.99999])
def test_the_stored_probability_gives_the_mask_again(threshold):
    prob = np.random.default_rng(1).random((50, 40), np.float32)
    prob[0, :3] = 0.0, 1.0, threshold
    fov = np.ones(prob.shape, bool)
    fov[:, -5:] = False
    stored = outputs.quantise(prob, fov)
    assert ((stored == 0) == ~fov).all()  # 0 says "outside" and nothing else
    mask = stored >= outputs.least(threshold)
    np.testing.assert_array_equal(mask, (stored.astype(np.float64) / 65535 >= threshold - 1e-11) & fov)
    assert not mask[:, -5:].any()


def test_enlarging_in_bands_has_no_seams_and_is_bilinear():
    import torch

    values = np.random.default_rng(2).random((23, 31), np.float32)
    whole = io_bands.resized(values, (101, 77))
    parts = [io_bands.bilinear(values, (101, 77), start, min(start + 7, 101)) for start in range(0, 101, 7)]
    np.testing.assert_array_equal(np.concatenate(parts), whole)
    double = torch.from_numpy(values.astype(np.float64))[None, None]
    expected = torch.nn.functional.interpolate(double, size=(101, 77), mode="bilinear")
    np.testing.assert_allclose(whole, expected[0, 0].numpy(), atol=1e-6)


@pytest.mark.parametrize("reduced", [None, (30, 25)])
def test_pictures_have_the_size_of_the_photo(tmp_path, monkeypatch, reduced):
    monkeypatch.setattr(io_bands, "BAND_PIXELS", 350)  # seven rows
    done = segmented(reduced=reduced)
    files = outputs.write_outputs(tmp_path / "p.mask.png", done, Record("sato", 0.5))
    mask, prob, overlay = (pixels_of(tmp_path / f"p.{word}.png") for word in ("mask", "prob", "overlay"))
    assert set(files) == {"overlay", "probability"}
    assert (mask.shape, prob.shape, overlay.shape) == ((60, 50), (60, 50), (60, 50, 3))
    assert (mask.dtype, prob.dtype) == (np.uint8, np.uint16)
    assert set(np.unique(mask)) == {0, 255}
    np.testing.assert_array_equal(mask > 0, prob >= outputs.least(0.5))
    assert mask[30, 25] == 255
    red, green, _ = overlay[30, 25].astype(int)
    assert green > 150 > red
    assert abs(overlay[30, 10].astype(int) - (153, 51, 102)).max() <= 1  # the photo itself
    assert (overlay[0, 0] == 0).all()
    assert (overlay == 255).all(-1).any()  # the outline
    if reduced is None:
        np.testing.assert_array_equal(mask > 0, done.mask)


def test_the_outline_is_left_out_where_the_frame_cuts_the_field():
    assert not outputs._outline(np.ones((40, 40), bool)).any()
    mask = np.zeros((40, 40), bool)
    mask[:, 10:30] = True
    rim = outputs._outline(mask)
    assert rim[:, 10].all()
    assert not rim[0, 15:25].any()


def test_the_mask_comes_last(tmp_path, monkeypatch):
    written = []
    original = outputs.write_png
    monkeypatch.setattr(
        outputs, "write_png", lambda path, *a, **k: (written.append(path.name), original(path, *a, **k))
    )
    outputs.write_outputs(tmp_path / "p.mask.png", segmented(), Record("sato", 0.5))
    assert written[-1] == "p.mask.png"
    assert len(written) == 3


def test_attention_and_comparison(tmp_path):
    done = segmented()
    maps = {f"att{n}": np.random.default_rng(n).random((60 // n, 50 // n), np.float32) for n in (1, 2, 4)}
    done = Segmented(done.photo, done.fov, done.stored, done.mask, "fsgnet", Threshold(0.5, "model"), maps)
    pictures = {"green": done.photo.pixels[1], "sato": done.prob}
    files = outputs.write_outputs(
        tmp_path / "p.mask.png", done, Record("sato", 0.5), Comparison((), pictures, {"sato": "f1 0.5"})
    )
    assert set(files) == {"overlay", "probability", "attention", "attention_figure", "compare"}
    with np.load(files["attention"]) as archive:
        assert {name: archive[name].shape for name in archive} == {name: one.shape for name, one in maps.items()}
        np.testing.assert_array_equal(archive["att2"], maps["att2"])
    for name in ("attention_figure", "compare"):
        assert min(Image.open(files[name]).size) > 100


def test_the_record_is_read_back_from_masks_of_ours_only(tmp_path):
    source = SourcePhoto("p.jpg", 5, "00ff", "12345678")
    measures = {"vessel_density": 0.1, "tortuosity": None}
    record = Record("sato", 0.5, measures, source, orientation=6, threshold_from="auto")
    path = tmp_path / "p.mask.png"
    outputs.write_outputs(path, segmented(), record)
    assert read_record(path) == record
    (tmp_path / "cut.png").write_bytes(path.read_bytes()[:60])
    (tmp_path / "text.png").write_text("hello")
    text = PngImagePlugin.PngInfo()
    text.add_text(outputs.RECORD, "no JSON")
    Image.new("L", (3, 3)).save(tmp_path / "odd.png", pnginfo=text)
    Image.new("L", (3, 3)).save(tmp_path / "foreign.png")
    for name in ("cut", "text", "odd", "foreign", "missing"):
        assert read_record(tmp_path / f"{name}.png") is None


def test_the_table_keeps_older_rows_and_replaces_its_own(tmp_path):
    path = tmp_path / "vessels.csv"
    row = {"image": "a, b.png", "mask": "a.mask.png", "model": "sato", "threshold": 0.5, "vessel_density": 0.1}
    assert outputs.check_table(path) == []
    outputs.write_table(path, [], [row, row | {"mask": "b.mask.png"}])
    old = outputs.check_table(path)
    outputs.write_table(path, old, [row | {"vessel_density": float("nan"), "tortuosity": 1.2}])
    with path.open(newline="") as file:
        rows = {one["mask"]: one for one in csv.DictReader(file)}
    assert rows["a.mask.png"]["tortuosity"] == "1.2"
    assert rows["a.mask.png"]["vessel_density"] == ""
    assert rows["a.mask.png"]["image"] == "a, b.png"
    assert rows["b.mask.png"]["vessel_density"] == "0.1"


@pytest.mark.parametrize("content", [b"name,age\r\nx,3\r\n", b"\xff\xfe\x00", b""])
def test_a_table_of_somebody_else_is_never_overwritten(tmp_path, content):
    (tmp_path / "vessels.csv").write_bytes(content)
    with pytest.raises(UsageError, match="no table of attn segment"):
        outputs.check_table(tmp_path / "vessels.csv")


def names(folder):
    return [item.path.name for item in expand_inputs([str(folder)], suffixes=(".png", ".npz"))]


def test_a_walk_passes_results_by(tmp_path):
    for word in ("mask", "prob", "overlay", "attention", "compare"):
        (tmp_path / f"21.{word}.png").touch()
    (tmp_path / "21.attention.npz").touch()
    (tmp_path / "brain.mask.png").touch()  # alone it may be anybody's picture
    assert names(tmp_path) == ["brain.mask.png"]
    (tmp_path / "21.png").touch()
    (tmp_path / "brain.png").touch()
    assert names(tmp_path) == ["21.png", "brain.png"]


@pytest.mark.parametrize(
    ("stem", "core"),
    [
        ("21_training_mask", "21"),
        ("21_manual1", "21"),
        ("Image_01L_1stHO", "image_01l"),
        ("im0001.ah", "im0001"),
        ("01_dr", "01_dr"),
        ("mask", "mask"),
    ],
)
def test_which_photo_a_name_speaks_of(stem, core):
    assert core_of(stem) == core


@pytest.mark.parametrize(
    ("photo", "files", "found", "message"),
    [
        ("21.png", ["21.png", "21_mask.png", "22.png"], "21.png", ""),
        ("21.png", ["21_training_mask.gif", "22_training_mask.gif"], "21_training_mask.gif", ""),
        ("21_training.tif", ["21_manual1.gif", "22_manual1.gif"], "21_manual1.gif", ""),
        ("Image_01L.jpg", ["Image_01L_1stHO.png", "Image_01L_2ndHO.png"], None, "several candidates"),
        ("21.png", ["21.png", "21.gif"], None, "several candidates"),
        ("01_dr.jpg", ["01_g.tif", "01_h.tif"], None, "has no truth"),
        ("21.png", ["21_other.png"], None, "rename it to 21.png"),
        ("21.png", [], None, "has no truth"),
        ("21.png", ["21.txt"], None, "has no truth"),
    ],
)
def test_truth_is_matched_by_name_or_refused(tmp_path, photo, files, found, message):
    for name in files:
        (tmp_path / name).touch()
    source = Input(Path("elsewhere", photo), photo)
    options = SegmentOptions(truth=tmp_path)
    if found is None:
        with pytest.raises(InputError, match=message):
            companions(source, options)
        return
    result = companions(source, options)
    assert result.truth == tmp_path / found
    assert bool(result.notes) == (Path(found).stem != Path(photo).stem)  # loudly, unless the name is the same


def test_a_photo_is_not_its_own_truth(tmp_path):
    for name in ("21.png", "21_manual1.png"):
        (tmp_path / name).touch()
    found = companions(Input(tmp_path / "21.png", "21"), SegmentOptions(truth=tmp_path, fov=str(tmp_path / "21.png")))
    assert found.truth == tmp_path / "21_manual1.png"
    assert found.fov == tmp_path / "21.png"  # a file that is named is that file


@pytest.mark.parametrize(
    ("out", "folder", "mask"),
    [
        (None, "in", "in/21.mask.png"),
        ("out", "out", "out/21.mask.png"),
        ("out/", "out", "out/21.mask.png"),
        ("results.v2", "results.v2", "results.v2/21.mask.png"),
        ("my.png", ".", "my.png"),
        ("some/my.mask.png", "some", "some/my.mask.png"),
    ],
)
def test_where_results_land(tmp_path, monkeypatch, out, folder, mask):
    monkeypatch.chdir(tmp_path)
    home, (target,) = places([Input(Path("in/21.jpg"), "in/21.jpg")], out)
    assert (home.resolve(), target.path.resolve()) == ((tmp_path / folder).resolve(), tmp_path / mask)


def test_one_name_for_several_photos_or_another_kind_is_refused(tmp_path):
    photos = [Input(tmp_path / f"{n}.jpg", f"{n}") for n in (1, 2)]
    with pytest.raises(UsageError, match="names one file"):
        places(photos, "x.png")
    with pytest.raises(UsageError, match=r"Name it x\.png"):
        places(photos[:1], "x.jpg")


def test_formulas_in_the_table_are_text_and_do_not_grow(tmp_path):
    path = tmp_path / "vessels.csv"
    row = {"image": "=1+1.png", "mask": "=1+1.mask.png", "model": "@x", "threshold": 0.5, "tortuosity": -1.5}
    quoted = {"image": "'=a.png", "mask": "'=1+1.mask.png", "model": "m", "threshold": 0.5, "tortuosity": 1.0}
    outputs.write_table(path, [], [row, quoted])
    first = path.read_bytes()
    with path.open(newline="") as file:
        assert next(csv.DictReader(file))["mask"] == "'=1+1.mask.png"
    for _ in range(2):  # the same masks again: their rows are replaced, the rest is as it was
        outputs.write_table(path, outputs.check_table(path), [row])
        assert path.read_bytes() == first


@pytest.mark.parametrize(
    "content",
    [
        b"image,mask,model,threshold\na,b,c,0.5\0\n", b"image,mask,model,threshold\n\xff,b,c,0.5\n",
        b"image,mask,model,threshold,image\na,b,c,0.5,d\n", b"image,mask,model,threshold\na,b,c,0.5,more,and,more\n",
        b'image,mask,model,threshold\n"a,b\n', b"image;mask;model;threshold\n",
    ],
)  # fmt: skip
def test_a_forged_table_is_refused(tmp_path, content):
    (tmp_path / "vessels.csv").write_bytes(content)
    with pytest.raises(UsageError, match="no table of attn segment"):
        outputs.check_table(tmp_path / "vessels.csv")


def test_a_table_that_excel_saved_is_read(tmp_path):
    (tmp_path / "vessels.csv").write_bytes(b"\xef\xbb\xbfimage,mask,model,threshold,density\r\na.png,a.mask.png,m\r\n")
    (row,) = outputs.check_table(tmp_path / "vessels.csv")
    assert (row["image"], row["threshold"], row["density"]) == ("a.png", "", "")
