"""Boxes of objects from COCO JSON, and the patches that lie in them.

Specification: methods/astigmatism.md, section 3.1, step 6 (a cell is in a box where its middle is, x0 <= x < x1), and
section 9, item 10 (what becomes of boxes that are none).
"""

from __future__ import annotations

import json
import math
import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path, PurePosixPath
from typing import Any

import numpy as np
from numpy.typing import NDArray
from torch import Tensor

from ...errors import InputError, decoding
from ...io.kinds import open_regular
from ...memory import read_within
from ...options import OptionError

FIX = "Name a COCO JSON with images and annotations"


@dataclass(frozen=True, slots=True)
class PictureBoxes:
    """Boxes of one picture.

    Parameters
    ----------
    name : str
        Its ``file_name``.
    size : (H, W) or None
        What the file says of the picture.
    boxes : ndarray, shape (n, 4), float64
        x0, y0, x1, y1 in pixels, as they stand there.
    """

    name: str
    size: tuple[int, int] | None
    boxes: NDArray[np.float64]


@dataclass(frozen=True, slots=True)
class BoxIndex:
    """Boxes of many pictures, found by the path of a picture."""

    by_name: Mapping[str, Sequence[PictureBoxes]]

    def of(self, path: Path) -> PictureBoxes | None:
        """The entry whose ``file_name`` is the end of a path, the longest of several."""
        parts = Path(os.path.abspath(path)).parts
        fits = [
            entry
            for entry in self.by_name.get(path.name, ())
            if parts[-len(ending := PurePosixPath(entry.name).parts) :] == ending
        ]
        return max(fits, key=lambda entry: len(PurePosixPath(entry.name).parts), default=None)


@lru_cache(maxsize=1)
def read_boxes(paths: tuple[Path, ...]) -> BoxIndex:
    """The boxes of COCO files; read once per process.

    Raises
    ------
    UsageError
        If a file is missing, damaged or no COCO, or two entries are of one file name.
    """
    found: dict[str, PictureBoxes] = {}
    for path in paths:
        try:
            entries = _entries(path)
        except InputError as error:
            raise OptionError(f"{{boxes}}: {error}") from None
        for entry in entries:
            if entry.name in found:
                raise OptionError(f"{{boxes}} {path}: there are two pictures named {entry.name}. Give each its folder.")
            found[entry.name] = entry
    by_name: dict[str, list[PictureBoxes]] = {}
    for name, entry in found.items():
        by_name.setdefault(PurePosixPath(name).name, []).append(entry)
    return BoxIndex(by_name)


def _entries(path: Path) -> list[PictureBoxes]:
    with open_regular(path) as file, decoding(path, "COCO JSON", FIX):
        document = json.loads(read_within(file, path, what="holds"))
    if not isinstance(document, dict) or not all(
        isinstance(document.get(key), list) for key in ("images", "annotations")
    ):
        raise InputError(path, "has no lists images and annotations", FIX)
    boxes: dict[Any, list[list[float]]] = {}
    pictures: dict[Any, PictureBoxes] = {}
    for number, image in enumerate(document["images"]):
        if not isinstance(image, dict) or not isinstance(image.get("file_name"), str) or not _is_id(image.get("id")):
            raise InputError(path, f"image {number} (from 0) has no id or file_name", FIX)
        if image["id"] in pictures:
            raise InputError(path, f"two images have the id {image['id']}", FIX)
        sides = [side for key in ("height", "width") if isinstance(side := image.get(key), int) and side > 0]
        size = (sides[0], sides[1]) if len(sides) == 2 else None
        boxes[image["id"]] = []
        pictures[image["id"]] = PictureBoxes(image["file_name"], size, np.zeros((0, 4)))
    for number, annotation in enumerate(document["annotations"]):
        of = annotation.get("image_id") if isinstance(annotation, dict) else None
        if not _is_id(of) or of not in pictures:
            raise InputError(path, f"annotation {number} (from 0) is of no image of the file", FIX)
        box = annotation.get("bbox")
        if not isinstance(box, list) or len(box) != 4 or not all(_is_number(edge) for edge in box):
            raise InputError(path, f"annotation {number} (from 0) has no bbox of four numbers", FIX)
        x, y, width, height = (float(edge) for edge in box)
        boxes[of].append([x, y, x + width, y + height])
    return [
        PictureBoxes(one.name, one.size, np.array(boxes[key], np.float64).reshape(-1, 4))
        for key, one in pictures.items()
    ]


def _is_id(value: Any) -> bool:
    return isinstance(value, (int, str)) and not isinstance(value, bool)


def _is_number(value: Any) -> bool:
    return isinstance(value, (int, float)) and not isinstance(value, bool) and math.isfinite(value)


def usable(boxes: NDArray[np.float64], size: tuple[int, int]) -> tuple[NDArray[np.float64], list[str]]:
    """Boxes [n, 4] clipped to a picture of (H, W), without those that are empty; and what the user should know."""
    empty = (boxes[:, 2:] <= boxes[:, :2]).any(1)
    edges = np.array([size[1], size[0]] * 2, np.float64)
    clipped = boxes.clip(0, edges)
    outside = (clipped[:, 2:] <= clipped[:, :2]).any(1) & ~empty
    reaching = (clipped != boxes).any(1) & ~outside & ~empty
    told = {
        f"of {len(boxes)} boxes have no area and are left out": empty,
        f"of {len(boxes)} boxes lie outside the picture and are left out": outside,
        f"of {len(boxes)} boxes reach beyond the picture and are clipped": reaching,
    }
    return clipped[~(empty | outside)], [f"{int(of.sum())} {what}" for what, of in told.items() if of.any()]


def in_boxes(positions: Tensor, boxes: NDArray[np.float64]) -> NDArray[np.bool_]:
    """Which places (y, x), [N, 2], lie in one of the boxes x0, y0, x1, y1: step 6."""
    y, x = positions.double().cpu().numpy().T[..., None]
    x0, y0, x1, y1 = boxes.T
    return np.asarray(((x0 <= x) & (x < x1) & (y0 <= y) & (y < y1)).any(1))
