"""Vectors in a collection of a Qdrant server: the shared, replicated store.

Specification: methods/retrieval-peers.md, section 4. A point's number is the UUID (version 5) of the item's id; its
payload is ``{"id": ..., "meta": {...}}``; the header is in the collection's metadata. Text can be compared for equality
only, and large changes are sent in pieces: one that is cut short leaves what was sent (do it again).
"""

from __future__ import annotations

import contextlib
import importlib.util
import uuid
from collections.abc import Iterator, Sequence
from dataclasses import replace
from typing import Any
from urllib.parse import urlsplit

import numpy as np
from numpy.typing import NDArray

from ...errors import AttnError, InputError, UsageError
from ...text import reason_of
from . import where
from .base import (
    BLOCK_ITEMS,
    AddMode,
    Header,
    Hit,
    Meta,
    StoredBlock,
    already_there,
    damaged,
    escape,
    unescape,
    unique_rows,
)
from .checks import check_items, check_search
from .qdrant_filter import to_filter
from .ranking import best, similarity, until_decided

PORT = 6333
POINTS, POINTS_READ = 256, 1_000
"""Items that are sent, and read, at a time."""
NAMESPACE = uuid.UUID("6a7c2f0e-5d0b-4f5c-9a52-0c1f6f0f3a11")


def connect(url: str) -> tuple[Any, str]:
    """Client and collection of ``qdrant://HOST[:PORT]/COLLECTION``. Raises ``UsageError`` for anything else."""
    parts = urlsplit(url)
    collection = parts.path.strip("/")
    try:
        host, port = parts.hostname, parts.port or PORT
    except ValueError:
        host, port = None, 0
    if parts.scheme != "qdrant" or not host or not collection or "/" in collection:
        raise UsageError(f"{url}: write qdrant://HOST[:PORT]/COLLECTION")
    if importlib.util.find_spec("qdrant_client") is None:
        raise UsageError("a Qdrant store needs a package that is not installed: pip install 'attn[qdrant]'")
    from qdrant_client import QdrantClient

    return QdrantClient(host=host, port=port, check_compatibility=False), collection


def has_collection(client: Any, collection: str) -> bool:
    """Whether there is such a collection. Raises ``InputError`` if the server does not answer."""
    with _told(collection):
        return bool(client.collection_exists(collection))


class QdrantStore:
    """See ``VectorStore``.

    Parameters
    ----------
    client : qdrant_client.QdrantClient
        To a server, or local (``QdrantClient(":memory:")``) for tests.
    collection : str

    Raises
    ------
    InputError
        If the server does not answer, or there is no such collection of ours.
    UsageError
        If a newer version of attn wrote it.
    """

    def __init__(self, client: Any, collection: str) -> None:
        self._client, self.collection = client, collection
        metadata = self._metadata()
        if "attn" not in metadata:
            raise damaged(collection, "a Qdrant collection without attn's header")
        self.header = Header.from_dict(metadata["attn"], collection)

    @classmethod
    def create(cls, client: Any, collection: str, header: Header) -> QdrantStore:
        """Make an empty collection. Raises ``UsageError`` if there is one of that name."""
        from qdrant_client import models

        header = replace(header, store="qdrant")
        with _told(collection):
            if client.collection_exists(collection):
                raise UsageError(
                    f"there is a collection {collection} already. Choose another name, or delete it there."
                )
            # of unit vectors the dot product is the cosine, and the server keeps them as they are
            params = models.VectorParams(size=header.dim, distance=models.Distance.DOT)
            client.create_collection(
                collection, vectors_config=params, metadata={"attn": header.to_dict(), "names": {}}
            )
        return cls(client, collection)

    def _metadata(self) -> dict[str, Any]:
        with _told(self.collection):
            if not self._client.collection_exists(self.collection):
                raise InputError(self.collection, "no such Qdrant collection", "Make one: attn retrieve index")
            return self._client.get_collection(self.collection).config.metadata or {}

    def __len__(self) -> int:
        with _told(self.collection):
            return int(self._client.count(self.collection, exact=True).count)

    def add(
        self, ids: Sequence[str], vectors: NDArray[np.float32], meta: Sequence[Meta], mode: AddMode = "upsert"
    ) -> None:
        """See ``VectorStore.add``; sent in pieces of 256 items, each of which is stored whole or not at all."""
        from qdrant_client import models

        vectors = check_items(ids, vectors, meta, self.header.dim)
        take = unique_rows(ids, mode)
        if mode == "strict" and (there := self._present(ids)):
            raise already_there(there[0])
        known = self._metadata().get("names", {})
        if new := {escape(key): True for i in take for key in meta[i]}.keys() - known.keys():
            with _told(self.collection):
                self._client.update_collection(
                    self.collection, metadata={"names": {**known, **dict.fromkeys(new, True)}}
                )
        points = (
            models.PointStruct(
                id=_point(ids[i]),
                vector=vectors[i].tolist(),
                payload={"id": ids[i], "meta": {escape(key): value for key, value in meta[i].items()}},
            )
            for i in take
        )
        with _told(self.collection):
            for piece in _pieces(points):
                self._client.upsert(self.collection, piece, wait=True)

    def delete(self, ids: Sequence[str]) -> int:
        """See ``VectorStore.delete``."""
        from qdrant_client import models

        there = self._present(list(dict.fromkeys(ids)))
        with _told(self.collection):
            if there:
                selector = models.PointIdsList(points=[_point(name) for name in there])
                self._client.delete(self.collection, selector, wait=True)
        return len(there)

    def search(
        self, queries: NDArray[np.float32], k: int, *, where: str | None = None, exact: bool = False
    ) -> list[list[Hit]]:
        """See ``VectorStore.search``."""
        queries = check_search(queries, k, self.header.dim)
        condition = None if where is None else self._condition(where)
        total = len(self)
        return [self._nearest(query, k, condition, exact, total) for query in queries]

    def _nearest(self, query: NDArray[np.float32], k: int, condition: Any, exact: bool, total: int) -> list[Hit]:
        """The best ``k`` of one query [dim]."""
        from qdrant_client import models

        def fetch(limit: int) -> tuple[NDArray[np.float32], list[dict[str, Any]]]:
            params = models.SearchParams(exact=exact, hnsw_ef=None if exact else max(64, 2 * limit))
            points = self._client.query_points(
                self.collection, query.tolist(), query_filter=condition, limit=limit, search_params=params,
                with_payload=True, with_vectors=True,
            ).points  # fmt: skip
            vectors = np.array([point.vector for point in points], np.float32).reshape(-1, self.header.dim)
            return similarity(query, vectors), [point.payload for point in points]

        with _told(self.collection):
            scores, items = until_decided(fetch, k, total)
        order = best(scores, [item["id"] for item in items], k)
        return [Hit(items[i]["id"], float(scores[i]), _plain(items[i]["meta"])) for i in order]

    def entries(self) -> dict[str, Meta]:
        """See ``VectorStore.entries``."""
        return {p.payload["id"]: _plain(p.payload["meta"]) for points in self._scroll(POINTS_READ) for p in points}

    def blocks(self, *, where: str | None = None, size: int = BLOCK_ITEMS) -> Iterator[StoredBlock]:
        """See ``VectorStore.blocks``; in the order of the points' numbers, at most 1,000 at a time."""
        condition = None if where is None else self._condition(where)
        for points in self._scroll(min(size, POINTS_READ), condition, with_vectors=True):
            vectors = np.array([point.vector for point in points], np.float32).reshape(-1, self.header.dim)
            payloads = [point.payload for point in points]
            yield StoredBlock(
                [payload["id"] for payload in payloads], vectors, [_plain(payload["meta"]) for payload in payloads]
            )

    def _scroll(self, size: int, condition: Any = None, *, with_vectors: bool = False) -> Iterator[list[Any]]:
        """The points that a filter selects, page by page; no page is empty."""
        offset = None
        while True:
            with _told(self.collection):
                points, offset = self._client.scroll(
                    self.collection, scroll_filter=condition, limit=size, offset=offset, with_payload=True,
                    with_vectors=with_vectors,
                )  # fmt: skip
            if points:
                yield points
            if offset is None:
                return

    def compact(self) -> dict[str, Any]:
        """See ``VectorStore.compact``; the server does it by itself."""
        return self.stats()

    def stats(self) -> dict[str, Any]:
        """See ``VectorStore.stats``."""
        return {"store": "qdrant", "items": len(self), "dim": self.header.dim, "dtype": "float32"}

    def close(self) -> None:
        """See ``VectorStore.close``."""
        self._client.close()

    def _present(self, ids: Sequence[str]) -> list[str]:
        """Those of ``ids`` that are in the collection."""
        present: set[str] = set()
        with _told(self.collection):
            for piece in _pieces(_point(name) for name in ids):
                points = self._client.retrieve(self.collection, piece, with_payload=["id"])
                present.update(point.payload["id"] for point in points)
        return [name for name in ids if name in present]

    def _condition(self, expression: str) -> Any:
        known = {unescape(name) for name in self._metadata().get("names", {})}
        return to_filter(where.parse(expression, known))


def _point(name: str) -> str:
    return str(uuid.uuid5(NAMESPACE, name))


def _plain(meta: dict[str, Any]) -> Meta:
    return {unescape(key): value for key, value in meta.items()}


def _pieces(values: Any) -> Iterator[list[Any]]:
    piece: list[Any] = []
    for value in values:
        piece.append(value)
        if len(piece) == POINTS:
            yield piece
            piece = []
    if piece:
        yield piece


@contextlib.contextmanager
def _told(collection: str) -> Iterator[None]:
    """The client's errors as ours: network, HTTP status, and what its local mode raises."""
    from qdrant_client.http.exceptions import ApiException

    try:
        yield
    except AttnError:
        raise
    except (ApiException, OSError, ValueError, RuntimeError) as error:
        raise InputError(
            collection, f"Qdrant: {reason_of(error)}", "Is the server running and the address right?"
        ) from error
