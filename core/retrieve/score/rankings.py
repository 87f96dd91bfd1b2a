"""Whole rankings of a data set's queries by the vectors of both sides, made as they are needed."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from ..data.evalset import EvalSet, counted
from ..store import Hit
from .measures import Evaluation, parse_metric
from .metrics import Qrels, evaluate_rows
from .results import Result, apart, write_results

DEPTH = 1000
"""Hits of each query in a written run, or as many as the metrics look at; metrics themselves rank all documents."""
SCORES = 2**26
"""Scores in memory at a time."""


@dataclass(frozen=True, slots=True)
class Rankings:
    """The whole ranking of every query, by cosine, made anew each time it is asked for: [Q, D] may not fit in memory.

    What could not be read is never found, and finds nothing. As in BEIR, a document with the id of the query is left
    out of its hits: it is the query itself. Unlike in BEIR it stays where it is judged relevant.

    Parameters
    ----------
    data : EvalSet
    documents, queries : ndarray [D, dim] and [Q, dim], float32
    keep_identical : bool
        Leave no document out.
    """

    data: EvalSet
    documents: NDArray[np.float32]
    queries: NDArray[np.float32]
    keep_identical: bool = False

    def reversed(self) -> Rankings:
        """The other direction: see ``EvalSet.reversed``."""
        return Rankings(self.data.reversed(), self.queries, self.documents, self.keep_identical)

    def of(self, qrels: Qrels) -> Rankings:
        """Those of the queries that ``qrels`` judges."""
        rows = [i for i, query in enumerate(self.data.queries) if query in qrels]
        queries = {query: content for query, content in self.data.queries.items() if query in qrels}
        part = replace(self.data, queries=queries, qrels=qrels)
        return Rankings(part, self.documents, self.queries[rows], self.keep_identical)

    @property
    def identical(self) -> tuple[list[str], list[str]]:
        """Queries with the id of a document: those whose document is left out, and those whose it is relevant."""
        same = [query for query in self.data.queries if query in self.data.documents]
        own = [query for query in same if self.data.qrels.get(query, {}).get(query, 0) > 0]
        relevant = set(own)
        return [query for query in same if query not in relevant], own

    def rows(self) -> Iterator[tuple[str, NDArray[np.float32]]]:
        """Each query with its score of every document; -inf where that is not found."""
        place = {document: i for i, document in enumerate(self.data.documents)}
        left_out = set() if self.keep_identical else set(self.identical[0])
        gone = ~self.documents.any(axis=1)
        ids = list(self.data.queries)
        size = max(1, SCORES // max(1, len(self.documents)))
        for at in range(0, len(ids), size):
            block = self.queries[at : at + size]
            scores = block @ self.documents.T
            scores[:, gone] = -np.inf
            scores[~block.any(axis=1)] = -np.inf
            for query, row in zip(ids[at : at + size], scores, strict=True):
                if query in left_out:
                    row[place[query]] = -np.inf
                yield query, row

    def evaluate(self, metrics: Sequence[str], *, answerable: bool = False) -> Evaluation:
        """See ``metrics.evaluate_rows``; queries without a relevant document count as 0 unless ``answerable``."""
        ids = list(self.data.documents)
        return evaluate_rows(self.data.qrels, ids, self.rows(), metrics, unanswerable=not answerable)

    def results(self, depth: int) -> Iterator[Result]:
        """The best ``depth`` hits of each query."""
        ids = list(self.data.documents)
        for query, row in self.rows():
            hits = [Hit(ids[i], float(row[i]), {}) for i in best_rows(row, ids, depth)]
            yield Result(query, str(self.data.queries[query]), hits)


def identical_note(ranked: Rankings) -> list[str]:
    """Says which documents with the id of a query were left out, if there are any."""
    left_out, own = ranked.identical
    if ranked.keep_identical or not left_out:
        return []
    kept = f", and kept where it is judged relevant ({len(own):,})" if own else ""
    return [
        counted(len(left_out), "query has", "queries have")
        + f" the id of a document: that one is left out of its hits, as in BEIR{kept} (--keep-identical keeps all)"
    ]


def best_rows(row: NDArray[np.float32], ids: Sequence[str], depth: int) -> list[int]:
    """Positions of the ``depth`` best documents that are found, best first: by score, then id."""
    at = np.flatnonzero(row > -np.inf)
    if depth < at.size:
        at = at[row[at] >= np.partition(row[at], -depth)[-depth]]  # all that tie with the last one, too
    return sorted(at.tolist(), key=lambda i: (-row[i], ids[i]))[:depth]


def run_of_scores(data_set: EvalSet, scores: NDArray[np.float32], depth: int) -> dict[str, dict[str, float]]:
    """The ``depth`` best documents of each query, [Q, D]."""
    ids = list(data_set.documents)
    return {
        query: {ids[i]: float(row[i]) for i in best_rows(row, ids, depth)}
        for query, row in zip(data_set.queries, scores, strict=True)
    }


def write_run(path: Path, ranked: Rankings, metrics: Sequence[str], model: str) -> list[str]:
    """Write the rankings as deep as the metrics look, at least 1000; says so where they look at all documents."""
    cuts = [parse_metric(name)[1] for name in metrics]
    finite = [cut for cut in cuts if cut < len(ranked.documents)]
    depth = max([DEPTH, *finite])
    write_results(path, apart(ranked.results(depth)), "trec", tag=f"attn-{model}")
    whole = [name for name, cut in zip(metrics, cuts, strict=True) if cut > depth]
    if not whole or depth >= len(ranked.documents):
        return []
    return [f"{path} has the {depth} best of each query; {', '.join(whole)} are of all {len(ranked.documents):,}"]
