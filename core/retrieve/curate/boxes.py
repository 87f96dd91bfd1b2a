"""Where persons are in photos, as a user's own detector says it: JSONL {image, box, score?, keypoints?, id?}."""

from __future__ import annotations

import math
import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Any

from ...errors import InputError
from ...io.records import identifier, json_lines
from ...options import OptionError

HEAD, HIPS = slice(0, 5), slice(11, 13)
"""Of COCO's 17 keypoints: nose, eyes and ears; the two hips."""
KEYPOINTS = 17


@dataclass(frozen=True, slots=True)
class PersonBox:
    """A person in a photo.

    Parameters
    ----------
    box : (x, y, w, h)
        In pixels of the upright photo.
    score : float or None
        The detector's.
    visible : tuple of 17 bool
        COCO's keypoints that are seen; empty where the file does not say.
    identity : str
        Who it is; empty where the file does not say.
    """

    box: tuple[float, float, float, float]
    score: float | None = None
    visible: tuple[bool, ...] = ()
    identity: str = ""

    def inside(self, size: tuple[int, int]) -> tuple[int, int, int, int]:
        """First and last (excluded) row and column (y0, y1, x0, x1) in a photo of (H, W), clipped to it."""
        x, y, w, h = self.box
        rows = (min(max(round(edge), 0), size[0]) for edge in (y, y + h))
        columns = (min(max(round(edge), 0), size[1]) for edge in (x, x + w))
        return (*rows, *columns)  # type: ignore[return-value]

    @property
    def poses(self) -> str:
        """What the paper's check of the pose misses, in words; empty where it passes or nothing is known."""
        if not self.visible:
            return ""
        seen, head, hips = sum(self.visible), sum(self.visible[HEAD]), sum(self.visible[HIPS])
        short = [f"{count} of {least} {what}" for count, least, what in
                 ((seen, 8, "keypoints"), (hips, 1, "hips"), (head, 2, "of the head")) if count < least]  # fmt: skip
        return ", ".join(short)


class PhotoBoxes:
    """Boxes by photo: those of a line belong to the photo whose path ends in its ``image``.

    Parameters
    ----------
    path : Path

    Raises
    ------
    OptionError
        If the file cannot be read or a line is malformed: it names the line.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self._by_image: dict[str, list[PersonBox]] = {}
        self._asked: set[str] = set()
        try:
            for place, record in json_lines(path):
                self._by_image.setdefault(identifier(path, place, record, "image"), []).append(
                    _person(path, place, record)
                )
        except InputError as error:
            raise OptionError(f"{{boxes}}: {error}") from None
        if not self._by_image:
            raise OptionError(f"{{boxes}} {path}: holds no boxes.")
        self._by_name: dict[str, list[str]] = {}
        for image in self._by_image:
            self._by_name.setdefault(PurePosixPath(image).name, []).append(image)

    def of(self, photo: Path) -> Sequence[PersonBox]:
        """Of a photo; of several names that its path ends in, the longest's."""
        parts = Path(os.path.abspath(photo)).parts
        fits = [
            image
            for image in self._by_name.get(photo.name, ())
            if parts[-len(ending := PurePosixPath(image).parts) :] == ending or Path(image) == Path(*parts)
        ]
        if not fits:
            return ()
        image = max(fits, key=lambda name: len(PurePosixPath(name).parts))
        self._asked.add(image)
        return self._by_image[image]

    def unused(self) -> list[str]:
        """Images of the file that no photo was asked for."""
        return [image for image in self._by_image if image not in self._asked]


def _person(path: Path, place: str, record: Mapping[str, Any]) -> PersonBox:
    box = record.get("box")
    if not isinstance(box, list) or not _numbers(box) or len(box) != 4 or min(box[2:]) <= 0:
        raise InputError(path, f"{place} has no 'box' of four numbers", 'Write "box": [x, y, width, height] in pixels')
    score, points = record.get("score"), record.get("keypoints")
    if score is not None and not _numbers([score]):
        raise InputError(path, f"{place}: 'score' is no number", "Write it as 0.97, or leave it out")
    if points is not None and (not _numbers(points) or len(points) != 3 * KEYPOINTS):
        fix = "Write x, y and visibility (0: not seen) of COCO's 17 keypoints, or leave them out"
        raise InputError(path, f"{place}: 'keypoints' are no {3 * KEYPOINTS} numbers", fix)
    visible = tuple(seen > 0 for seen in points[2::3]) if points is not None else ()
    identity = identifier(path, place, record, "id") if "id" in record else ""
    return PersonBox(tuple(map(float, box)), score, visible, identity)  # type: ignore[arg-type]


def _numbers(value: Any) -> bool:
    return isinstance(value, list) and all(
        isinstance(number, (int, float)) and not isinstance(number, bool) and math.isfinite(number) for number in value
    )
