"""Lines, JSON and tables of text files, where every fault names the file, the line and what to do.

A byte order mark, CRLF and gzip (by content) are taken as they come. Identifiers stay strings: "007" is not "7".
"""

from __future__ import annotations

import gzip
import json
import zlib
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from os import PathLike
from pathlib import Path
from typing import IO, Any

from ..errors import InputError

GZIP = b"\x1f\x8b"


@contextmanager
def _opened(path: Path) -> Iterator[IO[bytes] | gzip.GzipFile]:
    """The bytes of a file, unpacked where gzip packed them; all that can go wrong is an ``InputError``."""
    try:
        with path.open("rb") as raw:
            packed = raw.read(2) == GZIP
        with gzip.open(path) if packed else path.open("rb") as file:
            yield file
    except FileNotFoundError as error:
        raise InputError(path, "does not exist", "Check the name") from error
    except IsADirectoryError as error:
        raise InputError(path, "is a directory, not a file", "Name the file itself") from error
    except (EOFError, gzip.BadGzipFile, zlib.error) as error:
        raise InputError(path, "is a damaged gzip file", "Copy or download it again") from error
    except (OSError, ValueError) as error:  # ValueError: a NUL byte in the name
        raise InputError(path, f"cannot be read ({error})", "Check its permissions") from error


def lines(path: str | PathLike[str], *, errors: str = "strict") -> Iterator[tuple[int, str]]:
    """Number and text of each line that is not blank, without its end.

    Parameters
    ----------
    path : str or PathLike
    errors : str
        How bytes that are no UTF-8 are decoded, as in ``bytes.decode``.

    Raises
    ------
    InputError
        If the file cannot be read, or a line is no UTF-8.
    """
    path = Path(path)
    with _opened(path) as file:
        for number, raw in enumerate(file, 1):
            try:
                text = raw.decode("utf-8-sig" if number == 1 else "utf-8", errors)
            except UnicodeDecodeError as error:
                raise InputError(path, f"line {number} is not UTF-8 ({error.reason})", "Save it as UTF-8") from error
            if text := text.rstrip("\r\n"):
                if not text.isspace():
                    yield number, text


def json_lines(path: str | PathLike[str]) -> Iterator[tuple[str, dict[str, Any]]]:
    """``"line 7"`` and the object on it, for each line. Raises ``InputError`` as ``lines``, or if it is no object."""
    for number, text in lines(path):
        try:
            value = json.loads(text)
        except (ValueError, RecursionError) as error:
            what = f"line {number} is no JSON ({error})"
            raise InputError(path, what, "Write one whole JSON object a line, or remove the line") from error
        if not isinstance(value, dict):
            raise InputError(path, f"line {number} is no JSON object but {_kind(value)}", "Write {...} on each line")
        yield f"line {number}", value


def json_file(path: str | PathLike[str]) -> Any:
    """The value of a JSON file. Raises ``InputError`` if it cannot be read or is no JSON."""
    path = Path(path)
    with _opened(path) as file:
        data = file.read()
    try:
        return json.loads(data.decode("utf-8-sig"))
    except UnicodeDecodeError as error:
        line = data.count(b"\n", 0, error.start) + 1
        raise InputError(path, f"line {line} is not UTF-8 ({error.reason})", "Save it as UTF-8") from error
    except (ValueError, RecursionError) as error:
        raise InputError(path, f"is no JSON ({error})", "Repair it, or download it again") from error


def identifier(path: str | PathLike[str], place: str, record: Mapping[str, Any], *names: str) -> str:
    """The first of the fields ``names`` as a string; whole numbers are taken, too.

    Raises
    ------
    InputError
        If none is there, or it is empty or of another type.
    """
    name = next((name for name in names if name in record), None)
    if name is None:
        raise InputError(path, f"{place} has no {names[0]!r}", f"Add {names[0]!r} to it{_seen(record)}")
    value = record[name]
    if isinstance(value, int) and not isinstance(value, bool):
        return str(value)
    if not isinstance(value, str) or not value:
        shown = "empty" if value == "" else _kind(value)
        raise InputError(path, f"{place}: {name!r} is {shown}", "Identifiers are strings that are not empty")
    return _whole(path, place, name, value)


def text_field(path: str | PathLike[str], place: str, record: Mapping[str, Any], name: str) -> str | None:
    """A field that must be a string; None where it is missing or null. Raises ``InputError`` for another type."""
    value = record.get(name)
    if value is None:
        return None
    if not isinstance(value, str):
        raise InputError(path, f"{place}: {name!r} is {_kind(value)}, not a string", "Put the text in quotes")
    return _whole(path, place, name, value)


def string_list(path: str | PathLike[str], place: str, record: Mapping[str, Any], name: str) -> list[str]:
    """A field that must be a list of strings (a single string is a list of one).

    Raises
    ------
    InputError
        If it is missing or anything else.
    """
    value = record.get(name)
    if isinstance(value, str):
        value = [value]
    if not isinstance(value, list) or not all(isinstance(one, str) for one in value):
        what = f"has no {name!r}" if name not in record else f"has a {name!r} that is no list of strings"
        raise InputError(path, f"{place} {what}", f'Write "{name}": ["...", "..."]')
    return [_whole(path, place, name, one) for one in value]


def objects(path: str | PathLike[str], value: Any, what: str = "the file") -> Iterator[tuple[str, dict[str, Any]]]:
    """``"entry 3"`` and the object, for each member of a JSON list. Raises ``InputError`` for anything else."""
    if not isinstance(value, list):
        raise InputError(path, f"{what} is {_kind(value)}, not a list", "Write [{...}, {...}]")
    for number, one in enumerate(value, 1):
        if not isinstance(one, dict):
            raise InputError(path, f"entry {number} is {_kind(one)}, not an object", "Write [{...}, {...}]")
        yield f"entry {number}", one


def _whole(path: str | PathLike[str], place: str, name: str, text: str) -> str:
    """The text, unless it holds half a character (a lone surrogate), which no file could hold afterwards."""
    try:
        text.encode()
    except UnicodeEncodeError as error:
        what = f"{place}: {name!r} holds half a character ({text[error.start]!r})"
        raise InputError(path, what, "Repair the escape \\uD...") from error
    return text


def _kind(value: Any) -> str:
    """What a JSON value is, in its own words."""
    names = {dict: "an object", list: "a list", str: "a string", bool: "true or false", int: "a number"}
    return "null" if value is None else names.get(type(value), "a number")


def _seen(record: Mapping[str, Any]) -> str:
    """What is there instead."""
    keys = ", ".join(repr(key) for key in list(record)[:6])
    return f" (it has {keys})" if keys else ""
