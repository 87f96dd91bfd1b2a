"""Methods side by side on one input: one table and one figure; and the means over the inputs of a batch."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from os import PathLike
from typing import Any

import numpy as np
from numpy.typing import NDArray

from .errors import AttnError
from .report.model import Item
from .report.sections import Row, Table

NAME = "comparison"
"""Of the sections."""


@dataclass(frozen=True, slots=True)
class Compared:
    """What one method came to: its name for people, its numbers and words, and a picture [H, W] or, in colour,
    [H, W, 3] uint8."""

    label: str
    values: Mapping[str, float | str]
    picture: NDArray[Any]


@dataclass(frozen=True, slots=True)
class Comparison:
    """One input by several methods.

    Parameters
    ----------
    rows : tuple of mapping
        ``method`` and its numbers, or ``method`` and a ``note`` that says why it has none.
    pictures : mapping of str to ndarray, shape (H, W), or (H, W, 3) uint8
        In the order in which they are drawn.
    captions : mapping of str to str
        Second lines below their names; none: no second line.
    reference : ndarray, shape (H, W), optional
        What is right, drawn last.
    """

    rows: tuple[Row, ...]
    pictures: Mapping[str, NDArray[Any]]
    captions: Mapping[str, str] = field(default_factory=dict)
    reference: NDArray[Any] | None = None

    @property
    def table(self) -> Table:
        """The section of the input's item; the report shows the means."""
        return Table(NAME, self.rows, detail=True)

    def draw(self, path: str | PathLike[str], **looks: Any) -> None:
        """Write the figure; ``looks`` are those of ``report.figure.comparison``, or, in colour, ``picture_sheet``."""
        from .report.figure import comparison, picture_sheet

        if all(picture.ndim == 3 for picture in self.pictures.values()):
            return picture_sheet(self.pictures, path, captions=self.captions, **looks)
        comparison(self.pictures, path, reference=self.reference, captions=self.captions, **looks)


def side_by_side(
    names: Iterable[str], run: Callable[[str], Compared], known: Mapping[str, Compared], before: Mapping[str, Any]
) -> Comparison:
    """Every method on one input, each timed; one that the input defeats has a row that says so, the others go on.

    Parameters
    ----------
    names : iterable of str
    run : callable
        Does it by one method; ``AttnError`` and ``ValueError`` of it become a note.
    known : mapping of str to Compared
        Methods that have been run already: their rows are taken as they are.
    before : mapping of str to ndarray, shape (H, W)
        Pictures that stand before those of the methods.
    """
    rows: list[Row] = []
    pictures = dict(before)
    for name in names:
        start = time.perf_counter()
        try:
            done = known.get(name) or run(name)
        except (AttnError, ValueError) as error:
            rows.append({"method": name, "note": str(error)})
            continue
        seconds = {} if name in known else {"seconds": time.perf_counter() - start}
        rows.append({"method": done.label, **done.values, **seconds})
        pictures[done.label] = done.picture
    return Comparison(tuple(rows), pictures)


def mean_table(items: Iterable[Item], best: str = "") -> Table:
    """The rows of all items' comparisons averaged per method, in the order of the first.

    Each method's means are over the files that it finished; ``files`` says how many those are. Words stand there where
    they are the same in all. Where ``best`` was
    measured, methods are sorted by it, the largest first, and ``wins_BEST`` counts the files on which one was best.
    """
    tables = [
        {row["method"]: row for row in section.rows()}
        for item in items
        if item.status == "ok"
        for section in item.sections
        if section.name == NAME
    ]
    rows: list[Row] = []
    for name in dict.fromkeys(name for table in tables for name in table):
        own = [table[name] for table in tables if name in table]
        done = [row for row in own if "note" not in row]
        if not done:
            rows.append({"method": name, "note": own[0]["note"]})
            continue
        mean: dict[str, Any] = {"method": name, "files": len(done)}
        for key in dict.fromkeys(key for row in done for key in row if key != "method"):
            values = [row[key] for row in done if key in row]
            if words := {value for value in values if isinstance(value, str)}:
                mean |= {key: words.pop()} if len(words) == 1 else {}
            elif numbers := [value for value in values if np.isfinite(value)]:
                mean[key] = float(np.mean(numbers))
        if any(best in row for row in done):
            mean[f"wins_{best}"] = sum(_is_best(table, name, best) for table in tables)
        rows.append(mean)
    if any(best in row for row in rows):
        rows.sort(key=lambda row: -row.get(best, -np.inf))
    return Table(NAME, rows, title="mean over the files" if len(tables) > 1 else "side by side")


def _is_best(table: Mapping[str, Row], name: str, best: str) -> bool:
    scored = [row for row in table.values() if best in row]
    return bool(scored) and max(scored, key=lambda row: float(row[best]))["method"] == name
