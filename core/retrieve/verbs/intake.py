"""What takes finished blocks into a store: what is new or changed goes in, what is gone goes out, labels follow."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import numpy as np

from ...errors import InputError
from ...progress import Watcher
from ...report.model import Item
from ..data.entry import Entry
from ..data.rows import ADDED
from ..passages import PASSAGE_OF, document_of
from ..store import VectorStore
from ..store.base import BLOCK_ITEMS
from .blocks import BlockItem, read_part

COUNTS = (
    "entries", "added", "changed", "relabelled", "unchanged", "removed", "kept", "truncated", "empty", "failed",
    "passages",
)  # fmt: skip
"""``relabelled``: the content is as it was, its path or other metadata are new. ``kept``: not found now, not gone."""


class Intake:
    """Watches the batch and takes each finished block into the store at once, in this process only."""

    def __init__(
        self, store: VectorStore, labels: Mapping[str, Mapping[str, Any]], entries: Mapping[str, Entry],
        watcher: Watcher,
    ) -> None:  # fmt: skip
        self.store, self.entries, self.watcher = store, entries, watcher
        self.members: dict[str, list[str]] = {}
        """What is in the store of each entry: itself, or its passages."""
        self.known: dict[str, str] = {}
        self.labels: dict[str, dict[str, Any]] = {}
        """Metadata that changed though the content did not."""
        for key, meta in labels.items():
            document, stamp = document_of(key, meta), str(meta.get("stamp"))
            self.members.setdefault(document, []).append(key)
            if self.known.setdefault(document, stamp) != stamp:
                self.known[document] = ""  # passages of two states: a run was killed between them
        for key, meta in labels.items():
            entry = entries.get(document_of(key, meta))
            if entry is not None and self.known[entry.id] == entry.stamp and _own(meta) != entry.meta:
                self.labels[entry.id] = dict(entry.meta)
        self.counts = dict.fromkeys(COUNTS, 0)
        self.failed: list[Item] = []
        self.stale = 0
        """Of those, entries of which the store kept what it had."""

    def item(self, item: Item, done: int, total: int) -> None:
        if isinstance(item, BlockItem) and item.output:
            for name, value in item.metrics.items():
                self.counts[name] += int(value)
            for key, name, reason in item.failed:
                stale = key in self.members
                self.stale += stale
                why = f"{reason.rstrip('.')}. Its entry of before was kept" if stale else reason
                self.failed.append(Item(name, None, "failed", 0.0, error=why, details={"stale": stale}))
                self.watcher.item(self.failed[-1], done, total)
            try:
                self.take(Path(item.output))
            except InputError as error:  # written a moment ago: what cannot be read again would be lost in silence
                self.failed.append(Item(item.input, None, "failed", 0.0, error=error.reason))
                self.watcher.item(self.failed[-1], done, total)
        self.watcher.item(item, done, total)

    def step(self, name: str, done: int, total: int) -> None:
        self.watcher.step(name, done, total)

    def resume(self, part: Path) -> int:
        """``take`` of a block that a run before left; half a file, or another attn's, is embedded again."""
        try:
            return self.take(part)
        except InputError:
            return 0

    def take(self, part: Path) -> int:
        """Add a block's vectors that are still wanted, then remove its file; returns of how many entries.

        Raises ``InputError`` if the file is not whole.
        """
        try:
            ids, vectors, meta, fingerprint = read_part(part)
        except InputError:
            part.unlink(missing_ok=True)
            raise
        wanted: dict[str, list[int]] = {}
        for i, key in enumerate(ids):
            entry = self.entries.get(document_of(key, meta[i]))
            if entry is not None and entry.stamp == meta[i]["stamp"] != self.known.get(entry.id):
                wanted.setdefault(entry.id, []).append(i)
        current = [i for some in wanted.values() for i in some]
        if current and fingerprint == self.store.header.fingerprint:
            self.store.add([ids[i] for i in current], vectors[current], [meta[i] for i in current])
            new = {key: [ids[i] for i in some] for key, some in wanted.items()}
            self.forget_keys(old for key in new for old in self.members.get(key, ()) if old not in new[key])
            for key in new:
                self.counts["changed" if key in self.known else "added"] += 1
                self.known[key] = self.entries[key].stamp
                self.labels.pop(key, None)
            self.members |= new
        else:
            wanted = {}
        part.unlink(missing_ok=True)
        return len(wanted)

    def forget(self, gone: Iterable[str]) -> None:
        """Remove entries with all their passages."""
        self.forget_keys(key for document in gone for key in self.members.pop(document, ()))

    def forget_keys(self, keys: Iterable[str]) -> None:
        """Remove items of the store."""
        if listed := list(keys):
            self.store.delete(listed)

    def relabel(self) -> int:
        """Write changed metadata beside the vectors that are there; returns of how many entries."""
        new = []
        for block in self.store.blocks() if self.labels else ():
            for key, vector, meta in zip(*block, strict=True):
                document = document_of(key, meta)
                if document in self.labels and self.known[document] == meta["stamp"]:
                    kept = {name: meta[name] for name in (*ADDED, PASSAGE_OF) if name in meta}
                    new.append((key, vector, self.labels[document] | kept))
        for at in range(0, len(new), BLOCK_ITEMS):
            ids, vectors, labels = zip(*new[at : at + BLOCK_ITEMS], strict=True)
            self.store.add(ids, np.stack(vectors), labels)
        return len(self.labels)


def _own(meta: Mapping[str, Any]) -> dict[str, Any]:
    """Metadata that came with an entry, without those that the index added."""
    return {name: value for name, value in meta.items() if name not in (*ADDED, PASSAGE_OF)}
