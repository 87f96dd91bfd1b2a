"""How good boxes are: average precision by pycocotools, and redundant boxes."""

from __future__ import annotations

import contextlib
import importlib.util
import io
from collections.abc import Sequence
from typing import Any

import numpy as np

from ...errors import UsageError
from .data import CLASSES, DetectionSet
from .detector import FoundBoxes, overlaps

SHOWN = 0.3
"""Score from which a box would be shown to a user."""
MATCHED = 0.5


def check_scorer() -> None:
    """Raises ``UsageError`` where pycocotools is missing: before the training, not after it."""
    if importlib.util.find_spec("pycocotools") is None:
        raise UsageError("average precision is computed by pycocotools. Install it: pip install 'attn[detect]'.")


def average_precision(found: Sequence[FoundBoxes], wanted: DetectionSet) -> dict[str, float]:
    """COCO's AP: ``map``, the mean over overlaps of 0.5 to 0.95, and ``ap50``, both in [0, 1].

    Parameters
    ----------
    found : sequence of N FoundBoxes
    wanted : DetectionSet of N pictures
    """
    from pycocotools.coco import COCO
    from pycocotools.cocoeval import COCOeval

    truth: list[dict[str, Any]] = []
    boxes: list[dict[str, Any]] = []
    for number, (own, named) in enumerate(zip(wanted.boxes, wanted.labels, strict=True)):
        for (x0, y0, x1, y1), label in zip(own.tolist(), named.tolist(), strict=True):
            truth.append({
                "id": len(truth) + 1, "image_id": number, "category_id": label, "bbox": [x0, y0, x1 - x0, y1 - y0],
                "area": (x1 - x0) * (y1 - y0), "iscrowd": 0,
            })  # fmt: skip
        one = found[number]
        for (x0, y0, x1, y1), score, label in zip(
            one.boxes.tolist(), one.scores.tolist(), one.labels.tolist(), strict=True
        ):
            boxes.append({
                "image_id": number, "category_id": label, "bbox": [x0, y0, x1 - x0, y1 - y0], "score": score,
            })  # fmt: skip
    if not boxes:
        return {"map": 0.0, "ap50": 0.0}
    images = [{"id": number} for number in range(len(wanted))]
    with contextlib.redirect_stdout(io.StringIO()):  # it prints
        coco: Any = COCO()
        coco.dataset = {
            "images": images, "annotations": truth, "categories": [{"id": i} for i in range(len(CLASSES))], "info": {},
        }  # fmt: skip
        coco.createIndex()
        judged = COCOeval(coco, coco.loadRes(boxes), "bbox")
        judged.evaluate()
        judged.accumulate()
        judged.summarize()
    return {"map": float(judged.stats[0]), "ap50": float(judged.stats[1])}


def redundant(found: Sequence[FoundBoxes], wanted: DetectionSet) -> float:
    """Boxes per object, scored at least ``SHOWN``, that are no object's own.

    By falling score a box takes the object of its class that it overlaps most, by ``MATCHED`` at least, if no other box
    took it before. All others are redundant: second boxes, boxes of another class, boxes around nothing.
    """
    left = 0
    for one, own, named in zip(found, wanted.boxes, wanted.labels, strict=True):
        shown = one.scores >= SHOWN
        likeness = overlaps(one.boxes[shown], own.numpy())
        likeness = np.where(one.labels[shown][:, None] == named.numpy()[None], likeness, 0)
        free = np.ones(len(own), bool)
        for row in likeness:
            best = int(np.argmax(np.where(free, row, -1))) if free.any() else -1
            if best >= 0 and free[best] and row[best] >= MATCHED:
                free[best] = False
            else:
                left += 1
    return left / max(1, sum(len(own) for own in wanted.boxes))
