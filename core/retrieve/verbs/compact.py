"""`attn retrieve compact`: give back the room of deleted entries, and bring an approximate index up to date."""

from __future__ import annotations

import time
from collections.abc import Mapping
from pathlib import Path, PurePath
from typing import Any

import attn

from ...report.model import Item, Report, summarise
from ..store import is_remote, open_store, split_place
from ..store.files import folder_bytes


def compact(index: str | PurePath, *, arguments: Mapping[str, Any] | None = None) -> Report:
    """Compact an index. Nothing that a search finds changes.

    Parameters
    ----------
    index : str or path
    arguments : mapping, optional
        What the report records as the call's arguments.

    Returns
    -------
    Report of one item: ``entries``, and for an index on this machine ``bytes_before`` and ``bytes_after``, the sizes
    of all its files. ``details`` has the store's own counts before and after. A Lance table keeps what the versions
    of the last day need, so that its readers lose nothing: it may grow first and shrink a day later.

    Raises
    ------
    UsageError
        If another process is writing to the index.
    InputError
        If the index is damaged or cannot be written.

    References
    ----------
    methods/retrieval-peers.md, sections 5 and 9.
    """
    start = time.perf_counter()
    remote, (place, folder) = is_remote(index), split_place(index)
    store = open_store(index)
    try:
        before = store.stats()
        sizes = {} if remote else {"bytes_before": folder_bytes(Path(folder))}
        after = store.compact()
        sizes |= {} if remote else {"bytes_after": folder_bytes(Path(folder))}
        entries = len(store)
    finally:
        store.close()
    seconds = time.perf_counter() - start
    warnings = ("a Qdrant server compacts its collections by itself: nothing to do",) if place == "qdrant" else ()
    item = Item(
        str(index), None, "ok", seconds, metrics={"entries": entries, **sizes}, warnings=warnings,
        details={"before": before, "after": after},
    )  # fmt: skip
    named = arguments or {"verb": "compact", "index": str(index)}
    return Report("retrieve", attn.__version__, dict(named), "cpu", seconds, (item,), summarise([item]))
