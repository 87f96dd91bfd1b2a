"""Scores of scanpaths over objects, as lists of object ids: methods/oat.md, section 3.6. No model is needed."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float64]


def sequence_score(one: Sequence[int], other: Sequence[int]) -> float:
    """Needleman-Wunsch, match 1, mismatch and gap 0, over the longer length; NaN when both are empty."""
    best = [0] * (len(other) + 1)
    for a in one:
        last = best
        best = [0]
        for j, b in enumerate(other):
            best.append(max(last[j] + (a == b), last[j + 1], best[j]))
    longer = max(len(one), len(other))
    return best[-1] / longer if longer else float("nan")


def fixation_edit_distance(one: Sequence[int], other: Sequence[int]) -> int:
    """Levenshtein distance, cost 1, not normalised."""
    row = list(range(len(other) + 1))
    for i, a in enumerate(one, 1):
        last = row
        row = [i]
        for j, b in enumerate(other):
            row.append(min(last[j] + (a != b), last[j + 1] + 1, row[j] + 1))
    return row[-1]


class Behaviour(NamedTuple):
    """Of one path: found the target (0 or 1), length, and shares of search, refixation and revisit (sum 1)."""

    correct: float
    length: float
    search: float
    refixation: float
    revisit: float


def behaviour(path: Sequence[int], target: int) -> Behaviour:
    """Section 3.6; all NaN but the length for a path without fixations."""
    length = len(path)
    if not length:
        nan = float("nan")
        return Behaviour(nan, 0.0, nan, nan, nan)
    groups = [b for a, b in zip([None, *path], path, strict=False) if a != b]
    first = len(set(groups))
    return Behaviour(
        float(path[-1] == target),
        float(length),
        first / length,
        (length - len(groups)) / length,
        (len(groups) - first) / length,
    )


def delta(model: Sequence[Behaviour], human: Sequence[Behaviour]) -> float:
    """Mean over the five of |model - human| / human, of the means over paths; NaN when a human mean is 0."""
    ours, theirs = np.mean(np.asarray(model), axis=0), np.mean(np.asarray(human), axis=0)
    if (theirs == 0).any():
        return float("nan")
    return float(np.mean(np.abs(ours - theirs) / theirs))


class MultiMatch(NamedTuple):
    """Five likenesses, 1 at best."""

    vector: float
    direction: float
    length: float
    position: float
    duration: float


def multimatch(
    one: Floats, other: Floats, screen: tuple[float, float], durations: tuple[Floats, Floats] | None = None, *,
    compat: bool = False,
) -> MultiMatch:  # fmt: skip
    """MultiMatch without grouping of fixations (T, 2) in pixels on a `screen` (w, h).

    Needs three fixations in each path: NaN otherwise. `compat` fills shorter ones with (1, 1), as the reference does.
    """
    if compat:
        one, other = (np.concatenate((p, np.ones((max(0, 3 - len(p)), 2)))) for p in (one, other))
    elif min(len(one), len(other)) < 3:
        return MultiMatch(*[float("nan")] * 5)
    spent = durations or (np.ones(len(one)), np.ones(len(other)))
    u, v = np.diff(one, axis=0), np.diff(other, axis=0)
    pairs = cheapest_path(np.linalg.norm(u[:, None] - v, axis=-1))
    i, j = np.asarray(pairs).T
    diagonal = float(np.hypot(*screen))
    angle = np.abs(np.arctan2(u[i, 1], u[i, 0]) - np.arctan2(v[j, 1], v[j, 0]))
    angle = np.minimum(angle, 2 * np.pi - angle)
    lengths = np.abs(np.linalg.norm(u[i], axis=1) - np.linalg.norm(v[j], axis=1))
    most = np.maximum(spent[0][i], spent[1][j])
    return MultiMatch(
        float(1 - np.median(np.linalg.norm(u[i] - v[j], axis=1)) / (2 * diagonal)),
        float(1 - np.median(angle) / np.pi),
        float(1 - np.median(lengths) / diagonal),
        float(1 - np.median(np.linalg.norm(one[i] - other[j], axis=1)) / diagonal),
        float(1 - np.median(np.abs(spent[0][i] - spent[1][j]) / most)),
    )


def cheapest_path(cost: Floats) -> list[tuple[int, int]]:
    """Cells of the cheapest monotone path (right, down, diagonal) through `cost`; the entered cell is paid for."""
    rows, cols = cost.shape
    total = np.full((rows, cols), np.inf)
    total[0, 0] = 0.0
    before: dict[tuple[int, int], tuple[int, int]] = {}
    for i in range(rows):
        for j in range(cols):
            # of equal costs the diagonal: the paths of the golden vectors hold such a tie
            for cell in ((i - 1, j - 1), (i, j - 1), (i - 1, j)):
                if min(cell) >= 0 and total[cell] + cost[i, j] < total[i, j]:
                    total[i, j] = total[cell] + cost[i, j]
                    before[i, j] = cell
    path = [(rows - 1, cols - 1)]
    while path[-1] != (0, 0):
        path.append(before[path[-1]])
    return path[::-1]


def cell_centres(path: Sequence[int], rows: int, cols: int, screen: tuple[float, float]) -> Floats:
    """Pixels (T, 2), x and y, of the centres of a path's cells on a grid that fills the screen."""
    row, col = np.divmod(np.asarray(path, dtype=np.int64), cols)
    return np.stack(((col + 0.5) * screen[0] / cols, (row + 0.5) * screen[1] / rows), 1)


def step_similarity(probabilities: Floats, fixated: Sequence[int]) -> float:
    """SIM under teacher forcing: mean probability of the fixated object over steps (T, classes)."""
    return float(np.mean(probabilities[np.arange(len(fixated)), np.asarray(fixated)]))


def scanpath_saliency(predicted: Sequence[Sequence[int]], human: Sequence[int], pixels: int) -> float:
    """NSS: the standardised map of all predicted fixations, binary, at the human ones; NaN without either.

    Fixations lie at the centres of objects, so that the map of so many pixels is known by the objects that were met.
    """
    met = {item for path in predicted for item in path}
    if not met or not human:
        return float("nan")
    share = len(met) / pixels
    hits = sum(item in met for item in human) / len(human)
    return float((hits - share) / np.sqrt(share * (1 - share)))


def found_within(paths: Sequence[Sequence[int]], target: int, longest: int) -> Floats:
    """Share of paths that have fixated the target within 1, 2, .., `longest` fixations (longest,); mean: TFP-AUC."""
    first = np.array([path.index(target) if target in path else longest for path in paths])
    return np.asarray((first[:, None] <= np.arange(longest)).mean(0), dtype=np.float64)
