"""What an index folder may hold, what --rebuild removes, and what damage is found when it is opened."""

from __future__ import annotations

import importlib.util
import json
import threading
import time

import numpy as np
import pytest

from attn.core.errors import InputError, UsageError
from attn.core.retrieve.store import Header, clear, create, holds_index, is_index, is_vacant, open_store, stamp_of

X = np.eye(4, 8, dtype=np.float32)
META = [{"n": i} for i in range(4)]
IDS = list("abcd")
KINDS = [
    "flat",
    pytest.param("lance", marks=pytest.mark.skipif(importlib.util.find_spec("lancedb") is None, reason="no lancedb")),
]


def made(path, kind, name="m"):
    store = create(path, Header.new({"model": name}, 8), kind, lock_timeout=0.2)
    store.add(IDS, X, META)
    store.close()
    return path


@pytest.mark.parametrize("kind", KINDS)
def test_clear_removes_an_index_but_its_lock(tmp_path, kind):
    path = made(tmp_path / "i", kind)
    (path / ".parts").mkdir()
    (path / ".parts" / "x.npz").touch()
    assert holds_index(path)
    assert not is_vacant(path)
    clear(path)
    assert {one.name for one in path.iterdir()} <= {".lock"}
    assert is_vacant(path)
    assert len(open_store(made(path, kind))) == 4


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("foreign", ["photo.jpg", "my.lance", "vectors.txt", ".git"])
def test_a_folder_with_anything_else_is_not_touched(tmp_path, kind, foreign):
    path = made(tmp_path / "i", kind)
    (path / foreign).mkdir()
    before = sorted(one.name for one in path.iterdir())
    with pytest.raises(UsageError, match=f"holds '{foreign}'"):
        clear(path)
    assert sorted(one.name for one in path.iterdir()) == before
    assert not holds_index(path)


@pytest.mark.parametrize("kind", KINDS)
def test_clear_waits_for_a_writer_and_then_refuses(tmp_path, kind):
    path = made(tmp_path / "i", kind)
    store = open_store(path)
    store.add(["e"], X[:1], [{}])
    with pytest.raises(UsageError, match="is writing to this index"):
        clear(path, lock_timeout=0.1)
    assert len(open_store(path)) == 5
    waiting = threading.Thread(target=clear, args=(path,))
    waiting.start()
    time.sleep(0.3)
    assert waiting.is_alive()
    store.close()
    waiting.join(10)
    assert is_vacant(path)


@pytest.mark.parametrize("kind", KINDS)
def test_a_writer_whose_index_was_made_anew_does_not_mix_models(tmp_path, kind):
    path = made(tmp_path / "i", kind, "one")
    early = open_store(path)
    clear(path)
    made(path, kind, "two")
    with pytest.raises(UsageError, match="made this index anew"):
        early.add(["e"], X[:1], [{}])
    early.close()
    assert sorted(open_store(path).entries()) == IDS


def test_what_a_kill_leaves_before_the_first_commit_is_no_obstacle(tmp_path):
    path = tmp_path / "i"
    path.mkdir()
    for name in (".lock", ".attn-tmp-host-1-0-attn-store.json"):
        (path / name).touch()
    (path / ".parts").mkdir()
    assert is_vacant(path)
    assert len(open_store(made(path, "flat"))) == 4


def test_a_lost_manifest_is_damage_that_can_be_mended(tmp_path):
    path = made(tmp_path / "i", "flat")
    (path / "attn-store.json").unlink()
    with pytest.raises(InputError, match=r"attn-store\.json is missing.*--rebuild"):
        open_store(path)
    clear(path)
    assert is_vacant(path)
    with pytest.raises(InputError, match="not an index"):
        open_store(path)


def test_a_changed_header_is_found(tmp_path):
    path = made(tmp_path / "i", "flat")
    text = (path / "attn-store.json").read_text()
    (path / "attn-store.json").write_text(text.replace('"m"', '"n"'))
    with pytest.raises(InputError, match="header was changed"):
        open_store(path)
    old = json.loads(text)
    del old["header_crc32"]  # as the first version wrote it
    (path / "attn-store.json").write_text(json.dumps(old))
    assert len(open_store(path)) == 4


@pytest.mark.skipif(importlib.util.find_spec("lancedb") is None, reason="no lancedb")
class TestLance:
    def test_a_cut_data_file_is_named(self, tmp_path):
        path = made(tmp_path / "i", "lance")
        (data,) = (path / "vectors.lance" / "data").glob("*.lance")
        data.write_bytes(data.read_bytes()[:40])
        with pytest.raises(InputError, match=rf"{data.name}.*--rebuild") as error:
            open_store(path).search(X[:1], 2, exact=True)
        assert ".rs:" not in str(error.value)

    def test_the_newest_version_is_missed(self, tmp_path):
        path = made(tmp_path / "i", "lance")
        store = open_store(path)
        store.add(["e"], X[:1], [{}])
        store.close()
        newest = min((path / "vectors.lance" / "_versions").glob("*.manifest"))  # their names count down
        newest.unlink()
        with pytest.raises(InputError, match=r"is missing, .* is the newest.*--rebuild"):
            open_store(path)


@pytest.mark.parametrize("kind", KINDS)
def test_a_change_changes_the_stamp(tmp_path, kind):
    place = tmp_path / "i"
    store = create(place, Header.new({}, 2), kind)
    marks = [stamp_of(place)]
    for name in "ab":
        store.add([name], np.eye(2, dtype=np.float32)[:1], [{}])
        marks.append(stamp_of(f"{kind}:{place}"))
    store.delete(["a"])
    marks.append(stamp_of(place))
    store.close()
    assert len(set(marks)) == len(marks)
    reader = open_store(place)
    reader.search(np.eye(2, dtype=np.float32), 1)
    reader.close()
    assert stamp_of(place) == marks[-1]
    assert is_index(str(place))
    assert not is_index(str(tmp_path))
    assert not is_index("a bear: on grass://")
