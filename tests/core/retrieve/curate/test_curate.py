"""Photos with planted faults through all steps, with captioners of every temper."""

from __future__ import annotations

import hashlib
import json
import os
from pathlib import Path

import numpy as np
import pytest
from PIL import Image, ImageFilter
from small_vlms import loaded_vlm

from attn.core.errors import UsageError
from attn.core.options import OptionError
from attn.core.retrieve.curate.boxes import PhotoBoxes
from attn.core.retrieve.encoders.base import Encoded
from attn.core.retrieve.gadms.people import make_people
from attn.core.retrieve.options.curate import CurateOptions
from attn.core.retrieve.store.lock import WriterLock
from attn.core.retrieve.verbs.curate import curate
from attn.core.train.ga_dms.data import read_data

CAPTIONER = """
SAID = {said!r}
ASKED = []
def describe(picture, template=""):
    ASKED.append(template)
    return template.replace("[", "").replace("]", "") or SAID[picture.tobytes()[-1] % len(SAID)]
def plain(picture):
    return SAID[picture.tobytes()[-1] % len(SAID)]
def fails(picture, template=""):
    raise RuntimeError("no\\nway")
def leaves(picture, template=""):
    raise SystemExit(3)
def silent(picture, template=""):
    return " "
def number(picture, template=""):
    return 3
def opened(picture, template=""):
    return "a man in [upper garment]"
def stopped(picture, template=""):
    if len(ASKED) == 3:
        raise KeyboardInterrupt
    return describe(picture, template)
"""


class _Words:
    """An encoder of words, without a model."""

    def encode_texts(self, texts):
        rows = [[hashlib.md5(f"{i}{text}".encode()).digest()[0] for i in range(8)] for text in texts]
        vectors = np.array(rows, np.float32)
        return Encoded(vectors / np.linalg.norm(vectors, axis=1, keepdims=True), np.zeros(len(texts), bool), 0)


@pytest.fixture(scope="module")
def people():
    return make_people(8, 5, size=(240, 100), images_each=1, captions_each=1, fillers=0)


@pytest.fixture
def photos(tmp_path, people, monkeypatch):
    """Eight people, and one photo of every fault; a module with captioners that can be imported."""
    folder = tmp_path / "photos"
    folder.mkdir()
    for number, pixels in enumerate(people.images):
        Image.fromarray(pixels.transpose(1, 2, 0)).save(folder / f"p{number}.png")
    first = Image.open(folder / "p0.png")
    first.filter(ImageFilter.GaussianBlur(4)).save(folder / "blurred.png")
    first.save(folder / "duplicate.jpg", quality=60)
    first.resize((60, 150)).save(folder / "small.png")
    first.resize((240, 100)).save(folder / "shape.png")
    Image.new("RGB", (100, 240), "red").save(folder / "blank.png")
    (folder / "broken.jpg").write_bytes(b"\xff\xd8\xff\xe0junk")
    module = f"captioner_{hashlib.md5(os.fsencode(tmp_path)).hexdigest()}"
    (tmp_path / f"{module}.py").write_text(CAPTIONER.format(said=list(people.captions)))
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.setattr("attn.core.retrieve.encoders.kept.encoder_of", lambda options: _Words())
    return folder, module


def lines(file: Path) -> list[dict]:
    return [json.loads(line) for line in file.read_text().splitlines()]


def test_every_planted_fault_is_found_and_told(photos, tmp_path):
    folder, _ = photos
    report = curate([str(folder)], tmp_path / "out")
    assert report.exit_code == 1  # a photo is broken
    assert report.items[0].metrics == {"photos": 14, "crops": 13, "kept": 8, "dropped": 5, "failed": 1}
    assert [Path(item.input).name for item in report.items[1:]] == ["broken.jpg"]
    judged = {Path(row["photo"]).stem: row["reasons"] for row in lines(tmp_path / "out" / "crops.jsonl")}
    for name in ("blurred", "small", "shape", "blank", "duplicate"):
        assert name in judged[name]
    assert not any(judged[f"p{number}"] for number in range(8))
    summary = report.to_dict()["summary"]
    assert {row["image"] for row in summary["dropped"]} == {
        f"../photos/{name}" for name in ("blank.png", "blurred.png", "duplicate.jpg", "small.png", "shape.png")
    }
    assert {row["reason"] for row in summary["reasons"]} >= {"blurred", "small", "shape", "blank", "duplicate"}
    assert not (tmp_path / "out" / "captions.jsonl").exists()


@pytest.mark.parametrize(("function", "fill"), [("describe", "model"), ("plain", "words")])
def test_pairs_are_what_training_reads_and_are_asked_for_once(photos, tmp_path, function, fill):
    folder, module = photos
    options = CurateOptions(captioner=f"{module}:{function}", fill=fill)
    report = curate([str(folder)], tmp_path / "out", options)
    counts = report.items[0].metrics
    assert counts["asked"] == (8 if fill == "words" else 8 + counts["captions"])
    written = (tmp_path / "out" / "captions.jsonl").read_bytes()
    data = read_data(tmp_path / "out" / "captions.jsonl", (64, 32), 2, 0)
    assert len(data.training.image_names) == 6
    assert len(data.held_out.image_names) == 2
    assert data.training.images[0].shape == (3, 64, 32)
    again = curate([str(folder)], tmp_path / "out", options).items[0].metrics
    assert again["asked"] == 0
    assert again["known"] == (8 if fill == "words" else counts["captions"])
    assert (tmp_path / "out" / "captions.jsonl").read_bytes() == written
    os.utime(folder / "p3.png", ns=(1, 1))  # another photo, for all we know
    assert curate([str(folder)], tmp_path / "out", options).items[0].metrics["asked"] == (1 if fill == "words" else 2)


def test_a_run_that_was_stopped_asks_only_the_rest_and_ends_the_same(photos, tmp_path):
    folder, module = photos
    whole = tmp_path / "whole"
    options = CurateOptions(captioner=f"{module}:describe")
    curate([str(folder)], whole, options)
    __import__(module).ASKED.clear()
    stopped = curate([str(folder)], tmp_path / "out", CurateOptions(captioner=f"{module}:stopped"))
    assert stopped.exit_code == 130
    assert len(stopped.left) == 5
    assert not (tmp_path / "out" / "captions.jsonl").exists()
    answers = tmp_path / "out" / "answers.jsonl"
    answers.write_text(answers.read_text().replace(":stopped", ":describe") + '{"image": "half')
    report = curate([str(folder)], tmp_path / "out", options)
    assert report.items[0].metrics["known"] == 3
    assert any("1 line of" in warning for warning in report.items[0].warnings)
    for name in ("captions.jsonl", "templates.txt", "crops.jsonl"):
        assert (tmp_path / "out" / name).read_bytes() == (whole / name).read_bytes()


@pytest.mark.parametrize(
    ("function", "told"),
    [("fails", "RuntimeError: no"), ("leaves", "SystemExit"), ("silent", "no caption"), ("number", "int, not a text"),
     ("opened", "slot open")],
)  # fmt: skip
def test_a_captioner_that_fails_costs_its_crops_and_is_told(photos, tmp_path, function, told):
    folder, module = photos
    report = curate([str(folder)], tmp_path / "out", CurateOptions(captioner=f"{module}:{function}"))
    failed = [item for item in report.items if item.status == "failed" and told in (item.error or "")]
    assert len(failed) == 8
    assert report.exit_code == 1
    assert (tmp_path / "out" / "captions.jsonl").read_text() == ""
    assert report.items[0].metrics["undescribed"] == 8


def test_captioners_that_are_none_are_refused_before_the_work(photos, tmp_path):
    folder, module = photos
    for wrong, told in (
        ("nowhere:at", "cannot be imported"), (f"{module}:nothing", "holds no function"), (f"{module}:SAID", "no func"),
        (f"{module}:plain", "picture and a template"), ("no-such-folder", "captioner"),
    ):  # fmt: skip
        with pytest.raises(OptionError, match=told):
            curate([str(folder)], tmp_path / "out", CurateOptions(captioner=wrong))
    assert not (tmp_path / "out").exists()


def test_boxes_cut_people_out(photos, tmp_path, people):
    folder, module = photos
    wide = np.concatenate([*people.images[:3]], 2).transpose(1, 2, 0)
    Image.fromarray(wide).save(folder / "street.png")
    points = [1, 1, 2] * 17
    rows = [
        {"image": "photos/street.png", "box": [0, 0, 100, 240], "score": 0.99, "keypoints": points, "id": "anna"},
        {"image": "photos/street.png", "box": [100, 0, 100, 240], "score": 0.5},
        {"image": "street.png", "box": [1, 2, 3, 4]},
        {"image": "photos/street.png", "box": [200, 0, 130, 240], "keypoints": [0] * 51},
        {"image": "elsewhere.png", "box": [0, 0, 9, 9]},
    ]
    file = tmp_path / "boxes.jsonl"
    file.write_text("".join(json.dumps(row) + "\n" for row in rows))
    options = CurateOptions(boxes=file, captioner=f"{module}:plain", fill="words")
    report = curate([str(folder / "street.png")], tmp_path / "out", options)
    judged = lines(tmp_path / "out" / "crops.jsonl")
    assert [list(row["reasons"]) for row in judged] == [[], ["unsure"], ["pose"]]
    (pair,) = lines(tmp_path / "out" / "captions.jsonl")
    assert pair["id"] == "anna"
    assert pair["image"] == judged[0]["image"]
    assert [path.name for path in (tmp_path / "out" / "crops").iterdir()] == [Path(pair["image"]).name]
    cut = np.asarray(Image.open(tmp_path / "out" / pair["image"]))
    assert np.array_equal(cut, people.images[0].transpose(1, 2, 0))
    told = " ".join(report.items[0].warnings)
    assert "beyond the photo" in told
    assert "2 of the photos" in told


@pytest.mark.parametrize(
    "line", ["{}", '{"image": "a"}', '{"image": "a", "box": [1, 2, 3]}', '{"image": "a", "box": [1, 2, 0, 4]}',
             '{"image": "a", "box": [1, 2, 3, 4], "score": "x"}', '{"image": "a", "box": [1, 2, 3, 4], "keypoints": 1}',
             '{"image": "a", "box": [1, 2, 3, NaN]}', "[]", ""],
)  # fmt: skip
def test_boxes_that_are_none_are_told_by_line(tmp_path, line):
    file = tmp_path / "boxes.jsonl"
    file.write_text(line + "\n")
    with pytest.raises(OptionError, match="boxes"):
        PhotoBoxes(file)


def test_one_photo_equal_photos_and_no_photo(photos, tmp_path):
    folder, module = photos
    options = CurateOptions(captioner=f"{module}:describe")
    one = curate([str(folder / "p0.png")], tmp_path / "one", options)
    assert one.items[0].metrics["captions"] == 1
    assert one.exit_code == 0
    alike = tmp_path / "alike"
    alike.mkdir()
    for number in range(5):
        (alike / f"{number}.png").write_bytes((folder / "p0.png").read_bytes())
    assert curate([str(alike)], tmp_path / "two", options).items[0].metrics["kept"] == 1
    with pytest.raises(UsageError, match="nothing to read"):
        curate([str(tmp_path / "one")], tmp_path / "three", options)


def test_a_model_is_asked_and_its_words_are_captions_where_no_template_comes_of_them(photos, tmp_path, monkeypatch):
    folder, _ = photos
    monkeypatch.setattr("attn.core.retrieve.curate.captioner.load_model", lambda *_, **__: loaded_vlm("llava padded"))
    options = CurateOptions(captioner="some-folder", prompt="what colour is it", max_new_tokens=8)
    people = [str(folder / f"p{number}.png") for number in (1, 2)]
    counts = curate(people, tmp_path / "out", options).items[0].metrics
    said = {row["image"]: row["text"] for row in lines(tmp_path / "out" / "answers.jsonl")}
    assert counts["asked"] == counts["unfitting"] == 2
    assert {row["image"]: row["captions"] for row in lines(tmp_path / "out" / "captions.jsonl")} == {
        image: [text] for image, text in said.items()
    }


def test_two_runs_exclude_each_other(photos, tmp_path):
    folder, _ = photos
    (tmp_path / "out").mkdir()
    lock = WriterLock(tmp_path / "out", 0.0)
    lock.acquire()
    with pytest.raises(UsageError, match="curating into this folder"):
        curate([str(folder)], tmp_path / "out")
    lock.release()


@pytest.mark.parametrize("wrong", [{"aspect": (4.0, 2.0)}, {"blur": 0.0}, {"near": 2.0}, {"prompt": " "}])
def test_options_that_make_no_sense(wrong):
    with pytest.raises(OptionError, match=next(iter(wrong))):
        CurateOptions(**wrong)
