"""Folders of pictures and texts as entries: searched below, hidden files passed by, pictures described beside them."""

from __future__ import annotations

import csv
import os
from collections.abc import Collection, Iterator, Mapping
from pathlib import Path
from typing import Any, Literal

from ...errors import InputError
from ...io.photo.read import PHOTO_SUFFIXES
from ...io.records import identifier, json_lines, lines
from ...io.walk import Passed
from ..places import file_stamp, stored_name, stored_path
from .entry import Entry, Unseen
from .rows import as_numbers, plain_fields

TEXT_SUFFIXES = (".txt", ".md")
DESCRIPTIONS = ("metadata.jsonl", "metadata.csv")
"""Files that describe the pictures beside them."""


def folder_entries(root: Path, modalities: Collection[str]) -> Iterator[Entry | Unseen]:
    """Pictures and text files below a folder, in sorted order, and what of it could not be looked into.

    Links to folders are followed, each folder once: those of the tree itself first, so that a new link never renames
    what is there.
    """
    described = _described(root)
    seen: set[tuple[int, int]] = set()
    passed = Passed()
    waiting = [root]
    while waiting:
        links: list[Path] = []
        for top in waiting:
            yield from _tree(root, top, modalities, described, seen, links, passed)
        waiting = links
    for row in passed.rows():
        yield Unseen(None, warning=f"{root}: {row['files']} {row['why']} passed by: {row['names']}")


def _tree(
    root: Path, top: Path, modalities: Collection[str], described: Mapping[str, Mapping[str, Any]],
    seen: set[tuple[int, int]], links: list[Path], passed: Passed,
) -> Iterator[Entry | Unseen]:  # fmt: skip
    """What is in one folder and below, links to folders aside (they are added to ``links``)."""

    def prefix(place: str | Path) -> str:
        below = Path(place).relative_to(root).as_posix()
        return "" if below == "." else stored_name(below) + "/"

    problems: list[OSError] = []
    for directory, names, files in os.walk(top, onerror=problems.append):
        state = os.stat(directory)
        if (mark := (state.st_dev, state.st_ino)) in seen and state.st_ino:
            names[:] = []
            reason = f"{directory} is a link to a folder that is in the gallery already: not read twice"
            yield Unseen(prefix(directory), warning=reason)
            continue
        seen.add(mark)
        for name in sorted(names):
            if name.startswith("."):
                passed.add("hidden folders", os.path.join(directory, name))
        names[:] = sorted(name for name in names if not name.startswith("."))
        links += [Path(directory, name) for name in names if os.path.islink(os.path.join(directory, name))]
        for name in sorted(files):
            path = Path(directory, name)
            suffix = path.suffix.lower()
            kind: Literal["text", "image"] = "text" if suffix in TEXT_SUFFIXES else "image"
            known = suffix in (*TEXT_SUFFIXES, *PHOTO_SUFFIXES)
            if not known and path.is_symlink() and not os.path.exists(path):
                yield Unseen(prefix(path))  # perhaps to a folder that is not mounted now
            if name.startswith("."):
                passed.add("hidden files", str(path))
                continue
            if not known:
                if name not in DESCRIPTIONS:
                    passed.add("files of other kinds", str(path))
                continue
            if kind not in modalities:
                passed.add(f"{kind}s, which this model does not read,", str(path))
                continue
            if os.path.exists(path) and not os.path.isfile(path):
                passed.add("pipes or devices", str(path))  # reading one would wait for ever
                continue
            key = path.relative_to(root).as_posix()
            meta = {**described.get(key, {}), "path": stored_path(path)}
            yield Entry(stored_name(key), kind, str(path), file_stamp(path), path, meta=meta)
    for problem in problems:
        error = InputError(str(problem.filename), f"cannot be listed ({problem.strerror})", "Check its permissions")
        yield Unseen(prefix(problem.filename), error)


def _described(root: Path) -> dict[str, dict[str, Any]]:
    """Picture -> its fields in ``metadata.jsonl`` or ``metadata.csv``, as the image folders of ``datasets`` have."""
    listed = root / DESCRIPTIONS[0]
    if listed.is_file():
        rows = list(json_lines(listed))
    elif (table := root / DESCRIPTIONS[1]).is_file():
        listed = table
        try:
            rows = [(f"line {i}", dict(row)) for i, row in enumerate(csv.DictReader(t for _, t in lines(table)), 2)]
        except csv.Error as error:
            raise InputError(table, f"is no CSV ({error})", "Save it again, or remove it") from error
        if wrong := next((place for place, row in rows if None in row), None):
            raise InputError(table, f"{wrong} has more columns than the first line", "Put texts with commas in quotes")
        as_numbers([row for _, row in rows], ("file_name",))
    else:
        return {}
    return {identifier(listed, place, row, "file_name"): plain_fields(row, ("file_name",)) for place, row in rows}
