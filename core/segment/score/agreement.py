"""How well two vessel maps agree, in numbers: counts of pixels, the area under the ROC curve, centre lines.

Specification: methods/fsg-net.md, section 6; what the scores of ``metrics.py`` are made of. A number without a value is
NaN here.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

CHUNK = 2**22

Mask = NDArray[np.bool_]


@dataclass(frozen=True, slots=True)
class Confusion:
    """Pixels by what they are and what they were taken for; Python integers, so that products of four are exact."""

    tp: int
    fp: int
    fn: int
    tn: int

    def __add__(self, other: Confusion) -> Confusion:
        return Confusion(self.tp + other.tp, self.fp + other.fp, self.fn + other.fn, self.tn + other.tn)

    @property
    def f1(self) -> float:
        return _share(2 * self.tp, 2 * self.tp + self.fp + self.fn, nothing=1.0)

    @property
    def iou(self) -> tuple[float, float]:
        """Of the background and of the vessels."""
        wrong = self.fp + self.fn
        return _share(self.tn, self.tn + wrong, nothing=1.0), _share(self.tp, self.tp + wrong, nothing=1.0)

    @property
    def sensitivity(self) -> float:
        return _share(self.tp, self.tp + self.fn)

    @property
    def specificity(self) -> float:
        return _share(self.tn, self.tn + self.fp)

    @property
    def accuracy(self) -> float:
        return _share(self.tp + self.tn, self.tp + self.fp + self.fn + self.tn)

    @property
    def mcc(self) -> float:
        margins = (self.tp + self.fp) * (self.tp + self.fn) * (self.tn + self.fp) * (self.tn + self.fn)
        return (self.tp * self.tn - self.fp * self.fn) / math.sqrt(margins) if margins else 0.0


def confusion(predicted: Mask, truth: Mask) -> Confusion:
    """Count two bool arrays of one shape."""
    tp = int(np.count_nonzero(predicted & truth))
    fp, fn = int(np.count_nonzero(predicted)) - tp, int(np.count_nonzero(truth)) - tp
    return Confusion(tp, fp, fn, truth.size - tp - fp - fn)


def area(vessels: list[NDArray[Any]], others: list[NDArray[Any]], *, chunk: int = CHUNK) -> float:
    """ROC area from the probabilities of both classes, exact: pairs in order and ties are counted in integers.

    ``chunk`` pixels are looked up at a time.
    """
    yes, no = (np.concatenate(parts) if parts else np.empty(0) for parts in (vessels, others))
    if not yes.size or not no.size:
        return math.nan
    yes.sort()  # in place: they are copies, and those of a pooled folder are large
    no.sort()
    twice = 0
    for start in range(0, len(yes), chunk):  # in ascending order: each search begins near the one before it
        part = yes[start : start + chunk]
        twice += int(np.searchsorted(no, part, "left").sum()) + int(np.searchsorted(no, part, "right").sum())
    return twice / (2 * len(yes) * len(no))


def sorted_auc(counts: Confusion) -> float:
    """ROC area of the sorted prediction against the sorted label, in the closed form of section 6."""
    positive, predicted, negative = counts.tp + counts.fn, counts.tp + counts.fp, counts.tn + counts.fp
    if not positive or not negative:
        return math.nan
    if predicted >= positive:
        return 1 - (predicted - positive) / (2 * negative)
    return (1 + predicted / positive) / 2


def centre_lines(predicted: Mask, truth: Mask) -> NDArray[np.int64]:
    """Pixels of the predicted centre line on true vessels, and in all; of the true one on predicted vessels, in all."""
    from skimage.morphology import skeletonize

    either = predicted | truth
    rows, columns = np.flatnonzero(either.any(1)), np.flatnonzero(either.any(0))
    if not rows.size:
        return np.zeros(4, np.int64)
    box = (slice(rows[0], rows[-1] + 1), slice(columns[0], columns[-1] + 1))
    counts: list[int] = []
    for mask, other in ((predicted[box], truth[box]), (truth[box], predicted[box])):
        line = np.asarray(skeletonize(mask), np.bool_)  # type: ignore[no-untyped-call]
        counts += [int(np.count_nonzero(line & other)), int(np.count_nonzero(line))]
    return np.array(counts, np.int64)


def cldice(line_hit: int, line: int, true_hit: int, true_line: int) -> float:
    """Harmonic mean of the shares of both centre lines that lie on the other's vessels."""
    if not line and not true_line:
        return 1.0
    precision, recall = _share(line_hit, line, nothing=0.0), _share(true_hit, true_line, nothing=0.0)
    return 2 * precision * recall / (precision + recall) if line_hit and true_hit else 0.0


def _share(part: int, whole: int, *, nothing: float = math.nan) -> float:
    return part / whole if whole else nothing
