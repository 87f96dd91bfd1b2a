"""Compaction as a verb: sizes before and after, and nothing that counts changes."""

from __future__ import annotations

import numpy as np
import pytest

from attn.core.errors import InputError, UsageError
from attn.core.retrieve.store import open_store
from attn.core.retrieve.verbs.compact import compact

IDS = [f"{i:03d}" for i in range(200)]


def emptied(made, unit, kind):
    """An index that half of the entries left in small steps, too few each time for the store to tidy up by itself."""
    index = made(IDS, unit(200, 64), [{"n": i, "text": "words " * 20} for i in range(200)], kind)
    store = open_store(index)
    store.delete(IDS[:90])
    store.close()
    return index


@pytest.mark.parametrize("kind", ["flat", "lance", "qdrant"])
def test_nothing_that_counts_changes(made, unit, contents, kind):
    index = emptied(made, unit, kind)
    before = contents(index)
    (item,) = compact(index).items
    assert contents(index) == before
    assert item.metrics["entries"] == 110
    assert item.details["before"]["items"] == item.details["after"]["items"] == 110
    assert ("bytes_after" in item.metrics) is (kind != "qdrant")
    assert bool(item.warnings) is (kind == "qdrant")


def test_a_flat_index_becomes_smaller(made, unit, tmp_path):
    index = emptied(made, unit, "flat")
    (item,) = compact(index).items
    files = sum(path.stat().st_size for path in (tmp_path / "index ü").rglob("*"))
    assert item.metrics["bytes_after"] == files
    assert item.metrics["bytes_after"] < 0.7 * item.metrics["bytes_before"]
    assert item.details["before"]["deleted"] == 90
    assert item.details["after"]["deleted"] == 0
    (again,) = compact(index).items
    assert again.metrics["bytes_before"] == again.metrics["bytes_after"] == files


def test_rows_that_came_after_the_index_enter_it(made, unit):
    pytest.importorskip("lancedb")
    index = made([str(i) for i in range(300)], unit(300), kind="lance")
    store = open_store(index)
    store.build_index()
    store.add(["new"], unit(1, seed=3), [{}])
    store.close()
    (item,) = compact(index).items
    assert (item.details["before"]["unindexed"], item.details["after"]["unindexed"]) == (1, 0)


def test_another_writer_missing_and_damaged(made, unit, tmp_path, monkeypatch):
    index = emptied(made, unit, "flat")
    monkeypatch.setattr(
        "attn.core.retrieve.verbs.compact.open_store", lambda place: open_store(place, lock_timeout=0.1)
    )
    writer = open_store(index)
    writer.delete(["100"])
    with pytest.raises(UsageError, match="is writing to this index"):
        compact(index)
    writer.close()
    with pytest.raises(InputError, match="no such index"):
        compact(tmp_path / "absent")
    shard = next((tmp_path / "index ü").glob("vectors-*.npy"))
    np.save(shard, np.zeros(3))
    with pytest.raises(InputError, match="--rebuild"):
        compact(index)
