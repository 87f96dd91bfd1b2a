"""`attn retrieve dedup`: groups of entries that are nearly the same, by the cosine of their vectors.

The rule, for a threshold t. Entries are taken in the order of their ids. An entry joins the first entry kept so far
whose cosine with it is at least t; where there is none, it is kept itself. So every extra copy is within t of the entry
that is kept for it, entries that are kept are below t among each other, and chains (a like b, b like c, c unlike a) do
not merge what is unlike. The rule has one outcome, whatever the store, its order and the machine.

The search for the first kept entry is exact and never holds n x n scores:

1. The vectors are read once and made unit rows; more than ``ROOM_BYTES`` of them lie in a temporary file.
2. A block of entries is compared with the entries kept so far, in blocks of these, in ``HEAD`` dimensions: rotated to
   their principal axes (of a sample), x·y <= head(x)·head(y) + |tail(x)| |tail(y)|, so where this bound is below t so
   is the cosine. The norm of the tail is one more column, hence the bound is one matrix product.
3. Pairs that the bound leaves are scored in float64. Where it leaves too many (a low t, or vectors without principal
   axes) the whole product is taken, and only scores within rounding of t are scored again.
4. Inside the block, entries in order: each that is still free is kept, and takes those after it that are within t.

Specification: methods/retrieval-peers.md, section 8.
"""

from __future__ import annotations

import tempfile
import time
from collections.abc import Iterator, Mapping
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
from ..score.runs import Result
from ..store import Hit, VectorStore, open_store
from ..store.base import SLACK, Meta, StoredBlock
from .search import Found, shown_meta
from .similar import title

BLOCK, BLOCK_KEPT = 1_024, 4_096
"""Entries compared at a time, with so many kept ones: 16 MB of scores, which malloc uses again (measured: larger
blocks take twice the time)."""
HEAD, SAMPLE = 64, 4_096
"""Dimensions of the bound, and vectors from which its axes are taken."""
TOO_MANY = 1e-3
"""Share of the pairs above which the whole product is cheaper than pairs one by one."""
PAIRS, ROOM_BYTES = 4_096, 256 << 20
"""Pairs scored in float64 at a time; vectors in memory."""


def dedup(
    index: str | PurePath,
    options: DedupOptions = DedupOptions(),  # noqa: B008 - frozen
    *,
    watcher: Watcher | None = None,
    arguments: Mapping[str, Any] | None = None,
) -> Found:
    """Group the near duplicates of an index; see the module for the rule.

    Parameters
    ----------
    index : str or path
    options : DedupOptions
    watcher : Watcher, optional
    arguments : mapping, optional
        What the report records as the call's arguments.

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
                *_read(store, options.where, file, str(index), places if options.present else None)
            )
            order = np.array(sorted(range(len(ids)), key=ids.__getitem__), np.int64)
            owner = np.empty(0, np.int64)
            for done, owner in owners(vectors, order, options.threshold):  # noqa: B007 - the last one counts
                watcher.step(str(index), done, len(ids))
            copies = np.flatnonzero(owner != np.arange(len(owner)))
            scores = _cosines(vectors, order[copies], order[owner[copies]])
        members: dict[str, list[tuple[str, float]]] = {}
        for copy, score in zip(copies.tolist(), scores.tolist(), strict=True):
            members.setdefault(ids[order[owner[copy]]], []).append((ids[order[copy]], score))
        meta = {name: places.shown(one) for name, one in _meta(store, options.where, members).items()}
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
    told = arguments or {"verb": "dedup", "index": str(index), "threshold": options.threshold}
    report = Report("retrieve", attn.__version__, dict(told), "cpu", seconds, (item,), summary, sections=sections)
    left_out = places.warnings()
    if options.present and left_out:
        left_out = tuple(f"{warning}; left out" for warning in left_out)
    return Found(tuple(results), report, warnings=left_out)


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
    store: VectorStore, where: str | None, file: Any, name: str, present: Places | None
) -> tuple[list[str], list[str], NDArray[np.float32]]:
    """Ids, their documents, and unit rows [n, dim] in the store's order; many rows lie in ``file``, not in memory."""
    shape = max(len(store), 1), store.header.dim
    in_memory = 4 * shape[0] * shape[1] <= ROOM_BYTES
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


def owners(
    vectors: NDArray[np.float32], order: NDArray[np.int64], threshold: float
) -> Iterator[tuple[int, NDArray[np.int64]]]:
    """Steps 2 to 4: for each entry, the entry that is kept for it.

    Parameters
    ----------
    vectors : ndarray, shape (n, dim), float32
        Unit rows.
    order : ndarray, shape (n,), int64
        Rows in the order in which they are taken.
    threshold : float
        In (0, 1].

    Yields
    ------
    int, ndarray of shape (n,), int64
        How many are done, and the answer up to there, the same array each time: positions in ``order``, its own for an
        entry that is kept.
    """
    owner = np.full(len(order), -1, np.int64)
    kept = np.empty(len(order), np.int64)
    bound = _Bound(vectors, order)
    count = 0
    for start in range(0, len(order), BLOCK):
        rows = vectors[order[start : start + BLOCK]]  # [b, dim]
        mine = owner[start : start + BLOCK]
        bound.add(rows)
        for first in range(0, count, BLOCK_KEPT):
            free = np.flatnonzero(mine < 0)
            some = kept[first : min(first + BLOCK_KEPT, count)]
            row, column = _within(vectors, order, start + free, some, threshold, bound)
            row, at = np.unique(row, return_index=True)  # pairs are in order: the first kept entry of each
            mine[free[row]] = some[column[at]]
        free = np.flatnonzero(mine < 0)
        mine[free] = start + free[_greedy(rows[free], threshold)]
        new = start + free[mine[free] == start + free]
        kept[count : count + len(new)] = new
        count += len(new)
        yield start + len(rows), owner


class _Bound:
    """Step 2: for each entry ``HEAD`` coordinates and the norm of the others. Useless once it left too many pairs."""

    def __init__(self, vectors: NDArray[np.float32], order: NDArray[np.int64]) -> None:
        dim = vectors.shape[1]
        self.useful = dim >= 2 * HEAD and len(order) > BLOCK
        self.heads = np.empty((len(order) if self.useful else 0, HEAD + 1), np.float32)
        self.done = 0
        if self.useful:
            sample = vectors[order[np.linspace(0, len(order) - 1, min(SAMPLE, len(order))).astype(np.int64)]]
            wide = sample.astype(np.float64)
            self.axes = np.linalg.eigh(wide.T @ wide)[1][:, -HEAD:].astype(np.float32)  # [dim, HEAD]

    def add(self, rows: NDArray[np.float32]) -> None:
        """Take the next rows [b, dim]."""
        if self.useful:
            head = rows @ self.axes
            rest = 1 - np.einsum("nd,nd->n", head, head)
            into = self.heads[self.done : self.done + len(rows)]
            into[:, :HEAD] = head
            into[:, HEAD] = np.sqrt(np.maximum(rest, 0) + SLACK)  # never too small: a root magnifies rounding at 0
        self.done += len(rows)


def _within(
    vectors: NDArray[np.float32], order: NDArray[np.int64], some: NDArray[np.int64], kept: NDArray[np.int64],
    threshold: float, bound: _Bound,
) -> tuple[NDArray[np.int64], NDArray[np.int64]]:  # fmt: skip
    """Pairs of entries ``some`` and ``kept`` (positions) within the threshold, by ``some``, then by ``kept``."""
    if bound.useful:
        places = _reach(bound.heads[some], bound.heads[kept], threshold)[0]
        if places.size <= max(TOO_MANY * some.size * kept.size, PAIRS):
            sure = np.zeros(places.size, bool)
        else:
            bound.useful = False
    if not bound.useful:
        places, scores = _reach(vectors[order[some]], vectors[order[kept]], threshold)
        sure = scores >= threshold + SLACK
    row, column = np.divmod(places, kept.size)
    near = sure.copy()
    near[~sure] = _cosines(vectors, order[some[row[~sure]]], order[kept[column[~sure]]]) >= np.float32(threshold)
    return row[near], column[near]


def _reach(
    a: NDArray[np.float32], b: NDArray[np.float32], threshold: float
) -> tuple[NDArray[np.int64], NDArray[np.float32]]:
    """Flat places, and values there, of the product [a, b] that are not below the threshold by more than rounding."""
    import torch

    scores = (torch.from_numpy(a) @ torch.from_numpy(b).T).numpy().ravel()  # torch's, because --threads is for torch
    places = np.flatnonzero(scores >= threshold - SLACK)
    return places, scores[places]


def _cosines(vectors: NDArray[np.float32], a: NDArray[np.int64], b: NDArray[np.int64]) -> NDArray[np.float32]:
    """Cosines [m] of pairs of rows, in float64 and rounded once: equal vectors have exactly 1."""
    out = np.empty(len(a), np.float32)
    for start in range(0, len(a), PAIRS):
        part = slice(start, start + PAIRS)
        x, y = (vectors[rows[part]].astype(np.float64) for rows in (a, b))
        xy, xx, yy = (np.einsum("nd,nd->n", *pair) for pair in ((x, y), (x, x), (y, y)))
        out[part] = xy / np.sqrt(xx * yy)
    return out


def _greedy(rows: NDArray[np.float32], threshold: float) -> NDArray[np.int64]:
    """Step 4: for each of the rows [m, dim] the row that is kept for it."""
    import torch

    owner = np.arange(len(rows))
    free = np.ones(len(rows), bool)
    scores = (torch.from_numpy(rows) @ torch.from_numpy(rows).T).numpy()  # [m, m]
    scores[np.tri(len(rows), dtype=bool)] = -2  # below every cosine: only those after an entry can join it
    for row in np.flatnonzero(scores.max(1, initial=-2) >= threshold - SLACK):
        if free[row]:
            near = np.flatnonzero((scores[row] >= threshold - SLACK) & free)
            unsure = near[scores[row, near] < threshold + SLACK]
            not_near = unsure[_cosines(rows, np.full(len(unsure), row), unsure) < np.float32(threshold)]
            near = np.setdiff1d(near, not_near, assume_unique=True)
            owner[near], free[near] = row, False
    return owner


def _meta(store: VectorStore, where: str | None, members: Mapping[str, list[tuple[str, float]]]) -> dict[str, Meta]:
    """Metadata of all entries of the groups."""
    wanted = {*members, *(name for copies in members.values() for name, _ in copies)}
    if not wanted:
        return {}
    pairs = (pair for block in store.blocks(where=where) for pair in zip(block.ids, block.meta, strict=True))
    found: dict[str, Meta] = {}
    for key, meta in pairs:
        if (name := document_of(key, meta)) in wanted:
            found.setdefault(name, {one: value for one, value in meta.items() if one != PASSAGE_OF})
    return found
