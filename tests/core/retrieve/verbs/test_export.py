"""Copies of an index: as tables, as arrays, as other stores."""

from __future__ import annotations

import json
import math

import numpy as np
import pytest

from attn.core.errors import InputError, UsageError
from attn.core.retrieve.store import Header, create, open_store
from attn.core.retrieve.verbs.export import export

IDS = [f"d/{i:02d} ü.txt" for i in range(20)]
META = [
    {"path": f"notes/{i}", "n": i, "none": None, "ok": i % 2 == 0, "ratio": i / 3} | ({"odd": i} if i < 3 else {})
    for i in range(18)
] + [{}, {"n": "text", 'a.b "c"': 1.0}]  # fmt: skip


def header_of(place):
    store = open_store(place)
    try:
        return store.header
    finally:
        store.close()


def lines(data):
    return [json.loads(line) for line in data.splitlines()]


@pytest.mark.parametrize("way", [("lance", "flat"), ("flat", "lance"), ("qdrant", "lance", "flat")], ids=" ".join)
def test_a_round_trip_keeps_entries_vectors_and_fingerprint(made, contents, unit, tmp_path, request, way):
    pytest.importorskip("lancedb")
    index = place = made(IDS, unit(20), META)
    for kind in way:
        there = f"{request.getfixturevalue('qdrant')}/copy" if kind == "qdrant" else str(tmp_path / f"a {kind}")
        report = export(place, there, None if kind == "qdrant" else kind)
        assert report.items[0].metrics["entries"] == 20
        assert header_of(there).store == kind
        place = there
    assert contents(place) == contents(index)
    assert header_of(place).fingerprint == header_of(index).fingerprint
    found = [store.search(unit(3, seed=5), 4) for store in (open_store(index), open_store(place))]
    assert found[0] == found[1]


def test_types_of_metadata_survive(made, contents, unit, tmp_path):
    pytest.importorskip("lancedb")
    index = made(IDS, unit(20), META)
    export(index, tmp_path / "l", "lance")
    copy = contents(str(tmp_path / "l"))
    for name, meta in zip(IDS, META, strict=True):
        assert {k: (type(v), v) for k, v in copy[name][1].items()} == {k: (type(v), v) for k, v in meta.items()}


def test_float16_stays_float16_in_a_flat_copy(made, contents, unit, tmp_path):
    index = made(IDS, unit(20), META, dtype="float16")
    export(index, tmp_path / "copy", "flat")
    store = open_store(tmp_path / "copy")
    assert store.stats()["dtype"] == "float16"
    assert store.stats()["shards"] == 1
    assert contents(str(tmp_path / "copy")) == contents(index)


@pytest.mark.parametrize("block", [7, 4096])
def test_parquet(made, contents, unit, tmp_path, block):
    import pyarrow as pa
    import pyarrow.parquet as pq

    index = made(IDS, unit(20), META)
    report = export(index, tmp_path / "new" / "x.parquet", block=block)
    table = pq.read_table(tmp_path / "new" / "x.parquet")
    assert table.schema.field("vector").type == pa.list_(pa.float32(), 8)
    header = json.loads(table.schema.metadata[b"attn"])
    assert header["fingerprint"] == header_of(index).fingerprint
    assert header["store"] == "parquet"
    rows = {row["id"]: row for row in table.to_pylist()}
    assert {
        name: (np.array(row["vector"], np.float32).tobytes(), json.loads(row["meta"])) for name, row in rows.items()
    } == contents(index)
    for name, meta in zip(IDS, META, strict=True):
        for key in ("path", "ok", "ratio", "odd"):
            assert rows[name][key] == meta.get(key)
        assert rows[name]["n"] == meta.get("n") or rows[name]["n#text"] == meta["n"]
    assert report.items[0].metrics["bytes"] == (tmp_path / "new" / "x.parquet").stat().st_size
    assert [path.name for path in (tmp_path / "new").iterdir()] == ["x.parquet"]


@pytest.mark.parametrize("name", ["copy", "copy.npz"])
def test_arrays_with_numpy_and_json_alone(made, contents, unit, tmp_path, name):
    index = made(IDS, unit(20), META)
    export(index, tmp_path / name, block=7)
    if name == "copy":
        assert {path.name for path in (tmp_path / name).iterdir()} == {"vectors.npy", "entries.jsonl", "header.json"}
        vectors = np.load(tmp_path / name / "vectors.npy")
        entries, header = ((tmp_path / name / file).read_bytes() for file in ("entries.jsonl", "header.json"))
    else:
        with np.load(tmp_path / name) as saved:
            vectors, entries, header = saved["vectors"], saved["entries.jsonl"], saved["header.json"]
    assert (vectors.shape, vectors.dtype) == ((20, 8), np.float32)
    assert {
        one["id"]: (row.tobytes(), one["meta"]) for one, row in zip(lines(entries), vectors, strict=True)
    } == contents(index)
    assert json.loads(header)["fingerprint"] == header_of(index).fingerprint


@pytest.mark.parametrize("name", ["x.parquet", "x.npz", "x", "flat:x", "lance:x"])
def test_an_empty_index(made, unit, tmp_path, monkeypatch, name):
    pytest.importorskip("lancedb")
    monkeypatch.chdir(tmp_path)
    index = made([], unit(0))
    report = export(index, name)
    assert report.items[0].metrics["entries"] == 0
    if name == "x":
        assert np.load("x/vectors.npy").shape == (0, 8)
    if ":" in name:
        store = open_store(name)
        assert len(store) == 0
        store.close()


@pytest.mark.parametrize("name", ["x.parquet", "x.npz", "x", "flat:x", "lance:x"])
def test_what_is_there_is_replaced_only_when_asked(made, contents, unit, tmp_path, monkeypatch, name):
    pytest.importorskip("lancedb")
    monkeypatch.chdir(tmp_path)
    old, new = made(["old"], unit(1), name="old"), made(IDS, unit(20), META, name="new")
    export(old, name)
    with pytest.raises(UsageError, match="or give overwrite"):
        export(new, name)
    report = export(new, name, overwrite=True)
    assert report.items[0].metrics["entries"] == 20
    if ":" in name:
        assert contents(name) == contents(new)
    assert sorted(path.name for path in tmp_path.iterdir()) == sorted(["old", "new", name.rpartition(":")[2]])


def test_what_is_never_replaced(made, unit, tmp_path, qdrant):
    index = made(IDS, unit(20), META)
    with pytest.raises(UsageError, match="is the index itself"):
        export(index, f"{index}/../index ü", "flat", overwrite=True)
    (tmp_path / "photos").mkdir()
    (tmp_path / "photos" / "a.jpg").write_text("mine")
    for to in ("flat", "arrays"):
        with pytest.raises(UsageError, match="is no index and no export"):
            export(index, tmp_path / "photos", to, overwrite=True)
    assert (tmp_path / "photos" / "a.jpg").read_text() == "mine"
    (tmp_path / "x.npz").mkdir()
    with pytest.raises(UsageError, match="is a folder already"):
        export(index, tmp_path / "x.npz", overwrite=True)
    (tmp_path / "file").write_text("mine")
    with pytest.raises(UsageError, match="is a file already"):
        export(index, tmp_path / "file", "flat", overwrite=True)
    export(index, f"{qdrant}/taken")
    with pytest.raises(UsageError, match="a collection taken already"):
        export(index, f"{qdrant}/taken", overwrite=True)


@pytest.mark.parametrize(
    ("output", "to", "message"),
    [
        ("x", "parket", "Did you mean parquet?"),
        ("x.npz", "parquet", "the name of another kind"),
        ("lance:x", "flat", "the name of another kind"),
        ("qdrant://here/x", "flat", "the name of another kind"),
        ("http://bucket/x", None, "stores are directories, s3://BUCKET/PATH or qdrant://"),
    ],
)
def test_names_that_do_not_fit(made, unit, tmp_path, output, to, message):
    index = made(IDS, unit(20))
    with pytest.raises(UsageError, match=message):
        export(index, output, to)


def test_a_suffix_may_be_said_instead(made, unit, tmp_path):
    export(made(IDS, unit(20)), tmp_path / "x.dat", "npz")
    assert np.load(tmp_path / "x.dat")["vectors"].shape == (20, 8)


@pytest.mark.parametrize("name", ["x.parquet", "x.npz", "x", "flat:x"])
def test_a_failure_half_way_leaves_the_old_one_and_no_rest(made, contents, unit, tmp_path, monkeypatch, name):
    monkeypatch.chdir(tmp_path)
    old, new = made(["old"], unit(1), name="old"), made(IDS, unit(20), META, name="new")
    export(old, name)
    place = tmp_path / name.rpartition(":")[2]

    def bytes_of():
        files = [place] if place.is_file() else sorted(path for path in place.rglob("*") if path.is_file())
        return [(path.name, path.read_bytes()) for path in files]

    before = bytes_of()
    store = type(open_store(new))
    real = store.blocks

    def cut(self, **options):
        yield next(real(self, size=5))

    monkeypatch.setattr(store, "blocks", cut)
    with pytest.raises(InputError, match="changes while it is read"):
        export(new, name, overwrite=True)
    assert bytes_of() == before
    assert sorted(path.name for path in tmp_path.iterdir()) == sorted(["old", "new", place.name])


@pytest.mark.parametrize("name", ["x.parquet", "x.npz", "x", "flat:x"])
def test_a_place_that_cannot_be_written(made, unit, tmp_path, monkeypatch, name):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "file").write_text("")
    kind, colon, rest = name.rpartition(":")
    with pytest.raises(InputError, match="cannot be written"):
        export(made(IDS, unit(20)), f"{kind}{colon}file/{rest}")


def test_a_missing_and_a_damaged_index(made, unit, tmp_path):
    with pytest.raises(InputError, match="no such index"):
        export(tmp_path / "absent", tmp_path / "x.npz")
    index = made(IDS, unit(20))
    shard = next((tmp_path / "index ü").glob("vectors-*.npy"))
    shard.write_bytes(shard.read_bytes()[:-4])
    with pytest.raises(InputError, match=shard.name):
        export(index, tmp_path / "x.npz")
    assert not (tmp_path / "x.npz").exists()


def test_a_large_copy_gets_an_index_where_lance_wants_one(made, unit, tmp_path, monkeypatch):
    lance = pytest.importorskip("attn.core.retrieve.store.lance")
    pytest.importorskip("lancedb")
    monkeypatch.setattr(lance.LanceStore, "flat_items", 300)
    index = made([str(i) for i in range(400)], unit(400))
    export(index, tmp_path / "l", "lance")
    assert open_store(tmp_path / "l").stats()["approximate"]["items"] == 400


def test_metadata_that_is_no_number_cannot_get_in(tmp_path, unit):
    store = create(tmp_path / "i", Header.new({}, 8))
    with pytest.raises(UsageError, match="must be finite"):
        store.add(["a"], unit(1), [{"n": math.nan}])
