"""Scores of segmented photos by the protocol that was asked for: of one, and of all together from their files."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from ..errors import InputError
from ..io.raster import read_png
from ..report.model import Item
from .case import Case
from .companions import Companions
from .masks import read_mask
from .options import SegmentOptions
from .outputs import Segmented, probability, thinned
from .score import metrics as scoring

POOL_PIXELS = 2**28
"""Pooled scores need all images at once, 6 bytes a pixel."""
Pair = tuple[NDArray[np.float32], NDArray[np.bool_], NDArray[np.bool_]]
"""Probability, truth and field of view, each [h, w]."""


@dataclass(frozen=True, slots=True)
class PhotoItem(Item):
    """An item that knows how the truth was turned to match its photo: EXIF's number, 1 as it is."""

    truth_orientation: int = 1


def scored(case: Case, done: Segmented, options: SegmentOptions) -> dict[str, float]:
    """Scores of one photo; none without a truth."""
    if case.truth is None:
        return {}
    return _scores([(done.prob, case.truth.pixels, case.fov.mask)], [done.threshold.value], options, pool=False)


def _scores(
    pairs: Sequence[Pair], thresholds: Sequence[float], options: SegmentOptions, *, pool: bool
) -> dict[str, float]:
    """Scores of one image, or of several together, each at its threshold, by the protocol that was asked for."""
    if options.protocol == "fsg":
        frames = [(prob, truth) for prob, truth, _ in pairs]
        return scoring.fsg_scores(frames, thresholds, official_auc=options.official_auc)
    if pool:
        return scoring.pooled(list(pairs), thresholds)
    return scoring.scores(*pairs[0], threshold=thresholds[0])


def pooled(
    done: Sequence[tuple[Item, Companions]], options: SegmentOptions, notices: list[str]
) -> dict[str, float] | None:
    """Scores over the pixels of all photos together, from the files just written: arrays never travel."""
    pairs: list[Pair] = []
    thresholds: list[float] = []
    try:
        for item, files in done:
            if files.truth is None or "probability" not in item.files:
                continue
            stored = read_png(Path(item.files["probability"])).stored
            orientation = item.truth_orientation if isinstance(item, PhotoItem) else 1
            truth = read_mask(files.truth, orientation=orientation).pixels
            assert stored is not None
            prob = thinned(stored[0], truth.shape)
            pairs.append((probability(prob), truth, prob > 0))
            thresholds.append(item.metrics["threshold"])
            if sum(prob.size for prob, _, _ in pairs) > POOL_PIXELS:
                notices.append(f"No pooled scores: the photos have more than {POOL_PIXELS} pixels together.")
                return None
    except InputError as error:
        notices.append(f"No pooled scores: {error}.")
        return None
    if not pairs:
        return None
    found_scores = _scores(pairs, thresholds, options, pool=True)
    if "auc" not in found_scores:
        notices.append("No pooled AUC: inside the fields of view the truths are all vessel, or have none.")
    return {"images": len(pairs), **found_scores}
