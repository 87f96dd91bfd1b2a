"""SGRS: a candidate token that stands less on the output so far than the tokens before it did is drawn again.

Specification: methods/lvlms-saliency.md, section 3.3.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray


@dataclass(frozen=True, slots=True)
class Sgrs:
    """The settings.

    Parameters
    ----------
    candidates : int
        K most probable tokens to draw from.
    tries : int
        R draws at most.
    alpha : float
        Of the mean of the last scores, what a candidate must reach.
    history : int
        W scores that the mean is taken of.
    temperature : float
    """

    candidates: int = 5
    tries: int = 3
    alpha: float = 0.6
    history: int = 5
    temperature: float = 1.0


@dataclass(frozen=True, slots=True)
class Pick:
    """Which candidate was taken.

    Parameters
    ----------
    index : int
        Among the candidates.
    score : float
    threshold : float
        What a candidate had to reach.
    tries : int
        Draws.
    fallback : bool
        None was accepted: it is the one of the highest score.
    """

    index: int
    score: float
    threshold: float
    tries: int
    fallback: bool


def threshold(accepted: Sequence[float], alpha: float, history: int) -> float:
    """alpha times the mean of the last scores; 0 before there is one (step 2)."""
    return alpha * float(np.mean(accepted[-history:])) if accepted else 0.0


def pick(
    probabilities: NDArray[np.float64], score: Callable[[int], float], uniforms: Sequence[float],
    accepted: Sequence[float], settings: Sgrs,
) -> Pick:  # fmt: skip
    """One token (steps 2 to 4).

    Parameters
    ----------
    probabilities : ndarray, shape (K,)
        Of the candidates, the largest first.
    score : callable (index) -> float
        Saliency of a candidate; called for those that need it.
    uniforms : sequence of float, length R
        One in [0, 1) for each try: the smallest i with cumsum(p)[i] > u is drawn.
    accepted : sequence of float
        Scores of the tokens before.
    settings : Sgrs

    Returns
    -------
    Pick
    """
    least = threshold(accepted, settings.alpha, settings.history)
    left = list(range(len(probabilities)))
    tries = 0
    while left and tries < settings.tries:
        p = probabilities[left]
        total = np.cumsum(p / p.sum())
        place = min(int(np.searchsorted(total, uniforms[tries], side="right")), len(left) - 1)
        drawn, tries = left.pop(place), tries + 1
        if (value := score(drawn)) >= least:
            return Pick(drawn, value, least, tries, False)
    values = [score(index) for index in range(len(probabilities))]
    best = int(np.argmax(values))
    return Pick(best, values[best], least, tries, True)
