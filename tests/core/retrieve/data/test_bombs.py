"""Lists, tables and texts that would fill the memory or never end: refused, and named, before they do."""

import gzip
import json
import os

import pytest

from attn.core import memory
from attn.core.errors import InputError
from attn.core.retrieve.data.sources import read_source

SMALL = 2**26
PIPES = pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="there are no named pipes here")


@pytest.fixture(autouse=True)
def small_budget():
    memory.set_budget(SMALL)
    yield
    memory.set_budget(None)


@pytest.mark.parametrize(
    ("name", "begin"),
    [("g.jsonl.gz", b'{"id": "a", "text": "'), ("g.tsv.gz", b"id\ttext\n1\t"), ("g.jsonl", b'{"id": "a", "text": "')],
)
def test_a_line_that_never_ends(tmp_path, name, begin):
    with (gzip.open if name.endswith("gz") else open)(tmp_path / name, "wb") as file:
        file.write(begin)
        for _ in range(4):
            file.write(b"a" * 2**20)
    with pytest.raises(InputError, match=r"line \d is longer than 2\.0 MiB") as error:
        read_source(tmp_path / name)
    assert "--max-memory" in str(error.value)


def test_a_packed_list_of_many_lines(tmp_path):
    line = json.dumps({"text": "a" * 100_000})[1:].encode()
    with gzip.open(tmp_path / "g.jsonl.gz", "wb", compresslevel=1) as file:
        for number in range(400):
            file.write(b'{"id": "%d", ' % number + line + b"\n")
    with pytest.raises(InputError, match=r"unpacks to more than|its texts take"):
        read_source(tmp_path / "g.jsonl.gz")


def test_a_text_of_many_bytes(tmp_path):
    (tmp_path / "g").mkdir()
    with open(tmp_path / "g" / "a.txt", "wb") as file:
        file.truncate(2**33)  # takes no room on disk
    (entry,) = read_source(tmp_path / "g").entries
    with pytest.raises(InputError, match=r"is a text of more than 2\.0 MiB"):
        entry.read_text()


def test_a_cell_of_a_table(tmp_path):
    pa = pytest.importorskip("pyarrow")
    import pyarrow.parquet as pq

    pq.write_table(pa.table({"id": ["a"], "text": ["a" * 2**25]}), tmp_path / "g.parquet", compression="zstd")
    assert (tmp_path / "g.parquet").stat().st_size < 100_000
    with pytest.raises(InputError, match="a row group takes"):
        read_source(tmp_path / "g.parquet")
    same = pa.array(["a" * 2**20]).dictionary_encode()
    many = pa.DictionaryArray.from_arrays(pa.array([0] * 3000), same.dictionary)
    table = pa.table({"id": [str(i) for i in range(3000)], "text": many})
    pq.write_table(table, tmp_path / "d.parquet")
    with pytest.raises(InputError, match="its texts take"):
        read_source(tmp_path / "d.parquet")


@PIPES
@pytest.mark.parametrize("name", ["g.jsonl", "g.tsv", "g.parquet", "corpus/corpus.jsonl"])
def test_pipes_and_devices_are_not_waited_for(tmp_path, name):
    (tmp_path / "corpus").mkdir()
    os.mkfifo(tmp_path / name)
    with pytest.raises(InputError, match=r"is not a regular file|holds no"):
        read_source((tmp_path / name).parent if "/" in name else tmp_path / name)


@PIPES
def test_a_pipe_among_the_files_of_a_model(tmp_path):
    from attn.core.errors import UsageError
    from attn.core.retrieve.encoders.load import load

    (tmp_path / "m").mkdir()
    os.mkfifo(tmp_path / "m" / "config.json")
    with pytest.raises(UsageError, match=r"config\.json is not a regular file"):
        load(str(tmp_path / "m"))


def test_a_damaged_table_is_one_line(tmp_path):
    pa = pytest.importorskip("pyarrow")
    import random

    import pyarrow.parquet as pq

    rows = [{"id": str(i), "text": f"text {i}", "of": {"n": i}} for i in range(50)]
    pq.write_table(pa.Table.from_pylist(rows), tmp_path / "g.parquet", row_group_size=20)
    whole = (tmp_path / "g.parquet").read_bytes()
    for seed in range(40):
        rng, data = random.Random(seed), bytearray(whole)
        for _ in range(3):
            data[rng.randrange(len(data))] = rng.randrange(256)
        (tmp_path / f"{seed}.parquet").write_bytes(data)
        told = ""
        try:
            read_source(tmp_path / f"{seed}.parquet")
        except InputError as error:
            told = str(error)
        assert "\n" not in told, seed


def test_a_list_of_equal_values_in_a_cell_of_a_table(tmp_path):
    pa = pytest.importorskip("pyarrow")
    import pyarrow.parquet as pq

    path = tmp_path / "g.parquet"
    pq.write_table(pa.table({"id": ["a"], "text": ["x"], "more": [[0.0] * 2**21]}), path, compression="zstd")
    assert path.stat().st_size < 2**14
    with pytest.raises(InputError, match="a row group takes"):
        read_source(path)
