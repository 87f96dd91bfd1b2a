"""A name for every head, by rules on its mean map; the first that holds. Section 3.4 of methods/vit-analytics.md."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
from numpy.typing import NDArray

NAMES = ("self", "local", "shift", "row", "column", "sink", "global", "content", "mixed")
HALF, SAME, EVEN, FEW = 0.5, 0.6, 0.95, 0.05
AGNOSTIC = 0.9
"""Cosine between the patterns of two pictures above which a head is agnostic of content."""


def names_of(
    ring_sum: NDArray[Any], offsets: NDArray[Any], shift: NDArray[Any], received: NDArray[Any], entropy: NDArray[Any],
    varies: NDArray[np.bool_] | None = None,
) -> NDArray[np.str_]:  # fmt: skip
    """Names of heads, [L, H]: the first rule that holds.

    Parameters
    ----------
    ring_sum, offsets, shift, received, entropy : ndarray
        See ``HeadMaps``; means over the pictures.
    varies : ndarray of bool, shape (L, H), optional
        Where the standard deviation across pictures is larger than the mean. None: there is one picture, and no head
        can be called ``content``.
    """
    n = received.shape[-1]
    few = max(1, math.ceil(FEW * n))
    h, w = ((side + 1) // 2 for side in offsets.shape[-2:])
    inside = ring_sum[..., :2].sum(-1)
    row = offsets[..., h - 1, :].sum(-1) - offsets[..., h - 1, w - 1]
    column = offsets[..., w - 1].sum(-1) - offsets[..., h - 1, w - 1]
    away = (shift[..., :2] != 0).any(-1)
    rules = {
        "self": ring_sum[..., 0] > HALF,
        "local": inside > HALF,
        "shift": (shift[..., 2] > SAME) & away,
        "row": row > HALF,
        "column": column > HALF,
        "sink": np.sort(received, -1)[..., -few:].sum(-1) > HALF * received.sum(-1),
        "global": entropy > EVEN * math.log(n) if n > 1 else np.ones(entropy.shape, bool),
        "content": np.zeros(entropy.shape, bool) if varies is None else varies,
    }
    found = np.full(entropy.shape, "mixed", dtype="<U7")
    for name, holds in reversed(rules.items()):
        found[holds] = name
    return found


def agnosticism(patterns: NDArray[Any]) -> NDArray[np.float64]:
    """Mean cosine between the patterns of all pairs of pictures, [L, H]. ``patterns`` [B, L, H, P, P], B from 2.

    The mean over pairs of unit vectors u is (|sum of u|² - B) / (B (B - 1)).
    """
    units = patterns.reshape(*patterns.shape[:3], -1).astype(np.float64)
    units /= np.linalg.norm(units, axis=-1, keepdims=True)
    count = len(units)
    return np.asarray((np.square(units.sum(0)).sum(-1) - count) / (count * (count - 1)))


def varied(patterns: NDArray[Any]) -> NDArray[np.bool_]:
    """Where the standard deviation across pictures is larger than the mean, both averaged over a map, [L, H]."""
    flat = patterns.reshape(*patterns.shape[:3], -1).astype(np.float64)
    return np.asarray(flat.std(0).mean(-1) > flat.mean((0, -1)))
