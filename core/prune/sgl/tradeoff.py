"""What it costs to ask the large model less often: accuracy against the share of its calls."""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike, NDArray

from ...report.sections import Curve

ALWAYS = math.nextafter(1.0, 2.0)
"""No decision is so safe: the large model is asked every time."""


@dataclass(frozen=True, slots=True)
class ExitTradeoff:
    """Every threshold that makes a difference for some samples.

    Parameters
    ----------
    thresholds : ndarray [m]
        Ascending, from 0; the large model is asked where the decision is below.
    shares : ndarray [m]
        Of the samples for which it is asked.
    accuracy : ndarray [m]
        Mean score of the answers that are given then; NaN where no score is known.
    """

    thresholds: NDArray[np.float64]
    shares: NDArray[np.float64]
    accuracy: NDArray[np.float64]

    def threshold_for(self, share: float) -> tuple[float, float]:
        """The threshold at which the large model is asked for a share of the samples, as near as can be.

        Returns
        -------
        (threshold, share that is reached)
        """
        place = int(np.abs(self.shares - share).argmin())
        return float(self.thresholds[place]), float(self.shares[place])

    def curve(self) -> Curve:
        """Accuracy over the share of calls, for a report."""
        lines = {"accuracy": self.accuracy.tolist(), "threshold": self.thresholds.tolist()}
        return Curve(
            "early_exit", lines, self.shares.tolist(), "large_calls", title="accuracy against calls of the large model"
        )


def exit_tradeoff(decisions: ArrayLike, guide: ArrayLike | None = None, large: ArrayLike | None = None) -> ExitTradeoff:
    """Accuracy and share of calls at every threshold.

    Parameters
    ----------
    decisions : array_like, shape (n,)
        How safe the guide's answers look.
    guide, large : array_like, shape (n,), optional
        Scores of both models' answers, in [0, 1]; without them no accuracy is known.
    """
    decisions = np.asarray(decisions, np.float64)
    thresholds = np.unique([0.0, *decisions, ALWAYS])
    asked = decisions < thresholds[:, None]
    if guide is None or large is None:
        accuracy = np.full(len(thresholds), np.nan)
    else:
        accuracy = np.where(asked, np.asarray(large, np.float64), np.asarray(guide, np.float64)).mean(1)
    return ExitTradeoff(thresholds, asked.mean(1), accuracy)
