"""Result files: what is written reads back the same, in the columns that other tools expect."""

import gzip
import json
import math
import os
import string
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any
from urllib.parse import unquote

import numpy as np
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from attn.core.errors import InputError, UsageError
from attn.core.retrieve.score.escape import BLANKS, TABS
from attn.core.retrieve.score.metrics import evaluate
from attn.core.retrieve.score.qrels import read_qrels, write_qrels
from attn.core.retrieve.score.results import FORMATS, Result, apart, as_run, render, write_results
from attn.core.retrieve.score.runs import read_run


@dataclass
class Hit:
    id: str
    score: float
    meta: dict[str, Any] = field(default_factory=dict)


# file names as the system gives them may hold half characters (\udc80-\udcff stand for bytes that are no UTF-8)
LETTERS = st.one_of(
    st.sampled_from("%250aAcCéÄ# \t\n\r\x0b\x1c\x85\xa0\u2028\u3000\udc80/" + string.ascii_letters),
    st.characters(exclude_categories=("Cs",)),
)
IDS = st.text(LETTERS, min_size=1, max_size=8)
SCORES = st.floats(allow_nan=False, allow_infinity=False)
RUNS = st.dictionaries(IDS, st.dictionaries(IDS, SCORES, min_size=1, max_size=4), min_size=1, max_size=4)


def results_of(run):
    return [Result(q, f"text of {q}", [Hit(d, s) for d, s in hits.items()], 1.5) for q, hits in run.items()]


@pytest.mark.parametrize("form", ["trec", "tsv", "jsonl"])
@settings(deadline=None, max_examples=40)  # each syncs a file to disk
@given(run=RUNS)
@example(run={"{": {"0": 0.0}})  # a TREC run that begins as JSON does
def test_run_round_trip(tmp_path_factory, form, run):
    path = tmp_path_factory.mktemp("runs") / "run"
    write_results(path, results_of(run), form)
    assert read_run(path) == run


@settings(deadline=None, max_examples=40)  # each syncs a file to disk
@given(
    qrels=st.dictionaries(IDS, st.dictionaries(IDS, st.integers(-2, 5), min_size=1, max_size=4), min_size=1, max_size=4)
)
def test_qrels_round_trip(tmp_path_factory, qrels):
    path = tmp_path_factory.mktemp("qrels") / "qrels"
    write_qrels(path, qrels)
    assert read_qrels(path) == qrels


@given(text=IDS)
def test_escaped_ids_hold_no_blank_and_read_back(text):
    written = BLANKS.write(text)
    assert BLANKS.read(written) == text
    assert len(written.split()) == 1
    assert TABS.read(TABS.write(text)) == text
    assert not set(TABS.write(text)) & set("\t\n\r\x00\x1b\x7f\x9b")  # nor what steers a terminal


@pytest.mark.parametrize("text", ["doc-7", "50%", "a/b#3", "caf%C3%A9", "100%", "007", "ü.jpg"])
def test_ids_without_blanks_stay_as_they_are(text):
    assert BLANKS.write(text) == text


def test_escapes_are_those_of_urls():
    assert BLANKS.write("my photo\u3000.jpg") == "my%20photo%E3%80%80.jpg"
    assert unquote(BLANKS.write("a b%20c")) == "a b%20c"


def test_trec_columns(tmp_path):
    write_results(tmp_path / "run", [Result("7", "q", [Hit("b", 0.25), Hit("a b", 0.5)])], "trec", tag="my run")
    assert (tmp_path / "run").read_text() == "7 Q0 a%20b 1 0.5 my%20run\n7 Q0 b 2 0.25 my%20run\n"


def test_equal_scores_rank_by_id_as_the_metrics_do():
    result = Result("q", "", [Hit("9", 1.0), Hit("10", 1.0), Hit("z", 2.0)])
    assert [hit.id for hit in result.ranked] == ["z", "10", "9"]
    for rank, hit in enumerate(result.ranked, 1):
        assert evaluate({"q": {hit.id: 1}}, as_run([result]), ["mrr"]).values["mrr"] == 1 / rank


def test_tsv_columns():
    text = b"".join(render([Result("q 1", "", [Hit("a\tb", 0.5)])], "tsv")).decode()
    assert text == "query_id\trank\tid\tscore\nq 1\t1\ta%09b\t0.5\n"


def test_jsonl_fields():
    hit = Hit("ä", np.float32(0.5), {"path": "/data/ä.png", "width": np.int64(3), "where": Path("x")})
    lines = b"".join(render([Result("q", "ein Bär", [hit], 2.5), Result("none", "x", [])], "jsonl")).splitlines()
    assert json.loads(lines[0]) == {
        "query_id": "q",
        "query": "ein Bär",
        "hits": [{"id": "ä", "rank": 1, "score": 0.5, "path": "/data/ä.png", "meta": {"width": 3, "where": "x"}}],
        "ms": 2.5,
    }
    assert "Bär".encode() in lines[0]
    assert json.loads(lines[1]) == {"query_id": "none", "query": "x", "hits": [], "ms": None}


def test_paths0_ends_each_path_with_nul_and_keeps_odd_bytes():
    odd = os.fsdecode(b"b\xff.png")
    result = Result("q", "", [Hit("1", 1.0, {"path": "a b\n.png"}), Hit("2", 0.5, {"path": odd})])
    assert b"".join(render([result], "paths0")) == b"a b\n.png\0b\xff.png\0"
    with pytest.raises(UsageError, match="no file of its own"):
        list(render([Result("q", "", [Hit("1", 1.0)])], "paths0"))


def test_a_failed_write_leaves_the_old_file(tmp_path):
    path = tmp_path / "run"
    path.write_text("old")
    with pytest.raises(UsageError, match="empty id"):
        write_results(path, [Result("q", "", [Hit("good", 2.0), Hit("", 1.0)])], "trec")
    assert path.read_text() == "old"
    assert [p.name for p in tmp_path.iterdir()] == ["run"]


def test_unknown_format_names_the_near_one():
    with pytest.raises(UsageError, match="Did you mean jsonl"):
        list(render([], "json"))
    assert set(FORMATS) == {"jsonl", "trec", "tsv", "paths0"}


def test_foreign_run_with_mark_crlf_gzip_and_rank_order_ignored(tmp_path):
    path = tmp_path / "run.gz"
    path.write_bytes(gzip.compress(b"\xef\xbb\xbfq1\tQ0\td1\t1\t1e-3\tx\r\n\r\nq1 Q0 007 2 5 x\r\n"))
    assert read_run(path) == {"q1": {"d1": 0.001, "007": 5.0}}


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("q Q0 d 1 0.5\n", "line 1 has 5 columns"),
        ("q Q0 d 1 0.5 t\nq Q0 e 2 high t\n", "line 2: 'high' is no number"),
        ("q Q0 d 1 nan t\n", "'nan' is no number"),
        ("q Q0 d 1 1e999 t\n", "'1e999' is no number"),
        ("q Q0 d 1 1_0 t\n", "'1_0' is no number"),
        (f"q Q0 d 1 {'9' * 5000} t\n", r"'9{49}\.\.\. \(5002 characters\) is no number"),
        ('{"query_id": "q", "hits": [{"id": "a", "score": 1' + "0" * 400 + "}]}\n", "is no number"),
        ('{"query_id": "q", "hits": [{"id": "a", "score": 1' + "0" * 5000 + "}]}\n", "line 1 is no JSON"),
        ("q Q0 d 1 2 t\nq Q0 d 2 1 t\n", "line 2: query 'q' has document 'd' twice"),
        ("\n", "holds no results"),
        ('{"query_id": "q"}\n', "line 1 is no result"),
        ('{"query_id": "q", "hits": [{"score": 1}]}\n', "hit without 'id'"),
        ('{"query_id": "q", "hits": [{"id": "a", "score": null}]}\n', "None is no number"),
        ('{"query_id": "q", \n', "line 1 is no JSON"),
        ("query_id\trank\tid\tscore\nq\t1\ta\n", "line 2 has 3 columns"),
    ],
)
def test_malformed_runs(tmp_path, text, message):
    path = tmp_path / "bad.run"
    path.write_text(text)
    with pytest.raises(InputError, match=message) as error:
        read_run(path)
    assert str(path) in str(error.value)
    assert error.value.fix


def test_beir_qrels_with_and_without_header(tmp_path):
    path = tmp_path / "test.tsv"
    path.write_bytes(b"\xef\xbb\xbfquery-id\tcorpus-id\tscore\r\n1\t007\t2\r\n1\ta b\t0\r\n1\t007\t2\r\n")
    assert read_qrels(path) == {"1": {"007": 2, "a b": 0}}
    path.write_text("1\t007\t1.0\n")
    assert read_qrels(path) == {"1": {"007": 1}}


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("1 d 1\n", "line 1 has 3 columns"),
        ("1 0 d 0.5\n", "0.5 is no whole number"),
        ("1 0 d inf\n", "'inf' is no number"),
        ("1\td\tnan\n", "line 1: 'nan' is no number"),
        ("1\td\t1e999\n", "line 1: '1e999' is no number"),
        ("1 0 d 1e300\n", "line 1: 1e\\+300 is no whole number of at most"),
        ("1 0 d 1\n1 0 d 2\n", "line 2: query '1' and document 'd' were judged otherwise before"),
        ("q\tc\ts\n1\td\tx\n", "line 2: 'x' is no number"),
        ("q\tc\ts\n1\t\t1\n", "line 2: an id is empty"),
        ("query-id\tcorpus-id\tscore\n", "holds no judgements"),
    ],
)
def test_malformed_qrels(tmp_path, text, message):
    path = tmp_path / "bad.tsv"
    path.write_text(text)
    with pytest.raises(InputError, match=message):
        read_qrels(path)


def test_written_run_is_read_by_pytrec_eval(tmp_path):
    pytrec_eval = pytest.importorskip("pytrec_eval")
    run = {"q": {"a": 3.0, "b": 2.0, "c": 1.0}}
    write_results(tmp_path / "run", results_of(run), "trec")
    write_qrels(tmp_path / "qrels", {"q": {"b": 1}})
    with (tmp_path / "run").open() as one, (tmp_path / "qrels").open() as two:
        theirs, judged = pytrec_eval.parse_run(one), pytrec_eval.parse_qrel(two)
    found = pytrec_eval.RelevanceEvaluator(judged, {"recip_rank"}).evaluate(theirs)["q"]["recip_rank"]
    assert math.isclose(found, evaluate({"q": {"b": 1}}, run, ["mrr"]).values["mrr"])


def test_a_tag_is_wanted_where_the_format_has_one():
    with pytest.raises(UsageError, match="tag of a TREC run must not be empty"):
        list(render([], "trec", tag=""))
    assert list(render([], "jsonl", tag="")) == []


def test_a_file_name_that_is_no_utf8_is_written_with_escapes():
    (line,) = render([Result("q", "\udc80", [Hit("a\udc81", 1.0)])], "jsonl")
    assert line.isascii()
    assert json.loads(line)["query"] == "\udc80"
    assert json.loads(line)["hits"][0]["id"] == "a\udc81"


def test_equal_scores_are_told_apart_in_their_order():
    (result,) = apart([Result("q", "x", [Hit("a", 2.0), Hit("b", 1.0), Hit("c", 1.0), Hit("d", 1.0)])])
    scores = [np.float32(hit.score) for hit in result.ranked]
    assert [hit.id for hit in result.ranked] == list("abcd")
    assert scores[:2] == [2, 1]
    assert scores == sorted(set(scores), reverse=True)
    assert scores[-1] > 0.999999
