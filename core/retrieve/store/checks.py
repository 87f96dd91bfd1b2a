"""What a store refuses before it does anything: vectors that are no unit rows, ids and metadata it cannot give back."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ...errors import UsageError
from .base import Meta

UNIT_TOLERANCE = 1e-3
"""Norms may be this far from 1: what rounding a unit vector to float16 or bfloat16 and back can do."""


def check_vectors(vectors: NDArray[Any], dim: int, what: str) -> NDArray[np.float32]:
    """``vectors`` as contiguous float32 [n, dim]. Raises ``UsageError`` unless all rows are finite unit vectors."""
    out = np.ascontiguousarray(vectors, dtype=np.float32)
    if out.ndim != 2 or out.shape[1] != dim:
        raise UsageError(f"{what} have shape {list(out.shape)}; this store holds vectors of {dim}: [n, {dim}].")
    norms = np.sqrt(np.einsum("nd,nd->n", out, out))
    wrong = np.flatnonzero(~(np.abs(norms - 1) <= UNIT_TOLERANCE))  # NaN compares false, and is wrong
    if wrong.size:
        row = int(wrong[0])
        raise UsageError(f"{what}: row {row} is not a unit vector (its norm is {norms[row]:.4g}).")
    return out


def check_search(queries: NDArray[Any], k: int, dim: int) -> NDArray[np.float32]:
    """The queries of a search [q, dim]. Raises ``UsageError`` if they do not fit, or for no items at all."""
    queries = check_vectors(queries, dim, "queries")
    if k < 1:
        raise UsageError(f"cannot look for {k} items: at least 1")
    return queries


def check_items(ids: Sequence[str], vectors: NDArray[Any], meta: Sequence[Meta], dim: int) -> NDArray[np.float32]:
    """Check what ``VectorStore.add`` is given; returns the vectors as ``check_vectors`` does."""
    if isinstance(ids, str) or not len(ids) == len(vectors) == len(meta):
        raise UsageError(f"{len(ids)} ids, {len(vectors)} vectors and {len(meta)} metadata: their numbers must agree.")
    for name, values in zip(ids, meta, strict=True):
        _check_text(name, f"id {name!r}")
        if not name:
            raise UsageError("an id is empty")
        for key, value in values.items():
            _check_text(key, f"{name}: metadata name {key!r}")
            if not key or key == "id":
                raise UsageError(f"{name}: metadata cannot be called {key!r}. `id` stands for the item's id.")
            _check_value(value, f"{name}: metadata {key!r}")
    return check_vectors(vectors, dim, "vectors")


def _check_text(text: object, what: str) -> None:
    if not isinstance(text, str):
        raise UsageError(f"{what} is not text")
    try:
        text.encode()
    except UnicodeEncodeError as error:
        raise UsageError(f"{what} is not valid Unicode") from error


def _check_value(value: object, what: str) -> None:
    match value:
        case None | bool():
            return
        case str():
            _check_text(value, what)
        case int() if not -(2**63) <= value < 2**63:
            raise UsageError(f"{what}: {value} does not fit 64 bits")
        case int():
            return
        case float() if not math.isfinite(value):
            raise UsageError(f"{what} is {value}: numbers must be finite; use None for what is not known")
        case float():
            return
        case _:
            raise UsageError(f"{what} is of type {type(value).__name__}: use str, int, float, bool or None")
