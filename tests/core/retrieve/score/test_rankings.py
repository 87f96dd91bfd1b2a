"""Whole rankings of a data set, and the run that is written of them, against trec_eval."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from attn.core.retrieve.data.formats import EvalSet
from attn.core.retrieve.score.metrics import evaluate
from attn.core.retrieve.score.rankings import Rankings, run_of_scores, write_run
from attn.core.retrieve.score.results import Result, apart, write_results
from attn.core.retrieve.store import Hit

NAMES = {"ndcg@10": "ndcg_cut_10", "ndcg": "ndcg", "recall@5": "recall_5", "map": "map", "map@10": "map_cut_10",
         "mrr": "recip_rank", "hit@1": "success_1"}  # fmt: skip
ASKED = {"ndcg_cut.10", "ndcg", "recall.5", "map", "map_cut.10", "recip_rank", "success.1"}


def rankings(documents, queries, qrels, **options):
    """Of vectors by id."""
    data = EvalSet("toy", "beir", "test", dict.fromkeys(documents, "text"), dict.fromkeys(queries, "text"), qrels)
    sides = (np.array(list(side.values()), np.float32) for side in (documents, queries))
    return Rankings(data, *sides, **options)


def test_a_query_that_is_a_document_is_left_out_of_its_hits():
    eye = np.eye(8)
    documents = {f"{kind}{i}": eye[i] * (0.9 if kind == "e" else 1) for i in range(4) for kind in "de"}
    queries = {f"d{i}": eye[i] for i in range(4)}
    found = rankings(documents, queries, {f"d{i}": {f"e{i}": 1} for i in range(4)})
    assert found.evaluate(("ndcg@10", "hit@1")).values == {"ndcg@10": 1, "hit@1": 1}
    assert all(result.query_id not in [hit.id for hit in result.hits] for result in found.results(10))
    assert replace(found, keep_identical=True).evaluate(("hit@1",)).values == {"hit@1": 0}
    judged = rankings(documents, queries, {f"d{i}": {f"d{i}": 1} for i in range(4)})
    assert judged.evaluate(("hit@1",)).values == {"hit@1": 1}  # relevant: no copy of the query


def test_metrics_look_at_all_documents_and_the_run_says_how_deep_it_is(tmp_path):
    count = 1500
    rng = np.random.default_rng(0)
    documents = {f"d{i}": vector for i, vector in enumerate(rng.normal(size=(count, 4)))}
    found = rankings(documents, {"q": np.ones(4)}, {"q": dict.fromkeys(documents, 1)})
    metrics = ("recall@1500", "recall@1000", "map", "minp")
    assert found.evaluate(metrics).values == pytest.approx(
        {"recall@1500": 1, "recall@1000": 2 / 3, "map": 1, "minp": 1}
    )  # fmt: skip
    assert write_run(tmp_path / "r", found, ("recall@1200",), "m") == []
    assert len((tmp_path / "r").read_text().splitlines()) == 1200
    told = write_run(tmp_path / "r", found, ("map", "ndcg@10"), "m")
    assert told == [f"{tmp_path / 'r'} has the 1000 best of each query; map are of all 1,500"]


@pytest.mark.parametrize("seed", range(3))
def test_the_written_run_gives_the_same_figures_in_trec_eval(tmp_path, seed):
    pytrec_eval = pytest.importorskip("pytrec_eval")
    rng = np.random.default_rng(seed)
    documents = {f"d{i}": vector for i, vector in enumerate(rng.integers(-1, 2, (60, 3)))}  # ties everywhere
    queries = {f"q{i}": vector for i, vector in enumerate(rng.integers(1, 3, (9, 3)))}
    qrels = {q: {f"d{d}": int(rng.integers(-1, 3)) for d in rng.choice(60, 9, False)} for q in queries}
    qrels["q0"] = {"d1": 0}  # judged, and nothing is relevant
    found = rankings(documents, queries, qrels)
    ours = found.evaluate(tuple(NAMES))
    write_results(tmp_path / "run", apart(found.results(1000)), "trec")
    with (tmp_path / "run").open() as file:
        theirs = pytrec_eval.RelevanceEvaluator(qrels, ASKED).evaluate(pytrec_eval.parse_run(file))
    assert ours.unanswerable == 1
    for name, other in NAMES.items():
        assert ours.per_query[name] == pytest.approx([theirs[q][other] for q in ours.queries], abs=1e-6), name
        assert ours.values[name] == pytest.approx(np.mean([row[other] for row in theirs.values()]), abs=1e-6)
    assert found.evaluate(("map",), answerable=True).queries == tuple(f"q{i}" for i in range(1, 9))


@pytest.mark.parametrize("seed", range(3))
def test_a_run_of_another_tool_is_scored_as_trec_eval_scores_it(seed):
    pytrec_eval = pytest.importorskip("pytrec_eval")
    rng = np.random.default_rng(seed)
    qrels = {f"q{q}": {f"d{d}": int(rng.integers(-2, 4)) for d in rng.choice(50, 12, False)} for q in range(12)}
    qrels["zeros"] = {"d1": 0, "d2": -1}
    run = {
        f"q{q}": {f"d{d}": float(rng.integers(0, 6)) + 1e-9 * d for d in rng.choice(50, 25, False)} for q in range(10)
    } | {"zeros": {"d1": 1.0}, "q10": {}}  # ties in float32, a query without results, one that is missing
    ours = evaluate(qrels, run, tuple(NAMES), ties="trec_eval", unanswerable=True)
    theirs = pytrec_eval.RelevanceEvaluator(qrels, ASKED).evaluate(run)
    assert (ours.unanswered, ours.unanswerable, len(ours.queries)) == (2, 1, 13)
    for name, other in NAMES.items():
        wanted = [theirs[query][other] if query in theirs else 0.0 for query in ours.queries]  # as trec_eval -c
        assert ours.per_query[name] == pytest.approx(wanted, abs=1e-6), name


def test_what_could_not_be_read_is_never_found_and_finds_nothing():
    documents = {"a": [-1, 0], "b": [0, 0], "c": [-0.5, -1]}  # b could not be read; its cosine 0 would be the best
    found = rankings(documents, {"q": [1, 0], "lost": [0, 0]}, {"q": {"a": 1}, "lost": {"a": 1}})
    evaluation = found.evaluate(("mrr", "recall@10"))
    assert evaluation.per_query["mrr"].tolist() == [0.5, 0]
    assert evaluation.unanswered == 1
    assert [[hit.id for hit in result.ranked] for result in found.results(10)] == [["c", "a"], []]


def test_the_best_are_cut_by_score_then_id():
    data = EvalSet("toy", "beir", "test", dict.fromkeys("dcba", ""), {"q": ""}, {})
    assert list(run_of_scores(data, np.array([[1, 2, 1, 1]], np.float32), 3)["q"]) == ["c", "a", "b"]


def test_scores_of_a_run_keep_the_order_of_ties():
    hits = [
        Hit(name, score, {}) for name, score in (("b", 0.5), ("a", 0.5), ("c", 0.5 + 1e-12), ("d", 0.2), ("e", 0.1))
    ]
    [told] = apart([Result("q", "", hits)])
    assert [hit.id for hit in told.ranked] == ["c", "a", "b", "d", "e"]
    scores = np.array([hit.score for hit in told.ranked], np.float32)
    assert (np.diff(scores) < 0).all()
    assert [hit.score for hit in told.ranked][3:] == [0.2, 0.1]  # all digits where nothing ties
