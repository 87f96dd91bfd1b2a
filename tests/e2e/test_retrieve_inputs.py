"""`attn retrieve` on galleries and queries as people have them: odd fields, moved folders, files that went bad."""

from __future__ import annotations

import io
import json
import os
import shutil
import subprocess
import sys

import numpy as np
import pytest
from encoder_folders import dual_folder, sentence_folder
from PIL import Image


@pytest.fixture(scope="module")
def model(tmp_path_factory):
    return str(sentence_folder(tmp_path_factory.mktemp("models") / "tiny"))


@pytest.fixture(scope="module")
def clip(tmp_path_factory):
    return str(dual_folder(tmp_path_factory.mktemp("models") / "clip"))


@pytest.fixture
def index(cli, model):
    """``index(gallery, ...)``: the counts of `attn retrieve index gallery -o i`, which must end well."""

    def run(gallery, *more, code=0, with_model=model):
        ran = cli("retrieve", "index", gallery, "-o", "i", "--model", with_model, *more, "--json")
        assert ran.code == code, ran.stderr
        return ran.report["items"][0]["metrics"]

    return run


def found(cli, *arguments):
    """Ids of the hits of each query."""
    ran = cli("retrieve", "search", "i", *arguments, "--format", "jsonl")
    return {row["query_id"]: [hit["id"] for hit in row["hits"]] for row in map(json.loads, ran.stdout.splitlines())}


def write_lines(path, *rows):
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))


def test_new_metadata_is_taken_without_embedding_again(cli, tmp_path, index):
    rows = [{"id": "a", "text": "a cat", "lang": "de", "n": 1}, {"id": "b", "text": "a dog", "lang": "de"}]
    write_lines(tmp_path / "g.jsonl", *rows)
    assert index("g.jsonl")["added"] == 2
    write_lines(tmp_path / "g.jsonl", rows[0] | {"lang": "fr"}, rows[1])
    counts = index("g.jsonl")
    assert (counts["relabelled"], counts["unchanged"], counts["changed"]) == (1, 1, 0)
    assert found(cli, "cat", "--where", "lang = 'fr'") == {"1": ["a"]}
    assert found(cli, "cat", "--where", "lang = 'de'") == {"1": ["b"]}
    assert found(cli, "cat", "--where", "n = 1") == {"1": ["a"]}
    again = index("g.jsonl", "--overwrite")
    assert (again["relabelled"], again["changed"], again["unchanged"]) == (0, 2, 0)


def test_a_gallery_that_moved_keeps_its_vectors_and_gets_its_paths(cli, tmp_path, index):
    (tmp_path / "old").mkdir()
    for name in "xy":
        (tmp_path / "old" / f"{name}.txt").write_text(f"the {name}")
    index("old")
    shutil.move(tmp_path / "old", tmp_path / "new")
    assert index("new")["relabelled"] == 2
    ran = cli("retrieve", "search", "i", "the x", "--format", "paths0")
    assert set(ran.stdout.split("\0")) == {"new/x.txt", "new/y.txt", ""}


def test_values_that_an_index_cannot_hold_do_not_stop_a_gallery(cli, tmp_path, model):
    (tmp_path / "g.jsonl").write_text(
        '{"_id": "a", "id": "z", "text": "a cat", "w": NaN, "big": 99999999999999999999, "kind": "letter", '
        '"stamp": "s", "path": "p/q.eml"}\n{"_id": "b", "text": "a dog", "w": 2.5}\n'
    )
    ran = cli("retrieve", "index", "g.jsonl", "-o", "i", "--model", model, "--json")
    assert ran.code == 0, ran.stderr
    assert "got an underscore: id_, kind_, stamp_" in ran.stderr
    assert found(cli, "cat", "--where", "kind_ = 'letter' AND id_ = 'z' AND stamp_ = 's'") == {"1": ["a"]}
    assert found(cli, "cat", "--where", "big = '99999999999999999999' AND w IS NULL") == {"1": ["a"]}
    assert found(cli, "cat", "--where", "w > 2") == {"1": ["b"]}
    assert cli("retrieve", "search", "i", "a cat", "--top", "1", "--format", "paths0").stdout == "p/q.eml\0"


def test_numbers_of_tables_are_numbers(cli, tmp_path, index):
    (tmp_path / "g.tsv").write_text("id\ttext\twidth\tcode\n007\ta cat\t900\t007\n7\ta dog\t\t1\n")
    assert index("g.tsv")["added"] == 2
    assert found(cli, "cat", "--where", "width > 800") == {"1": ["007"]}
    assert found(cli, "cat", "--where", "code = '007'") == {"1": ["007"]}


def test_numbers_beside_photos_are_numbers(cli, tmp_path, index, clip):
    (tmp_path / "p").mkdir()
    for name, value in (("a.png", 10), ("b.png", 200)):
        Image.fromarray(np.full((20, 30, 3), value, np.uint8)).save(tmp_path / "p" / name)
    (tmp_path / "p" / "metadata.csv").write_text("file_name,year\na.png,1999\nb.png,2026\n")
    assert index("p", with_model=clip)["added"] == 2, "a photo of one colour is a photo"
    assert found(cli, "cat", "--where", "year >= 2000") == {"1": ["b.png"]}


def test_a_photo_that_went_bad_keeps_the_entry_of_before(cli, tmp_path, index, clip):
    (tmp_path / "p").mkdir()
    rng = np.random.default_rng(0)
    for name in ("a.png", "b.png"):
        Image.fromarray(rng.integers(0, 255, (20, 30, 3)).astype(np.uint8)).save(tmp_path / "p" / name)
    index("p", with_model=clip)
    (tmp_path / "p" / "a.png").write_bytes(b"junk")
    counts = index("p", with_model=clip, code=1)
    assert (counts["failed"], counts["removed"], counts["entries"]) == (1, 0, 2)
    assert sorted(found(cli, "a cat")["1"]) == ["a.png", "b.png"]
    (tmp_path / "p" / "b.png").write_bytes(b"junk")
    assert index("p", with_model=clip, code=1)["entries"] == 2


@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="there are no named pipes here")
def test_pipes_in_a_folder_are_passed_by(tmp_path, index):
    (tmp_path / "g").mkdir()
    (tmp_path / "g" / "a.txt").write_text("a cat")
    os.mkfifo(tmp_path / "g" / "pipe.txt")
    assert index("g")["entries"] == 1


def test_a_broken_link_is_named_and_the_rest_is_done(cli, tmp_path, index):
    (tmp_path / "g").mkdir()
    (tmp_path / "g" / "a.txt").write_text("a cat")
    (tmp_path / "g" / "b.txt").symlink_to("nowhere.txt")
    counts = index("g", code=1)
    assert (counts["entries"], counts["failed"]) == (1, 1)


def test_one_warning_of_empty_texts_in_good_grammar(cli, tmp_path, model):
    write_lines(tmp_path / "g.jsonl", {"id": "a", "text": ""}, {"id": "b", "text": "a cat"})
    ran = cli("retrieve", "index", "g.jsonl", "-o", "i", "--model", model)
    assert ran.stderr.count("empty") == 2  # "1 text is empty: embedded as the empty text"
    assert "1 text is empty: embedded as the empty text" in ran.stderr


def test_queries_from_standard_input(cli, tmp_path, index):
    write_lines(tmp_path / "g.jsonl", {"id": "a", "text": "a cat"}, {"id": "b", "text": "the dog runs"})
    index("g.jsonl")
    for where in (("--queries", "-"), ("-",)):
        lines = cli("retrieve", "search", "i", *where, "-k", "1", "--format", "trec", stdin="a cat\nthe dog runs\n")
        assert [row.split()[:3] for row in lines.stdout.splitlines()] == [["1", "Q0", "a"], ["2", "Q0", "b"]]
    told = '{"_id": "q7", "text": "the dog runs"}\n'
    ran = cli("retrieve", "search", "i", "--queries", "-", "-k", "1", "--format", "trec", stdin=told)
    assert ran.stdout.split()[:3] == ["q7", "Q0", "b"]
    assert cli("retrieve", "search", "i", "-", stdin="").code == 1


def test_a_header_is_no_query_and_empty_queries_are_told(cli, tmp_path, index):
    write_lines(tmp_path / "g.jsonl", {"id": "a", "text": "a cat"})
    index("g.jsonl")
    (tmp_path / "q.tsv").write_text("id\ttext\nq1\ta cat\nq2\t\n")
    write_lines(tmp_path / "q.jsonl", {"_id": "q1", "text": "a cat"}, {"_id": "q2", "text": " "})
    for name in ("q.tsv", "q.jsonl"):
        ran = cli("retrieve", "search", "i", "--queries", name, "--format", "trec")
        assert ran.code == 1
        assert ran.stdout.split()[:3] == ["q1", "Q0", "a"]
        assert "query q2: is empty" in ran.stderr


def test_queries_of_one_id_are_refused(cli, tmp_path, index):
    write_lines(tmp_path / "g.jsonl", {"id": "a", "text": "a cat"})
    index("g.jsonl")
    (tmp_path / "q.txt").write_text("a cat\n")
    ran = cli("retrieve", "search", "i", "a dog", "--queries", "q.txt")
    assert ran.code == 2
    assert "the id '1' is that of a sentence, too" in ran.stderr


def test_terminal_codes_in_texts_do_not_reach_the_terminal(cli, tmp_path, index):
    (tmp_path / "g").mkdir()
    (tmp_path / "g" / "a.txt").write_text("a \033[31mcat\033]0;title\007 \x9b5m")
    index("g")
    shown = cli("retrieve", "search", "i", "cat").stdout
    assert "␛[31m" in shown
    assert not set(shown) & {"\033", "\007", "\x9b"}


def test_ids_cannot_steer_a_terminal_and_reach_scripts_as_they_are(capfdbinary, monkeypatch):
    from attn.cli.retrieve.hits import show_hits
    from attn.core.bundles import Reporting
    from attn.core.retrieve.options.find import Hits
    from attn.core.retrieve.score.results import Result, render
    from attn.core.retrieve.store import Hit
    from attn.core.retrieve.verbs.found import found_of

    name = "a\tb\n\x1b]0;c\x07\x9b5m\u202ed"
    result = Result("q\x1b[2J", "x", [Hit(name, 0.5, {"path": name})])
    found = found_of([result], [], index="i", entries=1, model="m", start=0.0, arguments={})
    for form in ("tsv", "trec", "jsonl", "paths0"):
        monkeypatch.setattr(sys, "stdout", io.TextIOWrapper(os.fdopen(os.dup(1), "wb"), "utf-8"))
        show_hits(found, Hits(form), Reporting(), dict)
        assert b"".join(render([result], form)) == capfdbinary.readouterr().out
        monkeypatch.setattr(sys.stdout, "isatty", lambda: True)
        show_hits(found, Hits(form), Reporting(), dict)
        sys.stdout.flush()
        shown = capfdbinary.readouterr().out.decode()
        assert not set(shown) & {"\x1b", "\x07", "\x9b", "\u202e", "\0"}
        assert shown.count("\n") == {"tsv": 2, "paths0": 2}.get(form, 1)  # a header; a path of two lines


def test_photos_for_an_encoder_of_texts(cli, tmp_path, model):
    (tmp_path / "p").mkdir()
    Image.new("RGB", (9, 9)).save(tmp_path / "p" / "a.png")
    ran = cli("retrieve", "index", "p", "-o", "i", "--model", model)
    assert ran.code == 2
    assert "This model reads texts only: name another --model" in ran.stderr
    assert "Did you mean" not in cli("retrieve", "index", "p", "-o", "i", "--model", "./q").stderr


@pytest.mark.parametrize("form", ["table", *(pytest.param(form, marks=pytest.mark.slow) for form in ("trec", "jsonl"))])
def test_a_reader_that_goes_away_is_one_exit_code(tmp_path, index, form):
    write_lines(tmp_path / "g.jsonl", *({"id": f"{i:04d}", "text": f"a cat {i}"} for i in range(600)))
    index("g.jsonl")
    program = [sys.executable, "-m", "attn", "retrieve", "search", "i", "a cat", "-k", "600", "--format", form]
    process = subprocess.Popen(program, stdout=subprocess.PIPE, stderr=subprocess.PIPE, cwd=tmp_path)
    process.stdout.close()
    assert process.wait(timeout=240) == 141
    assert b"Traceback" not in process.stderr.read()


def test_blocks_that_a_killed_run_had_finished_are_taken_over(cli, tmp_path, index, monkeypatch):
    """Killed between the writing of a block and its way into the store: nothing of it is embedded again."""
    from attn.core.retrieve.verbs import index as indexing

    write_lines(tmp_path / "g.jsonl", *({"id": f"{i}", "text": f"a cat {i}"} for i in range(6)))
    take = indexing.Intake.take
    parts = {}
    with monkeypatch.context() as patch:
        patch.setattr(
            indexing.Intake, "take", lambda own, part: parts.update({part: part.read_bytes()}) or take(own, part)
        )
        assert index("g.jsonl")["resumed"] == 0
    shutil.rmtree(tmp_path / "i")
    ((part, content),) = parts.items()
    (tmp_path / part).parent.mkdir(parents=True)
    (tmp_path / part).write_bytes(content)
    monkeypatch.setattr(indexing, "embed_block", lambda *_, **__: pytest.fail("embedded again"))
    counts = index("g.jsonl")
    assert (counts["resumed"], counts["added"], counts["entries"]) == (6, 6, 6)
    assert not (tmp_path / part).exists()
    assert found(cli, "a cat 3", "-k", "6")["1"] == found(cli, "a cat 3", "-k", "6", "--exact")["1"]


def test_a_block_that_cannot_be_taken_is_told(cli, tmp_path, model, monkeypatch):
    from attn.core.errors import InputError
    from attn.core.retrieve.verbs import intake as module

    def unreadable(part):
        raise InputError(part, "unpacked it takes too much", "Raise --max-memory")

    (tmp_path / "a.txt").write_text("a cat")
    monkeypatch.setattr(module, "read_part", unreadable)
    ran = cli("retrieve", "index", "a.txt", "-o", "i", "--model", model, "-q")
    assert ran.code == 1
    assert "unpacked it takes too much" in ran.stderr


def test_paths_are_printed_whole_or_not_at_all(cli, tmp_path, index):
    for name in ("a", "b"):
        (tmp_path / f"{name}.txt").write_text("a cat")
    write_lines(tmp_path / "g.jsonl", {"id": "x", "text": "a dog"}, {"id": "y", "text": "a dog"})
    for gallery in ("a.txt", "b.txt", "g.jsonl"):
        index(gallery)
    ran = cli("retrieve", "dedup", "i", "--format", "paths0")
    assert ran.code == 2
    assert "'y' is no file of its own" in ran.stderr
    assert ran.stdout == ""


def test_a_folder_of_images_that_says_nothing_is_refused(cli, tmp_path):
    (tmp_path / "d" / "qrels").mkdir(parents=True)
    write_lines(tmp_path / "d" / "corpus.jsonl", {"_id": "a", "text": "a cat"})
    write_lines(tmp_path / "d" / "queries.jsonl", {"_id": "q", "text": "cat"})
    (tmp_path / "d" / "qrels" / "test.tsv").write_text("query-id\tcorpus-id\tscore\nq\ta\t0\n")
    ran = cli("retrieve", "eval", "d", "--images", ".")
    assert (ran.code, ran.stdout) == (2, "")
    assert "d holds its documents itself (BEIR). Leave it out" in ran.stderr
    ran = cli("retrieve", "eval", "d", "--model", "minilm")  # refused before a model is loaded
    assert (ran.code, ran.stdout) == (2, "")
    assert "no query has a relevant document" in ran.stderr
