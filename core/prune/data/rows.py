"""A row of a list or table as a sample: which columns are the picture, the question, the answers and the boxes."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ...errors import InputError
from ...io.records import identifier, json_lines, text_field
from ...io.tables import StoredImage, TablePicture, read_parquet, read_saved
from .samples import QuestionSample

IMAGE = ("image", "file_name", "image_path", "img_path")
QUESTION = ("question", "query", "prompt")
ANSWERS = ("answers", "answer", "label")
IDS = ("id", "question_id", "_id")
TASK, BOXES = "task", "boxes"


def line_samples(path: Path) -> Iterator[QuestionSample]:
    """Of JSONL, one object a line; pictures lie relative to the file. Raises ``InputError``."""
    for place, record in json_lines(path):
        yield sample_of(path, place, record)


def table_samples(path: Path) -> Iterator[QuestionSample]:
    """Of a parquet file, or of a folder that ``datasets`` saved. Raises ``InputError``."""
    for row, cells in read_saved(path) if path.is_dir() else read_parquet(path):
        yield sample_of(path, f"row {row + 1}", cells)


def sample_of(path: Path, place: str, record: Mapping[str, Any]) -> QuestionSample:
    """The sample of a row. Without an id it is called by its place.

    Raises
    ------
    InputError
        If a picture or a question is missing, or a column holds something else than it should.
    """
    question_name = _named(path, place, record, "a question", QUESTION)
    question = text_field(path, place, record, question_name)
    if not question or question.isspace():
        raise InputError(path, f"{place}: {question_name!r} is empty", "Write a question, or remove the row")
    id_name = next((name for name in IDS if record.get(name) is not None), None)
    return QuestionSample(
        id=identifier(path, place, record, id_name) if id_name else place,
        picture=_picture(path, place, record),
        question=question.strip(),
        answers=_answers(path, place, record),
        task=text_field(path, place, record, TASK) or None,
        boxes=_boxes(path, place, record),
    )


def _named(path: Path, place: str, record: Mapping[str, Any], what: str, names: tuple[str, ...]) -> str:
    """The first column of ``names`` that a row has."""
    name = next((name for name in names if record.get(name) is not None), None)
    if name is None:
        there = ", ".join(repr(key) for key in list(record)[:8]) or "nothing"
        raise InputError(
            path, f"{place} has no {names[0]!r}, {what} (it has {there})", f"Add {names[0]!r} to every row"
        )
    return name


def _picture(path: Path, place: str, record: Mapping[str, Any]) -> Path | StoredImage:
    name = _named(path, place, record, "a picture", IMAGE)
    cell = record[name]
    if isinstance(cell, TablePicture):
        return cell.image
    if not isinstance(cell, str) or not cell:
        raise InputError(path, f"{place}: {name!r} is no path of a picture", "Write the path as a string")
    return (path if path.is_dir() else path.parent) / cell


def _answers(path: Path, place: str, record: Mapping[str, Any]) -> tuple[str, ...]:
    """A text, a number, a list of them, or VQA's list of {"answer": text}; none where all of these are missing."""
    name = next((name for name in ANSWERS if record.get(name) is not None), None)
    if name is None:
        return ()
    cell = record[name]
    entries = cell if isinstance(cell, list | tuple) else [cell]
    answers = []
    for entry in entries:
        text = entry.get("answer") if isinstance(entry, Mapping) else entry
        if isinstance(text, bool):
            text = "yes" if text else "no"
        elif isinstance(text, int | float) and math.isfinite(text):
            text = f"{text:g}" if isinstance(text, float) else str(text)
        if not isinstance(text, str):
            raise InputError(path, f"{place}: {name!r} is no text, and no list of texts", f'Write "{name}": "..."')
        answers.append(text.strip())
    if not all(answers):
        raise InputError(path, f"{place}: {name!r} has an empty answer", "Write it, or leave the column out")
    return tuple(answers)


def _boxes(path: Path, place: str, record: Mapping[str, Any]) -> NDArray[np.float64] | None:
    """[[left, top, right, bottom], ...] in pixels; one box may stand alone."""
    cell = record.get(BOXES)
    if cell is None:
        return None
    try:
        boxes = np.asarray(cell, np.float64)
    except (TypeError, ValueError):
        boxes = np.empty(0)
    boxes = boxes[None] if boxes.shape == (4,) else boxes
    whole = boxes.ndim == 2 and boxes.shape[1] == 4 and bool(np.isfinite(boxes).all())
    if not whole or bool((boxes[:, :2] >= boxes[:, 2:]).any()):
        what = f"{place}: {BOXES!r} is no list of [left, top, right, bottom] in pixels"
        raise InputError(path, what, f'Write "{BOXES}": [[10, 20, 60, 50]], right beyond left and bottom beyond top')
    return boxes
