"""Which DICOM files belong together, and in which order: by their headers alone."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Generic, TypeVar

import numpy as np

from ..image import GreyImage
from ..kinds import sniff
from ..pixels import captured
from ..place import SAME_MM, SlicePlace
from .parse import parse
from .place import frame_places, numbers, text_of

ItemT = TypeVar("ItemT", GreyImage, Path)


@dataclass(frozen=True, slots=True)
class Series(Generic[ItemT]):
    """Files that form one stack, in order along the slice normal.

    Parameters
    ----------
    key : str
        SeriesInstanceUID; the file's path for what belongs to no stack (localizers, multi-frame files).
    items : tuple of GreyImage or Path
        As given, sorted.
    positions : tuple of float
        mm along the normal, parallel to ``items``; empty where a position is missing.
    localizer : bool
        An overview image: never part of a stack.
    warnings : tuple of str
        Unequal spacing, duplicates, mixed sizes, changing thickness, missing positions.
    """

    key: str
    items: tuple[ItemT, ...]
    positions: tuple[float, ...] = ()
    localizer: bool = False
    warnings: tuple[str, ...] = ()

    def __iter__(self) -> Iterator[ItemT]:
        return iter(self.items)

    def __len__(self) -> int:
        return len(self.items)


def slice_info(dataset: Any) -> dict[str, Any]:
    """Where a data set stands in its series.

    Returns
    -------
    dict with ``uid`` (str), ``number`` (int or None), ``position`` (mm along the normal, or None), ``normal`` (3
    floats, or None), ``orientation`` (6 floats, or None), ``localizer`` (bool), ``size`` (rows, columns, frames),
    ``thickness`` (mm or None), ``sop_uid``, ``places`` (of the frames: see
    `GreyImage`).
    Damaged values count as missing.
    """
    direction, origin = numbers(dataset, "ImageOrientationPatient", 6), numbers(dataset, "ImagePositionPatient", 3)
    normal = position = None
    if direction:
        cross = np.cross(direction[:3], direction[3:])
        if (length := float(np.linalg.norm(cross))) > 0.1:
            normal = tuple(float(value) for value in cross / length)
            position = float(np.dot(normal, origin)) if origin else None
    number, thickness = numbers(dataset, "InstanceNumber", 1), numbers(dataset, "SliceThickness", 1)
    rows, columns, frames = (numbers(dataset, word, 1) for word in ("Rows", "Columns", "NumberOfFrames"))
    return {
        "uid": text_of(dataset, "SeriesInstanceUID"),
        "number": int(number[0]) if number else None,
        "position": position,
        "normal": normal,
        "orientation": tuple(direction) if direction else None,
        "localizer": "LOCALIZER" in text_of(dataset, "ImageType").upper(),
        "size": (int(rows[0]) if rows else 0, int(columns[0]) if columns else 0, int(frames[0]) if frames else 1),
        "thickness": thickness[0] if thickness else None,
        "sop_uid": text_of(dataset, "SOPInstanceUID"),
        "places": _places(dataset, int(frames[0]) if frames else 1),
    }


def _places(dataset: Any, frames: int) -> tuple[SlicePlace | None, ...]:
    try:
        return frame_places(dataset, frames)
    except Exception:  # damaged sequences fail anywhere
        return ()


def series_key(image: GreyImage) -> str:
    """What images of one stack have in common: the SeriesInstanceUID, or the path for an image on its own."""
    return key_of(image.series, image.path)


def sort_series(items: Sequence[ItemT]) -> list[Series[ItemT]]:
    """Group images or files into stacks.

    Parameters
    ----------
    items : sequence of GreyImage, or of Path
        Of paths only the headers are read.

    Returns
    -------
    list of Series, in the order of their first item. Localizers and multi-frame files stand alone; what is no readable
    DICOM is in none of them. Sorted by position along the slice normal, else by InstanceNumber, else as given.
    """
    groups: dict[str, list[tuple[ItemT, dict[str, Any]]]] = {}
    for item in items:
        info = item.series if isinstance(item, GreyImage) else read_info(item)
        path = item.path if isinstance(item, GreyImage) else item
        if info:
            groups.setdefault(key_of(info, path), []).append((item, info))
    return [_sorted(key, members) for key, members in groups.items()]


def read_info(path: Path) -> dict[str, Any]:
    """``slice_info`` of a file without reading its pixels; empty for what is no readable DICOM."""
    try:
        with captured([]):
            if sniff(path) != "dicom":
                return {}
            return slice_info(parse(path, pixels=False))
    except Exception:  # whatever is wrong is reported when the file itself is read
        return {}


def key_of(info: dict[str, Any], path: Path) -> str:
    """What the headers of one stack have in common: see ``series_key``."""
    alone = not info.get("uid") or info.get("localizer") or (info.get("size") or (0, 0, 1))[2] > 1
    return str(path) if alone else str(info["uid"])


def _sorted(key: str, members: list[tuple[ItemT, dict[str, Any]]]) -> Series[ItemT]:
    """One series in order, with what is odd about it."""
    infos = [info for _, info in members]
    if len(members) == 1:
        position = infos[0].get("position")
        positions = () if position is None else (position,)
        return Series(key, (members[0][0],), positions, bool(infos[0].get("localizer")))
    notes: list[str] = []
    normals = [info["normal"] for info in infos]
    parallel = all(n is not None and abs(np.dot(n, normals[0] or n)) > 0.999 for n in normals)
    placed = parallel and all(info["position"] is not None for info in infos)
    if placed:
        members = sorted(members, key=lambda member: (member[1]["position"], member[1]["number"] or 0))
    elif all(info["number"] is not None for info in infos):
        notes.append("slices lack a common position and are ordered by InstanceNumber")
        members = sorted(members, key=lambda member: member[1]["number"])
    else:
        notes.append("slices lack positions and numbers and are ordered as given")
    infos = [info for _, info in members]
    positions = tuple(info["position"] for info in infos) if placed else ()
    notes += _oddities(infos, np.array(positions))
    return Series(key, tuple(item for item, _ in members), positions, False, tuple(notes))


def _oddities(infos: list[dict[str, Any]], positions: Any) -> list[str]:
    """What a user of the stack should know; positions [N] in mm, sorted, or empty."""
    notes = []
    if len(positions) > 1:
        steps = np.diff(positions)  # [N - 1]
        if duplicates := int((steps < SAME_MM).sum()):
            notes.append(f"{duplicates} slice{'s' * (duplicates > 1)} at the position of another one (duplicates)")
        steps = steps[steps >= SAME_MM]
        if len(steps) and steps.max() - steps.min() > max(SAME_MM, 0.01 * float(steps.min())):
            notes.append(f"unequal slice spacing: {steps.min():.2f} to {steps.max():.2f} mm")
    uids = [info["sop_uid"] for info in infos if info["sop_uid"]]
    if len(set(uids)) < len(uids):
        notes.append("several files carry the same SOPInstanceUID")
    sizes = sorted({info["size"][:2] for info in infos})
    if len(sizes) > 1:
        notes.append(f"mixed sizes: {', '.join(f'{rows} x {columns}' for rows, columns in sizes)}")
    thicknesses = sorted({info["thickness"] for info in infos if info["thickness"] is not None})
    if len(thicknesses) > 1:
        notes.append(f"slice thickness changes: {', '.join(f'{value:g}' for value in thicknesses)} mm")
    return notes
