"""Which texts have which label, and perhaps a second text that asks about them: lists and tables."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

from ..errors import InputError
from .labelled import LABELS, SPLITS, split_of
from .records import csv_rows, json_lines
from .tables import is_saved, read_parquet, read_saved

TEXTS = ("text", "sentence", "content", "review", "passage", "premise", "context", "sentence1")
QUERIES = ("question", "query", "hypothesis", "sentence2")
SUFFIXES = (".csv", ".tsv", ".jsonl", ".ndjson", ".parquet")
HELD_OUT = {"test": 0.2, "val": 0.1}
"""Shares of a set without splits that are kept from training."""
_SALT = 19950815
"""Seed of which texts those are: always the same, so that whoever looks at a model later finds what it did not see."""


@dataclass(frozen=True, slots=True)
class LabelledText:
    """A text and its label.

    Parameters
    ----------
    text, label : str
    place : str
        Where it is in its source: ``"line 7"``.
    split : str
        ``"train"``, ``"val"``, ``"test"``; empty where the source has no splits.
    query : str
        The second text of a pair; else empty.
    """

    text: str
    label: str
    place: str
    split: str = ""
    query: str = ""


@dataclass(frozen=True, slots=True)
class Columns:
    """Names of the columns; None: the first that is there of ``TEXTS``, ``QUERIES`` and ``LABELS``.

    ``pair`` says whether there is a second text.
    """

    text: str | None = None
    label: str | None = None
    query: str | None = None
    pair: bool = False


def labelled_texts(path: Path, columns: Columns) -> list[LabelledText]:
    """The texts of a file, or of a folder that ``datasets`` saved (with or without splits), in its order.

    Raises
    ------
    InputError
        If there is no such source, a column is missing, a row lacks its label, or some rows have a split and others
        none. A text may be empty.
    """
    rows = [_of_row(path, place, cells, columns, split) for split, place, cells in _rows(path)]
    if not rows:
        raise InputError(path, "holds no row", "Give it a line for each text, with columns text and label")
    if len({bool(row.split) for row in rows}) > 1:
        without = next(row.place for row in rows if not row.split)
        raise InputError(path, f"{without} has no split, and others have one", "Give all a split, or none")
    return rows


def _rows(path: Path) -> Iterator[tuple[str, str, Mapping[str, Any]]]:
    """Split (empty: what the row says), place and cells of each row."""
    suffix = path.suffix.lower()
    if not path.exists():
        raise InputError(path, "does not exist", f"Name a file of texts with labels ({', '.join(SUFFIXES)})")
    if path.is_dir():
        parts = {name: path / word for name, words in SPLITS.items() for word in words if is_saved(path / word)}
        if is_saved(path):
            parts = {"": path}
        if not parts:
            raise InputError(path, "is no folder that datasets saved", f"Name a file ({', '.join(SUFFIXES)})")
        for name, folder in parts.items():
            yield from ((name, f"{folder.name} row {row + 1}", cells) for row, cells in read_saved(folder))
    elif suffix == ".parquet":
        yield from (("", f"row {row + 1}", cells) for row, cells in read_parquet(path))
    elif suffix in (".csv", ".tsv"):
        rows = csv_rows(path, delimiter="\t" if suffix == ".tsv" else ",")
        yield from (("", place, cells) for place, cells in rows)
    elif path.name.lower().endswith((".jsonl", ".ndjson", ".jsonl.gz")):
        yield from (("", place, cells) for place, cells in json_lines(path))
    else:
        raise InputError(path, "is no set of texts with labels", f"Name a file ({', '.join(SUFFIXES)})")


def _of_row(path: Path, place: str, cells: Mapping[str, Any], columns: Columns, split: str) -> LabelledText:
    label = _cell(path, place, cells, columns.label, LABELS, "label")
    if label is None or not str(label).strip():
        raise InputError(path, f"{place} has an empty label", "Give every row a label, or remove the row")
    if isinstance(label, float) and label.is_integer():
        label = int(label)
    query = _cell(path, place, cells, columns.query, QUERIES, "query") if columns.pair else ""
    text = _cell(path, place, cells, columns.text, TEXTS, "text")
    return LabelledText(
        _as_text(path, place, text), str(label).strip(), place, split or split_of(path, place, cells),
        _as_text(path, place, query),
    )  # fmt: skip


def _cell(
    path: Path, place: str, cells: Mapping[str, Any], column: str | None, known: tuple[str, ...], what: str
) -> Any:
    name = next((name for name in (known if column is None else (column,)) if name in cells), None)
    if name is None:
        there = ", ".join(repr(name) for name in list(cells)[:8]) or "nothing"
        wanted = repr(column) if column else f"{what} (one of {', '.join(known)})"
        raise InputError(path, f"{place} has no column {wanted}; it has {there}", "Name the column, or add it")
    return cells[name]


def _as_text(path: Path, place: str, value: Any) -> str:
    if value is not None and not isinstance(value, str):
        raise InputError(path, f"{place}: the text is no text but {type(value).__name__}", "Name another column")
    return value or ""


def parted(path: Path, rows: list[LabelledText]) -> tuple[list[LabelledText], list[str]]:
    """All rows with a split, and what was decided for that.

    Without splits a fifth of every label is for the test and a tenth for validation, the same ones whenever it is
    asked; without "val" the tenth comes from "train".

    Raises
    ------
    InputError
        If there are splits, but no "train" or no "test".
    """
    there = {row.split for row in rows}
    if there == {""}:
        told = f"{path.name} has no splits: of each label a fifth is held out for the test, a tenth for validation"
        return _held_out(rows, HELD_OUT), [told]
    for name in ("train", "test"):
        if name not in there:
            what = f"has splits, but no rows of {name}"
            raise InputError(path, what, "Add them, or remove the column 'split': then a fifth is held out")
    if "val" in there:
        return rows, []
    told = f"{path.name} has no validation rows: a tenth of the training rows of each label is held out for it"
    trained = _held_out([row for row in rows if row.split == "train"], {"val": HELD_OUT["val"]})
    return trained + [row for row in rows if row.split == "test"], [told]


def _held_out(rows: list[LabelledText], shares: Mapping[str, float]) -> list[LabelledText]:
    split = ["train"] * len(rows)
    for label in sorted({row.label for row in rows}):
        of_label = [number for number, row in enumerate(rows) if row.label == label]
        order = np.random.default_rng(_SALT).permutation(len(of_label))
        first = 0
        for name, share in shares.items():
            last = first + round(share * len(of_label))
            for place in order[first:last]:
                split[of_label[place]] = name
            first = last
    return [replace(row, split=name) for row, name in zip(rows, split, strict=True)]
