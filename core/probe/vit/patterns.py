"""Patterns of attention as points: maps pooled to one size, log-scaled, laid out, grouped, with the most typical ones.

Specification: methods/vit-analytics.md, section 3.4. With an autoencoder of `attn train pattern-atlas` the points are
its codes; without one, as many principal components of the patterns themselves.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

SIDE = 8
"""Blocks of a pattern down and across; fewer where the grid has fewer."""
CODE = 16
RUNS = 10
"""Starts of k-means, of which the best is taken."""


def pooled_grid(grid: tuple[int, int]) -> tuple[int, int]:
    """Blocks down and across."""
    return min(SIDE, grid[0]), min(SIDE, grid[1])


def blocks_of(grid: tuple[int, int]) -> Tensor:
    """Which patches are in which block, bool [P, N]: each patch in one, as even as the grid allows."""
    (h, w), (down, across) = grid, pooled_grid(grid)
    row, column = torch.arange(h) * down // h, torch.arange(w) * across // w
    block = (row[:, None] * across + column[None]).flatten()
    return block[None] == torch.arange(down * across)[:, None]


def scaled(patterns: NDArray[Any], patches: int) -> NDArray[np.float32]:
    """log1p(N a), flat: [..., P, P] -> [..., P * P]. Even attention is ln 2 everywhere."""
    return np.log1p(patches * patterns.astype(np.float32)).reshape(*patterns.shape[:-2], -1)


@dataclass(frozen=True, slots=True)
class Atlas:
    """Samples laid out and grouped.

    Parameters
    ----------
    places : ndarray, shape (S, 2), float32
        First two principal components of the codes.
    cluster : ndarray, shape (S,), int64
        Numbered by size, the largest first.
    medoids : ndarray, shape (C,), int64
        The sample nearest to the middle of each cluster.
    explained : float
        Share of the codes' variance that the two components show.
    """

    places: NDArray[np.float32]
    cluster: NDArray[np.int64]
    medoids: NDArray[np.int64]
    explained: float


def principal(codes: NDArray[Any], count: int) -> tuple[NDArray[np.float32], float]:
    """Principal components [S, count], signs such that the largest weight of each is positive, and the share of the
    variance they show. Deterministic."""
    x = torch.from_numpy(np.asarray(codes, np.float64))
    x = x - x.mean(0)
    values, vectors = torch.linalg.eigh(x @ x.T if len(x) <= x.shape[1] else x.T @ x)
    values, vectors = values.flip(0).clamp(min=0), vectors.flip(1)
    count = min(count, len(values))
    if len(x) <= x.shape[1]:
        axes = x.T @ vectors[:, :count] / values[:count].sqrt().clamp(min=1e-12)
    else:
        axes = vectors[:, :count]
    signs = axes.gather(0, axes.abs().argmax(0, keepdim=True)).sign()
    total = float(values.sum())
    found = (x @ (axes * signs)).float().numpy()
    return found, float(values[:count].sum()) / total if total > 0 else 1.0


def atlas_of(codes: NDArray[Any], clusters: int, seed: int) -> Atlas:
    """Lay codes [S, D] out and group them by k-means; fewer clusters than asked for where there are fewer samples."""
    from scipy.cluster.vq import kmeans2

    places, explained = principal(codes, 2)
    if places.shape[1] < 2:
        places = np.pad(places, ((0, 0), (0, 2 - places.shape[1])))
    points = np.asarray(codes, np.float64)
    clusters = min(clusters, len(np.unique(points, axis=0)))
    best, middles, cluster = np.inf, points[:1], np.zeros(len(points), np.int64)
    for run in range(RUNS):
        draw = np.random.default_rng((seed, run))
        found, numbers = (
            kmeans2(points, clusters, minit="++", seed=draw, missing="warn")
            if clusters > 1
            else (points.mean(0, keepdims=True), np.zeros(len(points), np.int64))
        )
        lost = float(np.square(points - found[numbers]).sum())
        if lost < best and len(np.unique(numbers)) == clusters:
            best, middles, cluster = lost, found, numbers.astype(np.int64)
    order = np.argsort(-np.bincount(cluster, minlength=len(middles)), kind="stable")
    renumber = np.argsort(order)
    away = np.linalg.norm(points[:, None] - middles[None, order], axis=-1)  # [S, C]
    away[renumber[cluster][:, None] != np.arange(len(middles))] = np.inf
    return Atlas(places, renumber[cluster], away.argmin(0), explained)
