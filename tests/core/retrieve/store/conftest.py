"""Stores of every kind behind one fixture, and small unit vectors."""

from __future__ import annotations

import itertools
import uuid
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import pytest
from buckets import object_storage

from attn.core.retrieve.store import Header, create, open_store

DIM = 8
FINGERPRINT = {"model": "tiny", "sha256": "0" * 64, "dim": DIM}


@pytest.fixture(scope="module")
def storage() -> Iterator[str]:
    """A bucket, as ``object_storage`` makes one."""
    with pytest.MonkeyPatch.context() as patch, object_storage(patch) as address:
        yield address


class Place:
    """Where a store is: ``create`` it once, ``open`` it as often as you like."""

    def __init__(self, create: Callable, open_: Callable) -> None:
        self.create, self.open = create, open_


@pytest.fixture(params=["flat", "lance", "qdrant", pytest.param("s3", marks=pytest.mark.slow)])
def place(request, tmp_path) -> Iterator[Place]:
    kind = request.param
    if kind == "qdrant":
        client = pytest.importorskip("qdrant_client").QdrantClient(":memory:")
        from attn.core.retrieve.store.qdrant import QdrantStore

        yield Place(
            lambda dim=DIM: QdrantStore.create(client, "items", Header.new(FINGERPRINT, dim)),
            lambda: QdrantStore(client, "items"),
        )
        client.close()
        return
    if kind in ("lance", "s3"):
        pytest.importorskip("lancedb")
    opened = []
    where: Any = tmp_path / "an index ü"
    if kind == "s3":
        kind, where = "auto", f"{request.getfixturevalue('storage')}/{uuid.uuid4().hex}/an index ü"

    def keep(store):
        opened.append(store)
        return store

    yield Place(
        lambda dim=DIM: keep(create(where, Header.new(FINGERPRINT, dim), kind, lock_timeout=0.2)),
        lambda: keep(open_store(where, lock_timeout=0.2)),
    )
    for store in opened:
        store.close()


@pytest.fixture
def store(place: Place):
    return place.create()


@pytest.fixture
def unit() -> Callable[..., np.ndarray]:
    """``unit(n, dim)``: random unit rows, other ones at each call."""
    calls = itertools.count()

    def make(n: int, dim: int = DIM) -> np.ndarray:
        x = np.random.default_rng(next(calls)).standard_normal((n, dim))
        return (x / np.linalg.norm(x, axis=1, keepdims=True)).astype(np.float32)

    return make
