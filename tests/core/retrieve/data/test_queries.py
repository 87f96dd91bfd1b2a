"""Queries of a command line: every source, every format, and no query lost."""

from __future__ import annotations

import gzip
import io
import json
import os
import socket
import sys
from pathlib import Path

import pytest

from attn.core.errors import InputError, UsageError
from attn.core.memory import set_budget
from attn.core.retrieve.data.queries import queries_of, read_queries

TWO = {"q1": "a cat", "q2": "a dog, wet"}


@pytest.fixture
def stdin(monkeypatch):
    def give(text: str | bytes) -> None:
        data = text.encode() if isinstance(text, str) else text
        monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO(data), "utf-8"))

    return give


@pytest.mark.parametrize(
    ("name", "text", "expected"),
    [
        ("q.txt", "a cat\n\na dog\n", {"1": "a cat", "3": "a dog"}),
        ("q", "a cat\r\n", {"1": "a cat"}),
        ("Q.TSV", "q1\ta cat\nq2\ta dog, wet\n", TWO),
        ("q.tsv", "query-id\ttext\nq1\ta cat\nq2\ta dog, wet\n", TWO),
        ("q.tsv", "lang\ttext\tid\nen\ta cat\tq1\nen\ta dog, wet\tq2\n", TWO),
        ("q.csv", 'id,text\nq1,a cat\nq2,"a dog, wet"\n', TWO),
        ("q.csv", "\ufefftext;lang;_id\r\na cat;en;q1\r\na dog, wet;en;q2\r\n", TWO),
        ("q.csv", 'query\n"a\n\ncat"\na dog\n', {"1": "a\n\ncat", "2": "a dog"}),
        ("q.jsonl", '{"_id": "q1", "text": "a cat"}\n{"query_id": "q2", "query": "a dog, wet"}\n', TWO),
        ("q.json", json.dumps(TWO), TWO),
        ("q.json", json.dumps([{"_id": k, "text": v} for k, v in TWO.items()]), TWO),
        ("q.json", json.dumps({"queries": TWO}), TWO),
        ("q.json", '["a cat", "a dog"]', {"1": "a cat", "2": "a dog"}),
        ("q.json", '{"_id": "q1", "text": "a cat"}', {"q1": "a cat"}),
        ("q.jsonl", '{"_id": "q", "text": "a"}\n{"_id": "q\\u0000", "text": "b"}\n', {"q": "a", "q\0": "b"}),
    ],
)
def test_formats(tmp_path, name, text, expected):
    (tmp_path / name).write_text(text, encoding="utf-8", newline="")
    assert read_queries(tmp_path / name) == expected
    (tmp_path / f"{name}.gz").write_bytes(gzip.compress(text.encode()))
    if "." in name:
        assert read_queries(tmp_path / f"{name}.gz") == expected


@pytest.mark.parametrize(
    ("name", "data", "message"),
    [
        ("q.parquet", b"PAR1", "is of no format of queries"),
        ("q.txt", b"cat\n\xff\xfed\n", "line 2 is not UTF-8"),
        ("q.txt", b'{"_id": "q1", "text": "a cat"}\n', "Name it .jsonl"),
        ("q.txt", b" \n\n", "holds no queries"),
        ("q.json", b'{"q1": "a", "q1": "b"}', "has 'q1' twice"),
        ("q.json", b'{"q1": 5}', "entry 1: 'text' is a number"),
        ("q.json", b'"a cat"', "no list of queries"),
        ("q.json", b'[{"_id": "a", "text": "x"}, 7]', "no list of queries"),
        ("q.json", b'{"_id": "q1", "text": "a"}\n{"_id": "q2", "text": "b"}', "is a .jsonl"),
        ("q.jsonl", b'{"_id": "q", "text": "a"}\n{"_id": "q", "text": "b"}\n', "line 2: the id 'q' is that of line 1"),
        ("q.tsv", b"q\ta\nq\tb\n", "line 2: the id 'q' is that of line 1"),
        ("q.tsv", b"a cat\n", "line 1 has no tab"),
        ("q.tsv", b"q\ta\tb\n", "line 1 has 3 columns"),
        ("q.tsv", b"\ta cat\n", "line 1: the id is empty"),
        ("q.csv", b"a cat\na dog\n", "names no column 'text'"),
        ("q.csv", b"id,text\nq1,a,cat\n", "line 2 has 3 columns, the header 2"),
        ("q.csv", b'id,text\nq1,"a cat\n', "no CSV"),
        ("q.csv", b"id,text\n", "holds no queries"),
        ("q.txt.gz", b"\x1f\x8b\x08\0 damaged", "damaged gzip"),
    ],
)
def test_what_is_refused(tmp_path, name, data, message):
    (tmp_path / name).write_bytes(data)
    with pytest.raises(InputError, match=message) as error:
        read_queries(tmp_path / name)
    assert name in str(error.value)
    assert error.value.fix


def test_what_is_no_file(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    os.mkfifo("pipe.txt")
    Path("folder.txt").mkdir()
    with socket.socket(socket.AF_UNIX) as one:
        one.bind("socket.txt")
        for name in ("pipe.txt", "folder.txt", "socket.txt", "/dev/zero", "absent.txt"):
            with pytest.raises(InputError, match=r"regular file|directory|opened|exist"):
                read_queries(name)


def test_a_bomb_is_refused_while_it_unpacks(tmp_path):
    (tmp_path / "one_line.txt.gz").write_bytes(gzip.compress(b"a" * 2**23))
    (tmp_path / "lines.txt.gz").write_bytes(gzip.compress((b"cat " * 2**10 + b"\n") * 2**13))
    (tmp_path / "list.json.gz").write_bytes(gzip.compress(b"[" + b'"cat",' * 2**23))
    set_budget(2**26)
    try:
        for name, message in (("one_line.txt.gz", "line 1 is longer"), ("list.json.gz", "more than")):
            with pytest.raises(InputError, match=message):
                read_queries(tmp_path / name)
        with pytest.raises(InputError, match="unpacks to more than"):
            read_queries(tmp_path / "lines.txt.gz")
    finally:
        set_budget(None)


def test_four_queries_four_answers(stdin, tmp_path):
    stdin("wolves\n\ntrains\n")
    assert list(queries_of(["cats", "-", "bread"], [], None).values()) == ["cats", "wolves", "trains", "bread"]
    stdin("wolves\n")
    assert queries_of(["cats"], [], Path("-")) == {"1": "cats", "2": "wolves"}
    (tmp_path / "q.tsv").write_text("7\tdogs\n")
    assert queries_of(["cats", "cats"], [Path("a.jpg")], tmp_path / "q.tsv") == {
        "1": "cats", "2": "cats", "a.jpg": Path("a.jpg"), "7": "dogs"
    }  # fmt: skip


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ('{"_id": "a", "text": "cat"}\n', {"a": "cat"}),
        ('["a cat", "a dog"]', {"1": "a cat", "2": "a dog"}),
        ("[a cat] sits\n", {"1": "[a cat] sits"}),
        ("\ufeffcat\r\n", {"1": "cat"}),
    ],
)
def test_standard_input(stdin, text, expected):
    stdin(text)
    assert read_queries("-") == expected


def test_ids_that_collide_are_refused_with_both_places(stdin, tmp_path):
    stdin('{"_id": "1", "text": "wolves"}')
    with pytest.raises(UsageError, match=r"line 1 of standard input: the id '1' .* a sentence, too \(sentence 1\)"):
        queries_of(["cats", "-"], [], None)
    (tmp_path / "q.txt").write_text("dogs\n")
    with pytest.raises(UsageError, match=r"q.txt, line 1: the id '1' is that of a sentence, too \(sentence 1\)"):
        queries_of(["cats"], [], tmp_path / "q.txt")
    with pytest.raises(UsageError, match=r"^image a\.jpg: the id 'a.jpg' is that of another query"):
        queries_of([], [Path("a.jpg"), Path("a.jpg")], None)
    with pytest.raises(UsageError, match="can be read once"):
        queries_of(["-"], [], Path("-"))


def test_bytes_that_are_no_text(stdin):
    with pytest.raises(UsageError, match="is not UTF-8"):
        queries_of([os.fsdecode(b"caf\xe9")], [], None)
    stdin(b"cat\ncaf\xe9\n")
    with pytest.raises(InputError, match="standard input: line 2 is not UTF-8"):
        queries_of(["-"], [], None)
    stdin(b"")
    with pytest.raises(InputError, match="holds no queries"):
        queries_of(["-"], [], None)
