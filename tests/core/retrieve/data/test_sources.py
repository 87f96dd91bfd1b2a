"""Galleries: ids, stamps, contents and faults of everything that can be indexed."""

import io
import json
import os

import numpy as np
import pytest
from PIL import Image

from attn.core.errors import InputError, UsageError
from attn.core.retrieve.data.sources import read_source

TEXT, IMAGE = frozenset({"text"}), frozenset({"image"})


def picture(seed: int, form: str = "PNG") -> bytes:
    pixels = np.random.default_rng(seed).integers(0, 255, (6, 5, 3), np.uint8)
    file = io.BytesIO()
    Image.fromarray(pixels).save(file, form)
    return file.getvalue()


@pytest.fixture
def folder(tmp_path):
    root = tmp_path / "gallery"
    (root / "sub dir").mkdir(parents=True)
    (root / ".hidden").mkdir()
    (root / "b.txt").write_bytes(b"\xef\xbb\xbfzwei\r\nZeilen")
    (root / "sub dir" / "ä.md").write_text("Ä", encoding="utf-8")
    (root / "a.png").write_bytes(picture(1))
    (root / "notes.csv").write_text("not for us")
    (root / ".hidden" / "x.txt").write_text("x")
    (root / ".x.txt").write_text("x")
    return root


def test_folder(folder):
    found = read_source(folder)
    assert found.kind == "folder"
    assert [(e.id, e.kind) for e in found.entries] == [("a.png", "image"), ("b.txt", "text"), ("sub dir/ä.md", "text")]
    image, text, other = found.entries
    assert text.read_text() == "zwei\nZeilen"
    assert other.read_text() == "Ä"
    assert image.read_pixels().shape == (3, 6, 5)
    assert image.meta == {"path": str(folder / "a.png")}
    assert found.warnings == (
        f"{folder}: 1 hidden folders passed by: {folder / '.hidden'}",
        f"{folder}: 1 hidden files passed by: {folder / '.x.txt'}",
        f"{folder}: 1 files of other kinds passed by: {folder / 'notes.csv'}",
    )
    texts = read_source(folder, TEXT)
    assert [e.id for e in texts.entries] == ["b.txt", "sub dir/ä.md"]
    assert f"{folder}: 1 images, which this model does not read, passed by: {folder / 'a.png'}" in texts.warnings


def test_stamp_changes_with_the_file_only(folder):
    before = {e.id: e.stamp for e in read_source(folder).entries}
    os.utime(folder / "b.txt", ns=(1, 1))
    after = {e.id: e.stamp for e in read_source(folder).entries}
    assert {key for key in before if before[key] != after[key]} == {"b.txt"}


def test_unreadable_files_fail_when_read(folder):
    (folder / "bad.txt").write_bytes(b"\xff\xfe")
    (folder / "bad.png").write_bytes(b"no picture")
    entries = {e.id: e for e in read_source(folder).entries}
    with pytest.raises(InputError, match=r"bad\.txt: is not UTF-8"):
        entries["bad.txt"].read_text()
    with pytest.raises(InputError, match=r"bad\.png"):
        entries["bad.png"].read_pixels()


def test_folder_that_cannot_be_listed_does_not_stop_the_others(folder, monkeypatch):
    real = os.scandir

    def scandir(place):
        if str(place).endswith("sub dir"):
            raise PermissionError(13, "Permission denied", str(place))
        return real(place)

    monkeypatch.setattr(os, "scandir", scandir)
    found = read_source(folder)
    assert [e.id for e in found.entries] == ["a.png", "b.txt"]
    assert "sub dir: cannot be listed (Permission denied)" in str(found.failed[0])


@pytest.mark.parametrize("name", ["metadata.jsonl", "metadata.csv"])
def test_image_folder_with_metadata(folder, name):
    rows = {"metadata.jsonl": '{"file_name": "a.png", "label": "x"}\n', "metadata.csv": "file_name,label\na.png,x\n"}
    (folder / name).write_text(rows[name])
    (image,) = read_source(folder, IMAGE).entries
    assert image.meta == {"label": "x", "path": str(folder / "a.png")}


def test_cranfield_corpus(data_dir):
    found = read_source(data_dir / "text" / "cranfield")
    assert (found.kind, len(found.entries)) == ("beir", 1400)
    assert len({e.stamp for e in found.entries}) == len({e.text for e in found.entries})


def test_jsonl_and_tsv_give_the_same(tmp_path):
    (tmp_path / "g.jsonl").write_text('{"id": "007", "title": "T", "text": "one", "n": 3}\n{"id": "7", "text": ""}\n')
    (tmp_path / "g.tsv").write_bytes(b"\xef\xbb\xbfid\ttitle\ttext\tn\r\n007\tT\tone\t3\r\n7\t\t\t\r\n")
    lists = [read_source(tmp_path / name) for name in ("g.jsonl", "g.tsv")]
    for found in lists:
        assert [(e.id, e.read_text()) for e in found.entries] == [("007", "T one"), ("7", "")]
        assert found.entries[0].meta == {"n": 3}
    assert [e.stamp for e in lists[0].entries] == [e.stamp for e in lists[1].entries]


def test_list_of_images_with_captions(tmp_path, folder):
    path = folder / "list.jsonl"
    path.write_text('{"image": "a.png", "captions": ["x", "y"], "width": 5}\n{"image": "gone.png", "captions": []}\n')
    images = read_source(path, IMAGE)
    assert [e.id for e in images.entries] == ["a.png", "gone.png"]
    assert images.entries[0].path == folder / "a.png"
    assert images.entries[0].meta == {"width": 5, "path": str(folder / "a.png")}
    assert "1 file is not there" in images.warnings[0]
    texts = read_source(path, TEXT)
    assert [e.read_text() for e in texts.entries] == ["x y", ""]


def parquet(path, rows, **kwargs):
    pa = pytest.importorskip("pyarrow")
    import pyarrow.parquet as pq

    pq.write_table(pa.Table.from_pylist(rows), path, **kwargs)
    return path


def test_parquet_with_pictures_in_row_groups(tmp_path):
    rows = [{"image": {"bytes": picture(i), "path": f"{i}.png"}, "caption": f"c{i}", "n": i} for i in range(5)]
    path = parquet(tmp_path / "g.parquet", rows, row_group_size=2)
    found = read_source(path, IMAGE)
    assert [e.id for e in found.entries] == [f"{i}.png" for i in range(5)]
    assert found.entries[3].meta == {"n": 3}
    for i in (4, 0, 3):
        assert found.entries[i].stored.read_bytes() == picture(i)
    assert found.entries[2].read_pixels().shape == (3, 6, 5)
    assert [e.read_text() for e in read_source(path, TEXT).entries] == [f"c{i}" for i in range(5)]


def test_parquet_of_plain_bytes_and_of_texts(tmp_path):
    path = parquet(tmp_path / "b.parquet", [{"id": "x", "image": picture(3)}, {"id": "y", "image": b""}])
    good, bad = read_source(path).entries
    assert good.read_pixels().shape == (3, 6, 5)
    with pytest.raises(InputError, match="row 2 has no picture in 'image'"):
        bad.read_pixels()
    texts = parquet(tmp_path / "t.parquet", [{"text": "one"}, {"text": "two"}])
    assert [(e.id, e.read_text()) for e in read_source(texts).entries] == [("0", "one"), ("1", "two")]
    broken = parquet(tmp_path / "c.parquet", [{"id": "x", "image": b"no picture"}])
    with pytest.raises(InputError, match=r"c\.parquet: row 1, 'image'"):
        read_source(broken).entries[0].read_pixels()


def test_folder_that_datasets_saved(tmp_path):
    datasets = pytest.importorskip("datasets")
    (tmp_path / "p.png").write_bytes(picture(7))
    rows = {"id": ["a", "b"], "image": [str(tmp_path / "p.png")] * 2, "text": ["x", "y"]}
    table = datasets.Dataset.from_dict(rows).cast_column("image", datasets.Image())
    table.save_to_disk(str(tmp_path / "saved"))
    found = read_source(tmp_path / "saved", IMAGE)
    assert (found.kind, [e.id for e in found.entries]) == ("saved", ["a", "b"])
    assert found.entries[1].stored.read_bytes() == picture(7)
    assert found.entries[1].read_pixels().shape == (3, 6, 5)


@pytest.mark.parametrize(
    ("name", "text", "message"),
    [
        ("g.jsonl", '{"id": "1", "text": "a"}\n{"id": "1", "text": "b"}\n', "the id '1' occurs twice"),
        ("g.jsonl", '{"text": "a"}\n', "line 1 has no 'id'"),
        ("g.jsonl", '{"id": "1", "n": 2}\n', "line 1 has neither text nor image"),
        ("g.jsonl", '{"id": "1", "text": 2}\n', "line 1: 'text' is a number"),
        ("g.jsonl", '{"id": "1", "image": 2}\n', "line 1: 'image' is no path"),
        ("g.jsonl", "", "holds no image or text"),
        ("g.tsv", "name\ttext\n1\ta\n", "line 1 names no column 'id'"),
        ("g.tsv", "id\ttext\n1\ta\tb\n", "line 2 has 3 columns, the header 2"),
        ("g.parquet", "no parquet", "cannot be read as parquet"),
        ("g.xls", "?", "is no gallery"),
    ],
)
def test_malformed_lists(tmp_path, name, text, message):
    path = tmp_path / name
    path.write_text(text)
    with pytest.raises(InputError, match=message) as error:
        read_source(path)
    assert str(path) in str(error.value)
    assert error.value.fix


def test_nothing_for_this_model(tmp_path):
    (tmp_path / "g.jsonl").write_text(json.dumps({"id": "1", "text": "a"}))
    with pytest.raises(InputError, match="holds no image to index"):
        read_source(tmp_path / "g.jsonl", IMAGE)
    with pytest.raises(InputError, match="does not exist"):
        read_source(tmp_path / "none.txt")
    with pytest.raises(UsageError, match="Did you mean parquet"):
        read_source(tmp_path / "g.jsonl", kind="parket")
