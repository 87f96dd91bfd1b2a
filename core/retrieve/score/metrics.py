"""How good a ranking is: nDCG, recall, MAP, MRR, hit rate, mINP, R@k in both directions.

Specification: methods/retrieval-peers.md, section 6; for persons methods/ga-dms.md, section 6; for image and text
methods/priorclip.md, section 6. All values are shares in [0, 1]; papers print them in percent.

Every metric follows from the ranks of the relevant documents of a query, so that is all that is computed
(``measures.py``). A document is relevant when its judgement is above 0; others count as not relevant, judged or not.
Ties: the higher score first, equal scores by id in string order (in a matrix: by column). trec_eval ranks otherwise:
scores are cut to float32, and equal ones go by *descending* id; ``evaluate(..., ties="trec_eval")`` is equal to it.
Queries whose judgements are all 0 or below are left out and counted; in trec_eval they count as 0, and so they do with
``unanswerable=True`` and in ``attn retrieve eval``.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any, Literal

import numpy as np
from numpy.typing import ArrayLike, NDArray

from ...errors import UsageError
from .measures import MEASURES, Evaluation, Ranked, parse_metric, relevant_ranks

Qrels = Mapping[str, Mapping[str, int]]
"""Query id -> document id -> relevance (above 0: relevant)."""
Run = Mapping[str, Mapping[str, float]]
"""Query id -> document id -> score (larger is better)."""

NONE_RELEVANT = "no query has a relevant document: check that the judgements belong to these queries"
TEXT_METRICS = ("ndcg@10", "recall@10", "recall@100", "map@100", "mrr@10", "hit@1")
"""What text retrieval reports."""
PERSON_METRICS = ("hit@1", "hit@5", "hit@10", "map", "minp")
"""What person retrieval reports; R@k there is our ``hit@k``."""


def evaluate(
    qrels: Qrels,
    run: Run,
    metrics: Sequence[str] = TEXT_METRICS,
    *,
    gain: Literal["linear", "exponential"] = "linear",
    ties: Literal["id", "trec_eval"] = "id",
    unanswerable: bool = False,
) -> Evaluation:
    """Score a run against judgements.

    Parameters
    ----------
    qrels : Qrels
        The ideal ranking is over all judged documents, also those that the run does not hold.
    run : Run
    metrics : sequence of str
        ``ndcg@k``, ``recall@k`` (of all relevant documents), ``map@k`` (divided by all relevant documents), ``mrr@k``,
        ``hit@k`` (any relevant document: the R@k of image-text and person retrieval), ``minp``. ``ndcg``, ``map``,
        ``mrr`` and ``minp`` without cut take the whole ranking.
    gain : {"linear", "exponential"}
        Of nDCG: the relevance itself, or 2**relevance - 1.
    ties : {"id", "trec_eval"}
        How equal scores are ranked: by ascending id, or as trec_eval does.
    unanswerable : bool
        Queries whose judgements are all 0 or below count as 0, as in trec_eval; by default they are left out.

    Returns
    -------
    Evaluation. Queries that are judged and not in the run count as 0 (``trec_eval -c``).

    Raises
    ------
    UsageError
        If a metric is unknown, or no query has a relevant document.
    ValueError
        If a score is NaN.
    """

    def judged() -> Iterator[tuple[str, Ranked | None]]:
        for query, judgements in qrels.items():
            results = run.get(query, {})
            ids = list(results)
            scores = np.fromiter(results.values(), np.float64, len(ids))
            if ties == "trec_eval":
                with np.errstate(over="ignore"):
                    scores = scores.astype(np.float32)
            yield query, _judged(judgements, ids, scores, gain, ties)

    return _collect(
        judged(), metrics, dropped=sum(query not in qrels for query in run), judged=qrels if unanswerable else None
    )  # fmt: skip


def evaluate_rows(
    qrels: Qrels,
    ids: Sequence[str],
    rows: Iterable[tuple[str, NDArray[Any]]],
    metrics: Sequence[str] = TEXT_METRICS,
    *,
    unanswerable: bool = False,
) -> Evaluation:
    """Score whole rankings of named documents; equal to ``evaluate`` of the same numbers, in less memory.

    Parameters
    ----------
    qrels : Qrels
    ids : sequence of D str
        The documents.
    rows : iterable of (str, ndarray [D] of float)
        A query and its score of each document; -inf: that one is not found. Ties go by id.
    metrics, unanswerable
        As in ``evaluate``.

    Raises
    ------
    UsageError, ValueError
        As ``evaluate``.
    """
    place = {name: i for i, name in enumerate(ids)}
    judged = ((query, _judged(qrels.get(query, {}), ids, row, place=place)) for query, row in rows)
    return _collect(judged, metrics, judged=qrels if unanswerable else None)


def evaluate_scores(
    scores: Iterable[ArrayLike],
    relevance: Iterable[ArrayLike],
    metrics: Sequence[str] = PERSON_METRICS,
    *,
    gain: Literal["linear", "exponential"] = "linear",
    query_ids: Sequence[str] | None = None,
) -> Evaluation:
    """Score a dense matrix of scores; equal to ``evaluate`` with documents named in the order of the columns.

    Parameters
    ----------
    scores : array [Q, G], float, or an iterable of its rows
        Of every query with the whole gallery. A generator of rows keeps memory small.
    relevance : array [Q, G], bool or int, or an iterable of its rows
    metrics, gain
        As in ``evaluate``.
    query_ids : sequence of Q str, optional
        Names of the queries; by default their numbers from 0.

    Raises
    ------
    UsageError
        As ``evaluate``.
    ValueError
        If the shapes differ, or a score is NaN.
    """

    def rows() -> Iterator[tuple[str, Ranked | None]]:
        for i, (row, judgement) in enumerate(zip(scores, relevance, strict=True)):
            values, levels = np.asarray(row), np.asarray(judgement)  # [G], [G]
            if values.ndim != 1 or values.shape != levels.shape:
                raise ValueError(
                    f"query {i}: scores have shape {values.shape}, relevance {levels.shape}; both must be [G]"
                )
            relevant = np.flatnonzero(levels > 0)
            gains = np.array([_gain(level, gain) for level in levels[relevant].tolist()])
            name = str(i) if query_ids is None else query_ids[i]
            ranks = relevant_ranks(values, relevant)
            yield name, _sorted(ranks, gains, np.sort(gains)[::-1]) if relevant.size else None

    return _collect(rows(), metrics)


def evaluate_identities(
    scores: Iterable[ArrayLike], query_pids: ArrayLike, gallery_pids: ArrayLike, metrics: Sequence[str] = PERSON_METRICS
) -> Evaluation:
    """Person retrieval: a gallery image is relevant when its identity is the query's (methods/ga-dms.md, section 6).

    Parameters
    ----------
    scores : array [Q, G], float, or an iterable of its rows
    query_pids, gallery_pids : array [Q] and [G]
        Identities, as numbers or strings.

    Returns
    -------
    Evaluation. Queries without an image of their identity in the gallery are dropped and counted.
    """
    gallery = np.asarray(gallery_pids)
    return evaluate_scores(scores, (gallery == pid for pid in np.asarray(query_pids)), metrics)


def image_text_recall(
    scores: ArrayLike, caption_image: ArrayLike, cuts: Sequence[int] = (1, 5, 10)
) -> dict[str, float]:
    """R@k in both directions, a hit being any relevant item among the first k (methods/priorclip.md, section 6).

    Parameters
    ----------
    scores : array [I, C], float
        Of every image with every caption.
    caption_image : array [C], int
        Row of the image that each caption describes.
    cuts : sequence of int

    Returns
    -------
    dict with ``i2t_r@k`` and ``t2i_r@k`` for each cut, and ``mr``, their mean (six values for the usual cuts). Images
    without a caption are dropped.

    Raises
    ------
    ValueError
        If the shapes do not fit, or a score is NaN.
    """
    matrix, owner = np.asarray(scores), np.asarray(caption_image)
    if matrix.ndim != 2 or owner.shape != matrix.shape[1:]:
        raise ValueError(f"scores must be [I, C] with one owner per caption, got {matrix.shape} and {owner.shape}")
    images = np.arange(len(matrix))
    names = [f"hit@{k}" for k in cuts]
    both = {
        "i2t": evaluate_identities(matrix, images, owner, names).values,
        "t2i": evaluate_identities(matrix.T, owner, images, names).values,
    }
    values = {f"{way}_r@{k}": both[way][f"hit@{k}"] for way in both for k in cuts}
    return values | {"mr": float(np.mean(list(values.values())))}


def _judged(
    judgements: Mapping[str, int], ids: Sequence[str], scores: NDArray[Any], gain: str = "linear", ties: str = "id",
    place: Mapping[str, int] | None = None,
) -> Ranked | None:  # fmt: skip
    """Where the relevant documents of one query are; None where none is relevant. ``place`` is where ``ids`` stand."""
    gains = {document: _gain(level, gain) for document, level in judgements.items() if level > 0}
    if not gains:
        return None
    if place is None:
        at = [i for i, document in enumerate(ids) if document in gains]
    else:
        at = [place[document] for document in gains if document in place and np.isfinite(scores[place[document]])]
    relevant, ideal = np.array(at, np.intp), np.sort(np.fromiter(gains.values(), np.float64, len(gains)))[::-1]
    ranks = relevant_ranks(scores, relevant, ids, descending=ties == "trec_eval")
    return _sorted(ranks, np.array([gains[ids[i]] for i in at]), ideal, bool(np.isfinite(scores).any()))


def _gain(level: float, kind: str) -> float:
    if kind == "linear":
        return float(level)
    if level > 1000:
        raise UsageError(
            f"exponential gain: 2 to the {level:g} is too large. Use the linear gain, or smaller judgements."
        )
    return math.pow(2.0, level) - 1


def _sorted(
    ranks: NDArray[np.int64], gains: NDArray[np.float64], ideal: NDArray[np.float64], answered: bool = True
) -> Ranked:
    """The relevant documents of one query in the order of their ranks."""
    order = np.argsort(ranks)
    return Ranked(ranks[order], gains[order], ideal, answered)


def _collect(
    rows: Iterable[tuple[str, Ranked | None]], metrics: Sequence[str], *, dropped: int = 0, judged: Qrels | None = None
) -> Evaluation:
    """The metrics of each query; None stands for a query without relevant documents, worth 0 where it is ``judged``."""
    wanted = {name: parse_metric(name) for name in metrics}
    queries: list[str] = []
    values: dict[str, list[float]] = {name: [] for name in wanted}
    unanswered = unanswerable = 0
    for query, ranked in rows:
        if ranked is None and not (judged or {}).get(query):
            dropped += 1
            continue
        queries.append(query)
        unanswerable += ranked is None
        unanswered += ranked is not None and not ranked.answered
        for name, (kind, cut) in wanted.items():
            values[name].append(0.0 if ranked is None else MEASURES[kind](ranked, cut))
    if len(queries) == unanswerable:
        raise UsageError(NONE_RELEVANT)
    per_query = {name: np.array(row) for name, row in values.items()}
    return Evaluation(tuple(queries), per_query, dropped, unanswered, unanswerable)
