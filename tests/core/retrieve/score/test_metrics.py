"""Retrieval metrics against pytrec_eval, ranx, values by hand, and the two paths against each other."""

import json
import math
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from attn.core.errors import UsageError
from attn.core.retrieve.score.bootstrap import compare
from attn.core.retrieve.score.measures import Evaluation, parse_metric
from attn.core.retrieve.score.metrics import (
    evaluate,
    evaluate_identities,
    evaluate_rows,
    evaluate_scores,
    image_text_recall,
)

ALL = ("ndcg@3", "ndcg@10", "ndcg", "recall@5", "recall@20", "map@10", "map", "mrr@10", "mrr", "hit@1", "hit@5", "minp")


def random_case(seed, queries=12, documents=60, retrieved=25):
    """Graded judgements and a run without ties."""
    generator = np.random.default_rng(seed)
    qrels, run = {}, {}
    for q in range(queries):
        judged = generator.choice(documents, size=generator.integers(3, 20), replace=False)
        qrels[f"q{q}"] = {f"d{d}": int(generator.integers(0, 4)) for d in judged} | {f"d{judged[0]}": 1}
        found = generator.choice(documents, size=retrieved, replace=False)
        scores = generator.permutation(10 * retrieved)[:retrieved]  # whole numbers: no ties in trec_eval's float either
        run[f"q{q}"] = {f"d{d}": float(s) for d, s in zip(found, scores, strict=True)}
    return qrels, run


@pytest.mark.parametrize("seed", range(3))
def test_equal_to_pytrec_eval(seed):
    pytrec_eval = pytest.importorskip("pytrec_eval")
    qrels, run = random_case(seed)
    ours = evaluate(qrels, run, ["ndcg@10", "ndcg", "recall@5", "map@10", "map", "mrr", "hit@5"])
    names = {
        "ndcg@10": "ndcg_cut_10",
        "ndcg": "ndcg",
        "recall@5": "recall_5",
        "map@10": "map_cut_10",
        "map": "map",
        "mrr": "recip_rank",
        "hit@5": "success_5",
    }
    wanted = {"ndcg_cut.10", "ndcg", "recall.5", "map_cut.10", "map", "recip_rank", "success.5"}
    theirs = pytrec_eval.RelevanceEvaluator(qrels, wanted).evaluate(run)
    for name, other in names.items():
        assert ours.per_query[name] == pytest.approx([theirs[q][other] for q in ours.queries], abs=1e-6), name


def test_equal_to_ranx():
    """Its values were recorded once (ranx.json): the package brings a dozen others and compiles for half a minute."""
    theirs = json.loads(Path(__file__).with_name("ranx.json").read_text())["per_query"]
    qrels, run = random_case(7)
    exponential = {"ndcg@10 exponential": evaluate(qrels, run, ["ndcg@10"], gain="exponential")}
    linear = evaluate(qrels, run, [name for name in theirs if name not in exponential])
    for name, wanted in theirs.items():
        ours = exponential.get(name, linear)
        values = dict(zip(ours.queries, ours.per_query[name.partition(" ")[0]], strict=True))
        assert values == pytest.approx(wanted, abs=1e-6), name


def test_equal_to_pytrec_eval_on_cranfield(data_dir):
    pytrec_eval = pytest.importorskip("pytrec_eval")
    folder = data_dir / "text" / "cranfield"
    qrels: dict[str, dict[str, int]] = {}
    for line in (folder / "qrels" / "test.tsv").read_text().splitlines()[1:]:
        query, document, level = line.split("\t")
        qrels.setdefault(query, {})[document] = int(level)
    ids = [json.loads(line)["_id"] for line in (folder / "corpus.jsonl").read_text().splitlines()]
    generator = np.random.default_rng(5)
    run = {}
    for query, judged in qrels.items():  # relevant documents are favoured, so that the values are no noise
        scores = generator.permutation(len(ids)) + 400 * np.array([d in judged for d in ids])
        once = dict(zip(scores.tolist(), ids, strict=True))  # one document per score: no ties
        run[query] = {document: float(score) for score, document in once.items()}
    ours = evaluate(qrels, run, ["ndcg@10", "recall@100", "map@100", "mrr"]).values
    found = pytrec_eval.RelevanceEvaluator(qrels, {"ndcg_cut.10", "recall.100", "map_cut.100", "recip_rank"}).evaluate(
        run
    )
    for name, other in (
        ("ndcg@10", "ndcg_cut_10"),
        ("recall@100", "recall_100"),
        ("map@100", "map_cut_100"),
        ("mrr", "recip_rank"),
    ):
        assert ours[name] == pytest.approx(np.mean([row[other] for row in found.values()]), abs=1e-6)
        assert 0.05 < ours[name] < 0.95


def test_values_by_hand():
    qrels = {"q": {"a": 2, "b": 1, "c": 0, "lost": 1}}
    run = {"q": {"c": 4.0, "a": 3.0, "x": 2.0, "b": 1.0}}  # a at rank 2, b at rank 4
    got = evaluate(qrels, run, ["ndcg@10", "recall@2", "map@10", "mrr@10", "hit@1", "hit@2", "minp"]).values
    ideal = 2 + 1 / math.log2(3) + 1 / 2
    assert got["ndcg@10"] == pytest.approx((2 / math.log2(3) + 1 / math.log2(5)) / ideal)
    assert got["recall@2"] == pytest.approx(1 / 3)
    assert got["map@10"] == pytest.approx((1 / 2 + 2 / 4) / 3)
    assert (got["mrr@10"], got["hit@1"], got["hit@2"]) == (0.5, 0.0, 1.0)
    assert got["minp"] == 0.0  # the rank of the last one is unknown
    complete = evaluate({"q": {"a": 1, "b": 1}}, run, ["minp"]).values
    assert complete["minp"] == pytest.approx(2 / 4)


def test_exponential_gain_by_hand():
    qrels, run = {"q": {"a": 3, "b": 1}}, {"q": {"b": 2.0, "a": 1.0}}
    value = evaluate(qrels, run, ["ndcg@10"], gain="exponential").values["ndcg@10"]
    assert value == pytest.approx((1 + 7 / math.log2(3)) / (7 + 1 / math.log2(3)))


def test_dropped_and_unanswered_queries_are_counted():
    qrels = {"empty": {"a": 0}, "silent": {"a": 1}, "good": {"a": 1}}
    found = evaluate(qrels, {"good": {"a": 1.0}, "unknown": {"a": 1.0}, "empty": {"a": 1.0}}, ["hit@1"])
    assert found.queries == ("silent", "good")
    assert (found.dropped, found.unanswered) == (2, 1)
    assert found.per_query["hit@1"].tolist() == [0.0, 1.0]
    assert found.values == {"hit@1": 0.5}


def test_ties_go_by_id_as_string():
    run = {"q": {"b": 1.0, "10": 1.0, "9": 1.0, "a": 2.0}}  # ranking: a, 10, 9, b
    ranks = [1 / evaluate({"q": {d: 1}}, run, ["mrr"]).values["mrr"] for d in ("a", "10", "9", "b")]
    assert ranks == [1, 2, 3, 4]


@settings(deadline=None, max_examples=60)
@given(data=st.data(), queries=st.integers(1, 5), documents=st.integers(1, 30), seed=st.integers(0, 2**32 - 1))
def test_matrix_equals_dicts(data, queries, documents, seed):
    """Also with many ties: columns are named so that their order is the order of the ids."""
    generator = np.random.default_rng(seed)
    levels = data.draw(st.integers(1, 1000))
    scores = generator.integers(0, levels, (queries, documents)).astype(np.float32) / levels
    relevance = generator.integers(-1, 4, (queries, documents))
    relevance[0, 0] = 1  # one query counts at least
    ids = [f"d{i:03d}" for i in range(documents)]
    run = {str(q): dict(zip(ids, scores[q].tolist(), strict=True)) for q in range(queries)}
    qrels = {str(q): dict(zip(ids, relevance[q].tolist(), strict=True)) for q in range(queries)}
    shuffled = {q: {d: run[q][d] for d in generator.permutation(ids).tolist()} for q in run}  # order must not matter
    dense, sparse = evaluate_scores(scores, relevance, ALL), evaluate(qrels, shuffled, ALL)
    assert dense.queries == sparse.queries
    assert dense.dropped == sparse.dropped
    for name in ALL:
        assert np.array_equal(dense.per_query[name], sparse.per_query[name]), name
        assert ((dense.per_query[name] >= 0) & (dense.per_query[name] <= 1 + 1e-12)).all()


def test_perfect_ranking_is_one_and_rows_may_be_generated():
    relevance = np.eye(6, dtype=bool) | np.eye(6, k=1, dtype=bool)
    found = evaluate_scores((row.astype(float) for row in relevance), iter(relevance), ["ndcg@10", "map", "minp"])
    assert found.values == {"ndcg@10": pytest.approx(1), "map": pytest.approx(1), "minp": pytest.approx(1)}


def test_identities_drop_queries_without_their_person():
    found = evaluate_identities(np.array([[0.9, 0.1], [0.2, 0.8]]), ["anna", "nobody"], ["berta", "anna"])
    assert found.dropped == 1
    assert found.queries == ("0",)
    assert found.values == {"hit@1": 0, "hit@5": 1, "hit@10": 1, "map": 0.5, "minp": 0.5}


def test_image_text_recall_by_hand():
    # image 0 has captions 0, 1; image 1 has caption 2
    scores = np.array([[0.1, 0.9, 0.5], [0.8, 0.3, 0.7]])
    found = image_text_recall(scores, [0, 0, 1], cuts=(1, 2))
    assert found["i2t_r@1"] == 0.5  # image 1 finds caption 0 first
    assert found["i2t_r@2"] == 1
    assert found["t2i_r@1"] == pytest.approx(2 / 3)  # caption 0 finds image 1 first
    assert found["mr"] == pytest.approx((0.5 + 1 + 2 / 3 + 1) / 4)


def test_bootstrap_sees_a_clear_difference_and_no_difference():
    generator = np.random.default_rng(0)
    base = generator.uniform(0.2, 0.6, 200)
    queries = tuple(map(str, range(200)))
    one = Evaluation(queries, {"map": base})
    better = Evaluation(queries, {"map": base + generator.normal(0.05, 0.05, 200)})
    noisy = Evaluation(queries, {"map": base + (noise := generator.normal(0, 0.05, 200)) - noise.mean()})
    clear = compare(one, better, "map", samples=2000)
    assert clear.significant
    assert clear.low < clear.difference < clear.high
    assert clear.difference == pytest.approx(clear.second - clear.first)
    width = 2 * 1.96 * np.std(better.per_query["map"] - base) / math.sqrt(200)  # of the normal approximation
    assert clear.high - clear.low == pytest.approx(width, rel=0.15)
    assert not compare(one, noisy, "map", samples=2000).significant
    assert compare(one, better, "map", samples=2000) == clear
    assert compare(one, better, "map", samples=2000, seed=1) != clear


def test_bootstrap_refuses_what_is_not_paired():
    one = Evaluation(("a",), {"map": np.ones(1)})
    with pytest.raises(ValueError, match="different queries"):
        compare(one, Evaluation(("b",), {"map": np.ones(1)}), "map")
    with pytest.raises(ValueError, match="not evaluated"):
        compare(one, one, "mrr")
    for pair in ((one, both := Evaluation(("a",), {"map": np.ones(1), "mrr": np.ones(1)})), (both, one)):
        with pytest.raises(ValueError, match="not evaluated"):
            compare(*pair, "mrr")
    with pytest.raises(ValueError, match="level"):
        compare(one, one, "map", level=1.0)
    with pytest.raises(ValueError, match="level"):
        compare(one, one, "map", level=0.0)
    with pytest.raises(ValueError, match="samples must be at least 1"):
        compare(one, one, "map", samples=0)
    assert compare(one, one, "map", samples=1).low == 0


@pytest.mark.parametrize(
    ("text", "message"),
    [("ndgc@10", "Did you mean ndcg"), ("ndcg@0", "at least 1"), ("map@x", "whole number"), ("recall", "needs a cut")],
)
def test_metric_names_that_make_no_sense(text, message):
    with pytest.raises(UsageError, match=message):
        parse_metric(text)


def test_refuses_nan_and_empty_judgements_and_shapes():
    with pytest.raises(ValueError, match="NaN"):
        evaluate({"q": {"a": 1}}, {"q": {"a": math.nan, "b": 1.0}})
    with pytest.raises(UsageError, match="no query has a relevant document"):
        evaluate({"q": {"a": 0}}, {"q": {"a": 1.0}})
    with pytest.raises(ValueError, match="both must be"):
        evaluate_scores(np.zeros((2, 3)), np.zeros((2, 4)))
    with pytest.raises(ValueError, match="one owner per caption"):
        image_text_recall(np.zeros((2, 3)), [0, 1])


def test_queries_without_a_relevant_document_count_as_zero_where_that_is_wanted():
    qrels = {"good": {"a": 1}, "none": {"a": 0}}
    run = {"good": {"a": 2.0, "b": 1.0}, "none": {"a": 1.0, "b": 2.0}}
    found = evaluate(qrels, run, ["hit@1"], unanswerable=True)
    assert (found.queries, found.unanswerable, found.dropped) == (("good", "none"), 1, 0)
    assert found.values == {"hit@1": 0.5}
    rows = [(name, np.array([scores["a"], scores["b"]])) for name, scores in run.items()]
    same = evaluate_rows(qrels, ["a", "b"], rows, ["hit@1"], unanswerable=True)
    assert (same.queries, same.unanswerable, same.values) == (found.queries, 1, found.values)
    assert evaluate_rows(qrels, ["a", "b"], rows, ["hit@1"]).dropped == 1


def test_ties_of_trec_eval_are_those_of_single_precision_and_the_larger_id_is_first():
    run = {"q": {"a": 1.0 + 1e-12, "b": 1.0}}
    for document, ties, hit in (("a", "id", 1), ("b", "id", 0), ("a", "trec_eval", 0), ("b", "trec_eval", 1)):
        assert evaluate({"q": {document: 1}}, run, ["hit@1"], ties=ties).values["hit@1"] == hit, (document, ties)


def test_an_exponential_gain_beyond_a_float_is_refused():
    run = {"q": {"a": 1.0}}
    assert evaluate({"q": {"a": 1000}}, run, ["ndcg@10"], gain="exponential").values["ndcg@10"] == 1
    with pytest.raises(UsageError, match="exponential gain: 2 to the 1001 is too large"):
        evaluate({"q": {"a": 1001}}, run, ["ndcg@10"], gain="exponential")


def test_a_matrix_answers_every_query():
    assert evaluate_scores([[0.0, 0.0]], [[0, 1]], ["hit@1"]).unanswered == 0
