"""Sources of questions: what is read of each kind, and how each fault is told."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from attn.core.errors import InputError, UsageError
from attn.core.prune.data.read import read_samples


def picture(path: Path, grey: int = 100) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    pixels = np.full((12, 16, 3), grey, np.uint8)
    pixels[2:5, 3:9] = 255 - grey
    Image.fromarray(pixels).save(path)
    return path


def lines(path: Path, *rows: dict[str, Any]) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return path


def test_jsonl(tmp_path: Path) -> None:
    picture(tmp_path / "pictures" / "a.png")
    source = lines(
        tmp_path / "set.jsonl",
        {"image": "pictures/a.png", "question": " what colour? ", "answer": "grey", "task": "colour"},
        {"image": "pictures/a.png", "question": "how many?", "answers": ["1", "one"], "id": 7, "boxes": [3, 2, 9, 5]},
        {"image": "pictures/gone.png", "question": "what?", "answer": 3},
        {
            "image": "pictures/a.png",
            "question": "which?",
            "answers": [{"answer": "a"}, {"answer": "b"}, {"answer": "b"}],
        },
    )
    found = read_samples(source)
    assert [sample.id for sample in found] == ["line 1", "7", "line 3", "line 4"]
    assert [sample.answers for sample in found] == [("grey",), ("1", "one"), ("3",), ("a", "b", "b")]
    assert [sample.answer for sample in found] == ["grey", "1", "3", "b"]
    assert found[0].question == "what colour?"
    assert (found[0].task, found[1].task) == ("colour", None)
    assert found[0].read().pixels.shape == (3, 12, 16)
    assert found[1].boxes is not None
    assert found[1].boxes.tolist() == [[3, 2, 9, 5]]
    with pytest.raises(InputError, match=r"gone\.png"):
        found[2].read()
    assert not found.warnings


def test_image_folder(tmp_path: Path) -> None:
    picture(tmp_path / "test" / "a.png")
    picture(tmp_path / "test" / "b.png")
    lines(tmp_path / "test" / "metadata.jsonl", {"file_name": "a.png", "question": "what?"})
    found = read_samples(tmp_path / "test")
    assert found[0].read().size == (12, 16)
    assert found.answered == 0
    assert "b.png" in found.warnings[0]
    assert "no sample has an answer: only fidelity" in found.warnings[1]
    with pytest.raises(InputError, match=r"holds several data sets: test\. Name one"):
        read_samples(tmp_path)


def test_parquet_and_saved(tmp_path: Path) -> None:
    datasets = pytest.importorskip("datasets")
    rows = {
        "image": [str(picture(tmp_path / f"{n}.png", 40 * n)) for n in range(1, 4)],
        "question": ["one?", "two?", "three?"],
        "answers": [["1"], ["2"], ["3"]],
    }
    table = datasets.Dataset.from_dict(rows).cast_column("image", datasets.Image())
    table.save_to_disk(tmp_path / "saved")
    (tmp_path / "tables").mkdir()
    table.to_parquet(tmp_path / "tables" / "part-0.parquet")
    saved, parquet = read_samples(tmp_path / "saved"), read_samples(tmp_path / "tables")
    assert [sample.answers for sample in saved] == [("1",), ("2",), ("3",)]
    assert [sample.id for sample in parquet] == ["part-0.parquet row 1", "part-0.parquet row 2", "part-0.parquet row 3"]
    for one, other in zip(saved, parquet, strict=True):
        assert np.array_equal(one.read().pixels, other.read().pixels)


def test_limit_draws_by_seed(tmp_path: Path) -> None:
    rows = [{"image": "a.png", "question": str(n), "answer": "x"} for n in range(50)]
    source = lines(tmp_path / "set.jsonl", *rows)
    some = read_samples(source, limit=10, seed=3)
    numbers = [int(sample.question) for sample in some]
    assert numbers == sorted(numbers) != list(range(10))
    assert read_samples(source, limit=10, seed=3).fingerprint == some.fingerprint
    assert read_samples(source, limit=10, seed=4).fingerprint != some.fingerprint
    assert "10 of its 50 samples, drawn at random (seed 3)" in some.warnings


GOOD = {"image": "a.png", "question": "what?", "answer": "x"}


@pytest.mark.parametrize(
    ("rows", "what"),
    [
        ([GOOD, {"question": "what?"}], r"line 2 has no 'image', a picture \(it has 'question'\)"),
        ([GOOD, {"image": "a.png"}], r"line 2 has no 'question'"),
        ([{**GOOD, "question": " "}], r"line 1: 'question' is empty"),
        ([{**GOOD, "question": 4}], r"line 1: 'question' is a number"),
        ([{**GOOD, "image": 4}], r"line 1: 'image' is no path"),
        ([{**GOOD, "answer": {}}], r"line 1: 'answer' is no text"),
        ([{**GOOD, "answer": ["x", " "]}], r"line 1: 'answer' has an empty answer"),
        ([{**GOOD, "boxes": [[1, 2, 3]]}], r"line 1: 'boxes' is no list"),
        ([{**GOOD, "boxes": [5, 2, 3, 4]}], r"line 1: 'boxes' is no list"),
        ([{**GOOD, "id": "7"}, {**GOOD, "id": 7}], r"two rows have the id '7'"),
        ([], r"has no row"),
    ],
)
def test_faulty_rows(tmp_path: Path, rows: list[dict[str, Any]], what: str) -> None:
    with pytest.raises(InputError, match=what):
        read_samples(lines(tmp_path / "set.jsonl", *rows))


def test_faulty_sources(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="does not exist"):
        read_samples(tmp_path / "gone")
    (tmp_path / "set.txt").touch()
    with pytest.raises(InputError, match=r"no data set that is known \(\.txt\)"):
        read_samples(tmp_path / "set.txt")
    (tmp_path / "empty").mkdir()
    with pytest.raises(InputError, match=r"neither metadata\.jsonl nor parquet files"):
        read_samples(tmp_path / "empty")
    (tmp_path / "set.parquet").write_bytes(b"PAR1 nothing PAR1")
    with pytest.raises(InputError, match="cannot be read as parquet"):
        read_samples(tmp_path / "set.parquet")


def test_drawn_scenes() -> None:
    found = read_samples("shapes:colour:3x4")
    assert [sample.id for sample in found] == ["colour 1", "colour 2", "colour 3", "colour 4"]
    assert found[0].question.startswith("what colour is the")
    assert found[0].read().pixels.shape == (3, 96, 96)
    assert found[0].boxes is not None
    assert read_samples("shapes:colourx4", seed=3).fingerprint == found.fingerprint
    assert read_samples("shapes:colourx4", seed=4).fingerprint != found.fingerprint
    assert len(read_samples("shapesx2")) == 2
    every = read_samples("shapesx8")
    assert [sample.task for sample in every] == [
        "colour", "colour", "exists", "exists", "count", "where", "relation", "digit"
    ]  # fmt: skip
    with pytest.raises(UsageError, match=r"shapesx0: no scene is to be drawn"):
        read_samples("shapesx0")
    with pytest.raises(UsageError, match=r"no task named 'color'\. Did you mean colour\?"):
        read_samples("shapes:colorx4")
