"""The lines of a ``Trust`` section, and the one rule of what passes.

A value passes where it stands out from what chance, or a model that learned nothing, comes to: more than four standard
deviations of at least five draws from their mean, and by an amount that matters at all. Four, since eight draws give a
poor estimate of a standard deviation: beyond four lies a ninth draw of the same kind with a probability of 0.35 %
(Student's t with 7 degrees of freedom, one side), and four traits are compared, on both sides. For random orders of
removal two and a half (2.5 %): there is one comparison, and a score that ends at 1 leaves no room for more. A model
that was itself drawn at random is one more draw, so each line is red for it.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ...report.sections import TrustLine
from .likeness import mean_agreement, spearman
from .removal import Removal

UNTRAINED = 8
"""How many models are drawn at random to say what an untrained one comes to."""
DEVIATIONS = 4.0
OF_ORDERS = 2.5
FEWEST = 5
ALIKE = 0.5
"""Rank correlation from which two maps count as the same map: half of the order of the one is that of the other."""
MATTERS = 0.05
"""Least difference that is worth a green line, of values in [0, 1]."""


def stands_out(
    value: float, chance: Sequence[float] | NDArray[np.float64], least: float = MATTERS, deviations: float = DEVIATIONS
) -> bool:
    """Whether a value lies above chance: by so many standard deviations, and by ``least``.

    Raises ``ValueError`` where fewer than ``FEWEST`` draws say what chance is.
    """
    draws = np.asarray(chance, np.float64)
    if draws.size < FEWEST:
        raise ValueError(f"{draws.size} draws do not say what chance is: {FEWEST} at least")
    above = value - float(draws.mean())
    return bool(above > deviations * float(draws.std(ddof=1)) and above >= least)


def line(
    check: str, value: float, chance: Sequence[float] | NDArray[np.float64], meaning: str, *, higher: bool = True,
    least: float = MATTERS,
) -> TrustLine:  # fmt: skip
    """A line for a value of which more (or, with ``higher=False``, less) is better than chance."""
    draws = np.asarray(chance, np.float64)
    sign = 1.0 if higher else -1.0
    passed = math.isfinite(value) and stands_out(sign * value, sign * draws, least)
    return TrustLine(check, value, float(draws.mean()), passed, meaning)


def weights_line(found: NDArray[Any], untrained: Sequence[NDArray[Any]]) -> TrustLine:
    """Randomised weights: is the map another one when the weights are gone, and unlike what untrained models give?

    Green where both hold. (1) The mean absolute rank correlation with the maps of the randomised models is below
    ``ALIKE``: a map that stays, as that of an edge detector does, shows the picture and not the model. (2) The map is
    no draw from among theirs: its level, its concentration, its smoothness, or its likeness to them stands out from
    theirs on either side. An untrained model passes (1), since two random models need not agree, and fails (2).

    Parameters
    ----------
    found : ndarray
        The map (or table) of the model, in its own unit.
    untrained : sequence of ndarray
        Those of the model with randomised weights, one of each seed, ``UNTRAINED`` of them (``FEWEST`` at least).
    """
    likeness = _likeness(found, untrained)
    others = [_likeness(one, [*untrained[:i], *untrained[i + 1 :]]) for i, one in enumerate(untrained)]
    mine, theirs = (
        [likeness, *_character(found)],
        [[alike, *_character(one)] for alike, one in zip(others, untrained, strict=True)],
    )
    apart = any(
        stands_out(sign * value, sign * np.array(draws), 0.0)
        for value, draws in zip(mine, zip(*theirs, strict=True), strict=True)
        for sign in (1, -1)
    )
    changed = likeness < ALIKE
    meaning = (
        f"rank correlation with the maps of {len(untrained)} models with randomised weights; below {ALIKE:g} passes"
    )
    if not changed:
        meaning += "; it stays when the weights are gone: it shows the input, not what the model learned"
    elif not apart:
        meaning += "; but nothing tells this map from those of untrained models"
    return TrustLine("randomised weights", likeness, float(np.mean(others)), changed and apart, meaning)


def removal_line(removal: Removal, untrained: Sequence[float] = ()) -> TrustLine:
    """Deletion and insertion: does the class score follow the order of the map better than random orders?

    Green where insertion AUC minus deletion AUC stands out from random orders, by ``MATTERS`` of the score's range at
    least, and, where they are given, from the same difference of untrained models with maps of their own. A score that
    does not hang on the picture, as that of an untrained model, gives flat curves, and a red line.
    """
    passed = stands_out(removal.gap, removal.random_gaps, deviations=OF_ORDERS)
    if len(untrained):
        passed = passed and stands_out(removal.gap, untrained)
    low, high = float(removal.random_gaps.min()), float(removal.random_gaps.max())
    meaning = (
        f"insertion AUC {removal.insertion:.3f} minus deletion AUC {removal.deletion:.3f}; random orders give "
        f"{low:.3f} to {high:.3f}"
    )
    if len(untrained):
        meaning += f", untrained models {min(untrained):.3f} to {max(untrained):.3f}"
    chance = max(float(removal.random_gaps.mean()), float(np.mean(untrained)) if len(untrained) else -math.inf)
    return TrustLine("deletion and insertion", removal.gap, chance, passed, meaning)


def seeds_line(maps: Sequence[NDArray[Any]], chance: Sequence[float], meaning: str = "") -> TrustLine:
    """Seed agreement: do maps of one thing made with different seeds agree?

    Green where their mean rank correlation is ``ALIKE`` at least and stands out from ``chance``: the agreement of maps
    that have nothing to agree on, such as those of untrained models, or of shuffled labels.
    """
    agreement = mean_agreement(maps)
    passed = agreement >= ALIKE and stands_out(agreement, chance)
    said = f"mean rank correlation of the maps of {len(maps)} seeds; {ALIKE:g} and more passes, and more than chance"
    return TrustLine("seed agreement", agreement, float(np.mean(chance)), passed, meaning or said)


def _likeness(one: NDArray[Any], others: Sequence[NDArray[Any]]) -> float:
    """Mean absolute rank correlation; a flat map is like none."""
    return float(np.mean(np.nan_to_num(np.abs([spearman(one, other) for other in others]))))


def _character(values: NDArray[Any]) -> tuple[float, float, float]:
    """What tells kinds of maps apart, whatever they show: level, concentration, smoothness.

    Level: mean absolute value. Concentration: 1 - entropy of the shares of the absolute values, over its most; 0 where
    all are equal, 1 where one is all. Smoothness: correlation of neighbours along the last axis.
    """
    known = np.nan_to_num(np.asarray(values, np.float64))
    size = np.abs(known).ravel()
    total = float(size.sum())
    share = size / total if total > 0 else np.full(size.size, 1 / max(1, size.size))
    inside = share[share > 0]
    concentration = 1 + float((inside * np.log(inside)).sum()) / (math.log(size.size) if size.size > 1 else 1.0)
    left, right = known[..., :-1].ravel(), known[..., 1:].ravel()
    flat = left.size < 2 or left.std() == 0 or right.std() == 0
    return float(size.mean()), concentration, 0.0 if flat else float(np.corrcoef(left, right)[0, 1])
