"""What only the Lance store has: an index with measured recall, streaming, versions, types that change."""

from __future__ import annotations

import json

import numpy as np
import pytest

pytest.importorskip("lancedb")

from attn.core.errors import InputError, UsageError
from attn.core.retrieve.store import Header, create, open_store
from attn.core.retrieve.store.lance_home import STATE
from attn.core.retrieve.store.lance_table import nearest_ids, sub_vectors

DIM = 32


@pytest.fixture
def clustered():
    generator = np.random.default_rng(0)
    centres = generator.standard_normal((20, DIM))
    x = centres[generator.integers(20, size=3_000)] + 0.4 * generator.standard_normal((3_000, DIM))
    return (x / np.linalg.norm(x, axis=1, keepdims=True)).astype(np.float32)


@pytest.fixture
def store(tmp_path):
    made = create(tmp_path / "index", Header.new({}, DIM), "lance", lock_timeout=0.1)
    yield made
    made.close()


def fill(store, x):
    for start in range(0, len(x), 1_000):
        rows = range(start, min(start + 1_000, len(x)))
        store.add([f"{i:05d}" for i in rows], x[rows.start : rows.stop], [{"n": i} for i in rows])


@pytest.mark.parametrize(("filters", "name"), [(False, "IVF_HNSW_SQ"), (True, "IVF_PQ")])
def test_index_finds_nearly_all_and_scores_are_exact(store, clustered, filters, name):
    fill(store, clustered)
    built = store.build_index(filters=filters)
    assert built["type"] == name
    assert built["recall_at_10"] >= 0.95
    assert store.stats()["approximate"] == built
    exact, fast = (store.search(clustered[:30], 10, exact=exact) for exact in (True, False))
    truth = {hit.id: hit.score for hit in exact[0]}
    assert all(hit.score == truth[hit.id] for hit in fast[0] if hit.id in truth)
    common = sum(len({h.id for h in a} & {h.id for h in b}) for a, b in zip(exact, fast, strict=True))
    assert common >= 0.95 * 300
    filtered = store.search(clustered[:5], 10, where="n < 100")
    assert all(len(hits) == 10 and all(hit.meta["n"] < 100 for hit in hits) for hits in filtered)


def test_rows_after_the_index_are_found_and_counted(store, clustered):
    fill(store, clustered[:2_000])
    store.build_index()
    store.add(["new"], clustered[2_500:2_501], [{"n": -1}])
    assert store.search(clustered[2_500:2_501], 1)[0][0].id == "new"
    assert store.stats()["unindexed"] == 1
    assert store.compact()["unindexed"] == 0
    assert store.search(clustered[2_500:2_501], 1)[0][0].id == "new"


def test_compact_builds_an_index_above_the_limit(store, clustered):
    store.flat_items = 500
    fill(store, clustered[:500])
    assert store.compact()["approximate"] == {}
    store.add(["more"], clustered[600:601], [{}])
    assert store.compact()["approximate"]["recall_at_10"] >= 0.95


def test_versions_are_compacted_by_themselves(store, clustered):
    store.compact_versions = 5
    for i in range(12):
        store.add([f"{i}"], clustered[i : i + 1], [{}])
    state = json.loads((store.home.place / STATE).read_text())
    assert store.stats()["version"] - state["compacted_version"] < 5
    assert len(store) == 12


def test_too_few_items_for_an_index(store, clustered):
    fill(store, clustered[:10])
    with pytest.raises(UsageError, match="10 items are too few"):
        store.build_index()


def test_two_writers(store, clustered):
    second = open_store(store.home.place, lock_timeout=0.1)
    store.add(["a"], clustered[:1], [{}])
    with pytest.raises(UsageError, match="is writing to this index"):
        second.add(["b"], clustered[:1], [{}])
    assert len(second) == 0, "a reader keeps the version it opened"
    store.close()
    second.add(["b"], clustered[:1], [{}])
    assert set(second.entries()) == {"a", "b"}
    second.close()


def test_damaged_and_newer_tables(store, clustered, monkeypatch):
    fill(store, clustered[:100])
    monkeypatch.setattr("attn.core.retrieve.store.base.SCHEMA", 0)
    with pytest.raises(UsageError, match="in schema 1; this version reads up to 0"):
        open_store(store.home.place)
    monkeypatch.undo()
    for path in store.home.place.rglob("*.lance"):
        if path.is_file():
            path.unlink()
    with pytest.raises(InputError, match=r"Lance: .*--rebuild"):
        open_store(store.home.place).search(clustered[:1], 3)


def test_a_table_of_others_is_no_index_of_ours(tmp_path):
    import lancedb

    lancedb.connect(str(tmp_path)).create_table("vectors", [{"id": "a", "vector": [1.0, 0.0]}])
    with pytest.raises(InputError, match="without attn's header"):
        open_store(tmp_path)


@pytest.mark.parametrize(("dim", "pieces"), [(384, 96), (10, 2), (7, 1), (1, 1), (770, 154)])
def test_sub_vectors_divide_the_dimensions(dim, pieces):
    assert sub_vectors(dim) == pieces


def test_nearest_in_one_pass_are_those_of_single_exact_searches(store, clustered):
    fill(store, clustered[:2_500])
    queries = clustered[2_500:2_540]
    single = [{hit.id for hit in hits} for hits in store.search(queries, 7, exact=True)]
    assert nearest_ids(store.blocks(size=300), queries, 7) == single
    assert nearest_ids(store.blocks(), queries[:2], 5_000) == [set(store.entries())] * 2
