"""`attn retrieve eval`: a model's scores on a data set with judgements, by exact search over all documents."""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

import attn

from ..batch import Silent, Watcher
from ..device import pick_device, set_threads
from ..errors import InputError, UsageError
from ..io.report import Item, Report, summarise
from ._evalset import Content
from ._tables import read_picture
from .encoders.base import Encoder, Side
from .formats import EvalSet, read_dataset
from .metrics import PERSON_METRICS, TEXT_METRICS, Evaluation, compare, evaluate
from .options import BLOCK_IMAGES, BLOCK_TEXTS, MAX_SIDE, EncoderOptions, encoder_of
from .runs import Result, write_results
from .store import Hit

PERSONS = ("cuhk-pedes", "icfg-pedes", "rstpreid", "webperson")
"""Kinds in which several images show one identity; their metrics are those of person retrieval."""
IMAGE_TEXT_METRICS = ("hit@1", "hit@5", "hit@10")
"""In both directions; their mean is mR."""
DEPTH = 1000
"""Hits of a run; mAP and mINP of person retrieval take the whole gallery."""


@dataclass(frozen=True, slots=True)
class EvalOptions:
    """What is scored, and how.

    Parameters
    ----------
    encoder : EncoderOptions
    temperatures : tuple of float
        A row each; differences are to the first.
    kind, split, images
        See ``read_dataset``.
    metrics : tuple of str
        Of ``metrics.evaluate``; empty: the usual ones of the data set's kind.
    run : Path or None
        Where the first temperature's rankings go, as a TREC run.
    diagnose : bool
        How embeddings crowd together as texts grow longer.
    """

    encoder: EncoderOptions = field(default_factory=EncoderOptions)
    temperatures: tuple[float, ...] = (1.0,)
    kind: str | None = None
    split: str | None = None
    images: Path | None = None
    metrics: tuple[str, ...] = ()
    run: Path | None = None
    diagnose: bool = False


@dataclass(frozen=True, slots=True)
class Embedded:
    """Vectors of a data set, in its order, and what of it could not be read."""

    documents: NDArray[np.float32]
    queries: NDArray[np.float32]
    truncated: int
    failed: Mapping[str, str]

    @property
    def scores(self) -> NDArray[np.float32]:
        """Cosine of every query with every document, [Q, D]; what could not be read is never found."""
        out: NDArray[np.float32] = self.queries @ self.documents.T
        return out


def score(
    data: str | Path, options: EvalOptions = EvalOptions(), *, threads: int | None = None,
    watcher: Watcher | None = None, arguments: Mapping[str, Any] | None = None,
) -> Report:  # fmt: skip
    """Score a model.

    Parameters
    ----------
    data : str or Path
        See ``formats.read_dataset``.
    options : EvalOptions
    threads : int, optional
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
    set_threads(threads)
    watcher = watcher or Silent()
    data_set = read_dataset(data, kind=options.kind, split=options.split, images=options.images)
    items: list[Item] = []
    first: Evaluation | None = None
    failed: Mapping[str, str] = {}
    for temperature in options.temperatures:
        began = time.perf_counter()
        encoder = encoder_of(replace(options.encoder, temperature=temperature))
        _check_modalities(data_set, encoder)
        found = embed(data_set, encoder, watcher)
        failed = found.failed
        evaluation, values = _values(data_set, found, options)
        details: dict[str, Any] = {"temperature": temperature, "model": encoder.fingerprint.to_dict()}
        if first is not None and evaluation is not None:
            details["differences"] = [
                vars_of(compare(first, evaluation, metric)) for metric in evaluation.per_query
            ]  # fmt: skip
        elif first is None:
            first = evaluation
            if options.run is not None:
                write_results(
                    options.run, rankings(data_set, found.scores), "trec", tag=f"attn-{encoder.fingerprint.model}"
                )
        warnings = list(data_set.warnings)
        if found.truncated:
            warnings.append(
                f"{found.truncated} texts are longer than the model's {encoder.fingerprint.max_tokens} tokens"
            )
        if evaluation is not None and evaluation.dropped:
            warnings.append(f"{evaluation.dropped} queries have no relevant document: left out")
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
    from .collapse import length_collapse
    from .encoders.text import TextEncoder

    encoder = encoder_of(replace(options.encoder, temperature=options.temperatures[0]))
    if data_set.modalities[0] != "text" or not isinstance(encoder, TextEncoder):
        raise UsageError("--diagnose: length collapse is of text encoders, on data sets whose documents are texts.")
    found = length_collapse(encoder, [str(text) for text in data_set.documents.values()])
    return {
        "length_collapse": dict(found.summary), "length_buckets": found.buckets, "length_cross": found.cross,
        "length_layers": found.layers, "length_same_text": found.same_text,
    }  # fmt: skip


def _check_modalities(data_set: EvalSet, encoder: Encoder) -> None:
    for modality in data_set.modalities:
        if modality not in encoder.modalities:
            raise UsageError(
                f"--model: {encoder.fingerprint.model} encodes {' and '.join(sorted(encoder.modalities))} only, "
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


def _values(data_set: EvalSet, found: Embedded, options: EvalOptions) -> tuple[Evaluation | None, dict[str, float]]:
    """The evaluation by query, where there is one, and the metrics in percent."""
    scores = found.scores
    both_ways = data_set.modalities == ("image", "text") and data_set.kind not in (*PERSONS, "mteb")
    if both_ways and not options.metrics:
        depth = min(DEPTH, scores.shape[1])
        asked = evaluate(data_set.qrels, as_run(data_set, scores, depth), IMAGE_TEXT_METRICS)
        back = data_set.reversed()
        other = evaluate(back.qrels, as_run(back, scores.T, min(DEPTH, scores.shape[0])), IMAGE_TEXT_METRICS)
        values = {f"{way}_r@{name.partition('@')[2]}": 100 * value
                  for way, one in (("i2t", other), ("t2i", asked)) for name, value in one.values.items()}  # fmt: skip
        return asked, values | {"mr": float(np.mean(list(values.values())))}
    persons = data_set.kind in PERSONS
    metrics = options.metrics or (PERSON_METRICS if persons else TEXT_METRICS)
    depth = scores.shape[1] if persons else min(DEPTH, scores.shape[1])
    evaluation = evaluate(data_set.qrels, as_run(data_set, scores, depth), metrics)
    return evaluation, {name: 100 * value for name, value in evaluation.values.items()}


def as_run(data_set: EvalSet, scores: NDArray[np.float32], depth: int) -> dict[str, dict[str, float]]:
    """The ``depth`` best documents of each query."""
    ids = list(data_set.documents)
    run = {}
    for query, row in zip(data_set.queries, scores, strict=True):
        best = np.argpartition(-row, depth - 1)[:depth] if depth < len(row) else range(len(row))
        run[query] = {ids[i]: float(row[i]) for i in best}
    return run


def rankings(data_set: EvalSet, scores: NDArray[np.float32]) -> Sequence[Result]:
    """The same for a file."""
    run = as_run(data_set, scores, min(DEPTH, scores.shape[1]))
    return [
        Result(query, str(data_set.queries[query]), [Hit(key, value, {}) for key, value in found.items()])
        for query, found in run.items()
    ]


def vars_of(difference: Any) -> dict[str, Any]:
    """A ``metrics.Difference`` as a row, in percent."""
    names = ("first", "second", "difference", "low", "high")
    return {"metric": difference.metric} | {name: 100 * getattr(difference, name) for name in names}
