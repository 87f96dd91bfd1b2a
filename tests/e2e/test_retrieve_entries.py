"""`attn retrieve similar | dedup | export | compact` as users type them, on texts with a small encoder."""

from __future__ import annotations

import json
import os
import subprocess
import sys

import numpy as np
import pytest
from encoder_folders import sentence_folder

TEXTS = {
    "a cat.txt": "on cat in air",
    "b cat.txt": "on cat in air",
    "c.txt": "a river in the old town",
    "d cat.txt": "on cat in air",
    "e.txt": "red dog runs",
    "f.txt": "a river in the old town",
}
COPIES = {"b cat.txt": "a cat.txt", "d cat.txt": "a cat.txt", "f.txt": "c.txt"}


@pytest.fixture(scope="module")
def model(tmp_path_factory):
    return str(sentence_folder(tmp_path_factory.mktemp("models") / "tiny"))


@pytest.fixture
def index(cli, tmp_path, model):
    (tmp_path / "notes").mkdir()
    for name, text in TEXTS.items():
        (tmp_path / "notes" / name).write_text(text)
    ran = cli("retrieve", "index", "notes", "-o", "i", "--model", model)
    assert ran.code == 0, ran.stderr
    return "i"


def path(name):
    return os.path.join("notes", name)


def hits(item):
    return [hit["id"] for hit in item["details"]["hits"]]


def test_similar_by_id_and_by_path(cli, index):
    ran = cli("retrieve", "similar", "i", "a cat.txt", path("f.txt"), "--top", "2", "--json")
    assert ran.code == 0, ran.stderr
    first, second = ran.report["items"]
    assert hits(first) == ["b cat.txt", "d cat.txt"]
    assert hits(second)[0] == "c.txt"
    assert first["input"] == path("a cat.txt")
    assert first["metrics"]["best_score"] == pytest.approx(1, abs=1e-5)
    assert ran.report["arguments"]["verb"] == "similar"
    shown = cli("retrieve", "similar", "i", "a cat.txt", "--top", "1")
    assert path("b cat.txt") in shown.stdout


def test_similar_loads_no_model(index, tmp_path):
    code = (
        "import sys; sys.argv[1:] = ['retrieve', 'similar', 'i', 'c.txt', '-q']\n"
        "from attn.cli.main import main\n"
        "try: main()\n"
        "except SystemExit as end: print(end.code)\n"
        "print('transformers' in sys.modules)"
    )
    done = subprocess.run([sys.executable, "-c", code], cwd=tmp_path, capture_output=True, text=True, check=True)
    assert done.stdout.split() == ["0", "False"]


def test_similar_in_all_formats(cli, index, tmp_path):
    arguments = ["retrieve", "similar", "i", "a cat.txt", "--top", "2"]
    rows = [line.split() for line in cli(*arguments, "--format", "trec").stdout.splitlines()]
    assert [row[:4] for row in rows] == [
        ["a%20cat.txt", "Q0", "b%20cat.txt", "1"],
        ["a%20cat.txt", "Q0", "d%20cat.txt", "2"],
    ]
    (line,) = cli(*arguments, "--format", "jsonl").stdout.splitlines()
    assert json.loads(line)["query"] == path("a cat.txt")
    paths = cli(*arguments, "--format", "paths0").stdout
    assert paths == path("b cat.txt") + "\0" + path("d cat.txt") + "\0"
    assert cli(*arguments, "--format", "tsv", "-o", "out.tsv", "--sheet", "s.html", "--report", "r.csv").code == 0
    assert (tmp_path / "out.tsv").read_text().splitlines()[1].startswith("a cat.txt\t1\tb cat.txt\t")
    page = (tmp_path / "s.html").read_text()
    assert "attn retrieve similar" in page
    assert "on cat in air" in page
    assert (tmp_path / "r.csv").exists()
    ran = cli(*arguments, "--where", "path LIKE '%river%'")
    assert ran.code == 1


def test_an_unknown_entry_fails_and_the_others_are_done(cli, index):
    ran = cli("retrieve", "similar", "i", "a cta.txt", "e.txt")
    assert ran.code == 1
    assert ran.stderr == "attn: a cta.txt: no entry of i has that id or path. Did you mean a cat.txt?\n"
    assert path("e.txt") in ran.stdout


def test_dedup_shows_groups_and_leaves_files_alone(cli, index, tmp_path):
    before = {one.name: one.read_text() for one in (tmp_path / "notes").iterdir()}
    ran = cli("retrieve", "dedup", "i", "--json")
    assert ran.code == 0, ran.stderr
    assert {row["duplicate"]: row["kept"] for row in ran.report["summary"]["duplicates"]} == COPIES
    metrics = ran.report["items"][0]["metrics"]
    assert (metrics["entries"], metrics["groups"], metrics["duplicates"]) == (6, 2, 3)
    assert "3 of 6 entries are extra copies, in 2 groups" in cli("retrieve", "dedup", "i").stdout
    paths = cli("retrieve", "dedup", "i", "--format", "paths0").stdout.split("\0")
    assert sorted(paths) == ["", *sorted(map(path, COPIES))]
    lines = [json.loads(line) for line in cli("retrieve", "dedup", "i", "--format", "jsonl").stdout.splitlines()]
    assert {hit["id"]: one["query_id"] for one in lines for hit in one["hits"]} == COPIES
    assert cli("retrieve", "dedup", "i", "--format", "tsv", "-o", "out.tsv", "--sheet", "s.html").code == 0
    assert (tmp_path / "out.tsv").read_text().splitlines()[1].startswith("a cat.txt\t1\tb cat.txt\t1.0")
    assert "attn retrieve dedup" in (tmp_path / "s.html").read_text()
    assert {one.name: one.read_text() for one in (tmp_path / "notes").iterdir()} == before


def test_dedup_without_duplicates_is_a_success(cli, index):
    ran = cli("retrieve", "dedup", "i", "--where", "id IN ('a cat.txt', 'c.txt')")
    assert ran.code == 0
    assert "0 of 2 entries are extra copies" in ran.stdout
    nothing = cli("retrieve", "dedup", "i", "--where", "id = 'x'", "--format", "paths0")
    assert (nothing.code, nothing.stdout) == (0, "")


def test_a_table_of_many_rows_is_cut_and_says_so(cli, index, monkeypatch):
    monkeypatch.setattr("attn.cli.show.ROWS_SHOWN", 2)
    ran = cli("retrieve", "dedup", "i")
    assert "the first 2 of 3 are shown; --format jsonl and --report have all" in ran.stdout
    assert path("f.txt") not in ran.stdout


@pytest.mark.parametrize("to", ["flat", "lance"])
def test_a_copy_is_searched_as_the_original(cli, index, tmp_path, to):
    pytest.importorskip("lancedb")
    ran = cli("retrieve", "export", "i", "-o", "copy", "--to", to, "--json")
    assert ran.code == 0, ran.stderr
    assert ran.report["items"][0]["metrics"]["entries"] == 6
    found = [cli("retrieve", "search", place, "red dog", "--format", "trec") for place in ("i", "copy")]
    assert found[0].code == 0
    assert found[0] == found[1]
    again = cli("retrieve", "index", "notes", "-o", "copy", "--model", json_of(cli, "i")["model"], "--json")
    assert again.report["items"][0]["metrics"]["unchanged"] == 6, "stamps went along: nothing is embedded again"


def json_of(cli, place):
    return json.loads(cli("retrieve", "info", place, "--json").stdout)["fingerprint"]


def test_export_to_files(cli, index, tmp_path):
    import pyarrow.parquet as pq

    for name in ("x.parquet", "x.npz", "arrays"):
        ran = cli("retrieve", "export", "i", "-o", f"out/{name}")
        assert ran.code == 0, ran.stderr
        assert f"written: out/{name}" in ran.stdout
    table = pq.read_table(tmp_path / "out" / "x.parquet")
    assert sorted(table["id"].to_pylist()) == sorted(TEXTS)
    assert json.loads(table.schema.metadata[b"attn"])["fingerprint"] == json_of(cli, "i")
    vectors = np.load(tmp_path / "out" / "x.npz")["vectors"]
    np.testing.assert_array_equal(vectors, np.load(tmp_path / "out" / "arrays" / "vectors.npy"))
    np.testing.assert_array_equal(vectors, np.stack(table["vector"].to_numpy()))


def test_compact_gives_room_back(cli, index, tmp_path, model):
    for name in list(TEXTS)[:2]:
        (tmp_path / "notes" / name).unlink()
    cli("retrieve", "index", "notes", "-o", "i", "--model", model)
    ran = cli("retrieve", "compact", "i", "--json")
    assert ran.code == 0, ran.stderr
    metrics = ran.report["items"][0]["metrics"]
    assert metrics["entries"] == 4
    assert metrics["bytes_after"] <= metrics["bytes_before"]
    shown = cli("retrieve", "compact", "i")
    assert "bytes_before" in shown.stdout
    assert "bytes_after" in shown.stdout


@pytest.mark.parametrize(
    ("arguments", "code", "expected"),
    [
        (["similar", "absent", "a"], 1, "no such index"),
        (["similar", "notes", "a"], 1, "not an index"),
        (["similar", "i", "a cat.txt", "--format", "trek"], 2, "Did you mean trec?"),
        (["similar", "i", "a cat.txt", "--where", "path =="], 2, "--where"),
        (["similar", "i", "a cat.txt", "--sheet", "x.pdf"], 2, "x.html"),
        (["similar", "i", "a cat.txt", "-o", "x"], 2, "jsonl, trec, tsv or paths0"),
        (["dedup", "absent"], 1, "no such index"),
        (["dedup", "i", "--threshold", "0"], 2, "above 0 and at most 1"),
        (["dedup", "i", "--threshold", "1.5"], 2, "above 0 and at most 1"),
        (["dedup", "i", "--threshold", "nan"], 2, "nan is no number"),
        (["dedup", "i", "--format", "trec"], 2, "Known: table, jsonl, tsv, paths0"),
        (["dedup", "i", "--where", "widht = 1"], 2, "no metadata called 'widht'"),
        (["dedup", "i", "-o", "x"], 2, "jsonl, tsv or paths0"),
        (["dedup", "i", "--format", "tsv", "-o", "notes/c.txt/x"], 2, "is a file, not a directory"),
        (["dedup", "i", "--report", "x.pdf"], 2, ".json, .csv, .md"),
        (["export", "absent", "-o", "x.npz"], 1, "no such index"),
        (["export", "i", "-o", "i"], 2, "is the index itself"),
        (["export", "i", "-o", "notes"], 2, "exists"),
        (["export", "i", "-o", "notes", "--overwrite"], 2, "is no index and no export"),
        (["export", "i", "-o", "notes/c.txt/x.npz"], 1, "cannot be written"),
        (["export", "i", "-o", "x", "--to", "faiss"], 2, "Known: parquet, npz, arrays, flat, lance"),
        (["export", "i", "-o", "qdrant://127.0.0.1:9/x"], 1, "Is the server running"),
        (["compact", "absent"], 1, "no such index"),
        (["compact", "notes"], 1, "not an index"),
    ],
    ids=lambda value: " ".join(value) if isinstance(value, list) else "",
)
def test_wrong_calls_say_what_to_do(cli, index, tmp_path, arguments, code, expected):
    before = sorted(one.name for one in tmp_path.iterdir())
    ran = cli("retrieve", *arguments)
    assert ran.code == code, ran
    assert expected in ran.stderr
    assert len(ran.stderr.strip().splitlines()) == 1
    assert sorted(one.name for one in tmp_path.iterdir()) == before


@pytest.mark.parametrize(
    "verb", [["similar", "i", "c.txt"], ["dedup", "i"], ["export", "i", "-o", "x"], ["compact", "i"]]
)
def test_a_damaged_index_is_named(cli, index, tmp_path, verb):
    shard = next((tmp_path / "i").glob("vectors-*.npy"))
    shard.write_bytes(shard.read_bytes()[:-8])
    ran = cli("retrieve", *verb)
    assert ran.code == 1
    assert shard.name in ran.stderr
    assert "--rebuild" in ran.stderr


def test_an_index_without_entries(cli, tmp_path):
    from attn.core.retrieve.store import Header, create

    create(tmp_path / "i", Header.new({"model": "tiny"}, 4)).close()
    ran = cli("retrieve", "similar", "i", "a")
    assert ran.code == 1
    assert "The index is empty" in ran.stderr
    for verb in (["dedup", "i"], ["export", "i", "-o", "x.parquet"], ["compact", "i"]):
        assert cli("retrieve", *verb).code == 0


def test_dedup_in_a_pipe_as_a_user_types_it(index, tmp_path):
    done = subprocess.run(
        f"{sys.executable} -m attn retrieve dedup i --format paths0 | xargs -0 -n1 basename",
        shell=True, cwd=tmp_path, capture_output=True, text=True, check=True,
    )  # fmt: skip
    assert sorted(done.stdout.splitlines()) == sorted(COPIES)
