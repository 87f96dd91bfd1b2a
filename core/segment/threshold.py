"""From which probability on a pixel is a vessel: given, kept with a model, or chosen for each photo without a truth.

The one kept with a model is best for the cameras it was trained on; on another camera its probabilities are all too
high or too low. Three things are known of any photo:

1. On held-out photos of the training cameras the model's logits x, times a slope plus an offset, gave the share of
   vessels (Platt's calibration, ``fit_calibration``; the two numbers are kept with the model).
2. A photo moves that offset by d, by about ``DRIFT``.
3. The share of the field of view that people call vessel is about ``SHARE``, give or take a factor exp(``SPREAD``).

The d that fits 2 and 3 best (the mode of the posterior, both normal) gives each pixel its probability p, and the
threshold is that of the largest expected F1, 2 sum(p >= t) p / (count(p >= t) + sum p). Everything is read from the
histogram of the 16-bit probabilities inside the field of view.

References
----------
Platt, "Probabilistic outputs for support vector machines", 1999. Lipton, Elkan and Naryanaswamy, "Optimal thresholding
of classifiers to maximize F1 measure", ECML 2014. The prior on the share is ours.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from .options import Asked
from .score.metrics import LEVELS, Triple, levels

SHARE, SPREAD = 0.10, 0.27
"""Median of the labelled share of the field of view, and deviation of its logarithm: 65 photos of the training parts of
DRIVE (mean 0.125), HRF (0.094) and FIVES (0.093), each set counted alike."""
DRIFT = 0.25
"""By how much the offset of a photo may differ. On held-out photos 0.25 instead of none changes F1 by -0.0001 (DRIVE),
+0.0018 (HRF) and +0.0003 (FIVES). More would help where a camera is far from all training cameras (weights of DRIVE
alone, HRF's photos: 0.679 at 0.25, 0.686 at 0.5) and costs the others what is theirs (DRIVE: -0.0009 at 0.5)."""
FARTHEST = 1.0
"""Largest d: photos whose vessels are plainly many or few are not bent to ``SHARE``."""
LEAST_CALIBRATED = 0.25
"""The best threshold is half the best F1 (Lipton et al.): below this F1 of 0.5 is expected, as where there is no
vessel, and the threshold stays here."""
PULL = 1e-4
"""Weight of the identity in a fit: nothing beside the pixels of a photo, but enough where vessels are told without any
error and the slope would grow without end."""

_LOGITS = np.log((np.arange(LEVELS + 1) + 0.5) / (LEVELS + 0.5 - np.arange(LEVELS + 1)))
"""Of each stored level; the ends, 0 and 1, are half a level inside. float64 [LEVELS + 1]."""

Counts = NDArray[np.int64]
Origin = Literal["given", "auto", "model", "fsg"]
"""Where a threshold came from: the user, this photo, the model's file, the official protocol."""


@dataclass(frozen=True, slots=True)
class Calibration:
    """A vessel's probability is sigmoid(``slope`` * logit + ``offset``) of what the network says; the identity here."""

    slope: float = 1.0
    offset: float = 0.0

    def probability(self, moved: float = 0.0) -> NDArray[np.float64]:
        """Of each stored level, the offset ``moved`` further. [LEVELS + 1], rising."""
        return _sigmoid(self.slope * _LOGITS + self.offset + moved)


@dataclass(frozen=True, slots=True)
class Threshold:
    """Least probability of a vessel, as the model says it, and where it comes from.

    Parameters
    ----------
    value : float
        In (0, 1).
    origin : {"given", "auto", "model", "fsg"}
    moved : float
        d of ``auto``: how much higher the photo's logits are thought to be than the calibration has them.
    limited : bool
        ``auto`` is at a limit: the vessels found are too few, too many or too faint to choose by.
    """

    value: float
    origin: Origin
    moved: float = 0.0
    limited: bool = False

    @property
    def warnings(self) -> tuple[str, ...]:
        """What the user should know of it."""
        if not self.limited:
            return ()
        return (
            f"its vessels are too few, too many or too faint to choose a threshold by: {self.value:.3g} is the limit",
        )


def threshold_of(
    asked: Asked, kept: float, calibration: Calibration | None, stored: NDArray[np.uint16], fov: NDArray[np.bool_]
) -> Threshold:
    """The threshold of one photo.

    Parameters
    ----------
    asked : float, "auto" or "model"
    kept : float
        The model's.
    calibration : Calibration or None
        None where the model's values are no probabilities, as of the ridge filters: ``auto`` is then the one kept.
    stored : ndarray, shape (H, W), uint16
        What the model says, times 65535.
    fov : ndarray of bool, shape (H, W)
    """
    if asked == "auto" and calibration is not None and fov.any():
        return photo_threshold(counts(stored, fov), calibration)
    return Threshold(kept, "model") if isinstance(asked, str) else Threshold(asked, "given")


def counts(stored: NDArray[np.uint16], fov: NDArray[np.bool_]) -> Counts:
    """How many pixels of the field of view have each stored level. [H, W] twice -> int64 [LEVELS + 1]."""
    return np.asarray(np.bincount(stored[fov], minlength=LEVELS + 1), np.int64)


def fit_calibration(images: Sequence[Triple]) -> Calibration:
    """Slope and offset that make probabilities right on held-out photos: least mean log loss, photos counted alike.

    Parameters
    ----------
    images : sequence of (prob, truth, fov)
        As in ``score.metrics.best_threshold``: each [H, W], ``prob`` in [0, 1]. Empty fields of view are passed over.

    Returns
    -------
    Calibration

    Raises
    ------
    ValueError
        If the shapes of a triple differ, a probability is not in [0, 1], or there is no pixel at all.
    """
    from scipy.optimize import minimize

    vessel, every = np.zeros(LEVELS + 1), np.zeros(LEVELS + 1)
    for triple in images:
        level, is_vessel = levels(*triple)
        if level.size:
            every += np.bincount(level, minlength=LEVELS + 1) / level.size
            vessel += np.bincount(level[is_vessel], minlength=LEVELS + 1) / level.size
    if not every.any():
        raise ValueError("no pixel to calibrate with: there is no image, or every field of view is empty")
    photos = every.sum()

    def loss(numbers: NDArray[np.float64]) -> tuple[float, NDArray[np.float64]]:
        """Mean log loss [nats a pixel] at (slope, offset), and its gradient."""
        logits = numbers[0] * _LOGITS + numbers[1]
        total = every @ np.logaddexp(0, logits) - vessel @ logits
        rest = every * _sigmoid(logits) - vessel
        away = numbers - (1, 0)
        gradient = np.array([rest @ _LOGITS, rest.sum()])
        return float(total / photos + PULL * away @ away / 2), gradient / photos + PULL * away

    # a slope of 0 or less would call the likely unlikely
    found = minimize(loss, (1.0, 0.0), jac=True, method="L-BFGS-B", bounds=((0.05, 20), (-20, 20)), tol=1e-12)
    return Calibration(float(found.x[0]), float(found.x[1]))


def photo_threshold(counted: Counts, calibration: Calibration) -> Threshold:
    """The threshold of the largest expected F1 for one photo; see the top of this file.

    Parameters
    ----------
    counted : ndarray of int, shape (65536,)
        Pixels of the field of view by stored probability, see ``counts``; not all 0.
    calibration : Calibration

    Raises
    ------
    ValueError
        If there is no pixel.
    """
    if not counted.any():
        raise ValueError("no pixel to choose a threshold from: the field of view is empty")
    moved = _moved(counted, calibration)
    probability = calibration.probability(moved)
    curve = expected_f1(counted, probability)
    best = 1 + int(curve[1:].argmax())  # level 0 would be all of the frame
    least = min(LEVELS - 1, int(np.searchsorted(probability, LEAST_CALIBRATED)))
    limited = best < least or abs(moved) > 0.99 * FARTHEST
    return Threshold(max(1, best, least) / LEVELS, "auto", moved, limited)


def expected_f1(counted: Counts, probability: NDArray[np.float64]) -> NDArray[np.float64]:
    """F1 to expect of each threshold, where pixels are vessel with ``probability``, given by level. [LEVELS + 1]."""
    vessels = counted * probability
    found, hit = (part[::-1].cumsum()[::-1] for part in (counted, vessels))
    return np.asarray(2 * hit / (found + vessels.sum()))


def _moved(counted: Counts, calibration: Calibration) -> float:
    """The mode of d: it is normal with deviation ``DRIFT``, the logarithm of the share with ``SPREAD``."""
    from scipy.optimize import minimize_scalar

    there = np.flatnonzero(counted)
    logits, weights = calibration.slope * _LOGITS[there] + calibration.offset, counted[there] / counted.sum()

    def unlikely(moved: float) -> float:
        share = weights @ _sigmoid(logits + moved)
        return float((moved / DRIFT) ** 2 + (np.log(share / SHARE) / SPREAD) ** 2)

    found = minimize_scalar(unlikely, bounds=(-FARTHEST, FARTHEST), method="bounded", options={"xatol": 1e-4})
    return float(found.x)


def _sigmoid(x: NDArray[np.float64]) -> NDArray[np.float64]:
    from scipy.special import expit

    return np.asarray(expit(x), np.float64)
