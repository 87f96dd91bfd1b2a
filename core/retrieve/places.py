"""Where the files of an index are: kept so that they are found from any folder, and after a move.

An entry keeps the absolute path of its file and of the argument it came from (``gallery``), and the folder in which the
index was then (``index_folder``). Where index and gallery moved together, the file is where it was *as seen from the
index*; where only one of them did, the absolute path still holds, or nothing does. Which of the two it is, size and
time of the file tell. All of it is about names: nothing follows links, so ``..`` means what it looks like.

Names of files need not be UTF-8, but what stores hold must be: bytes that are none stand as ``\\xff`` in ids and paths,
and become the same bytes again (``file_name``) where a file is opened or named.
"""

from __future__ import annotations

import os
import re
from collections.abc import Mapping
from os import PathLike
from pathlib import Path
from typing import Any

from .data.evalset import counted
from .store import is_remote, split_place

GALLERY, FOLDER = "gallery", "index_folder"
"""Metadata of an entry: the argument it came from, and where the index was; both absolute."""
_WRITTEN = re.compile(r"[\udc80-\udcff]|\\(?=x(?:[89a-f][0-9a-f]|5c))")
_READ = re.compile(r"\\x([89a-f][0-9a-f]|5c)")


def stored_name(name: str | PathLike[str]) -> str:
    """A file name as a store holds it: bytes that are no UTF-8 as ``\\xff``."""
    return _WRITTEN.sub(lambda match: "\\x5c" if match[0] == "\\" else f"\\x{ord(match[0]) - 0xDC00:02x}", str(name))


def file_name(stored: str) -> str:
    """The file name of which ``stored_name`` made ``stored``."""
    return _READ.sub(lambda match: "\\" if match[1] == "5c" else chr(0xDC00 + int(match[1], 16)), stored)


def stored_path(path: str | PathLike[str], folder: str | PathLike[str] = "") -> str:
    """The absolute path of a file as entries keep it; addresses (``https://...``) stay.

    Parameters
    ----------
    path : str or PathLike
    folder : str or PathLike
        What it is relative to; by default the current folder.
    """
    text = str(path)
    if re.match(r"[a-z][a-z0-9+.-]+://", text, re.IGNORECASE):
        return stored_name(text)
    return stored_name(absolute(os.path.join(folder, text)))


def absolute(path: str | PathLike[str]) -> str:
    """The absolute path of a file. Links are followed only where ``..`` comes after one and so means another folder."""
    text = os.fspath(path)
    return os.path.realpath(text) if os.pardir in Path(text).parts else os.path.abspath(text)


def index_folder(index: str | PathLike[str]) -> str | None:
    """Absolute path of the folder of an index; None on a server or in a bucket."""
    return None if is_remote(index) else absolute(split_place(index)[1])


def file_stamp(path: str | PathLike[str]) -> str:
    """Size and time of change; empty where there is no such file."""
    try:
        state = os.stat(path)
    except (OSError, ValueError):  # ValueError: a NUL byte in the name
        return ""
    return f"{state.st_size}:{state.st_mtime_ns}"


class Places:
    """Finds the files of one index; remembers what it could not find.

    Parameters
    ----------
    index : str or path
    """

    def __init__(self, index: str | PathLike[str]) -> None:
        self.index, self.folder = str(index), index_folder(index)
        self._missing: dict[str, None] = {}
        self._changed: dict[str, None] = {}
        self._old: dict[str, None] = {}
        self._lost: dict[str, None] = {}

    def moved(self, name: str, meta: Mapping[str, Any]) -> str:
        """An absolute name as seen from the index when it was written, and from where the index is now."""
        then = meta.get(FOLDER)
        if not isinstance(then, str) or "\0" in then or self.folder is None or (then := file_name(then)) == self.folder:
            return name
        return os.path.normpath(os.path.join(self.folder, os.path.relpath(name, then)))

    def find(self, meta: Mapping[str, Any]) -> str | None:
        """The file of an entry: absolute, as the system has its name; None where nothing says which it is."""
        return self._look(meta)[0]

    def is_there(self, meta: Mapping[str, Any]) -> bool:
        """Whether the file of an entry is there as it was indexed; true for what is no file of its own."""
        return not isinstance(meta.get("path"), str) or self._look(meta)[1]

    def _look(self, meta: Mapping[str, Any]) -> tuple[str | None, bool]:
        """The file of an entry, and whether it is there as it was indexed."""
        stored = meta.get("path")
        if not isinstance(stored, str) or not stored or "\0" in stored:  # the last: of a forged index
            return None, False
        path, stamp = file_name(stored), str(meta.get("stamp") or "").partition("@")[0]
        if "://" in path:
            return path, True
        if not re.fullmatch(r"\d+:\d+", stamp):
            stamp = ""  # of a text in a list: not that of a file
        if not os.path.isabs(path):  # of an index of an older attn: as it was typed, from wherever that was
            self._old[path] = None
            if stamp and file_stamp(path) != stamp:
                self._lost[path] = None
                return None, False
            return absolute(path), True
        there = {place: now for place in (self.moved(path, meta), path) if (now := file_stamp(place))}
        if exact := [place for place, now in there.items() if not stamp or now == stamp]:
            return exact[0], True
        alike = [place for place, now in there.items() if now.partition(":")[0] == stamp.partition(":")[0]]
        right = alike[0] if alike else path  # of the same size: copied without its times, or written again
        (self._changed if right in there else self._missing)[right] = None
        return right, False

    def shown(self, meta: Mapping[str, Any]) -> dict[str, Any]:
        """Metadata whose ``path`` leads to the file from the current folder, or that has none."""
        fields = self.found(meta)
        return fields | {"path": from_here(fields["path"])} if "path" in fields else fields

    def found(self, meta: Mapping[str, Any]) -> dict[str, Any]:
        """Metadata whose ``path`` is where the file is, absolute, or that has none."""
        fields = {name: value for name, value in meta.items() if name not in ("path", FOLDER)}
        path = self.find(meta)
        return fields if path is None else fields | {"path": path}

    def warnings(self) -> tuple[str, ...]:
        """What the user should know of the files that were asked for so far."""
        texts = []
        if self._lost:
            some = next(iter(self._lost))
            texts.append(
                counted(len(self._lost), "path", "paths")
                + f" of {self.index} (such as {some}) cannot be told from here: the index was made by an older attn, "
                "which kept paths as they were typed. Index the gallery again"
            )
        elif self._old:
            texts.append(f"{self.index} was made by an older attn: its paths hold in this folder only. Index it again")
        for names, single, many in (
            (self._missing, "file is not there any more", "files are not there any more"),
            (
                self._changed,
                "file has another time or size than when it was indexed",
                "files have another time or size than when indexed",
            ),
        ):
            if names:
                texts.append(
                    f"{counted(len(names), single, many)} (such as {next(iter(names))}). Index the gallery again"
                )
        return tuple(texts)


def from_here(path: str) -> str:
    """A path as short as it can be from the current folder: below it without it; never like an option."""
    if "://" in path:
        return path
    here = os.getcwd()
    below = os.path.relpath(path, here) if path.startswith(here.rstrip(os.sep) + os.sep) else path
    return os.path.join(os.curdir, below) if below.startswith("-") else below


def is_below(path: str, folder: str) -> bool:
    """Whether a path is a folder's own, or inside it; both absolute."""
    return Path(path).is_relative_to(folder)
