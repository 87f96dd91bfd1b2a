"""Which pictures have which class: folders of class folders, lists (CSV, JSONL), and tables of ``datasets``.

No picture is read here; a row says where it is.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ..errors import InputError
from .photo.read import PHOTO_SUFFIXES
from .records import csv_rows, json_lines
from .tables import StoredImage, TablePicture, is_saved, read_parquet, read_saved

SPLITS = {"train": ("train", "training"), "val": ("val", "validation", "valid", "dev"), "test": ("test", "testing")}
LABELS = ("label", "labels", "class", "fine_label")
IMAGES = ("image", "img", "file_name")
SPLIT = "split"
LISTS = ("metadata.jsonl", "metadata.csv", "labels.csv")
"""Files of a folder that say the classes of the pictures beside them."""


@dataclass(frozen=True, slots=True)
class LabelledPicture:
    """A picture and its class.

    Parameters
    ----------
    label : str
        Name of the class; numbers are written with six digits, so that names and numbers have one order.
    name : str
        Unique in its source: the path below the folder, or the row.
    place : Path or StoredImage
    split : str
        ``"train"``, ``"val"``, ``"test"``; empty where the source has no splits.
    """

    label: str
    name: str
    place: Path | StoredImage
    split: str = ""


def labelled_pictures(path: Path, label: str | None = None) -> list[LabelledPicture]:
    """The pictures of a source, in its order.

    Parameters
    ----------
    path : Path
        A folder of class folders, perhaps inside ``train``, ``val``, ``test``; a folder with ``metadata.jsonl``,
        ``metadata.csv`` or ``labels.csv``; such a list alone; a parquet file, or a folder that ``datasets`` saved.
    label : str, optional
        Column with the class; default: the first of ``LABELS``. Folders of class folders have none.

    Raises
    ------
    InputError
        If there is no such source, or a row lacks picture or label.
    """
    rows = _rows(path, label)
    if len({bool(row.split) for row in rows}) > 1:
        without = next(row.name for row in rows if not row.split)
        raise InputError(path, f"{without!r} has no split, and others have one", "Give all a split, or none")
    return rows


def _rows(path: Path, label: str | None) -> list[LabelledPicture]:
    if not path.exists():
        raise InputError(path, "does not exist", "Name a folder with a folder for each class, a list or a parquet file")
    if path.is_dir() and not is_saved(path):
        listed = next((path / name for name in LISTS if (path / name).is_file()), None)
        if listed is None:
            if label is not None:
                known = ", ".join(LISTS)
                raise InputError(path, f"holds no list with a column {label!r} ({known})", "Classes are its folders")
            return _folders(path)
        path = listed
    if path.is_dir() or path.suffix.lower() == ".parquet":
        rows = read_saved(path) if path.is_dir() else read_parquet(path)
        return [_of_row(path, f"row {number + 1}", cells, label) for number, cells in rows]
    if path.suffix.lower() == ".csv":
        return [
            _of_row(path, place, {name: cell for name, cell in cells.items() if cell}, label)
            for place, cells in csv_rows(path)
        ]
    if path.name.lower().endswith((".jsonl", ".ndjson", ".jsonl.gz")):
        return [_of_row(path, place, cells, label) for place, cells in json_lines(path)]
    raise InputError(path, "is no set of pictures with classes", "Name a folder, or a .csv, .jsonl or .parquet file")


def _folders(path: Path) -> list[LabelledPicture]:
    inside = {child.name.lower(): child for child in sorted(path.iterdir()) if child.is_dir()}
    found = {split: next((inside[n] for n in names if n in inside), None) for split, names in SPLITS.items()}
    if found["train"] is None:
        return _classes(path, "")
    parts = [_classes(folder, split) for split, folder in found.items() if folder is not None]
    return [row for part in parts for row in part]


def _classes(folder: Path, split: str) -> list[LabelledPicture]:
    rows = []
    for child in sorted(folder.iterdir()):
        if child.is_dir():
            files = sorted(file for file in child.rglob("*") if file.suffix.lower() in PHOTO_SUFFIXES)
            rows += [
                LabelledPicture(child.name, str(file.relative_to(folder.parent if split else folder)), file, split)
                for file in files
                if file.name[0] != "."
            ]
    return rows


def _of_row(path: Path, place: str, cells: Mapping[str, Any], column: str | None) -> LabelledPicture:
    names = LABELS if column is None else (column,)
    label = next((cells[name] for name in names if cells.get(name) is not None), None)
    picture = next((cells[name] for name in IMAGES if cells.get(name) is not None), None)
    there = ", ".join(repr(name) for name in list(cells)[:8]) or "nothing"
    if label is None or (isinstance(label, str) and not label.strip()):
        wanted = repr(column) if column else "label"
        raise InputError(path, f"{place} has no {wanted} (it has {there})", "Name the column, or add it to every row")
    if not isinstance(picture, TablePicture | str):
        raise InputError(path, f"{place} has no image (it has {there})", "Add the column 'image' to every row")
    part = split_of(path, place, cells)
    inside = picture.image if isinstance(picture, TablePicture) else (path if path.is_dir() else path.parent) / picture
    name = picture if isinstance(picture, str) else place
    text = f"{label:06d}" if isinstance(label, int) and not isinstance(label, bool) else str(label).strip()
    return LabelledPicture(text, name, inside, part)


def split_of(path: Path, place: str, cells: Mapping[str, Any]) -> str:
    """``"train"``, ``"val"``, ``"test"``, or empty, as a row's column ``split`` says. Raises ``InputError``."""
    split = str(cells.get(SPLIT) or "").lower()
    part = next((name for name, words in SPLITS.items() if split in words), "")
    if split and not part:
        raise InputError(path, f"{place}: {split!r} is no split", f"Write one of {', '.join(SPLITS)}")
    return part
