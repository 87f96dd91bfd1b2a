"""`attn retrieve search`: queries against an index."""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

import attn

from ...device import pick_device, set_threads
from ...errors import InputError
from ...io.tables import read_picture
from ...report.model import Item, Report, summarise
from ...report.sections import Section, Table, Words
from ..data.queries import Content
from ..encoders.base import Encoder, Fingerprint
from ..encoders.kept import MAX_SIDE, check_fingerprint, encoder_of, fingerprint_of
from ..options.encoder import EncoderOptions
from ..options.find import SearchOptions
from ..passages import nearest
from ..places import FOLDER, GALLERY, Places
from ..score.results import Result
from ..store import Hit, open_store
from .explain import Explained, check_explains, explain

BATCH = 64
"""Queries that one pass over the vectors answers."""


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


def search(
    index: str | Path,
    queries: Mapping[str, Content],
    options: SearchOptions = SearchOptions(),  # noqa: B008 - frozen
    *,
    arguments: Mapping[str, Any] | None = None,
) -> Found:
    """Rank an index's entries for each query.

    Parameters
    ----------
    index : str or Path
    queries : mapping of str to str or Path
        By id: a str is a text, a Path an image.
    options : SearchOptions
    arguments : mapping, optional
        What the report records as the call's arguments.

    Returns
    -------
    Found. Queries whose image cannot be read are failed items and have no result.

    Raises
    ------
    UsageError
        If the index is of another model, its model cannot be had or does not take such queries, or an option makes no
        sense.
    InputError
        If the index is damaged.
    """
    start = time.perf_counter()
    set_threads(options.threads)
    store = open_store(index)
    try:
        encoder = encoder_of(encoder_options(fingerprint_of(index, store.header.fingerprint), options))
        check_fingerprint(index, store.header.fingerprint, encoder)
        if options.explain:
            check_explains(encoder)
        vectors, items = embed_queries(queries, encoder)
        results: list[Result] = []
        ids = list(vectors)
        places = Places(index)
        for at in range(0, len(ids), BATCH):
            block = ids[at : at + BATCH]
            began = time.perf_counter()
            vectors_asked = np.stack([vectors[key] for key in block])
            hits_of = nearest(store, vectors_asked, options.top, where=options.where, exact=options.exact)
            ms = 1000 * (time.perf_counter() - began) / len(block)
            results += [
                Result(key, str(queries[key]), placed(hits, places), ms, isinstance(queries[key], str))
                for key, hits in zip(block, hits_of, strict=True)
            ]  # fmt: skip
        entries = len(store)
        explained: dict[str, Explained] = {}
        if options.explain:
            explained = {r.query_id: explain(r, encoder) for r in results if isinstance(queries[r.query_id], str)}
    finally:
        store.close()
    return found_of(
        results, items, index=index, entries=entries, model=encoder.fingerprint.model, start=start,
        device=str(pick_device(options.device)), explained=explained,
        arguments=arguments or {"verb": "search", "index": str(index)}, warnings=places.warnings(),
    )  # fmt: skip


def found_of(
    results: Sequence[Result], failed: Sequence[Item], *, index: str | Path, entries: int, model: str, start: float,
    arguments: Mapping[str, Any], device: str = "cpu", explained: Mapping[str, Explained] | None = None,
    warnings: tuple[str, ...] = (),
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
        | ({"warnings": list(warnings)} if warnings else {})
    )
    report = Report(
        "retrieve", attn.__version__, dict(arguments), device, time.perf_counter() - start, tuple(items), summary
    )
    return Found(tuple(results), report, str(index), model, explained, warnings)


def encoder_options(own: Fingerprint, options: SearchOptions) -> EncoderOptions:
    """The model and temperature that are asked for, the rest as the index has it."""
    model = own.model if options.model is None else options.model
    return EncoderOptions(
        model, own.temperature if options.temperature is None else options.temperature,
        own.max_tokens if model == own.model else None, options.device, allow_download=options.allow_download,
    )  # fmt: skip


def embed_queries(
    queries: Mapping[str, Content], encoder: Encoder
) -> tuple[dict[str, NDArray[np.float32]], list[Item]]:
    """Vectors by query id, and a failed item for each image that cannot be read."""
    texts = {key: query for key, query in queries.items() if isinstance(query, str) and query.strip()}
    vectors: dict[str, NDArray[np.float32]] = {}
    failed = [
        Item(f"query {key}", None, "failed", 0.0, error="is empty")
        for key, query in queries.items()
        if isinstance(query, str) and not query.strip()
    ]
    if texts:
        vectors |= dict(zip(texts, encoder.encode_texts(list(texts.values()), side="query").vectors, strict=True))
    for key, path in queries.items():
        if isinstance(path, str):
            continue
        try:
            pixels = read_picture(path, MAX_SIDE)
        except InputError as error:
            failed.append(Item(str(path), None, "failed", 0.0, error=error.reason))
            continue
        vectors[key] = encoder.encode_images([pixels]).vectors[0]
    return {key: vectors[key] for key in queries if key in vectors}, failed


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
