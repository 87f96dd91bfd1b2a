"""Boxes of the objects of a picture, from CSV or JSON as detectors write them."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ...errors import InputError, did_you_mean
from ...io.records import csv_rows, identifier, json_file, json_lines, objects
from .objects import Objects

SUFFIXES = (".json", ".csv", ".jsonl")
CORNERS = (("x0", "y0", "x1", "y1"), ("xmin", "ymin", "xmax", "ymax"), ("left", "top", "right", "bottom"))
SIDES = (("x", "y", "w", "h"), ("x", "y", "width", "height"), ("left", "top", "width", "height"))
FORMS = "Give x0, y0, x1, y1, or bbox [x, y, w, h], in pixels"
_TRUE, _FALSE = ("1", "true", "yes", "target", "x"), ("", "0", "false", "no")


@dataclass(frozen=True, slots=True)
class BoxRow:
    """One row of a file of boxes.

    Parameters
    ----------
    place : str
        ``"line 3"``.
    box : (x0, y0, x1, y1)
    label : str
        Empty: it has none.
    target : bool
        It is the one that is searched.
    image : str
        File that it is of; empty: the file does not say.
    """

    place: str
    box: tuple[float, float, float, float]
    label: str = ""
    target: bool = False
    image: str = ""


def boxes_beside(picture: Path) -> Path:
    """The file of boxes beside a picture: ``photo.boxes.csv`` (.json, .jsonl). Raises ``InputError`` without one."""
    for suffix in SUFFIXES:
        if (place := picture.with_suffix(f".boxes{suffix}")).exists():
            return place
    what = f"has no boxes: neither were any named, nor is there a {picture.stem}.boxes.csv or .json beside it"
    raise InputError(picture, what, "Name a file of boxes, such as a detector writes")


def read_boxes(path: Path) -> list[BoxRow]:
    """All rows of a file.

    CSV and JSON lines have a box a row; JSON is a list of such, an object with them under ``boxes``, or COCO
    (``annotations``, with ``images`` and ``categories`` where there are any).

    Raises
    ------
    InputError
        If it cannot be read, or a row has no box.
    """
    return [_row(path, place, cells) for place, cells in _records(path)]


def _records(path: Path) -> Iterator[tuple[str, Mapping[str, Any]]]:
    suffix = path.suffix.lower()
    if suffix == ".csv":
        yield from csv_rows(path)
        return
    if suffix == ".jsonl":
        yield from json_lines(path)
        return
    if suffix != ".json":
        raise InputError(path, "is neither .csv, .json nor .jsonl", "Name a file of boxes")
    value = json_file(path)
    if not isinstance(value, dict):
        yield from objects(path, value)
        return
    if "annotations" not in value:
        for place, cells in objects(path, value.get("boxes"), "'boxes'"):
            yield place, cells
        return
    images, names = (
        {identifier(path, f"{group}, {place}", one, "id"): one.get(name) for place, one in _listed(path, value, group)}
        for group, name in (("images", "file_name"), ("categories", "name"))
    )
    for place, cells in _listed(path, value, "annotations"):
        found = dict(cells)
        for field, known, group in (("image", images, "image_id"), ("label", names, "category_id")):
            if known:
                found.setdefault(field, known.get(identifier(path, place, cells, group)))
        yield place, found


def _listed(path: Path, value: Mapping[str, Any], name: str) -> Iterator[tuple[str, dict[str, Any]]]:
    yield from objects(path, value.get(name, []), repr(name))


def _row(path: Path, place: str, cells: Mapping[str, Any]) -> BoxRow:
    box = _box(path, place, cells)
    _check_area(path, place, box)
    return BoxRow(
        place, box, _text(cells, "label", "class", "name"), _marked(path, place, cells.get("target")),
        _text(cells, "image", "file_name", "filename"),
    )  # fmt: skip


def _text(cells: Mapping[str, Any], *names: str) -> str:
    return next((str(cells[name]) for name in names if cells.get(name) not in (None, "")), "")


def _marked(path: Path, place: str, value: Any) -> bool:
    word = "" if value is None else str(value).strip().lower()
    if word not in (*_TRUE, *_FALSE):
        raise InputError(path, f"{place}: 'target' is {value!r}", "Write 1 or true for what is searched, nothing else")
    return word in _TRUE


def _box(path: Path, place: str, cells: Mapping[str, Any]) -> tuple[float, float, float, float]:
    for names in CORNERS:
        if all(name in cells for name in names):
            x0, y0, x1, y1 = four_numbers(path, place, names, [cells[name] for name in names])
            return x0, y0, x1, y1
    for names in SIDES:
        if all(name in cells for name in names):
            x, y, w, h = four_numbers(path, place, names, [cells[name] for name in names])
            return x, y, x + w, y + h
    if isinstance(cells.get("bbox"), Sequence) and not isinstance(cells["bbox"], str):
        x, y, w, h = four_numbers(path, place, ("bbox",), list(cells["bbox"]))
        return x, y, x + w, y + h
    if isinstance(cells.get("box"), Sequence) and not isinstance(cells["box"], str):
        x0, y0, x1, y1 = four_numbers(path, place, ("box",), list(cells["box"]))
        return x0, y0, x1, y1
    have = ", ".join(str(name) for name in list(cells)[:8]) or "nothing"
    raise InputError(path, f"{place} has no box; it has {have}", FORMS)


def four_numbers(path: Path, place: str, names: Sequence[str], values: Any) -> list[float]:
    """Four numbers of a row, under ``names``. Raises ``InputError`` for anything else."""
    values = values if isinstance(values, list | tuple) else [values]
    try:
        found = [float(value) for value in values if not isinstance(value, bool)]
    except (TypeError, ValueError):
        found = []
    if len(found) != 4:
        shown = ", ".join(str(value)[:20] for value in values[:6])
        raise InputError(path, f"{place}: {' '.join(names)} are no four numbers ({shown})", FORMS)
    return found


def objects_of(path: Path, rows: Sequence[BoxRow], picture: str, size: tuple[int, int], target: str | None) -> Objects:
    """The objects of one picture.

    Parameters
    ----------
    path : Path
        Of the boxes.
    rows : sequence of BoxRow
        Of the file; those of other pictures are left out.
    picture : str
        Its file's name.
    size : (int, int)
        Height and width in pixels.
    target : str or None
        Label of what is searched, or its number from 1; None: the row that is marked.

    Raises
    ------
    InputError
        If a box lies outside the picture, there are fewer than two objects, or no one target among them.
    """
    own = [row for row in rows if not row.image or Path(row.image).name == Path(picture).name]
    if rows and not own:
        named = ", ".join(sorted({row.image for row in rows})[:3])
        raise InputError(path, f"has no box of {picture}, but of {named}", "Name the boxes of this picture")
    for row in own:
        _check_place(path, row.place, row.box, picture, size)
    if len(own) < 2:
        many = "one object" if own else "no object"
        raise InputError(path, f"has {many} of {picture}: there is nothing to search among", "Give at least two boxes")
    labels = tuple(row.label for row in own) if any(row.label for row in own) else ()
    boxes = np.array([row.box for row in own], np.float64)
    return Objects(boxes, _target(path, own, target), size, labels)


def _check_area(path: Path, place: str, box: Sequence[float]) -> None:
    if not (np.isfinite(box).all() and box[0] < box[2] and box[1] < box[3]):
        shown = ", ".join(f"{edge:g}" for edge in box)
        raise InputError(path, f"{place}: the box {shown} (x0, y0, x1, y1) has no area", FORMS)


def _check_place(path: Path, place: str, box: Sequence[float], picture: str, size: tuple[int, int]) -> None:
    x0, y0, x1, y1 = box
    height, width = size
    if x0 < 0 or y0 < 0 or x1 > width or y1 > height:
        what = f"{place}: the box {x0:g}, {y0:g}, {x1:g}, {y1:g} lies outside {picture} ({width} x {height})"
        raise InputError(path, what, "Give boxes in pixels of this picture")


def checked_boxes(
    path: Path, place: str, boxes: NDArray[np.float64], picture: str, size: tuple[int, int]
) -> NDArray[np.float64]:
    """Boxes (N, 4) of one picture, as they are. Raises ``InputError`` for fewer than two, or for bad ones."""
    if len(boxes) < 2:
        what = f"{place} has {len(boxes)} boxes: there is nothing to search among"
        raise InputError(path, what, "Give at least two boxes")
    for box in boxes.tolist():
        _check_area(path, place, box)
        _check_place(path, place, box, picture, size)
    return boxes


def _target(path: Path, rows: Sequence[BoxRow], wanted: str | None) -> int:
    """Which of the rows is searched, from 0."""
    if wanted is None:
        found = [number for number, row in enumerate(rows) if row.target]
        if len(found) == 1:
            return found[0]
        what = (
            f"marks {len(found)} of its {len(rows)} objects as target" if found else "has no target among its objects"
        )
        raise InputError(path, what, "Mark one row by target = 1, or name its label or its number")
    found = [number for number, row in enumerate(rows) if row.label == wanted]
    if not found and wanted.isdecimal() and 1 <= int(wanted) <= len(rows):
        return int(wanted) - 1
    if len(found) == 1:
        return found[0]
    if found:
        what = f"has {len(found)} objects of the label {wanted!r}, one is searched"
        raise InputError(path, what, f"Name the number of the one, from 1 to {len(rows)}")
    hint = did_you_mean(wanted, [row.label for row in rows]) or f"Name a label, or a number from 1 to {len(rows)}"
    raise InputError(path, f"has no object {wanted!r}: the target is not among its {len(rows)} objects", hint)
