"""Indexes that were forged or mangled: one clear line for each, whatever is in them, and nothing outside is read."""

import json
import os
import random
import shutil

import numpy as np
import pytest

from attn.core.errors import AttnError, InputError, UsageError
from attn.core.retrieve.store import Header, create, open_store
from attn.core.retrieve.store.files import MANIFEST, _crc32_of, crc32
from attn.core.retrieve.verbs.blocks import read_part

FINGERPRINT = {
    "model": "tiny", "sha256": "0" * 64, "dim": 4, "pooling": "mean", "normalise": True, "temperature": 1.0,
    "max_tokens": 16, "image_size": None,
}  # fmt: skip
HUGE = int("9" * 400)


@pytest.fixture(scope="module")
def original(tmp_path_factory):
    place = tmp_path_factory.mktemp("forged") / "index"
    store = create(place, Header.new(FINGERPRINT, 4))
    for start in (0, 4):
        ids = [f"e{i}" for i in range(start, start + 4)]
        store.add(ids, np.eye(4, dtype=np.float32), [{"n": i, "path": f"/x/{i}.txt"} for i in range(4)])
    store.delete(["e2"])
    store.close()
    return place


@pytest.fixture
def index(original, tmp_path):
    shutil.copytree(original, tmp_path / "index")
    return tmp_path / "index"


def use(place):
    """All that verbs ask of an index."""
    store = open_store(place)
    try:
        store.entries(), store.stats(), list(store.blocks())
        store.search(np.eye(4, dtype=np.float32)[:1], 3)
        store.search(np.eye(4, dtype=np.float32)[:1], 3, where="n > 1")
    finally:
        store.close()


def forge(index, *steps, value, file=None):
    """Put a value into the manifest, with checksums that fit."""
    manifest = json.loads((index / MANIFEST).read_text())
    if file is not None:
        entry = manifest["shards"][0][file]
        entry["bytes"], entry["crc32"] = (index / entry["name"]).stat().st_size, crc32(index / entry["name"])
    target = manifest
    for step in steps[:-1]:
        target = target[step]
    if steps:
        target[steps[-1]] = value
    if isinstance(manifest.get("header"), dict):
        manifest["header_crc32"] = _crc32_of(manifest["header"])
    (index / MANIFEST).write_text(json.dumps(manifest))


def test_the_original_is_sound(index):
    use(index)


@pytest.mark.parametrize(
    ("steps", "value"),
    [
        (("header",), None), (("header",), []), (("header", "dim"), None), (("header", "dim"), True),
        (("header", "dim"), 0), (("header", "dim"), 10**12), (("header", "dim"), HUGE), (("header", "dim"), "4"),
        (("header", "fingerprint"), None), (("header", "fingerprint"), [1]), (("header", "schema"), None),
        (("header", "schema"), "1"), (("header", "schema"), 99), (("header", "attn"), 5), (("header", "store"), {}),
        (("header", "metric"), {"a": 1}), (("dtype",), None), (("dtype",), []), (("dtype",), "object"),
        (("generation",), -1), (("generation",), "x"), (("generation",), 1.5), (("shards",), None), (("shards",), {}),
        (("shards", 0), None), (("shards", 0, "rows"), HUGE), (("shards", 0, "rows"), -4),
        (("shards", 0, "vectors"), "x"), (("shards", 0, "vectors", "name"), "../../../etc/passwd"),
        (("shards", 0, "vectors", "name"), "vectors-/../../secret.npy"), (("shards", 0, "items", "name"), "/dev/zero"),
        (("shards", 0, "items", "name"), "items-\0.jsonl"), (("shards", 0, "items", "bytes"), None),
        (("alive",), 7), (("alive", "crc32"), 5), (("alive", "name"), ".lock"),
    ],
    ids=str,
)  # fmt: skip
def test_manifests(index, steps, value):
    forge(index, *steps, value=value)
    with pytest.raises(AttnError) as error:
        use(index)
    assert "\n" not in str(error.value)
    assert len(str(error.value)) < 500


@pytest.mark.parametrize("text", ["", "null", "[" * 100_000, '{"header": ' + "9" * 5000 + "}", "\xff\xfe", "5"])
def test_manifests_that_are_none(index, text):
    (index / MANIFEST).write_text(text, encoding="latin-1")
    with pytest.raises(InputError, match=r"cannot be understood"):
        use(index)


@pytest.mark.parametrize("value", [np.nan, np.inf, 0.0, 1e30], ids=str)
def test_vectors_that_are_none(index, value):
    name = json.loads((index / MANIFEST).read_text())["shards"][0]["vectors"]["name"]
    vectors = np.load(index / name)
    vectors[1] = value
    np.save(index / name, vectors)
    forge(index, value=None, file="vectors")
    with pytest.raises(InputError, match="no unit vectors"):
        use(index)


@pytest.mark.parametrize(
    "line",
    [
        '{"id": null, "meta": {}}', '{"id": "a", "meta": null}', '{"id": "a", "meta": {"n": [1]}}', '{"meta": {}}',
        "null", '{"id": "\\ud800", "meta": {}}', "{", '{"id": "a", "meta": {"n": ' + "9" * 5000 + "}}", "[" * 100_000,
        '{"id": "a", "meta": {}}\n{"id": "b", "meta": {}}',
    ],
    ids=lambda line: line[:30],
)  # fmt: skip
def test_items_that_are_none(index, line):
    file = index / json.loads((index / MANIFEST).read_text())["shards"][0]["items"]["name"]
    lines = file.read_text().splitlines()
    file.write_text("\n".join([lines[0], line, *lines[2:]]) + "\n")
    forge(index, value=None, file="items")
    with pytest.raises(InputError):
        use(index)


@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="there are no named pipes here")
def test_pipes_in_place_of_files(index):
    for path in sorted(index.iterdir()):
        if path.name != ".lock":
            copy = index.with_name("copy")
            shutil.copytree(index, copy)
            (copy / path.name).unlink()
            os.mkfifo(copy / path.name)
            with pytest.raises(InputError, match="not a regular file"):
                use(copy)
            shutil.rmtree(copy)


@pytest.mark.parametrize("seed", range(20))
def test_bytes_at_random(index, seed):
    rng = random.Random(seed)
    path = rng.choice([one for one in sorted(index.iterdir()) if one.name != ".lock"])
    data = bytearray(path.read_bytes())
    for _ in range(rng.choice([1, 3, 30])):
        data[rng.randrange(len(data))] = rng.randrange(256)
    path.write_bytes(data[: rng.choice([len(data), rng.randrange(len(data))])])
    told = ""
    try:
        use(index)
    except AttnError as error:
        told = str(error)
    assert "\n" not in told


def test_a_lance_table_without_its_columns(tmp_path):
    lancedb = pytest.importorskip("lancedb")
    pa = pytest.importorskip("pyarrow")
    header = {**Header.new(FINGERPRINT, 4).to_dict(), "store": "lance"}
    schema = pa.schema([("id", pa.string()), ("vector", pa.string())], metadata={"attn": json.dumps(header)})
    lancedb.connect(str(tmp_path / "i")).create_table("vectors", schema=schema)
    with pytest.raises(InputError, match="no column 'vector'"):
        open_store(tmp_path / "i")


@pytest.mark.parametrize(
    "about",
    [
        None, [], {}, {"ids": 5, "meta": [], "fingerprint": {"dim": 4}},
        {"ids": ["a"], "meta": [None], "fingerprint": {"dim": 4}},
        {"ids": ["a"], "meta": [{"stamp": 5}], "fingerprint": {"dim": 4}},
        {"ids": ["a"], "meta": [{"stamp": "s", "n": [1]}], "fingerprint": {"dim": 4}},
        {"ids": ["a"], "meta": [{"stamp": "s"}], "fingerprint": None},
        {"ids": ["a", "b"], "meta": [{"stamp": "s"}] * 2, "fingerprint": {"dim": 4}},
    ],
    ids=str,
)  # fmt: skip
def test_blocks_that_a_killed_run_never_wrote(tmp_path, about):
    text = np.frombuffer(json.dumps(about).encode(), np.uint8)
    np.savez(tmp_path / "p.npz", vectors=np.eye(4, dtype=np.float32)[:1], about=text)
    with pytest.raises((InputError, UsageError)):
        read_part(tmp_path / "p.npz")
    (tmp_path / "half.npz").write_bytes((tmp_path / "p.npz").read_bytes()[:200])
    with pytest.raises(InputError, match="no finished block"):
        read_part(tmp_path / "half.npz")


@pytest.mark.parametrize("forged", [{}, {"model": None}, {**FINGERPRINT, "temperature": "hot"}], ids=str)
def test_an_index_that_does_not_say_whose_it_is(index, forged):
    from attn.core.retrieve.verbs.search import search

    forge(index, "header", "fingerprint", value=forged)
    with pytest.raises(InputError, match="does not say which model made it"):
        search(index, {"1": "a cat"})
