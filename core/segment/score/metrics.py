"""Scores of a vessel map against a truth: inside the field of view, or as the official FSG-Net code takes them.

Specification: methods/fsg-net.md, sections 6 and 9. A pixel is a vessel where its probability is at least the
threshold, compared in the map's own precision: so a 16-bit map and the mask made from it are scored the same.

What has no value is left out of the result, never NaN: sensitivity without a vessel in the truth, specificity without
background, ``auc`` without both, everything without a pixel. Defined by convention: where neither map nor truth has a
vessel they agree, so ``f1``, the IoU of vessels and ``cldice`` are 1; ``mcc`` is 0 where one of its margins is empty.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Iterable, Iterator, Sequence
from typing import Any, Literal, TypeVar

import numpy as np
from numpy.typing import NDArray

from .agreement import Confusion, Mask, area, centre_lines, cldice, confusion, sorted_auc

OFFICIAL_SQUARES = (608, 704, 1024, 1344)
"""Sides that the official code pads to: DRIVE, STARE, CHASE_DB1, HRF (section 3.4, step 28)."""
LEVELS = 65535
"""Steps of probability that ``best_threshold`` tells apart: those of a 16-bit map."""

Images = TypeVar("Images")
Triple = tuple[NDArray[Any], NDArray[Any], NDArray[Any]]
"""Probability, truth and field of view, each [H, W]."""


def scores(prob: NDArray[Any], truth: NDArray[Any], fov: NDArray[Any], *, threshold: float) -> dict[str, float]:
    """Score one image inside its field of view.

    Parameters
    ----------
    prob : ndarray, shape (H, W), float32 or float64
        Probability of a vessel.
    truth, fov : ndarray of bool, shape (H, W)
        Vessels; field of view. What lies outside it does not count, in ``truth`` neither.
    threshold : float
        Least probability of a vessel.

    Returns
    -------
    dict with ``f1``, ``miou`` (mean of background and vessels), ``sensitivity``, ``specificity``, ``accuracy``,
    ``mcc``, ``cldice`` and ``auc`` (area under the ROC curve of the probabilities). What is undefined is left out; see
    the top of this file.

    Raises
    ------
    ValueError
        If the shapes differ or ``prob`` holds NaN.

    References
    ----------
    methods/fsg-net.md, section 6, "Standard protocol"; clDice: Shit et al., CVPR 2021, arXiv 2003.07311.
    """
    return pooled([(prob, truth, fov)], threshold=threshold)


def pooled(images: Iterable[Triple], threshold: float | Sequence[float]) -> dict[str, float]:
    """Score the pixels of several images together, each at its threshold or all at one.

    Parameters and keys are those of ``scores``, a triple per image.
    """
    total, lines = Confusion(0, 0, 0, 0), np.zeros(4, np.int64)
    vessels: list[NDArray[Any]] = []
    others: list[NDArray[Any]] = []
    for triple, least in _with_thresholds(images, threshold):
        prob, truth, fov = _checked(*triple)
        predicted = (prob >= least) & fov
        truth &= fov
        vessels.append(prob[truth])
        others.append(prob[fov & ~truth])
        total += confusion(predicted[fov], truth[fov])
        lines += centre_lines(predicted, truth)
    if total == Confusion(0, 0, 0, 0):
        return {}
    values = {
        "f1": total.f1,
        "miou": sum(total.iou) / 2,
        "sensitivity": total.sensitivity,
        "specificity": total.specificity,
        "accuracy": total.accuracy,
        "auc": area(vessels, others),
        "mcc": total.mcc,
        "cldice": cldice(*lines.tolist()),
    }
    return _defined(values)


def roc_auc(prob: NDArray[Any], truth: NDArray[Any]) -> float:
    """Area under the ROC curve: the chance that a vessel has a higher probability than background, ties count half.

    ``prob`` (float) and ``truth`` (bool) are of one shape. NaN where ``truth`` lacks one of the two classes.
    """
    yes: Mask = truth != 0
    return area([prob[yes]], [prob[~yes]])


def best_threshold(images: Sequence[Triple]) -> float:
    """The threshold with the highest mean F1 over the images, inside their fields of view.

    All 65535 thresholds that a 16-bit map can tell apart are tried. Of a stretch of equally good ones it is the middle:
    0.5 for maps of only 0 and 1.

    Parameters
    ----------
    images : sequence of (prob, truth, fov), each as in ``scores``; ``prob`` in [0, 1]
        Images with an empty field of view are passed over.

    Returns
    -------
    float, in (0, 1).

    Raises
    ------
    ValueError
        If the shapes of a triple differ, a probability is not in [0, 1], or there is no pixel at all.
    """
    curves = []
    for triple in images:
        level, vessel = levels(*triple)
        if not level.size:
            continue
        predicted, hit = (_at_least(part) for part in (level, level[vessel]))  # [LEVELS]
        count = predicted + np.count_nonzero(vessel)
        curves.append(np.where(count > 0, 2 * hit / np.maximum(count, 1), 1.0))
    if not curves:
        raise ValueError("no pixel to choose a threshold from: there is no image, or every field of view is empty")
    mean = np.mean(curves, axis=0)
    best = mean >= mean.max() - 1e-12
    first = int(best.argmax())
    worse = np.flatnonzero(~best[first:])
    last = first + int(worse[0]) - 1 if worse.size else LEVELS - 1
    return float((first + last + 1) / 2 / LEVELS)  # halfway between the levels that it parts


def levels(prob: NDArray[Any], truth: NDArray[Any], fov: NDArray[Any]) -> tuple[NDArray[np.intp], Mask]:
    """The pixels inside the field of view as a 16-bit map has them, and which are vessels. [H, W] each -> [N] twice.

    Raises
    ------
    ValueError
        If the shapes differ, or a probability is not in [0, 1].
    """
    prob, truth, fov = _checked(prob, truth, fov)
    inside = prob[fov]
    if inside.size and (inside.min() < 0 or inside.max() > 1):
        raise ValueError(f"probabilities must lie in [0, 1], got {inside.min()} to {inside.max()}")
    return np.rint(inside * LEVELS).astype(np.intp), truth[fov]


def center_pad(x: NDArray[Any], size: int | tuple[int, int]) -> NDArray[Any]:
    """Zero-pad [..., H, W] to ``size``, the smaller half at top and left; the dtype stays.

    Raises
    ------
    ValueError
        If the image is larger than ``size`` (H, W), or the side of a square.

    References
    ----------
    methods/fsg-net.md, section 3.4, step 28. Other than the official code it takes sizes that are no square.
    """
    wanted = (size, size) if isinstance(size, int) else size
    have = x.shape[-2:]
    if len(have) != 2 or any(w < h for w, h in zip(wanted, have, strict=True)):
        raise ValueError(
            f"cannot pad shape {x.shape} to {wanted[0]} x {wanted[1]}: it must be an image, and not larger"
        )
    around = [((w - h) // 2, w - h - (w - h) // 2) for w, h in zip(wanted, have, strict=True)]
    return np.pad(x, [(0, 0)] * (x.ndim - 2) + around)


def fsg_scores(
    frames: Iterable[tuple[NDArray[Any], NDArray[Any]]],
    threshold: float | Sequence[float] = 0.5,
    *,
    square: int | Literal["auto"] | None = "auto",
    official_auc: bool = False,
) -> dict[str, float]:
    """Score as the official FSG-Net code does: whole squares, padded with zeros, no field of view.

    The padding counts as background found, which raises accuracy and mIoU: for comparison with that paper only.

    Parameters
    ----------
    frames : iterable of (prob, truth), each of shape (H, W)
        Float probabilities and bool vessels.
    threshold : float, or a sequence with one for each frame
    square : int, "auto" or None
        Side to pad to; ``auto`` is the official data sets' least side that holds the frame (beyond those the next
        multiple of 32); None does not pad.
    official_auc : bool
        Also ``auc_sorted_official``, which that code calls AUC. It depends on the numbers of vessel pixels alone.

    Returns
    -------
    dict with the means over the images ``f1``, ``accuracy``, ``sensitivity``, ``mcc``, ``iou`` (of vessels) and ``auc``
    (of the probabilities; not in the official code), and, from the pixels of all images together, ``miou``,
    ``iou_background``, ``iou_vessel`` and ``accuracy_pooled``. A mean leaves out the images where it is undefined.

    Raises
    ------
    ValueError
        If the shapes of a pair differ, a frame does not fit the square, or ``prob`` holds NaN.

    References
    ----------
    methods/fsg-net.md, sections 6 and 9 (items 1 and 2).
    """
    total = Confusion(0, 0, 0, 0)
    rows: list[dict[str, float]] = []
    for frame, least in _with_thresholds(frames, threshold):
        prob, truth, _ = _checked(*frame, np.ones(frame[1].shape, bool))
        if not prob.size:
            continue
        if square is not None:
            side = _official_square(max(prob.shape)) if square == "auto" else square
            prob, truth = center_pad(prob, side), center_pad(truth, side)
        counts = confusion(prob >= least, truth)
        total += counts
        row = {"f1": counts.f1, "accuracy": counts.accuracy, "sensitivity": counts.sensitivity, "mcc": counts.mcc}
        row |= {"iou": counts.iou[1], "auc": roc_auc(prob, truth)}
        if official_auc:
            row["auc_sorted_official"] = sorted_auc(counts)
        rows.append(_defined(row))
    if not rows:
        return {}
    keys = dict.fromkeys(key for row in rows for key in row)
    means = {key: math.fsum(v := [row[key] for row in rows if key in row]) / len(v) for key in keys}
    background, vessel = total.iou
    means |= {"miou": (background + vessel) / 2, "iou_background": background, "iou_vessel": vessel}
    return means | {"accuracy_pooled": total.accuracy}


def _checked(prob: NDArray[Any], truth: NDArray[Any], fov: NDArray[Any]) -> tuple[NDArray[Any], Mask, Mask]:
    """The three once they fit; masks as copies of ones and zeros (the bools of 1-bit images are bytes of 255)."""
    if prob.ndim != 2 or not prob.shape == truth.shape == fov.shape:
        raise ValueError(
            f"probability, truth and field of view must be of one shape [H, W], got {prob.shape}, {truth.shape} and "
            f"{fov.shape}"
        )
    prob = prob if prob.dtype in (np.float32, np.float64) else prob.astype(np.float64)
    if np.isnan(prob).any():
        raise ValueError("the probabilities hold NaN")
    return prob, truth != 0, fov != 0


def _with_thresholds(images: Iterable[Images], threshold: float | Sequence[float]) -> Iterator[tuple[Images, float]]:
    """Each image with its threshold as a Python float: NumPy compares in the map's own precision then."""
    thresholds = threshold if isinstance(threshold, Sequence) else itertools.repeat(threshold)
    return ((image, float(least)) for image, least in zip(images, thresholds, strict=isinstance(threshold, Sequence)))


def _defined(values: dict[str, float]) -> dict[str, float]:
    return {key: float(value) for key, value in values.items() if not math.isnan(value)}


def _at_least(level: NDArray[np.intp]) -> NDArray[np.int64]:
    """How many are at least 1, 2, ..., LEVELS. [N] -> [LEVELS]."""
    counts = np.bincount(level, minlength=LEVELS + 1)[1:]
    return np.asarray(counts[::-1].cumsum()[::-1], np.int64)


def _official_square(side: int) -> int:
    return next((square for square in OFFICIAL_SQUARES if square >= side), -(-side // 32) * 32)
