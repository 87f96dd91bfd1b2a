"""Which crops are kept, and for what reasons the others are not.

Specification: methods/ga-dms.md, section 6, data pipeline: shorter side > 90 px, aspect 1:2 to 1:4, confidence > 0.85,
at least 8 keypoints visible with one hip and two of the head. Detector and pose network are the user's (boxes); blur
and near-duplicates are our decision, for both waste captions.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np

from ..options.curate import CurateOptions
from ..verbs.owners import cosines, owners
from .crops import Crop

REASONS = {
    "blank": "one colour all over",
    "small": "shorter side too small",
    "shape": "height over width out of range",
    "unsure": "score of the box too low",
    "pose": "too few keypoints of a person",
    "blurred": "too blurred",
    "duplicate": "nearly the same as another crop that is kept",
}
"""Reason -> what it means, in the order in which they are told."""


@dataclass(frozen=True, slots=True)
class Verdict:
    """Why a crop is left out.

    Parameters
    ----------
    crop : Crop
    reasons : tuple of (str, str)
        Of ``REASONS``, each with what was measured; empty: it is kept.
    """

    crop: Crop
    reasons: tuple[tuple[str, str], ...] = ()

    @property
    def kept(self) -> bool:
        return not self.reasons


def faults(crop: Crop, options: CurateOptions) -> Iterator[tuple[str, str]]:
    """What is wrong with a crop by itself: all of it, not the first."""
    height, width = crop.size
    if not crop.thumbnail.any():
        yield "blank", "no contrast"
    if min(height, width) <= options.min_side:
        yield "small", f"{width} x {height} px, must be above {options.min_side:g}"
    if options.aspect is not None and not options.aspect[0] <= height / width <= options.aspect[1]:
        yield "shape", f"{height / width:.2f}, must be from {options.aspect[0]:g} to {options.aspect[1]:g}"
    if crop.person is not None:
        if crop.person.score is not None and crop.person.score <= options.min_score:
            yield "unsure", f"{crop.person.score:g}, must be above {options.min_score:g}"
        if crop.person.poses:
            yield "pose", crop.person.poses
    if options.blur is not None and crop.blur > options.blur:
        yield "blurred", f"{crop.blur:.2f}, must be at most {options.blur:g}"


def judge(crops: Sequence[Crop], options: CurateOptions) -> list[Verdict]:
    """A verdict for each crop, in their order."""
    verdicts = [Verdict(crop, tuple(faults(crop, options))) for crop in crops]
    if options.near is None:
        return verdicts
    kept = [row for row, verdict in enumerate(verdicts) if verdict.kept]
    for row, (other, cosine) in duplicates([crops[row] for row in kept], options.near).items():
        why = f"cosine {cosine:.3f} with {crops[kept[other]].image}"
        verdicts[kept[row]] = Verdict(crops[kept[row]], (("duplicate", why),))
    return verdicts


def _rank(crop: Crop) -> tuple[float, float, str]:
    """Larger ones first, then sharper ones."""
    return -crop.size[0] * crop.size[1], crop.blur, crop.image


def duplicates(crops: Sequence[Crop], near: float) -> dict[int, tuple[int, float]]:
    """Crops that are nearly the same as one that is kept: row -> (row that is kept, cosine of the thumbnails).

    The rule is that of `attn retrieve dedup`, larger and sharper crops first: chains do not merge what is unlike.
    """
    if not crops:
        return {}
    vectors = np.stack([crop.thumbnail for crop in crops])
    order = np.array(sorted(range(len(crops)), key=lambda row: _rank(crops[row])), np.int64)
    owner = np.empty(0, np.int64)
    for _, owner in owners(vectors, order, near):  # noqa: B007 - the last one counts
        pass
    copies = np.flatnonzero(owner != np.arange(len(owner)))
    rows, kept = order[copies], order[owner[copies]]
    return {
        int(row): (int(other), float(cosine))
        for row, other, cosine in zip(rows, kept, cosines(vectors, rows, kept), strict=True)
    }
