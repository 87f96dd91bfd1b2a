"""`attn retrieve similar`: entries most like entries of the index, by their vectors. No model is loaded."""

from __future__ import annotations

import bisect
import os
import time
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import PurePath
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ...device import set_threads
from ...errors import UsageError, did_you_mean
from ...report.model import Item
from ..options.find import SimilarOptions
from ..passages import BATCH, PASSAGE_OF, document_of, nearest
from ..places import Places, absolute, file_name
from ..score.results import Result
from ..store import Hit, VectorStore, open_store
from ..store.base import Meta
from .found import Found, found_of, placed

NEIGHBOURS = 500
"""Names before and after a wrong one, in order, among which the nearest is looked for: all would take seconds."""


@dataclass(frozen=True, slots=True)
class KnownEntry:
    """An entry that is asked about; ``vector`` [dim] is a unit vector."""

    id: str
    vector: NDArray[np.float32]
    meta: Meta


def similar(
    index: str | PurePath,
    names: Sequence[str],
    options: SimilarOptions = SimilarOptions(),  # noqa: B008 - frozen
    *,
    arguments: Mapping[str, Any] | None = None,
) -> Found:
    """Rank an index's entries by their likeness to some of them.

    Parameters
    ----------
    index : str or path
    names : sequence of str
        Ids, or paths of entries as hits show them. An entry is never among its own hits.
    options : SimilarOptions
    arguments : mapping, optional
        What the report records as the call's arguments.

    Returns
    -------
    Found. The id of each entry is the query's; names that the index does not have are failed items.

    Raises
    ------
    UsageError
        If nothing is asked, or an option makes no sense.
    InputError
        If the index is damaged.

    References
    ----------
    methods/retrieval-peers.md, section 8.
    """
    start = time.perf_counter()
    if not names:
        raise UsageError("nothing to compare with. Give ids of entries, or their paths as a search shows them.")
    set_threads(options.threads)
    store = open_store(index)
    places = Places(index)
    try:
        entries, failed = entries_of(store, list(dict.fromkeys(names)), str(index), places)
        results: list[Result] = []
        for at in range(0, len(entries), BATCH):
            block = entries[at : at + BATCH]
            began = time.perf_counter()
            hits = neighbours(store, block, options)
            ms = 1000 * (time.perf_counter() - began) / len(block)
            for entry, others in zip(block, hits, strict=True):
                results.append(Result(entry.id, title(entry.id, places.shown(entry.meta)), placed(others, places), ms))
        count, model = len(store), str(store.header.fingerprint.get("model", ""))
    finally:
        store.close()
    return found_of(
        results, failed, index=str(index), entries=count, model=model, start=start,
        arguments=arguments or {"verb": "similar", "index": str(index), "entries": list(names)},
        warnings=places.warnings(),
    )  # fmt: skip


def neighbours(store: VectorStore, entries: Sequence[KnownEntry], options: SimilarOptions) -> list[list[Hit]]:
    """The hits of each entry, itself not among them."""
    queries = np.stack([entry.vector for entry in entries])
    found = nearest(store, queries, options.top + 1, where=options.where, exact=options.exact)
    return [
        [hit for hit in hits if hit.id != entry.id][: options.top] for entry, hits in zip(entries, found, strict=True)
    ]


def title(name: str, meta: Meta) -> str:
    """What stands for an entry as a query: its path, else its text, else its id."""
    return str(meta.get("path") or meta.get("text") or name)


def entries_of(
    store: VectorStore, names: Sequence[str], index: str, places: Places
) -> tuple[list[KnownEntry], list[Item]]:
    """The entries in the order of their names, each once, and a failed item for each name that is none's."""
    entries = by_id(store, names)
    missing = [name for name in names if name not in entries]
    failed: list[Item] = []
    ids = {name: name for name in entries}
    if missing:
        stored = store.entries()
        known: dict[str, list[str]] = {}
        for key, meta in stored.items():
            known.setdefault(document_of(key, meta), []).append(key)
        owners: dict[str, list[str]] = {}
        for key, members in known.items():
            if path := stored[members[0]].get("path"):
                here = file_name(str(path))
                both = {here, places.moved(here, stored[members[0]])} if os.path.isabs(here) else {absolute(here)}
                for part in both:
                    owners.setdefault(part, []).append(key)
        for name in missing:
            if name in known:
                ids[name] = name
                continue
            match owners.get(absolute(name), ()):
                case [key]:
                    ids[name] = key
                case [first, second, *rest]:
                    more = f" and {len(rest)} more" if rest else ""
                    reason = f"{index} has several entries of that path: {first!r}, {second!r}{more}. Give an id"
                    failed.append(Item(name, None, "failed", 0.0, error=reason))
                case _:
                    hint = _hint(name, {*known, *owners}) if known else "The index is empty."
                    reason = f"no entry of {index} has that id or path. {hint}".rstrip()
                    failed.append(Item(name, None, "failed", 0.0, error=reason))
        entries |= by_id(store, [key for key in ids.values() if key not in entries and known[key] == [key]])
        for key in {key for key in ids.values() if key not in entries}:
            entries[key] = _document(key, list(by_id(store, known[key]).values()))
    return [entries[key] for key in dict.fromkeys(ids[name] for name in names if name in ids)], failed


def by_id(store: VectorStore, ids: Sequence[str]) -> dict[str, KnownEntry]:
    """Those of some ids that the store has."""
    entries: dict[str, KnownEntry] = {}
    for start in range(0, len(ids), BATCH):
        listed = ", ".join("'" + name.replace("'", "''") + "'" for name in ids[start : start + BATCH])
        for block in store.blocks(where=f"id IN ({listed})"):
            for name, vector, meta in zip(*block, strict=True):
                entries[name] = KnownEntry(name, vector, meta)
    return entries


def _document(key: str, passages: Sequence[KnownEntry]) -> KnownEntry:
    """A document of several passages: the mean of their vectors, as a unit vector."""
    mean = np.mean([passage.vector for passage in passages], axis=0, dtype=np.float64)
    meta = {name: value for name, value in passages[0].meta.items() if name != PASSAGE_OF}
    vector: NDArray[np.float32] = np.asarray(mean / max(float(np.linalg.norm(mean)), 1e-12), np.float32)
    return KnownEntry(key, vector, meta)


def _hint(name: str, known: Iterable[str]) -> str:
    """'Did you mean X?', of the names that begin alike or end in the same file name."""
    order = sorted(known)
    at = bisect.bisect(order, name)
    near = set(order[max(0, at - NEIGHBOURS) : at + NEIGHBOURS])
    near |= {other for other in order if other.endswith(PurePath(name).name)} if PurePath(name).name else set()
    return did_you_mean(name, sorted(near)) or "`attn retrieve search` shows ids and paths."
