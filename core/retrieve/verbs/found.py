"""What was found: rankings, why they matched, and the report that has an item for each. No model is needed for that."""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

import attn

from ...report.model import Item, Report, summarise
from ...report.sections import Section, Table, Words
from ..data.queries import Content
from ..places import FOLDER, GALLERY, Places
from ..score.results import Result
from ..store import Hit


@dataclass(frozen=True, slots=True)
class Explained:
    """Why the pictures of one query matched.

    Parameters
    ----------
    words : sequence of (str, float)
        How much each word counted for the best hit, in [0, 1]; empty where the model does not say.
    patches : mapping of str to ndarray [rows, columns]
        By hit: how well each patch of the picture fits, in [0, 1].
    """

    words: Sequence[tuple[str, float]]
    patches: Mapping[str, NDArray[np.float32]]


@dataclass(frozen=True, slots=True)
class Found:
    """Rankings, best hit first, and what a report says of them.

    Parameters
    ----------
    results : tuple of Result
    report : Report
    index, model : str
        Where, and by what.
    explained : mapping of str to Explained
        With ``explain``, by query.
    warnings : tuple of str
        What the user should know of the files that were found.
    """

    results: tuple[Result, ...]
    report: Report
    index: str
    model: str
    explained: Mapping[str, Explained] = field(default_factory=dict)
    warnings: tuple[str, ...] = ()


def placed(hits: Sequence[Hit], places: Places) -> list[Hit]:
    """Hits whose paths lead to the files from the current folder."""
    return [replace(hit, meta=places.shown(hit.meta)) for hit in hits]


def found_of(
    results: Sequence[Result], failed: Sequence[Item], *, index: str | Path, entries: int, model: str, start: float,
    arguments: Mapping[str, Any], device: str = "cpu", explained: Mapping[str, Explained] | None = None,
    warnings: tuple[str, ...] = (), engine: str = "",
) -> Found:  # fmt: skip
    """Rankings with a report that has an item for each.

    Parameters
    ----------
    results : sequence of Result
    failed : sequence of Item
        Queries that came to nothing.
    index : str or Path
    entries : int
        How many the index has.
    model : str
        Whose embeddings they are.
    start : float
        When the command began, on the clock of ``time.perf_counter``, in s.
    arguments, device
        See ``Report``.
    explained : mapping of str to Explained, optional
        By query.
    warnings : tuple of str
        Of ``Places``.
    engine : str
        Of the encoder, where one ran.
    """
    explained = explained or {}
    items = list(failed)
    for result in results:
        best = result.ranked[0] if result.hits else None
        metrics = {"hits": len(result.hits), "ms": result.ms or 0.0} | ({"best_score": best.score} if best else {})
        seconds, sections = (result.ms or 0.0) / 1000, _sections(result, explained.get(result.query_id))
        about = {"query_id": result.query_id}
        items.append(Item(result.query, None, "ok", seconds, metrics=metrics, details=about, sections=sections))
    summary = (
        dict(summarise(items))
        | {"index": str(index), "entries": entries, "model": model}
        | ({"engine": engine} if engine else {})
        | ({"warnings": list(warnings)} if warnings else {})
    )
    report = Report(
        "retrieve", attn.__version__, dict(arguments), device, time.perf_counter() - start, tuple(items), summary
    )
    return Found(tuple(results), report, str(index), model, explained, warnings)


def blank_queries(queries: Mapping[str, Content]) -> list[Item]:
    """A failed item for each sentence that says nothing."""
    return [
        Item(f"query {key}", None, "failed", 0.0, error="is empty")
        for key, query in queries.items()
        if isinstance(query, str) and not query.strip()
    ]


def _sections(result: Result, explained: Explained | None) -> tuple[Section, ...]:
    """What the report says of a query: its hits with their metadata, and why they matched."""
    patches = explained.patches if explained else {}
    hits = [
        {"id": hit.id, "score": hit.score, **shown_meta(hit.meta)}
        | ({"patches": patches[hit.id].tolist()} if hit.id in patches else {})
        for hit in result.ranked
    ]
    table = Table("hits", hits, detail=True)
    return (table, Words("words", explained.words, detail=True)) if explained and explained.words else (table,)


def shown_meta(meta: Mapping[str, Any]) -> dict[str, Any]:
    """Metadata without what only ``index`` needs."""
    return {name: value for name, value in meta.items() if name not in ("stamp", "kind", GALLERY, FOLDER)}
