"""`attn retrieve eval`: a model's scores on a data set with judgements, by exact search over all documents."""

from __future__ import annotations

import time
from collections.abc import Iterator, Mapping
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

import attn

from ...device import pick_device, set_threads
from ...errors import UsageError
from ...options import OptionError
from ...progress import Bars, Watcher
from ...report.model import Item, Report, rows_with_errors, summarise
from ...report.sections import Facts, Section, Table
from .. import image_models
from ..data.evalset import counted
from ..data.formats import EvalSet, read_dataset
from ..encoders.base import Encoder
from ..encoders.kept import encoder_of
from ..options.judge import EvalOptions
from ..score.bootstrap import compare
from ..score.measures import Evaluation, parse_metric
from ..score.metrics import NONE_RELEVANT, PERSON_METRICS, TEXT_METRICS
from ..score.rankings import Rankings, identical_note, write_run
from .embed import Embedded, embed

if TYPE_CHECKING:
    from ..encoders.text import TextEncoder

PERSONS = ("cuhk-pedes", "icfg-pedes", "rstpreid", "webperson")
"""Kinds in which several images show one identity; their metrics are those of person retrieval."""
IMAGE_TEXT_METRICS = ("hit@1", "hit@5", "hit@10")
"""In both directions; their mean is mR."""


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
    Report with an item per temperature: metrics in percent, and in a section the differences to the first with
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
        embedded = embed(data_set, encoder, watcher)
        failed = embedded.failed
        ranked = Rankings(data_set, embedded.documents, embedded.queries, options.keep_identical)
        evaluation, values = _values(ranked, options)
        details: dict[str, Any] = {
            "temperature": temperature,
            "model": encoder.fingerprint.to_dict(),
            "engine": encoder.engine,
        }
        sections: tuple[Section, ...] = ()
        warnings = [*data_set.warnings, *_notes(ranked, evaluation, options, embedded, encoder)]
        if first is not None:
            rows = [vars_of(compare(first, evaluation, metric)) for metric in evaluation.per_query]
            title = "difference to the first, 95 % bootstrap over the queries"
            sections = (Table("differences", rows, title=title),)
        else:
            first = evaluation
            if options.run is not None:
                warnings += write_run(options.run, ranked, tuple(evaluation.per_query), encoder.fingerprint.model)
        items.append(
            Item(
                str(data) if len(options.temperatures) == 1 else f"{data}, temperature {temperature:g}",
                str(options.run) if options.run and len(items) == 0 else None,
                "ok",
                time.perf_counter() - began,
                metrics=values,
                warnings=tuple(warnings),
                details=details,
                sections=sections,
            )
        )
    items += [Item(name, None, "failed", 0.0, error=reason) for name, reason in failed.items()]
    summary = dict(summarise(items)) | {
        "kind": data_set.kind, "split": data_set.split, "documents": len(data_set.documents),
        "queries": len(data_set.queries), "licence": data_set.licence,
    }  # fmt: skip
    given = arguments or {"verb": "eval", "data": str(data), "model": options.encoder.model}
    notices = (data_set.licence,) if data_set.licence else ()
    return Report(
        "retrieve", attn.__version__, dict(given), str(pick_device(options.encoder.device)),
        time.perf_counter() - start,
        tuple(items), summary, notices, diagnose(data_set, options) if options.diagnose else (),
        overview=rows_with_errors(items),
    )  # fmt: skip


def diagnose(data_set: EvalSet, options: EvalOptions) -> tuple[Section, ...]:
    """Tables of the length collapse of the documents (methods/tempscale.md, section 3.3), at the first temperature."""
    from ..collapse import length_collapse

    encoder = _check_diagnosable(data_set, encoder_of(replace(options.encoder, temperature=options.temperatures[0])))
    collapse = length_collapse(encoder, [str(text) for text in data_set.documents.values()])
    return (
        Facts("length_collapse", dict(collapse.summary), detail=True), Table("length_buckets", collapse.buckets),
        Table("length_cross", collapse.cross), Table("length_layers", collapse.layers),
        Table("length_same_text", collapse.same_text),
    )  # fmt: skip


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
                f"{data_set.name} has {modality}s. Give a model of both: one of {image_models()}."
            )


def _values(ranked: Rankings, options: EvalOptions) -> tuple[Evaluation, dict[str, float]]:
    """The evaluation by query, and the metrics in percent."""
    kind, answerable = ranked.data.kind, options.answerable
    both_ways = ranked.data.modalities == ("image", "text") and kind not in (*PERSONS, "mteb")
    if both_ways and not options.metrics:
        images_for_texts = ranked.evaluate(IMAGE_TEXT_METRICS, answerable=answerable)
        other = ranked.reversed().evaluate(IMAGE_TEXT_METRICS, answerable=answerable)
        ways = {"i2t": other.values, "t2i": images_for_texts.values}
        values = {
            f"{way}_r@{name.partition('@')[2]}": 100 * value
            for way, scored in ways.items()
            for name, value in scored.items()
        }
        return images_for_texts, values | {"mr": float(np.mean(list(values.values())))}
    metrics = options.metrics or (PERSON_METRICS if kind in PERSONS else TEXT_METRICS)
    evaluation = ranked.evaluate(metrics, answerable=answerable)
    return evaluation, {name: 100 * value for name, value in evaluation.values.items()}


def _notes(
    ranked: Rankings, evaluation: Evaluation, options: EvalOptions, embedded: Embedded, encoder: Encoder
) -> Iterator[str]:
    """What the user should know of the figures."""
    if embedded.truncated:
        yield (
            counted(embedded.truncated, "text is longer", "texts are longer")
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


def vars_of(difference: Any) -> dict[str, Any]:
    """A ``measures.Difference`` as a row, in percent."""
    names = ("first", "second", "difference", "low", "high")
    return {"metric": difference.metric} | {name: 100 * getattr(difference, name) for name in names}
