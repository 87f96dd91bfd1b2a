"""The store without an index: memory-mapped shards and exact search. Right up to some 100,000 items.

Specification: methods/retrieval-peers.md, section 4, back end 1. Files and commits: ``files.py``.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from . import files as store_files
from . import where
from .base import BLOCK_ITEMS, AddMode, Header, Hit, Meta, StoredBlock, already_there, damaged, made_anew, unique_rows
from .checks import check_items, check_search
from .files import Manifest, Shard, ShardFiles
from .lock import WriterLock
from .ranking import best, similarity
from .scan import BLOCK_QUERIES, BLOCK_ROWS, as_float32, candidates

MAX_SHARDS = 64
"""More are merged: each costs two mapped files and a call of the matrix product per search."""


class FlatStore:
    """See ``VectorStore``. A reader sees the state that was committed when it opened the store.

    Parameters
    ----------
    directory : Path
    lock_timeout : float
        How long a change waits for another writer, in s.
    verify : bool
        Compare all files with their checksums; costs about 1 s for 1 GB.

    Raises
    ------
    InputError
        If there is no store, or a file of it is missing or damaged.
    UsageError
        If a newer version of attn wrote it.
    """

    max_shards, block_rows, block_queries = MAX_SHARDS, BLOCK_ROWS, BLOCK_QUERIES
    """Shards above which small ones are merged; rows and queries worked on at a time."""

    def __init__(self, directory: Path, *, lock_timeout: float = 10.0, verify: bool = True) -> None:
        self.directory, self._verify = directory, verify
        self._lock = WriterLock(directory, lock_timeout)
        self._load()

    @classmethod
    def create(
        cls,
        directory: Path,
        header: Header,
        *,
        lock_timeout: float = 10.0,
        dtype: Literal["float32", "float16"] = "float32",
    ) -> FlatStore:
        """Make an empty store in ``directory``, which must be new or empty."""
        Manifest(replace(header, store="flat"), dtype).write(directory)
        return cls(directory, lock_timeout=lock_timeout)

    def _load(self) -> None:
        """Open the state that the manifest names now."""
        while True:
            manifest = Manifest.read(self.directory)
            try:
                self._open(manifest, self._verify)
                return
            except FileNotFoundError as error:
                # a writer may have replaced the state, and its files, since we read the manifest
                if Manifest.read(self.directory).generation == manifest.generation:
                    raise damaged(error.filename, "is missing") from error

    def _open(self, manifest: Manifest, verify: bool) -> None:
        open_now = {shard.files: shard for shard in getattr(self, "_shards", [])}
        header = manifest.header
        shards = [
            open_now.get(files) or Shard(self.directory, files, header.dim, manifest.dtype, verify)
            for files in manifest.shards
        ]
        rows = sum(files.rows for files in manifest.shards)
        self._alive = store_files.read_alive(self.directory, manifest.alive, rows)
        self.header, self._manifest, self._shards = header, manifest, shards
        self._first = np.cumsum([0, *(shard.files.rows for shard in shards)])  # number of each shard's first row
        self._rows: dict[str, int] | None = None
        self._selected: tuple[str, NDArray[np.bool_]] | None = None

    def __len__(self) -> int:
        return int(np.count_nonzero(self._alive))

    def add(
        self, ids: Sequence[str], vectors: NDArray[np.float32], meta: Sequence[Meta], mode: AddMode = "upsert"
    ) -> None:
        """See ``VectorStore.add``. One call is one commit and one shard: give it hundreds of items rather than one."""
        vectors = check_items(ids, vectors, meta, self.header.dim)
        take = unique_rows(ids, mode)
        self._begin()
        known = self._row_of()
        replaced = [known[ids[i]] for i in take if ids[i] in known]
        if replaced and mode == "strict":
            raise already_there(next(name for name in ids if name in known))
        if not take:
            return
        alive = np.concatenate([self._alive, np.ones(len(take), bool)])
        alive[replaced] = False
        items = [(ids[i], meta[i]) for i in take]
        shard = store_files.write_shard(
            self.directory, self._manifest.generation + 1, self.header.dim, self._manifest.dtype, [vectors[take]], items
        )
        first = len(self._alive)
        self._commit((*self._manifest.shards, shard), alive)
        known.update((name, first + i) for i, (name, _) in enumerate(items))
        self._rows = known
        self._tidy()

    def delete(self, ids: Sequence[str]) -> int:
        """See ``VectorStore.delete``."""
        self._begin()
        known = self._row_of()
        dead = {known[name] for name in ids if name in known}
        if dead:
            alive = self._alive.copy()
            alive[list(dead)] = False
            self._commit(self._manifest.shards, alive)
            self._rows = {name: row for name, row in known.items() if row not in dead}
            self._tidy()
        return len(dead)

    def search(
        self, queries: NDArray[np.float32], k: int, *, where: str | None = None, exact: bool = False
    ) -> list[list[Hit]]:
        """See ``VectorStore.search``; always exact."""
        queries = check_search(queries, k, self.header.dim)
        mask = self._alive if where is None else self._select(where)
        k = min(k, int(np.count_nonzero(mask)))
        if k == 0:
            return [[] for _ in queries]
        parts = [
            (shard.vectors, mask[first : first + shard.files.rows])
            for shard, first in zip(self._shards, self._first, strict=False)
        ]
        hits: list[list[Hit]] = []
        for start in range(0, len(queries), self.block_queries):
            some = queries[start : start + self.block_queries]
            chosen = candidates(some, parts, k, block_rows=self.block_rows)
            hits += [self._ranked(query, rows, k) for query, rows in zip(some, chosen, strict=True)]
        return hits

    def _ranked(self, query: NDArray[np.float32], rows: NDArray[np.int64], k: int) -> list[Hit]:
        """The ``k`` best of the candidate rows."""
        places = [self._place(row) for row in rows.tolist()]
        scores = similarity(query, np.stack([shard.vectors[row] for shard, row in places]))
        # ids are needed for ties only, and each costs a line of JSON: leave out what is below the k-th score
        cut = np.partition(scores, -k)[-k]
        kept = np.flatnonzero(scores >= cut)
        items = [places[i][0].item(places[i][1]) for i in kept]
        order = best(scores[kept], [name for name, _ in items], k)
        return [Hit(items[i][0], float(scores[kept[i]]), items[i][1]) for i in order]

    def entries(self) -> dict[str, Meta]:
        """See ``VectorStore.entries``."""
        return {name: meta for row, (name, meta) in enumerate(self._items()) if self._alive[row]}

    def blocks(self, *, where: str | None = None, size: int = BLOCK_ITEMS) -> Iterator[StoredBlock]:
        """See ``VectorStore.blocks``; in the order in which items were added."""
        mask = self._alive if where is None else self._select(where)
        for shard, first in zip(self._shards, self._first, strict=False):
            rows = np.flatnonzero(mask[first : first + shard.files.rows])
            for start in range(0, len(rows), size):
                some = rows[start : start + size]
                items = [shard.items[row] for row in some]
                yield StoredBlock(
                    [name for name, _ in items], as_float32(shard.vectors[some]), [meta for _, meta in items]
                )

    def compact(self) -> dict[str, Any]:
        """See ``VectorStore.compact``: one shard without dead rows."""
        self._begin()
        if len(self._shards) > 1 or not self._alive.all():
            self._merge(range(len(self._shards)))
        return self.stats()

    def stats(self) -> dict[str, Any]:
        """See ``VectorStore.stats``."""
        return {
            "store": "flat",
            "items": len(self),
            "deleted": len(self._alive) - len(self),
            "dim": self.header.dim,
            "dtype": self._manifest.dtype,
            "shards": len(self._shards),
            "generation": self._manifest.generation,
            "vector_bytes": sum(shard.files.vectors.bytes for shard in self._shards),
            "item_bytes": sum(shard.files.items.bytes for shard in self._shards),
        }

    def close(self) -> None:
        """See ``VectorStore.close``."""
        self._lock.release()

    def _begin(self) -> None:
        """Before a change: be the only writer, know the latest state, clean up after killed ones."""
        if self._lock.acquire():
            now = Manifest.read(self.directory)
            if now.header != self.header:
                raise made_anew(self.directory)
            if now.generation != self._manifest.generation:
                self._load()
            self._manifest.sweep(self.directory)

    def _commit(self, shards: tuple[ShardFiles, ...], alive: NDArray[np.bool_]) -> None:
        """Make these shards and rows the store's state."""
        generation = self._manifest.generation + 1
        manifest = replace(
            self._manifest, generation=generation, shards=shards,
            alive=store_files.write_alive(self.directory, generation, alive),
        )  # fmt: skip
        manifest.write(self.directory)
        self._open(manifest, verify=False)  # we have just written what is new
        manifest.sweep(self.directory)

    def _tidy(self) -> None:
        """Merge what has become small or mostly dead. A row is copied some log(n) times in its life."""
        total = len(self._alive)
        if 2 * len(self) < total:
            self._merge(range(len(self._shards)))
        elif len(self._shards) > self.max_shards:
            self._merge([i for i, shard in enumerate(self._shards) if 8 * shard.files.rows < total])

    def _merge(self, which: Sequence[int]) -> None:
        """Copy the living rows of these shards into a new one, block by block."""
        chosen, kept, masks = set(which), [], []
        blocks: list[tuple[Shard, NDArray[np.int64]]] = []
        items: list[tuple[str, Meta]] = []
        for number, (shard, first) in enumerate(zip(self._shards, self._first, strict=False)):
            alive = self._alive[first : first + shard.files.rows]
            if number not in chosen:
                kept.append(shard.files)
                masks.append(alive)
                continue
            rows = np.flatnonzero(alive)
            step = self.block_rows
            blocks += [(shard, rows[start : start + step]) for start in range(0, len(rows), step)]
            items += [shard.items[row] for row in rows]
        if items:
            vectors = (shard.vectors[rows] for shard, rows in blocks)
            generation, dim = self._manifest.generation + 1, self.header.dim
            kept.append(store_files.write_shard(self.directory, generation, dim, self._manifest.dtype, vectors, items))
            masks.append(np.ones(len(items), bool))
        self._commit(tuple(kept), np.concatenate([*masks, np.empty(0, bool)]))

    def _place(self, row: int) -> tuple[Shard, int]:
        """Shard of a row, and its number in there."""
        shard = int(np.searchsorted(self._first, row, side="right")) - 1
        return self._shards[shard], row - int(self._first[shard])

    def _items(self) -> list[tuple[str, Meta]]:
        return [item for shard in self._shards for item in shard.items]

    def _row_of(self) -> dict[str, int]:
        """Row of each id."""
        if self._rows is None:
            self._rows = {name: row for row, (name, _) in enumerate(self._items()) if self._alive[row]}
        return self._rows

    def _select(self, expression: str) -> NDArray[np.bool_]:
        """Living rows that ``where`` selects. The last answer is kept: queries come in batches with one filter."""
        if self._selected is None or self._selected[0] != expression:
            items = self._items()
            known = {key for row, (_, meta) in enumerate(items) if self._alive[row] for key in meta}
            test = where.selects(where.parse(expression, known))
            chosen = np.fromiter((test(name, meta) for name, meta in items), bool, len(items))
            self._selected = expression, chosen & self._alive
        return self._selected[1]
