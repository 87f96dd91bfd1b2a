"""Where the queries of a head look, grouped over all pictures.

Specification: methods/efficient-probing.md, section 3.7.
Maps are made on demand from the head and the tokens, never in training.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray

from .head import ProbeHead
from .reading import TokenReader
from .split import Rows
from .training import EVALUATED

GROUPS = 8
"""Queries are grouped where there are more."""
ROUNDS = 25
EPSILON = 1e-8
Maps = NDArray[np.float64]


@torch.inference_mode()
def maps_of(head: ProbeHead, read: TokenReader, rows: Rows) -> Maps | None:
    """[B, M, N] over the patches of some pictures; None where the pooling has no maps.

    Of a head that reads the class token, too, what lies on that is left out, and the rest not scaled up.
    """
    head.eval()
    parts = []
    for first in range(0, len(rows), EVALUATED):
        maps = head.pooling.maps(read(rows[first : first + EVALUATED]))
        if maps is None:
            return None
        parts.append(maps.double().numpy())
    found = np.concatenate(parts)
    return found[:, :, 1:] if read.tokens == "all" else found


def grouped(maps: Maps, groups: int = GROUPS) -> NDArray[np.int64]:
    """Which group each query belongs to, [M]: spherical k-means of the queries' maps over all pictures.

    Every query is its own group where there are no more than ``groups``.
    """
    count = maps.shape[1]
    if count <= groups:
        return np.arange(count)
    rows = joined_maps(maps)
    similar = rows @ rows.T
    chosen = [int(entropies(maps).mean(0).argmax())]  # (b): the query of highest entropy, then the least alike
    while len(chosen) < groups:
        nearest = similar[:, chosen].max(1)
        nearest[chosen] = np.inf
        chosen.append(int(nearest.argmin()))
    centres = rows[chosen].copy()
    owner = (rows @ centres.T).argmax(1)
    for _ in range(ROUNDS):
        for group in range(groups):
            if (of := rows[owner == group]).size:  # an empty group keeps its centre
                mean = of.mean(0)
                centres[group] = mean / (np.linalg.norm(mean) + EPSILON)
        owner = (rows @ centres.T).argmax(1)
    return np.asarray(owner)


def joined_maps(maps: Maps) -> Maps:
    """(a): each query's maps of all pictures in one row, divided by the row's norm, [M, B N]."""
    rows = maps.transpose(1, 0, 2).reshape(maps.shape[1], -1)
    return np.asarray(rows / (np.linalg.norm(rows, axis=1, keepdims=True) + EPSILON))


def group_maps(maps: Maps, owner: NDArray[np.int64]) -> Maps:
    """The mean map of each group that has members, [B, G, N]."""
    return np.stack([maps[:, owner == group].mean(1) for group in np.unique(owner)], 1)


def entropies(maps: Maps) -> Maps:
    """Of each map over ln N, [B, M]: 1 is uniform. Maps that are no distribution (gates, scores) are scaled to one."""
    share = maps / np.maximum(maps.sum(-1, keepdims=True), EPSILON)
    logs = np.log(share, where=share > 0, out=np.zeros_like(share))
    return np.asarray(-(share * logs).sum(-1) / max(np.log(maps.shape[-1]), EPSILON))


@dataclass(frozen=True, slots=True)
class QueryRow:
    """What is told of one query, mean over pictures.

    Parameters
    ----------
    entropy : float
        Over ln N.
    row, column : float
        Centroid, in shares of the grid's height and width.
    """

    entropy: float
    row: float
    column: float


def query_rows(maps: Maps, grid: tuple[int, int]) -> list[QueryRow]:
    """Diagnostics of section 3.7, query by query."""
    h, w = grid
    share = maps / np.maximum(maps.sum(-1, keepdims=True), EPSILON)
    rows, columns = np.divmod(np.arange(h * w), w)
    down, across = (share @ ((rows + 0.5) / h)).mean(0), (share @ ((columns + 0.5) / w)).mean(0)
    return [
        QueryRow(float(e), float(y), float(x)) for e, y, x in zip(entropies(maps).mean(0), down, across, strict=True)
    ]


def complementarity(maps: Maps) -> float:
    """1 - cosine of two queries' maps, mean over pairs; NaN of one query."""
    rows = joined_maps(maps)
    upper = np.triu_indices(len(rows), 1)
    return float((1 - (rows @ rows.T)[upper]).mean()) if len(rows) > 1 else float("nan")


def agreement(one: Maps, other: Maps) -> Maps:
    """How alike the maps of two heads are, picture by picture, [B]: the best pairing of their queries, over all
    pictures, and the mean correlation of the pairs in each picture (what is common to all maps, their mean, is taken
    out, or flat maps would agree)."""
    from scipy.optimize import linear_sum_assignment

    a, b = _standardised(one), _standardised(other)
    table = np.einsum("bmn,bkn->mk", a, b)
    rows, columns = linear_sum_assignment(-table)
    return np.asarray(np.einsum("bmn,bmn->bm", a[:, rows], b[:, columns]).mean(1))


def _standardised(maps: Maps) -> Maps:
    """Mean 0 and norm 1 of each map; a flat one is 0."""
    centred = maps - maps.mean(-1, keepdims=True)
    norm = np.linalg.norm(centred, axis=-1, keepdims=True)
    flat = norm <= 1e-7 * np.linalg.norm(maps, axis=-1, keepdims=True)
    return np.asarray(np.where(flat, 0.0, centred / np.where(flat, 1.0, norm)))
