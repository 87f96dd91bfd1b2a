"""Vectors in a Lance table: on disk, columnar, with filters in SQL and an approximate index.

Specification: methods/retrieval-peers.md, sections 3-5 and 9. Lance commits atomically by itself; we add the header (in
the table's schema), unique ids, scores instead of distances, ties by id, and the measured recall of the index.
"""

from __future__ import annotations

import contextlib
import time
from collections.abc import Iterator, Sequence
from dataclasses import replace
from datetime import timedelta
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ...errors import AttnError, UsageError
from . import where
from .base import (
    BLOCK_ITEMS,
    FLAT_ITEMS,
    AddMode,
    Header,
    Hit,
    Meta,
    StoredBlock,
    already_there,
    made_anew,
    unique_rows,
)
from .checks import check_items, check_search
from .lance_home import LanceHome
from .lance_table import TABLE, header_of, id_in, index_config, item_meta, nearest_ids, vectors_of
from .ranking import best, similarity, until_decided

INDEX = "vector_idx"
NPROBES, REFINE_PQ = 20, 10
OVERFETCH = 16
COMPACT_VERSIONS, COMPACT_ROWS = 200, 10_000
KEEP_VERSIONS = timedelta(days=1)
"""Older versions are removed by ``compact``; a reader that opened the table earlier loses them."""
ID_CHUNK = 1_000
RECALL_QUERIES, SCAN_ITEMS = 100, 16_384


class LanceStore:
    """See ``VectorStore``. A reader sees the version that was the newest when it opened the store.

    Parameters
    ----------
    home : LanceHome
        Where the table is.

    Raises
    ------
    InputError
        If there is no table, or it cannot be read.
    UsageError
        If a newer version of attn wrote it, or ``lancedb`` is missing.
    """

    flat_items, compact_versions = FLAT_ITEMS, COMPACT_VERSIONS
    """Items above which ``compact`` builds an index; versions after which the table is compacted by itself."""

    def __init__(self, home: LanceHome) -> None:
        self.home = home
        with home.in_our_words():
            self._table = home.connect().open_table(TABLE)
            self._look()
            self.header = header_of(self._table, home.place)  # Lance reads the schema, and may panic, only now
        home.check(int(self._table.version))

    @classmethod
    def create(cls, home: LanceHome, header: Header) -> LanceStore:
        """Make an empty table."""
        database = home.connect()
        from . import columns

        with home.in_our_words():
            database.create_table(TABLE, schema=columns.empty_schema(replace(header, store="lance")))
        return cls(home)

    def __len__(self) -> int:
        with self.home.in_our_words():
            return int(self._table.count_rows())

    def add(
        self, ids: Sequence[str], vectors: NDArray[np.float32], meta: Sequence[Meta], mode: AddMode = "upsert"
    ) -> None:
        """See ``VectorStore.add``. One call is one version: give it thousands of items, and stream by calling again."""
        from . import columns

        vectors = check_items(ids, vectors, meta, self.header.dim)
        take = unique_rows(ids, mode)
        self._begin()
        some = [ids[i] for i in take]
        if mode == "strict" and (there := self._present(some)):
            raise already_there(there[0])
        if not take:
            return
        kept = [meta[i] for i in take]
        with self.home.in_our_words():
            if fields := columns.missing_fields(kept, self._table.schema):
                self._table.add_columns(fields)
            rows = columns.table(some, vectors[take], kept, self._table.schema)
            if mode == "strict" or self._table.count_rows() == 0:
                self._table.add(rows)
            else:
                merge = self._table.merge_insert("id").when_matched_update_all().when_not_matched_insert_all()
                merge.execute(rows)
            state = self.home.read_state()
            many = self._table.version - state.get("compacted_version", 0) >= self.compact_versions
            if many or self._unindexed() >= COMPACT_ROWS:
                self._optimise(state)

    def delete(self, ids: Sequence[str]) -> int:
        """See ``VectorStore.delete``."""
        self._begin()
        there = self._present(list(dict.fromkeys(ids)))
        if there:
            with self.home.in_our_words():
                self._table.delete(id_in(there))  # one expression, one version: all or nothing
        return len(there)

    def search(
        self, queries: NDArray[np.float32], k: int, *, where: str | None = None, exact: bool = False
    ) -> list[list[Hit]]:
        """See ``VectorStore.search``."""
        queries = check_search(queries, k, self.header.dim)
        condition = None if where is None else self._condition(where)
        with self.home.in_our_words():
            fast = not exact and bool(self._index)
            total = 0 if fast else self._table.count_rows()
            return [self._nearest(query, k, condition, fast, total) for query in queries]

    def _nearest(self, query: NDArray[np.float32], k: int, condition: str | None, fast: bool, total: int) -> list[Hit]:
        """The best ``k`` of one query [dim]."""

        def fetch(limit: int) -> tuple[NDArray[np.float32], list[tuple[str, str]]]:
            builder = self._table.search(query).distance_type("cosine").limit(limit)
            builder = builder.select(["id", "vector", "meta", "_distance"])  # Lance warns where the last is missing
            if condition is not None:
                builder = builder.where(condition, prefilter=True)
            if fast:
                builder = builder.nprobes(NPROBES).ef(max(64, 2 * limit))
                if "Pq" in self._index:
                    builder = builder.refine_factor(REFINE_PQ)
            else:
                builder = builder.bypass_vector_index()
            rows = builder.to_arrow()
            vectors = vectors_of(rows, self.header.dim)
            pairs = zip(rows["id"].to_pylist(), rows["meta"].to_pylist(), strict=True)
            # distances of a quantised index are rough: score again, which also makes up for its order near the end
            return similarity(query, vectors), list(pairs)

        scores, items = fetch(k + OVERFETCH) if fast else until_decided(fetch, k, total)
        order = best(scores, [name for name, _ in items], k)
        return [Hit(items[i][0], float(scores[i]), item_meta(self.home.place, *items[i])) for i in order]

    def entries(self) -> dict[str, Meta]:
        """See ``VectorStore.entries``."""
        with self.home.in_our_words():
            return {
                name: item_meta(self.home.place, name, meta)
                for batch in self._table.search().select(["id", "meta"]).to_batches()
                for name, meta in zip(batch["id"].to_pylist(), batch["meta"].to_pylist(), strict=True)
            }

    def blocks(self, *, where: str | None = None, size: int = BLOCK_ITEMS) -> Iterator[StoredBlock]:
        """See ``VectorStore.blocks``; in the order of the table."""
        query = self._table.search().select(["id", "vector", "meta"])
        if where is not None:
            query = query.where(self._condition(where))
        with self.home.in_our_words():
            for batch in query.to_batches(size):
                if batch.num_rows:
                    ids, texts = batch["id"].to_pylist(), batch["meta"].to_pylist()
                    meta = [item_meta(self.home.place, *pair) for pair in zip(ids, texts, strict=True)]
                    yield StoredBlock(ids, vectors_of(batch, self.header.dim), meta)

    def compact(self) -> dict[str, Any]:
        """See ``VectorStore.compact``. Builds an index if there is none for more than ``flat_items`` items."""
        self._begin()
        with self.home.in_our_words():
            self._optimise(self.home.read_state())
        self.home.tidy()
        if not self._index and len(self) > self.flat_items:
            self.build_index()
        return self.stats()

    def build_index(self, *, filters: bool = False) -> dict[str, Any]:
        """Build the approximate index anew, and measure it.

        Parameters
        ----------
        filters : bool
            Most searches will use ``where``: IVF_PQ, which filters evenly, instead of the faster IVF_HNSW_SQ.

        Returns
        -------
        dict with ``type``, ``partitions``, ``seconds``, ``items`` and ``recall_at_10``: of 100 items as queries, the
        share of their exact 10 nearest that the index finds.

        Raises
        ------
        UsageError
            If there are fewer than 256 items, too few to train it.
        """
        self._begin()
        items = len(self)
        if items < 256:
            raise UsageError(f"{items} items are too few for an index: at least 256. Searching without one is fast.")
        start = time.perf_counter()
        name, partitions, config = index_config(items, self.header.dim, filters=filters)
        with self.home.in_our_words():
            self._table.create_index("vector", config=config, name=INDEX, replace=True)
            self._look()
        built = {"type": name, "partitions": partitions, "items": items, "seconds": time.perf_counter() - start}
        self.home.write_state({**self.home.read_state(), "index": built})
        built["recall_at_10"] = self._recall()
        self.home.write_state({**self.home.read_state(), "index": built})
        return built

    def _recall(self, k: int = 10) -> float:
        """Share of the exact ``k`` nearest that the index finds, for items at even distances in the table."""
        with self.home.in_our_words():
            rows = np.linspace(0, self._table.count_rows() - 1, RECALL_QUERIES).astype(int).tolist()
            sample = self._table.take_offsets(rows).select(["vector"]).to_arrow()
        queries = vectors_of(sample, self.header.dim)
        exact, fast = nearest_ids(self.blocks(size=SCAN_ITEMS), queries, k), self.search(queries, k)
        common = sum(len(names & {hit.id for hit in hits}) for names, hits in zip(exact, fast, strict=True))
        return common / sum(map(len, exact))

    def stats(self) -> dict[str, Any]:
        """See ``VectorStore.stats``."""
        with self.home.in_our_words():
            return {
                "store": "lance",
                "items": len(self),
                "dim": self.header.dim,
                "dtype": "float32",
                "version": int(self._table.version),
                "unindexed": self._unindexed(),
                **self.home.sizes(self._table),
                "approximate": self.home.read_state().get("index", {}) if self._index else {},
            }

    def close(self) -> None:
        """See ``VectorStore.close``."""
        if self.home.lock.held:
            with contextlib.suppress(AttnError), self.home.in_our_words():  # a damaged table was told of already
                self.home.closing(int(self._table.version))
        self.home.lock.release()

    def _begin(self) -> None:
        """Before a change: be the only writer of ours, know the latest version."""
        if self.home.lock.acquire():
            with self.home.in_our_words():
                self._table.checkout_latest()
                self._look()
                header = header_of(self._table, self.home.place)
            if header != self.header:
                raise made_anew(self.home.place)

    def _condition(self, expression: str) -> str:
        from .columns import names, sql

        return sql(where.parse(expression, names(self._table.schema)), self._table.schema)

    def _present(self, ids: Sequence[str]) -> list[str]:
        """Those of ``ids`` that are in the table."""
        present: set[str] = set()
        with self.home.in_our_words():
            for start in range(0, len(ids), ID_CHUNK):
                query = self._table.search().where(id_in(ids[start : start + ID_CHUNK])).select(["id"])
                present.update(query.to_arrow()["id"].to_pylist())
        return [name for name in ids if name in present]

    def _look(self) -> None:
        """Note which index there is ("IvfPq", ...; "" for none): asking Lance at each search would cost too much."""
        self._index = next((str(i.index_type) for i in self._table.list_indices() if i.name == INDEX), "")

    def _unindexed(self) -> int:
        """Rows that came after the index was built or brought up to date; 0 without an index."""
        stats = self._table.index_stats(INDEX) if self._index else None
        return int(stats.num_unindexed_rows) if stats else 0

    def _optimise(self, state: dict[str, Any]) -> None:
        self._table.optimize(cleanup_older_than=KEEP_VERSIONS)
        self.home.write_state({**state, "compacted_version": int(self._table.version)})
