"""Names of results: the photo's alone, and never another photo's; a record says whose a result is."""

import shutil
from dataclasses import asdict
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from attn.core.errors import InputError
from attn.core.io.bands import write_png
from attn.core.io.walk import Input
from attn.core.segment import outputs
from attn.core.segment.companions import companions
from attn.core.segment.naming import places
from attn.core.segment.options import SegmentOptions
from attn.core.segment.record import Record, SourcePhoto, read_record, source_of


def photo(path, shade=0):
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.new("RGB", (20, 20), (shade, 9, 9)).save(path)
    return path


def done(target, source):
    """As a finished run leaves it."""
    text = {outputs.RECORD: Record("sato", 0.5, {}, source and source_of(source)).text(), "Description": "attn 1"}
    target.parent.mkdir(exist_ok=True)
    for word in ("mask", "prob"):
        path = target if word == "mask" else outputs.side_path(target, word)
        write_png(path, (1, 1), [np.zeros((1, 1), np.uint8)], text=text)


def names(folder, paths, output=None, **options):
    _, targets = places([Input(path, path.name) for path in paths], output, **options)
    return [target.path.relative_to(folder).as_posix() for target in targets]


def test_a_shared_stem_is_told_apart_by_the_suffix_whatever_is_named(tmp_path):
    jpg, png, other = (photo(tmp_path / name, n) for n, name in enumerate(("eye.jpg", "eye.png", "b.png")))
    alone = [*names(tmp_path, [jpg]), *names(tmp_path, [png]), *names(tmp_path, [other])]
    assert alone == ["eye.jpg.mask.png", "eye.png.mask.png", "b.mask.png"]
    assert names(tmp_path, [other, png, jpg]) == alone[::-1]
    assert names(tmp_path, [png], tmp_path / "out") == ["out/eye.png.mask.png"]


def test_names_that_differ_by_case_alone(tmp_path):
    first, second, third = (photo(tmp_path / name, n) for n, name in enumerate(("Eye.png", "eye.png", "EYE.jpg")))
    found = names(tmp_path, [first, second, third], tmp_path / "out")
    assert len({name.casefold() for name in found}) == 3  # the disk of the results may not tell case apart
    assert found == [*names(tmp_path, [first], tmp_path / "out"), *names(tmp_path, [second, third], tmp_path / "out")]


def test_a_name_that_is_another_ones_full_name(tmp_path):
    found = names(tmp_path, [photo(tmp_path / name) for name in ("eye.jpg", "eye.png", "eye.jpg.png")])
    assert len(set(found)) == 3


def test_what_is_done_stays_done_when_another_photo_comes(tmp_path):
    jpg = photo(tmp_path / "eye.jpg")
    done(tmp_path / "eye.mask.png", jpg)
    png = photo(tmp_path / "eye.png", 5)
    assert names(tmp_path, [jpg, png]) == ["eye.mask.png", "eye.png.mask.png"]
    done(tmp_path / "eye.png.mask.png", png)
    jpg.unlink()
    assert names(tmp_path, [png]) == ["eye.png.mask.png"]


def test_photos_of_one_name_from_several_folders(tmp_path):
    one, two, three = (photo(tmp_path / f"{name}/eye.png", n) for n, name in enumerate("abc"))
    out = tmp_path / "out"
    for path, name in ((one, "eye.mask.png"), (two, "eye.png.mask.png")):
        assert names(out, [path], out) == [name]
        done(out / name, path)
    (last,) = names(out, [three], out)
    assert last.startswith("eye.png-")
    assert names(out, [one], out) == ["eye.mask.png"]
    shutil.move(tmp_path / "a", tmp_path / "moved")
    assert names(out, [tmp_path / "moved/eye.png"], out) == ["eye.mask.png"]
    _, targets = places([Input(path, str(path)) for path in (two, three)], out)
    assert {target.path.parent.name for target in targets} == {"b", "c"}  # in one run: folders


def test_a_photo_that_changed_is_said(tmp_path):
    path = photo(tmp_path / "eye.png")
    done(tmp_path / "eye.mask.png", path)
    photo(path, 99)
    _, (target,) = places([Input(path, "eye.png")], None)
    assert (target.path.name, "changed" in target.notes[0]) == ("eye.mask.png", True)
    _, (target,) = places([Input(path, "eye.png")], None, overwrite=True)
    assert (target.path.name, target.notes) == ("eye.mask.png", ())


def test_what_attn_did_not_write_is_no_result(tmp_path):
    path = photo(tmp_path / "eye.png")
    photo(tmp_path / "eye.mask.png")
    _, (target,) = places([Input(path, "eye.png")], None)
    assert target.path.name == "eye.png.mask.png"
    assert "no result of attn" in target.notes[0]
    (tmp_path / "eye.mask.png").unlink()
    photo(tmp_path / "eye.overlay.png")
    _, (target,) = places([Input(path, "eye.png")], None)
    assert target.path.name == "eye.png.mask.png"
    done(tmp_path / "eye.mask.png", None)  # by an attn that recorded no source
    (tmp_path / "eye.overlay.png").unlink()
    _, (target,) = places([Input(path, "eye.png")], None)
    assert target.path.name == "eye.mask.png"


def test_a_file_that_is_named_is_this_photos_or_refused(tmp_path):
    path, other = photo(tmp_path / "eye.png"), photo(tmp_path / "b.png", 3)
    done(tmp_path / "m.png", other)
    _, (target,) = places([Input(path, "eye.png")], tmp_path / "m.png")
    assert "another photo" in str(target.error)
    assert places([Input(path, "eye.png")], tmp_path / "m.png", overwrite=True)[1][0].error is None
    assert places([Input(other, "b.png")], tmp_path / "m.png")[1][0].error is None


@pytest.mark.parametrize(
    "text",
    [
        "null", "[]", "{}", '{"model": null, "threshold": 0.5}', '{"model": "a", "threshold": true}',
        '{"model": "a", "threshold": NaN}', '{"model": "a", "threshold": ' + "9" * 5000 + "}", "[" * 99999,
        '{"model": "a", "threshold": 1, "measures": [1]}', '{"model": "a", "threshold": 1, "measures": {"x": "y"}}',
        '{"model": "a", "threshold": 1, "threshold_from": []}', '{"model": "a", "threshold": 1, "threshold_from": "x"}',
        '{"model": "a", "threshold": 1, "source": {"name": 1}}', '{"model": "a", "threshold": 1, "orientation": [1]}',
        '{"model": "a", "threshold": 1, "source": {"name": 1, "size": 1, "sample": "", "place": ""}}',
    ],
    ids=lambda text: text[:40],
)  # fmt: skip
def test_a_forged_record_is_none(tmp_path, text):
    write_png(tmp_path / "m.png", (1, 1), [np.zeros((1, 1), np.uint8)], text={outputs.RECORD: text})
    assert read_record(tmp_path / "m.png") is None


def test_a_large_photo_is_told_by_samples(tmp_path):
    data = np.random.default_rng(0).integers(0, 256, 3 << 20, np.uint8)
    (tmp_path / "a").write_bytes(data.tobytes())
    first = source_of(tmp_path / "a")
    data[-1] ^= 1
    (tmp_path / "a").write_bytes(data.tobytes())
    assert not first.same(source_of(tmp_path / "a"))
    assert SourcePhoto(**asdict(first)).same(first)
    assert str(tmp_path) not in str(asdict(first))


# --- which truth: observers -----------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("photo_name", "files", "observer", "found"),
    [
        ("01_test.tif", ["01_manual1.gif", "01_manual2.gif"], "1", "01_manual1.gif"),
        ("01_test.tif", ["01_manual1.gif", "01_manual2.gif"], "manual2", "01_manual2.gif"),
        ("01_test.tif", ["1st_manual/01_manual1.gif", "2nd_manual/01_manual2.gif"], "2", "2nd_manual/01_manual2.gif"),
        ("01.png", ["first/01.png", "second/01.png"], "second", "second/01.png"),
        ("Image_01L.jpg", ["Image_01L_1stHO.png", "Image_01L_2ndHO.png"], "2nd", "Image_01L_2ndHO.png"),
        ("im0001.ppm", ["im0001.ah.ppm", "im0001.vk.ppm"], "vk", "im0001.vk.ppm"),
        ("im0001.ppm", ["im0001.ah.ppm", "im0001.vk.ppm"], "xy", None),
        ("im0001.ppm", ["im0001.ah.ppm", "im0001.vk.ppm"], None, None),
        ("01_test.tif", ["1st_manual/01_manual1.gif", "2nd_manual/01_manual2.gif"], None, None),
        ("01_test.tif", ["1st_manual/01_manual1.gif"], None, "1st_manual/01_manual1.gif"),
        ("01.png", ["01_manual1.gif", "01_manual10.gif"], "1", "01_manual1.gif"),
    ],
)  # fmt: skip
def test_observers(tmp_path, photo_name, files, observer, found):
    for name in files:
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).touch()
    source, options = Input(Path("elsewhere", photo_name), "p"), SegmentOptions(truth=tmp_path, observer=observer)
    if found is None:
        with pytest.raises(InputError, match="--observer" if observer is None else "no truth by observer 'xy'"):
            companions(source, options)
    else:
        assert companions(source, options).truth == tmp_path / found


def test_the_photos_own_name_is_taken_with_a_word_about_the_other(tmp_path):
    for name in ("01.png", "01_2ndHO.png"):
        (tmp_path / name).touch()
    found = companions(Input(Path("elsewhere/01.png"), "01"), SegmentOptions(truth=tmp_path))
    assert found.truth == tmp_path / "01.png"
    assert "01_2ndHO.png would fit, too" in found.notes[0]


def test_a_result_of_ours_is_no_truth_and_a_packed_truth_is_named(tmp_path):
    done(tmp_path / "01.mask.png", photo(tmp_path / "in/01.png"))
    (tmp_path / "01.ah.ppm.gz").touch()
    with pytest.raises(InputError, match="of no kind that is read") as caught:
        companions(Input(tmp_path / "in/01.png", "01"), SegmentOptions(truth=tmp_path))
    assert "01.ah.ppm.gz" in str(caught.value)


def test_a_link_that_leads_nowhere_is_no_internal_error(tmp_path):
    (tmp_path / "01.png").symlink_to(tmp_path / "01.png")  # around in a circle
    source = Input(tmp_path / "in/01.png", "01")
    assert companions(source, SegmentOptions(truth=tmp_path)).truth == tmp_path / "01.png"
    assert names(tmp_path, [photo(tmp_path / "eye.jpg")]) == ["eye.mask.png"]
