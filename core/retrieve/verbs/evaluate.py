"""`attn retrieve eval`: a model's scores on a data set with judgements, by exact search over all documents."""

from __future__ import annotations

import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

import attn

from ...device import pick_device, set_threads
from ...errors import InputError, UsageError
from ...io.tables import read_picture
from ...options import OptionError
from ...progress import Bars, Watcher
from ...report.model import Item, Report, summarise
from ..data.evalset import Content, counted
from ..data.formats import EvalSet, read_dataset
from ..encoders.base import Encoder, Side
from ..encoders.kept import BLOCK_IMAGES, BLOCK_TEXTS, MAX_SIDE, encoder_of
from ..options.judge import EvalOptions
from ..score.metrics import (
    NONE_RELEVANT,
    PERSON_METRICS,
    TEXT_METRICS,
    Evaluation,
    Qrels,
    compare,
    evaluate_rows,
    parse_metric,
)
from ..score.runs import Result, apart, write_results
from ..store import Hit

if TYPE_CHECKING:
    from ..encoders.text import TextEncoder

PERSONS = ("cuhk-pedes", "icfg-pedes", "rstpreid", "webperson")
"""Kinds in which several images show one identity; their metrics are those of person retrieval."""
IMAGE_TEXT_METRICS = ("hit@1", "hit@5", "hit@10")
"""In both directions; their mean is mR."""
DEPTH = 1000
"""Hits of each query in a written run, or as many as the metrics look at; metrics themselves rank all documents."""
_SCORES = 2**26
"""Scores in memory at a time."""


@dataclass(frozen=True, slots=True)
class Embedded:
    """Vectors of a data set, in its order, and what of it could not be read (rows of zeros)."""

    documents: NDArray[np.float32]
    queries: NDArray[np.float32]
    truncated: int
    failed: Mapping[str, str]


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
        asked = {query: content for query, content in self.data.queries.items() if query in qrels}
        part = replace(self.data, queries=asked, qrels=qrels)
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
        size = max(1, _SCORES // max(1, len(self.documents)))
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


def score(
    data: str | Path,
    options: EvalOptions = EvalOptions(),  # noqa: B008 - frozen
    *,
    watcher: Watcher | None = None,
    arguments: Mapping[str, Any] | None = None,
) -> Report:
    """Score a model.

    Parameters
    ----------
    data : str or Path
        See ``formats.read_dataset``.
    options : EvalOptions
    watcher : Watcher, optional
    arguments : mapping, optional
        What the report records as the call's arguments.

    Returns
    -------
    Report with an item per temperature: metrics in percent, and under ``details`` the differences to the first with
    95 % intervals. Documents or queries that cannot be read are failed items.

    Raises
    ------
    UsageError
        If the model cannot be had or does not take such data, or an option is unknown.
    InputError
        If the data set cannot be read.
    """
    start = time.perf_counter()
    set_threads(options.threads)
    watcher = watcher or Bars()
    for name in options.metrics:  # refused before the long work
        parse_metric(name)
    data_set = read_dataset(data, kind=options.kind, split=options.split, images=options.images)
    if not any(level > 0 for judgements in data_set.qrels.values() for level in judgements.values()):
        raise UsageError(NONE_RELEVANT)
    items: list[Item] = []
    first: Evaluation | None = None
    failed: Mapping[str, str] = {}
    for temperature in options.temperatures:
        began = time.perf_counter()
        encoder = encoder_of(replace(options.encoder, temperature=temperature))
        _check_modalities(data_set, encoder)
        if options.diagnose:
            _check_diagnosable(data_set, encoder)
        found = embed(data_set, encoder, watcher)
        failed = found.failed
        ranked = Rankings(data_set, found.documents, found.queries, options.keep_identical)
        evaluation, values = _values(ranked, options)
        details: dict[str, Any] = {"temperature": temperature, "model": encoder.fingerprint.to_dict()}
        warnings = [*data_set.warnings, *_notes(ranked, evaluation, options, found, encoder)]
        if first is not None:
            details["differences"] = [
                vars_of(compare(first, evaluation, metric)) for metric in evaluation.per_query
            ]  # fmt: skip
        else:
            first = evaluation
            if options.run is not None:
                warnings += _write_run(options.run, ranked, tuple(evaluation.per_query), encoder.fingerprint.model)
        items.append(
            Item(
                str(data) if len(options.temperatures) == 1 else f"{data}, temperature {temperature:g}",
                str(options.run) if options.run and len(items) == 0 else None,
                "ok",
                time.perf_counter() - began,
                metrics=values,
                warnings=tuple(warnings),
                details=details,
            )
        )
    items += [Item(name, None, "failed", 0.0, error=reason) for name, reason in failed.items()]
    summary = dict(summarise(items)) | {
        "kind": data_set.kind, "split": data_set.split, "documents": len(data_set.documents),
        "queries": len(data_set.queries), "licence": data_set.licence,
    }  # fmt: skip
    if options.diagnose:
        summary |= diagnose(data_set, options)
    told = arguments or {"verb": "eval", "data": str(data), "model": options.encoder.model}
    notices = (data_set.licence,) if data_set.licence else ()
    return Report(
        "retrieve", attn.__version__, dict(told), str(pick_device(options.encoder.device)), time.perf_counter() - start,
        tuple(items), summary, notices,
    )  # fmt: skip


def diagnose(data_set: EvalSet, options: EvalOptions) -> dict[str, Any]:
    """Tables of the length collapse of the documents (methods/tempscale.md, section 3.3), at the first temperature."""
    from ..collapse import length_collapse

    encoder = _check_diagnosable(data_set, encoder_of(replace(options.encoder, temperature=options.temperatures[0])))
    found = length_collapse(encoder, [str(text) for text in data_set.documents.values()])
    return {
        "length_collapse": dict(found.summary), "length_buckets": found.buckets, "length_cross": found.cross,
        "length_layers": found.layers, "length_same_text": found.same_text,
    }  # fmt: skip


def _check_diagnosable(data_set: EvalSet, encoder: Encoder) -> TextEncoder:
    """The encoder, if its length collapse can be measured on this data set. Raises ``UsageError`` otherwise."""
    from ..encoders.text import TextEncoder

    if data_set.modalities[0] != "text" or not isinstance(encoder, TextEncoder):
        raise OptionError("{diagnose}: length collapse is of text encoders, on data sets whose documents are texts.")
    if len(data_set.documents) < 4:
        raise OptionError(f"{{diagnose}}: length collapse needs 4 texts or more, got {len(data_set.documents)}.")
    return encoder


def _check_modalities(data_set: EvalSet, encoder: Encoder) -> None:
    for modality in data_set.modalities:
        if modality not in encoder.modalities:
            raise OptionError(
                f"{{model}}: {encoder.fingerprint.model} encodes {' and '.join(sorted(encoder.modalities))} only, "
                f"{data_set.name} has {modality}s. Give a model of both, as vit-minilm or a CLIP folder."
            )


def embed(data_set: EvalSet, encoder: Encoder, watcher: Watcher) -> Embedded:
    """Vectors of all documents and queries; zeros where an image cannot be read."""
    failed: dict[str, str] = {}
    sides: list[NDArray[np.float32]] = []
    truncated = 0
    for side, contents in (("document", data_set.documents), ("query", data_set.queries)):
        vectors, cut = encode(contents, encoder, side, watcher, failed)  # type: ignore[arg-type]
        sides.append(vectors)
        truncated += cut
    return Embedded(sides[0], sides[1], truncated, failed)


def encode(
    contents: Mapping[str, Content], encoder: Encoder, side: Side, watcher: Watcher, failed: dict[str, str]
) -> tuple[NDArray[np.float32], int]:
    """Vectors [n, dim] and how many texts were cut; a failed image is a row of zeros and an entry of ``failed``."""
    out = np.zeros((len(contents), encoder.fingerprint.dim), np.float32)
    items, cut = list(contents.items()), 0
    texts = isinstance(items[0][1], str)
    size = BLOCK_TEXTS if texts else BLOCK_IMAGES
    for at in range(0, len(items), size):
        block = items[at : at + size]
        if texts:
            found = encoder.encode_texts([str(content) for _, content in block], side=side)
            out[at : at + size] = found.vectors
            cut += int(found.truncated.sum())
        else:
            rows, pixels = [], []
            for row, (_, image) in enumerate(block, at):
                assert not isinstance(image, str)  # all of one sort
                try:
                    pixels.append(read_picture(image, MAX_SIDE))
                    rows.append(row)
                except InputError as error:
                    failed[str(image)] = error.reason
            if rows:
                out[rows] = encoder.encode_images(pixels).vectors
        watcher.step(f"embed {side}s", min(at + size, len(items)), len(items))
    return out, cut


def _values(ranked: Rankings, options: EvalOptions) -> tuple[Evaluation, dict[str, float]]:
    """The evaluation by query, and the metrics in percent."""
    kind, answerable = ranked.data.kind, options.answerable
    both_ways = ranked.data.modalities == ("image", "text") and kind not in (*PERSONS, "mteb")
    if both_ways and not options.metrics:
        asked = ranked.evaluate(IMAGE_TEXT_METRICS, answerable=answerable)
        other = ranked.reversed().evaluate(IMAGE_TEXT_METRICS, answerable=answerable)
        values = {f"{way}_r@{name.partition('@')[2]}": 100 * value
                  for way, one in (("i2t", other), ("t2i", asked)) for name, value in one.values.items()}  # fmt: skip
        return asked, values | {"mr": float(np.mean(list(values.values())))}
    metrics = options.metrics or (PERSON_METRICS if kind in PERSONS else TEXT_METRICS)
    evaluation = ranked.evaluate(metrics, answerable=answerable)
    return evaluation, {name: 100 * value for name, value in evaluation.values.items()}


def _notes(
    ranked: Rankings, evaluation: Evaluation, options: EvalOptions, found: Embedded, encoder: Encoder
) -> Iterator[str]:
    """What the user should know of the figures."""
    if found.truncated:
        yield (
            counted(found.truncated, "text is longer", "texts are longer")
            + f" than the model's {encoder.fingerprint.max_tokens} tokens"
        )
    if evaluation.unanswerable:
        yield (
            counted(evaluation.unanswerable, "query has", "queries have")
            + " judgements of 0 only: worth 0, as in trec_eval (--answerable leaves them out)"
        )
    if evaluation.dropped:
        yield counted(evaluation.dropped, "query has", "queries have") + " no relevant document: left out"
    if evaluation.unanswered:
        yield counted(evaluation.unanswered, "query finds", "queries find") + " nothing: worth 0"
    yield from identical_note(ranked)


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


def _write_run(path: Path, ranked: Rankings, metrics: Sequence[str], model: str) -> list[str]:
    """Write the rankings as deep as the metrics look, at least 1000; says so where they look at all documents."""
    cuts = [parse_metric(name)[1] for name in metrics]
    finite = [cut for cut in cuts if cut < len(ranked.documents)]
    depth = max([DEPTH, *finite])
    write_results(path, apart(ranked.results(depth)), "trec", tag=f"attn-{model}")
    whole = [name for name, cut in zip(metrics, cuts, strict=True) if cut > depth]
    if not whole or depth >= len(ranked.documents):
        return []
    return [f"{path} has the {depth} best of each query; {', '.join(whole)} are of all {len(ranked.documents):,}"]


def best_rows(row: NDArray[np.float32], ids: Sequence[str], depth: int) -> list[int]:
    """Positions of the ``depth`` best documents that are found, best first: by score, then id."""
    at = np.flatnonzero(row > -np.inf)
    if depth < at.size:
        at = at[row[at] >= np.partition(row[at], -depth)[-depth]]  # all that tie with the last one, too
    return sorted(at.tolist(), key=lambda i: (-row[i], ids[i]))[:depth]


def as_run(data_set: EvalSet, scores: NDArray[np.float32], depth: int) -> dict[str, dict[str, float]]:
    """The ``depth`` best documents of each query, [Q, D]."""
    ids = list(data_set.documents)
    return {
        query: {ids[i]: float(row[i]) for i in best_rows(row, ids, depth)}
        for query, row in zip(data_set.queries, scores, strict=True)
    }


def vars_of(difference: Any) -> dict[str, Any]:
    """A ``metrics.Difference`` as a row, in percent."""
    names = ("first", "second", "difference", "low", "high")
    return {"metric": difference.metric} | {name: 100 * getattr(difference, name) for name in names}
