"""The flat store: a dict as its model, kills, two writers, damaged files, newer formats."""

from __future__ import annotations

import json
import subprocess
import sys
import tempfile
import threading
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from attn.core.errors import InputError, UsageError
from attn.core.retrieve.store import FLAT_ITEMS, Header, create, flat, open_store
from attn.core.retrieve.store.where import parse, selects

DIM = 8
HEADER = Header.new({"model": "tiny"}, DIM)
POOL = np.random.default_rng(0).standard_normal((12, DIM)).astype(np.float32)
POOL /= np.linalg.norm(POOL, axis=1, keepdims=True)

NAMES = st.sampled_from([f"n{i}" for i in range(12)])
VALUES = st.one_of(
    st.none(), st.booleans(), st.integers(-2, 2), st.sampled_from([0.5, -1.0, 1e300]), st.text(max_size=3)
)
META = st.dictionaries(st.sampled_from(["x", "y", "ä b"]), VALUES, max_size=3)
BATCH = st.lists(st.tuples(NAMES, st.integers(0, 11), META), max_size=6)
STEP = st.one_of(
    st.tuples(st.just("add"), BATCH),
    st.tuples(st.just("strict"), BATCH),
    st.tuples(st.just("delete"), st.lists(NAMES, max_size=4)),
    st.tuples(
        st.just("search"), st.tuples(st.integers(1, 14), st.sampled_from([None, "x > 0", "NOT x = 'a' OR y IS NULL"]))
    ),
    st.tuples(st.just("compact"), st.none()),
    st.tuples(st.just("reopen"), st.none()),
)


def model_search(model, query, k, expression):
    test = selects(parse(expression)) if expression else lambda name, meta: True
    names = [name for name, (_, meta) in model.items() if test(name, meta)]
    scores = {name: np.float32(POOL[model[name][0]].astype(np.float64) @ query.astype(np.float64)) for name in names}
    return [(name, float(scores[name])) for name in sorted(names, key=lambda n: (-scores[n], n))[:k]]


@settings(max_examples=60, deadline=None)
@given(steps=st.lists(STEP, max_size=14))
def test_any_order_of_changes_equals_a_dict(steps):
    with tempfile.TemporaryDirectory() as directory, pytest.MonkeyPatch.context() as patch:
        patch.setattr(flat.FlatStore, "max_shards", 3)  # so that shards are merged on the way, too
        store, model = create(Path(directory) / "index", HEADER, "flat"), {}
        for what, value in steps:
            match what:
                case "add" | "strict":
                    ids = [name for name, _, _ in value]
                    vectors = POOL[[which for _, which, _ in value]].reshape(-1, DIM)
                    meta = [one for _, _, one in value]
                    if what == "strict" and (len(set(ids)) < len(ids) or set(ids) & set(model)):
                        with pytest.raises(UsageError):
                            store.add(ids, vectors, meta, "strict")
                    else:
                        store.add(ids, vectors, meta, "upsert" if what == "add" else "strict")
                        model.update((name, (which, one)) for name, which, one in value)
                case "delete":
                    assert store.delete(value) == len(set(value) & set(model))
                    for name in value:
                        model.pop(name, None)
                case "search":
                    k, expression = value
                    known = {key for _, meta in model.values() for key in meta}
                    if expression and known and not {"x", "y"} <= known:
                        continue
                    found = store.search(POOL[:3], k, where=expression)
                    for query, hits in zip(POOL[:3], found, strict=True):
                        want = model_search(model, query, k, expression)
                        assert [hit.id for hit in hits] == [name for name, _ in want]
                        # the model sums in another order, so float64 may round to the neighbouring float32
                        assert [hit.score for hit in hits] == pytest.approx([score for _, score in want], abs=1e-7)
                        assert [hit.meta for hit in hits] == [model[name][1] for name, _ in want]
                case "compact":
                    assert store.compact()["deleted"] == 0
                case "reopen":
                    store.close()
                    store = open_store(Path(directory) / "index")
            assert len(store) == len(model)
        assert store.entries() == {name: meta for name, (_, meta) in model.items()}
        store.close()
        assert open_store(Path(directory) / "index").entries() == {name: meta for name, (_, meta) in model.items()}


@pytest.fixture
def index(tmp_path) -> Path:
    """A store of two shards with a replaced item."""
    path = tmp_path / "index"
    store = create(path, HEADER, "flat")
    store.add([f"a{i}" for i in range(5)], POOL[:5], [{"n": i} for i in range(5)])
    store.add(["a0", "b"], POOL[5:7], [{"n": 7}, {"n": 8}])
    store.close()
    return path


def test_leftovers_stay_for_readers_and_go_with_the_next_writer(index):
    leftover = index / "vectors-00000099.npy"
    leftover.write_bytes(b"half a shard")
    assert len(open_store(index)) == 6
    assert leftover.exists()
    store = open_store(index)
    store.delete(["b"])
    store.close()
    assert not leftover.exists()


def test_a_second_writer_is_refused_and_readers_are_not(index):
    first, second = open_store(index), open_store(index, lock_timeout=0.1)
    first.add(["c"], POOL[:1], [{}])
    with pytest.raises(UsageError, match=r"process \d+ is writing to this index .* Wait until it is done"):
        second.add(["d"], POOL[:1], [{}])
    reader = open_store(index)
    assert "c" in reader.entries()
    first.close()
    second.add(["d"], POOL[:1], [{}])  # sees what the first one wrote
    assert {"c", "d"} <= set(second.entries())
    second.close()


def test_a_second_writer_waits_for_the_first(index):
    first, second = open_store(index), open_store(index, lock_timeout=20)
    first.delete(["b"])
    threading.Timer(0.2, first.close).start()
    second.add(["e"], POOL[:1], [{}])
    assert set(second.entries()) == {"a0", "a1", "a2", "a3", "a4", "e"}
    second.close()


def test_a_reader_keeps_its_state_while_a_writer_compacts(index):
    reader, writer = open_store(index), open_store(index)
    before = reader.search(POOL[:2], 6)
    writer.delete(["a1", "a2"])
    writer.compact()
    assert reader.search(POOL[:2], 6) == before
    assert reader.search(POOL[:2], 6, where="n < 3")[0] != []
    assert len(reader.entries()) == 6
    writer.close()


def test_a_damaged_or_missing_file_is_named_with_the_remedy(index):
    names = sorted(path.name for path in index.iterdir() if path.suffix in (".npy", ".jsonl"))
    assert len(names) == 5
    for name in names:
        path = index / name
        good = path.read_bytes()
        for bad in (good[:-1], good[:-1] + bytes([good[-1] ^ 1]), good + b"x"):
            path.write_bytes(bad)
            with pytest.raises(InputError, match=rf"{name}: its content has changed.*--rebuild"):
                open_store(index)
        path.unlink()
        with pytest.raises(InputError, match=rf"{name}: is missing.*--rebuild"):
            open_store(index)
        path.write_bytes(good)
    assert len(open_store(index)) == 6


@pytest.mark.parametrize("text", ["", "{", "[]", "{}", '{"header": {"schema": 1}}', "\xff"])
def test_a_damaged_manifest_is_named(index, text):
    (index / "attn-store.json").write_bytes(text.encode("latin-1"))
    with pytest.raises(InputError, match="--rebuild"):
        open_store(index)


def test_an_index_of_a_newer_attn_is_refused(index):
    path = index / "attn-store.json"
    manifest = json.loads(path.read_text())
    del manifest["header_crc32"]  # their own checksum would be of their own header
    manifest["header"].update(schema=2, attn="9.1", something="new")
    path.write_text(json.dumps(manifest))
    with pytest.raises(UsageError, match=r"written by attn 9\.1 in schema 2; this version reads up to 1"):
        open_store(index)
    manifest["header"].update(schema=0)  # older ones open
    path.write_text(json.dumps(manifest))
    assert len(open_store(index)) == 6


def test_float16_halves_the_file_and_keeps_the_order(tmp_path):
    x = np.random.default_rng(3).standard_normal((2_000, 64))
    x = (x / np.linalg.norm(x, axis=1, keepdims=True)).astype(np.float32)
    ids = [f"{i:04d}" for i in range(2_000)]
    results, sizes = [], []
    for dtype in ("float32", "float16"):
        store = create(tmp_path / dtype, Header.new({}, 64), "flat", dtype=dtype)
        store.add(ids, x, [{}] * 2_000)
        sizes.append(store.stats()["vector_bytes"])
        results.append(open_store(tmp_path / dtype).search(x[:20], 5))
        store.close()
    assert sizes[1] < 0.51 * sizes[0]
    for exact, half in zip(*results, strict=True):
        assert exact[0].id == half[0].id
        assert [h.score for h in half] == pytest.approx([h.score for h in exact], abs=1e-3)


def test_many_rows_and_queries_cross_all_block_borders(tmp_path):
    x = np.random.default_rng(4).standard_normal((1_000, DIM)).astype(np.float32)
    x /= np.linalg.norm(x, axis=1, keepdims=True)
    x[500:700] = x[:200]  # the same vectors at other places in their blocks
    store = create(tmp_path / "index", HEADER, "flat")
    store.block_rows, store.block_queries = 64, 3
    for start in range(0, 1_000, 150):
        rows = range(start, min(start + 150, 1_000))
        store.add([f"{i:04d}" for i in rows], x[rows.start : rows.stop], [{"n": i} for i in rows])
    store.delete([f"{i:04d}" for i in range(0, 1_000, 5)])
    alive = np.array([i for i in range(1_000) if i % 5])
    scores = x[:8].astype(np.float64) @ x[alive].astype(np.float64).T
    for query, hits in enumerate(store.search(x[:8], 20)):
        order = sorted(range(len(alive)), key=lambda j: (-np.float32(scores[query, j]), alive[j]))[:20]
        assert [hit.meta["n"] for hit in hits] == [alive[j] for j in order]
    few = store.search(x[:8], 20, where="n IN (3, 999, 501)")
    assert all({hit.id for hit in hits} == {"0003", "0501", "0999"} for hits in few)
    store.close()


def test_small_shards_are_merged(tmp_path):
    store = create(tmp_path / "index", HEADER, "flat")
    store.max_shards = 8
    for i in range(60):
        store.add([f"{i}"], POOL[i % 12][None], [{}])
        assert store.stats()["shards"] <= 8
    assert len(store) == len(open_store(tmp_path / "index")) == 60
    store.close()


def test_create_and_open_say_what_is_wrong(tmp_path, index):
    with pytest.raises(UsageError, match="is not empty"):
        create(index, HEADER)
    with pytest.raises(InputError, match="no such index"):
        open_store(tmp_path / "nothing")
    (tmp_path / "empty").mkdir()
    with pytest.raises(InputError, match="not an index"):
        open_store(tmp_path / "empty")
    with pytest.raises(UsageError, match="no store called 'flut'"):
        create(tmp_path / "x", HEADER, "flut")
    with pytest.raises(UsageError, match="is a flat store, not a lance store"):
        create(f"flat:{tmp_path / 'x'}", HEADER, "lance")
    with pytest.raises(UsageError, match=r"stores are directories, s3://BUCKET/PATH or qdrant://"):
        open_store("http://localhost/x")
    with pytest.raises(UsageError, match="at least one dimension"):
        Header.new({}, 0)
    file = tmp_path / "file"
    file.write_text("x")
    with pytest.raises(InputError, match="cannot be made a directory"):
        create(file, HEADER)


def test_auto_takes_flat_up_to_its_limit(tmp_path, monkeypatch):
    store = create(tmp_path / "small", HEADER, expected_items=FLAT_ITEMS)
    assert store.header.store == "flat"
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    with pytest.warns(UserWarning, match=r"attn\[store\]"):
        assert create(tmp_path / "large", HEADER, expected_items=FLAT_ITEMS + 1).header.store == "flat"
    with pytest.raises(UsageError, match=r"pip install 'attn\[store\]'"):
        create(tmp_path / "lance", HEADER, "lance")
    with pytest.raises(UsageError, match=r"pip install 'attn\[qdrant\]'"):
        create("qdrant://localhost/items", HEADER)


def test_neither_torch_nor_an_optional_package_is_needed(index):
    code = (
        "import sys; from attn.core.retrieve.store import open_store; import numpy as np; "
        f"s = open_store({str(index)!r}); print(s.search(np.eye(8, dtype='f4')[:1], 3, where='n > 1')); "
        "assert not {'torch', 'lancedb', 'pyarrow', 'qdrant_client'} & set(sys.modules)"
    )
    subprocess.run([sys.executable, "-c", code], check=True, capture_output=True)
