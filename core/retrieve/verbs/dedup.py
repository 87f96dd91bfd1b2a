"""`attn retrieve dedup`: groups of entries that are nearly the same, by the cosine of their vectors.

The rule, for a threshold t. Entries are taken in the order of their ids. An entry joins the first entry kept so far
whose cosine with it is at least t; where there is none, it is kept itself. So every extra copy is within t of the entry
that is kept for it, entries that are kept are below t among each other, and chains (a like b, b like c, c unlike a) do
not merge what is unlike. The rule has one outcome, whatever the store, its order and the machine.

Specification: methods/retrieval-peers.md, section 8.
"""

from __future__ import annotations

import tempfile
import time
from collections.abc import Mapping
from pathlib import PurePath
from typing import Any

import numpy as np
from numpy.typing import NDArray

import attn

from ...device import set_threads
from ...errors import InputError
from ...progress import Bars, Watcher
from ...report.model import Item, Report, summarise
from ...report.sections import Table
from ..options.find import DedupOptions
from ..passages import PASSAGE_OF, document_of
from ..places import Places
from ..score.results import Result
from ..store import Hit, VectorStore, open_store
from ..store.base import Meta, StoredBlock
from .found import Found, shown_meta
from .owners import SIZES, Sizes, cosines, owners
from .similar import title

ROOM_BYTES = 256 << 20
"""Of vectors that are held in memory; more lie in a temporary file."""


def dedup(
    index: str | PurePath,
    options: DedupOptions = DedupOptions(),  # noqa: B008 - frozen
    *,
    watcher: Watcher | None = None,
    arguments: Mapping[str, Any] | None = None,
    sizes: Sizes = SIZES,
    room_bytes: int = ROOM_BYTES,
) -> Found:
    """Group the near duplicates of an index; see the module for the rule.

    Parameters
    ----------
    index : str or path
    options : DedupOptions
    watcher : Watcher, optional
    arguments : mapping, optional
        What the report records as the call's arguments.
    sizes : Sizes
    room_bytes : int
        Of vectors that are held in memory; more lie in a temporary file.

    Returns
    -------
    Found. A result is a group: its query the entry that is kept, its hits the extra copies with their cosine to it.
    The report has one item, the index, with ``entries`` (compared), ``kept``, ``groups``, ``duplicates`` and
    ``largest_group`` (with the kept entry), and all pairs in a section ``duplicates``.

    Raises
    ------
    UsageError
        If the threshold is not in (0, 1], or ``where`` cannot be understood.
    InputError
        If the index is damaged, or changes while it is read.
    """
    start = time.perf_counter()
    set_threads(options.threads)
    watcher = watcher or Bars()
    store = open_store(index)
    places = Places(index)
    try:
        with tempfile.TemporaryFile() as file:
            ids, vectors = _documents(
                *_read(store, options.where, file, str(index), places if options.present else None, room_bytes)
            )
            order = np.array(sorted(range(len(ids)), key=ids.__getitem__), np.int64)
            owner = np.empty(0, np.int64)
            for done, owner in owners(vectors, order, options.threshold, sizes):  # noqa: B007 - the last one counts
                watcher.step(str(index), done, len(ids))
            copies = np.flatnonzero(owner != np.arange(len(owner)))
            scores = cosines(vectors, order[copies], order[owner[copies]])
        members: dict[str, list[tuple[str, float]]] = {}
        for copy, score in zip(copies.tolist(), scores.tolist(), strict=True):
            members.setdefault(ids[order[owner[copy]]], []).append((ids[order[copy]], score))
        meta = {name: places.shown(fields) for name, fields in _meta(store, options.where, members).items()}
        model = str(store.header.fingerprint.get("model", ""))
    finally:
        store.close()
    results = [
        Result(kept, title(kept, meta[kept]), [Hit(name, score, meta[name]) for name, score in copies])
        for kept, copies in sorted(members.items())
    ]
    metrics = {
        "entries": len(ids), "kept": len(ids) - len(scores), "groups": len(results), "duplicates": len(scores),
        "largest_group": max((len(result.hits) + 1 for result in results), default=0),
    }  # fmt: skip
    pairs = [
        {"kept": result.query_id, "duplicate": hit.id, "score": hit.score, **shown_meta(hit.meta)}
        for result in results
        for hit in result.ranked
    ]
    sections = (Table("duplicates", pairs, detail=True),)
    seconds = time.perf_counter() - start
    details = {"threshold": options.threshold, "search": "exact"}
    item = Item(str(index), None, "ok", seconds, metrics=metrics, details=details)
    summary = {**summarise([item]), "index": str(index), "model": model}
    named = arguments or {"verb": "dedup", "index": str(index), "threshold": options.threshold}
    report = Report("retrieve", attn.__version__, dict(named), "cpu", seconds, (item,), summary, sections=sections)
    left_out = places.warnings()
    if options.present and left_out:
        left_out = tuple(f"{warning}; left out" for warning in left_out)
    return Found(tuple(results), report, str(index), model, warnings=left_out)


def _documents(
    ids: list[str], documents: list[str], vectors: NDArray[np.float32]
) -> tuple[list[str], NDArray[np.float32]]:
    """Documents whose passages lie in several rows become one row: the mean of them, as a unit vector."""
    if documents == ids:
        return ids, vectors
    rows = {name: number for number, name in enumerate(dict.fromkeys(documents))}
    sums = np.zeros((len(rows), vectors.shape[1]), np.float64)
    np.add.at(sums, [rows[name] for name in documents], vectors)
    return list(rows), _unit(sums)


def _read(
    store: VectorStore, where: str | None, file: Any, name: str, present: Places | None, room_bytes: int
) -> tuple[list[str], list[str], NDArray[np.float32]]:
    """Ids, their documents, and unit rows [n, dim] in the store's order; many rows lie in ``file``, not in memory."""
    shape = max(len(store), 1), store.header.dim
    in_memory = 4 * shape[0] * shape[1] <= room_bytes
    rows: NDArray[np.float32] = np.empty(shape, np.float32) if in_memory else _mapped(file, shape)
    ids: list[str] = []
    documents: list[str] = []
    for block in store.blocks(where=where):
        if present is not None:
            there = [i for i, meta in enumerate(block.meta) if present.is_there(meta)]
            block = StoredBlock([block.ids[i] for i in there], block.vectors[there], [block.meta[i] for i in there])
        stop = len(ids) + len(block.ids)
        if stop > len(rows):
            raise InputError(name, "changes while it is read", "Try again when nobody writes to it")
        rows[len(ids) : stop] = _unit(block.vectors)
        ids += block.ids
        documents += [document_of(key, meta) for key, meta in zip(block.ids, block.meta, strict=True)]
    return ids, documents, rows[: len(ids)]


def _mapped(file: Any, shape: tuple[int, int]) -> NDArray[np.float32]:
    return np.memmap(file, np.float32, shape=shape).view(np.ndarray)


def _unit(vectors: NDArray[np.floating]) -> NDArray[np.float32]:
    """Rows of norm 1: those of a float16 store are not."""
    wide = vectors.astype(np.float64)
    rows: NDArray[np.float32] = (wide / np.linalg.norm(wide, axis=1, keepdims=True)).astype(np.float32)
    return rows


def _meta(store: VectorStore, where: str | None, members: Mapping[str, list[tuple[str, float]]]) -> dict[str, Meta]:
    """Metadata of all entries of the groups."""
    wanted = {*members, *(name for copies in members.values() for name, _ in copies)}
    if not wanted:
        return {}
    pairs = (pair for block in store.blocks(where=where) for pair in zip(block.ids, block.meta, strict=True))
    fields: dict[str, Meta] = {}
    for key, meta in pairs:
        if (name := document_of(key, meta)) in wanted:
            fields.setdefault(name, {field: value for field, value in meta.items() if field != PASSAGE_OF})
    return fields
