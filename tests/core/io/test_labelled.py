"""Pictures with classes: folders, lists and tables."""

from __future__ import annotations

import io
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet
import pytest
from PIL import Image

from attn.core.errors import InputError
from attn.core.io.labelled import labelled_pictures


def touch(path: Path) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(b"")


def test_folders_of_classes(tmp_path: Path) -> None:
    for name in ("cat/a.png", "cat/.hidden.png", "dog/b.jpg", "dog/notes.txt"):
        touch(tmp_path / name)
    assert [(row.label, row.name, row.split) for row in labelled_pictures(tmp_path)] == [
        ("cat", "cat/a.png", ""), ("dog", "dog/b.jpg", ""),
    ]  # fmt: skip
    with pytest.raises(InputError, match="holds no list"):
        labelled_pictures(tmp_path, "kind")


def test_splits(tmp_path: Path) -> None:
    for name in ("train/cat/a.png", "val/cat/a.png"):
        touch(tmp_path / name)
    assert [(row.split, row.name) for row in labelled_pictures(tmp_path)] == [
        ("train", "train/cat/a.png"), ("val", "val/cat/a.png"),
    ]  # fmt: skip


def test_lists(tmp_path: Path) -> None:
    (tmp_path / "labels.csv").write_text("image,kind,split\na.png,cat,train\nb.png,dog,validation\n")
    rows = labelled_pictures(tmp_path, "kind")
    assert [(row.label, row.place, row.split) for row in rows] == [
        ("cat", tmp_path / "a.png", "train"), ("dog", tmp_path / "b.png", "val"),
    ]  # fmt: skip
    with pytest.raises(InputError, match=r"line 2 has no label \(it has 'image', 'kind', 'split'\)"):
        labelled_pictures(tmp_path)
    (tmp_path / "labels.csv").write_text("image,label,split\na.png,cat,train\nb.png,dog,\n")
    with pytest.raises(InputError, match=r"'b\.png' has no split"):
        labelled_pictures(tmp_path)
    (tmp_path / "list.jsonl").write_text('{"file_name": "a.png", "label": 3}\n{"file_name": "b.png"}\n')
    with pytest.raises(InputError, match="line 2 has no label"):
        labelled_pictures(tmp_path / "list.jsonl")


def test_tables(tmp_path: Path) -> None:
    stored = io.BytesIO()
    Image.new("RGB", (4, 4)).save(stored, "PNG")
    table = pa.table({"image": [{"bytes": stored.getvalue(), "path": ""}] * 2, "label": [10, 9]})
    pyarrow.parquet.write_table(table, tmp_path / "set.parquet")
    rows = labelled_pictures(tmp_path / "set.parquet")
    assert [(row.label, row.name) for row in rows] == [("000010", "row 1"), ("000009", "row 2")]


def test_what_is_none(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="does not exist"):
        labelled_pictures(tmp_path / "nowhere")
    (tmp_path / "x.txt").write_text("x")
    with pytest.raises(InputError, match="no set of pictures"):
        labelled_pictures(tmp_path / "x.txt")
    (tmp_path / "bad.csv").write_text("image,label\na.png,cat,more\n")
    with pytest.raises(InputError, match="more columns"):
        labelled_pictures(tmp_path / "bad.csv")
