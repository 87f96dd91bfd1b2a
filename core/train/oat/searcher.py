"""A simulated searcher whose rule is known: it scans neighbours and jumps to look-alikes (methods/oat.md, section 6).

At each step it looks again at what it looks at with probability ``AGAIN``; where that is the target it stops, unless it
overlooks it (``OVERLOOKS``). Else it draws the next object with probability ∝ exp(utility):

    - ``DISTANCE`` x cells from where it looks + ``LIKENESS`` x likeness to the target
    - ``RETURN`` where it has been + ``RIGHT`` where the object is the next to the right
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

DISTANCE, LIKENESS, RETURN, RIGHT = 3.0, 4.0, 4.0, 3.0
AGAIN, OVERLOOKS = 0.12, 0.1
LONGEST = 24
"""Fixations after which it gives up."""


def utilities(
    cells: NDArray[np.float64], likeness: NDArray[np.float64], now: int | None, met: NDArray[np.bool_]
) -> NDArray[np.float64]:
    """Of each object (N,) from where the searcher looks, by number; None: the middle of the scene, at the beginning."""
    place = (cells.min(0) + cells.max(0)) / 2 if now is None else cells[now]
    step = cells - place
    found: NDArray[np.float64] = -DISTANCE * np.linalg.norm(step, axis=1) + LIKENESS * likeness - RETURN * met
    if now is not None:
        found += RIGHT * ((np.abs(step[:, 0]) < 0.5) & (step[:, 1] > 0.5) & (step[:, 1] < 1.5))
        found[now] = -np.inf
    return found


def search(
    rng: np.random.Generator, cells: NDArray[np.float64], likeness: NDArray[np.float64], target: int
) -> list[int]:
    """A path of object ids over objects at ``cells`` (N, 2), rows and columns."""
    path: list[int] = []
    met = np.zeros(len(cells), np.bool_)
    while len(path) < LONGEST:
        now = path[-1] if path else None
        if now is not None and rng.random() < AGAIN:
            path.append(now)
            continue
        if now == target and rng.random() >= OVERLOOKS:
            break
        value = utilities(cells, likeness, now, met)
        share = np.exp(value - value.max())
        path.append(int(rng.choice(len(cells), p=share / share.sum())))
        met[path[-1]] = True
    return path


def chances(
    cells: NDArray[np.float64], likeness: NDArray[np.float64], target: int, path: Sequence[int]
) -> NDArray[np.float64]:
    """The rule's probability of each fixation of a path, and of stopping behind it where it did not give up."""
    met = np.zeros(len(cells), np.bool_)
    found = []
    now: int | None = None
    for step in path:
        value = utilities(cells, likeness, now, met)
        share = np.exp(value - value.max())
        moves = share[step] / share.sum()
        if now is not None:
            moves *= (1 - AGAIN) * (OVERLOOKS if now == target else 1.0)
            moves += AGAIN * (step == now)
        found.append(moves)
        now = step
        met[step] = True
    if len(path) < LONGEST:
        found.append((1 - AGAIN) * (1 - OVERLOOKS))
    return np.array(found)
