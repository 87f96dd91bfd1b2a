"""Indexes of every kind at an address, as the verbs of `attn retrieve` take them."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest

from attn.core.retrieve.store import Header, create, open_store

FINGERPRINT = {"model": "tiny", "sha256": "0" * 64, "temperature": 1.0}


@pytest.fixture
def qdrant(monkeypatch) -> str:
    """Address of a server that is the client's local mode."""
    client = pytest.importorskip("qdrant_client").QdrantClient(":memory:")
    monkeypatch.setattr(client, "close", lambda: None)  # the next one to open it wants what is in it
    monkeypatch.setattr(
        "attn.core.retrieve.store.qdrant.connect", lambda url: (client, url.rpartition("/")[2])
    )  # fmt: skip
    return "qdrant://here"


@pytest.fixture
def made(tmp_path, request) -> Callable[..., str]:
    """``made(ids, vectors, meta, kind)``: an index with these entries, added in an order of its own; its address."""

    def make(ids, vectors, meta=None, kind="flat", name="index ü", **options) -> str:
        if kind == "lance":
            pytest.importorskip("lancedb")
        place = f"{request.getfixturevalue('qdrant')}/{name}" if kind == "qdrant" else str(tmp_path / name)
        store = create(place, Header.new(FINGERPRINT, vectors.shape[1]), kind, **options)
        order = np.random.default_rng(1).permutation(len(ids))
        for rows in np.array_split(order, 3):
            if len(rows):
                store.add([ids[i] for i in rows], vectors[rows], [meta[i] if meta else {} for i in rows])
        store.close()
        return place

    return make


@pytest.fixture
def contents() -> Callable[[str], dict]:
    """``contents(address)``: vector and metadata of each entry."""

    def read(place: str) -> dict:
        store = open_store(place)
        try:
            blocks = list(store.blocks())
        finally:
            store.close()
        return {
            name: (vector.tobytes(), meta)
            for block in blocks
            for name, vector, meta in zip(block.ids, block.vectors, block.meta, strict=True)
        }

    return read


@pytest.fixture
def unit() -> Callable[..., np.ndarray]:
    """``unit(n, dim)``: random unit rows."""

    def make(n: int, dim: int = 8, seed: int = 0) -> np.ndarray:
        x = np.random.default_rng(seed).standard_normal((n, dim))
        return (x / np.linalg.norm(x, axis=1, keepdims=True)).astype(np.float32)

    return make
