"""Attention for the question over attention for no question, fused into one map of the picture.

Specification: methods/carve.md, sections 3.2, 3.3, 3.7 and 7. Bilinear resizing is linear: layers and steps are added
on the grid of the tokens, and the sum is resized once (``sheets.smooth_on_pixels``).
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from ...errors import UsageError
from .settings import LAM, Steps

SAME = 1e-6
"""A map whose values differ by less, relative to the largest, has no contrast: float32's rounding."""


def contrast(task: NDArray[np.float64], general: NDArray[np.float64], lam: float = LAM) -> NDArray[np.float64]:
    """Ratio of two attentions step by step, as far as both go.

    Parameters
    ----------
    task, general : ndarray, shape (S, L, V)
        Attention of the newest token to the visual tokens; their numbers of steps may differ.
    lam : float
        Above 0; larger damps tokens that get little attention in general.

    Returns
    -------
    ndarray, shape (min(S), L, V), float64
    """
    steps = min(len(task), len(general))
    return np.asarray(task[:steps], np.float64) / (np.asarray(general[:steps], np.float64) + lam)


def step_weights(steps: int, mode: Steps) -> NDArray[np.float64]:
    """Weight of each step: later ones count more (``all``), or one alone counts."""
    if mode == "all":
        return np.arange(1, steps + 1, dtype=np.float64)
    weights = np.zeros(steps)
    weights[0 if mode == "first" else -1] = 1
    return weights


def fused(values: NDArray[np.float64], mode: Steps) -> NDArray[np.float64]:
    """Weighted sum over steps, sum over layers: [S, L, V] to [V]."""
    return np.asarray(np.einsum("s,slv->v", step_weights(len(values), mode), np.asarray(values, np.float64)))


def clipped(values: NDArray[np.float64], percentile: float) -> NDArray[np.float64]:
    """Values cut at a percentile: ratios explode where there is hardly any attention (section 9.1)."""
    return np.minimum(values, np.percentile(values, percentile))


def has_contrast(values: NDArray[np.float64]) -> bool:
    """Whether a map tells one place from another: regions of a constant one would be those of rounding."""
    return bool(np.isfinite(values).all() and np.ptp(values) > SAME * np.abs(values).max())


def check_layers(layers: tuple[int, ...], depth: int) -> None:
    """Raises ``UsageError`` where a layer is not in the model: a map of nothing would keep everything."""
    if not layers or not all(0 <= layer < depth for layer in layers):
        raise UsageError(
            f"layers {', '.join(map(str, layers)) or 'none'}: this model has decoder layers 0 to {depth - 1}."
        )


def default_layers(depth: int) -> tuple[int, ...]:
    """20 to 25 of the 28 to 40 layers of the paper's models; of other depths from 0.7 to 0.9 of it (section 4)."""
    if 28 <= depth <= 40:
        return tuple(range(20, 26))
    return tuple(range(min(round(0.7 * depth), depth - 1), min(round(0.9 * depth), depth - 1) + 1))


def attention_entropy(attention: NDArray[np.float64]) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Entropy of the attention to visual tokens, in nats: as it is, and made to sum to 1 first.

    Parameters
    ----------
    attention : ndarray, shape (L, V)
        Of one step.

    Returns
    -------
    raw, normalised : ndarray, shape (L,)
    """
    a = np.asarray(attention, np.float64)
    return _entropy(a), _entropy(a / a.sum(-1, keepdims=True))


def _entropy(p: NDArray[np.float64]) -> NDArray[np.float64]:
    with np.errstate(divide="ignore", invalid="ignore"):
        return np.asarray(-np.where(p > 0, p * np.log(p), 0).sum(-1))
