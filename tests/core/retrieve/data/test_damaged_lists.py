"""Damaged runs, judgements, queries and data sets: read, or refused in one line; never anything else."""

from __future__ import annotations

import gzip
import json
import random
from collections.abc import Iterator

import pytest
from fuzz_seed import SEED

from attn.core.errors import AttnError
from attn.core.retrieve.data.formats import read_dataset
from attn.core.retrieve.data.queries import read_queries
from attn.core.retrieve.score.metrics import evaluate
from attn.core.retrieve.score.qrels import read_qrels
from attn.core.retrieve.score.runs import read_run

JUNK = (
    b"NaN", b"1e999", b"-inf", b"9" * 5000, b"", b"\t", b"\n", b"\r\n", b"\0", b"\xff\xfe", b'"', b"{", b"[" * 3000,
    b"\xef\xbb\xbf", b"\\ud800", b"null", b"1_0", b"0x10", b" ", b"Q0", b'{"a": 1}', b"\x1f\x8b", b",", b";",
    b"\xe2\x80\xa8",
)  # fmt: skip


def whole() -> dict[str, bytes]:
    """A small whole file of each kind, by name."""
    runs = [f"q{q} Q0 d{d} {d} {10 - d}.5 t\n" for q in range(3) for d in range(4)]
    hits = [{"id": f"d{d}", "rank": d, "score": 1.5 - d, "path": None, "meta": {}} for d in range(3)]
    asked = {f"q{q}": f"what is {q}, then?" for q in range(4)}
    pictures = [{"image": f"{i}.png", "captions": ["a", "b"]} for i in range(3)]
    records = [{"_id": key, "text": text} for key, text in asked.items()]
    return {
        "a.trec": "".join(runs).encode(),
        "b.trec": json.dumps({"query_id": "q", "query": "x", "hits": hits, "ms": 1}).encode(),
        "c.trec": b"query_id\trank\tid\tscore\n" + b"".join(b"q\t%d\td%d\t0.5\n" % (d, d) for d in range(4)),
        "a.qrels": b"".join(b"q%d 0 d%d %d\n" % (d % 2, d, d % 3) for d in range(6)),
        "b.qrels": b"query-id\tcorpus-id\tscore\n" + b"".join(b"q%d\td%d\t1\n" % (d % 2, d) for d in range(6)),
        "q.txt": "\n".join(asked.values()).encode(),
        "q.tsv": "".join(f"{key}\t{text}\n" for key, text in asked.items()).encode(),
        "q.csv": b"id,text\n" + "".join(f'{key},"{text}"\n' for key, text in asked.items()).encode(),
        "q.jsonl": "".join(json.dumps(record) + "\n" for record in records).encode(),
        "q.json": json.dumps(records).encode(),
        "p.json": json.dumps(asked).encode(),
        "captions.jsonl": "".join(json.dumps(picture) + "\n" for picture in pictures).encode(),
        "corpus.jsonl": "".join(json.dumps(record | {"title": "t"}) + "\n" for record in records).encode(),
    }  # fmt: skip


def mutations(count: int, seed: int) -> Iterator[tuple[str, bytes]]:
    """Names of ``whole`` in turn, each with damaged content."""
    rng, files = random.Random(seed), whole()
    names = list(files)
    for number in range(count):
        name = names[number % len(names)]
        data = bytearray(files[name])
        for _ in range(rng.choice((1, 1, 2, 5))):
            at, end = sorted(rng.randrange(len(data) + 1) for _ in range(2))
            action = rng.randrange(6)
            if action == 0:
                data[at:at] = rng.choice(JUNK)
            elif action == 1:
                data[at : at + rng.randrange(6)] = rng.choice(JUNK)
            elif action == 2:
                del data[at : min(end, at + 20)]
            elif action == 3 and data:
                data[min(at, len(data) - 1)] = rng.randrange(256)
            elif action == 4:
                data[at:at] = data[at:end]
            else:
                del data[at:]
        packed = rng.random() < 0.1
        damaged = gzip.compress(bytes(data), mtime=0) if packed else bytes(data)
        yield name, damaged[: rng.randrange(len(damaged))] if packed and rng.random() < 0.5 else damaged


def read(path, folder):
    """Read a file as what its name says, and use what was read."""
    if path.suffix == ".trec":
        evaluate({"q1": {"d1": 1}}, read_run(path))
    elif path.suffix == ".qrels":
        evaluate(read_qrels(path) | {"good": {"d": 1}}, {"q1": {"d1": 1.0}})
    elif path.stem in ("corpus", "captions"):
        read_dataset(folder)
    else:
        read_queries(path)


def check(tmp_path, count, seed):
    refused = 0
    for number, (name, data) in enumerate(mutations(count, seed)):
        folder = tmp_path / str(number)
        (folder / "qrels").mkdir(parents=True)
        if name == "corpus.jsonl":
            (folder / "qrels" / "test.tsv").write_text("q1\tq1\t1\n")
            (folder / "queries.jsonl").write_bytes(whole()["q.jsonl"])
        (folder / name).write_bytes(data)
        said = fault(folder / name, folder)
        refused += said is not None
        assert said is None or (len(said.splitlines()) == 1 and len(said) < 600), f"mutation {number} of {name}: {said}"
    return refused


def fault(path, folder):
    """What a file is refused with; None where it is read. Whatever else is raised goes through."""
    try:
        read(path, folder)
    except AttnError as error:
        return str(error)
    return None


def test_damaged_lists(tmp_path):
    assert check(tmp_path, 91, SEED) > 20  # seven of each kind


@pytest.mark.slow
def test_a_thousand_damaged_lists(tmp_path):
    assert check(tmp_path, 1300, SEED + 1) > 300


def test_whole_lists_are_read(tmp_path):
    for name, data in whole().items():
        if name not in ("corpus.jsonl", "captions.jsonl"):
            (tmp_path / name).write_bytes(data)
            read(tmp_path / name, tmp_path)
