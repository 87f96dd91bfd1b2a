"""Lines, JSON and tables of text files, where every fault names the file, the line and what to do.

A byte order mark, CRLF and gzip (by content) are taken as they come. Identifiers stay strings: "007" is not "7".
"""

from __future__ import annotations

import csv
import gzip
import io
import json
import os
import zlib
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from os import PathLike
from pathlib import Path
from typing import IO, Any, cast

from ..errors import InputError
from ..memory import FIX, Counted, budget, check_memory, read_within
from ..sizes import show_bytes
from .kinds import open_regular

GZIP = b"\x1f\x8b"
LINE_SHARE = 32
"""Of the budget of memory one line, or one text, may take: with its tokens it takes some thirty times its size."""


def line_limit() -> int:
    """Bytes of one line of a list, or of one text file."""
    return budget() // LINE_SHARE


@contextmanager
def opened(path: Path) -> Iterator[IO[bytes]]:
    """The bytes of a file, unpacked where gzip packed them; all that can go wrong is an ``InputError``.

    A file, or what it unpacks to, that is more than the budget of memory is refused.
    """
    try:
        with open_regular(path) as raw:
            packed = raw.read(2) == GZIP
            raw.seek(0)
            if packed:
                with (
                    gzip.GzipFile(fileobj=raw) as file,
                    io.BufferedReader(Counted(cast(IO[bytes], file), path)) as counted,
                ):
                    yield counted
            else:
                check_memory(path, os.fstat(raw.fileno()).st_size, "its text takes")
                yield raw
    except (EOFError, gzip.BadGzipFile, zlib.error) as error:
        raise InputError(path, "is a damaged gzip file", "Copy or download it again") from error
    except OSError as error:
        raise InputError(path, f"cannot be read ({error})", "Check its permissions") from error


def lines(path: str | PathLike[str], *, errors: str = "strict", whole: bool = False) -> Iterator[tuple[int, str]]:
    """Number and text of each line that is not blank, without its end.

    Parameters
    ----------
    path : str or PathLike
    errors : str
        How bytes that are no UTF-8 are decoded, as in ``bytes.decode``.
    whole : bool
        Blank lines, too, and all with their ends.

    Raises
    ------
    InputError
        If the file cannot be read, or a line is no UTF-8.
    """
    path = Path(path)
    with opened(path) as file:
        yield from decoded(path, file, errors=errors, whole=whole)


def decoded(
    path: str | PathLike[str], file: IO[bytes], *, errors: str = "strict", whole: bool = False
) -> Iterator[tuple[int, str]]:
    """``lines`` of a file that is open. Raises ``InputError`` if a line is no UTF-8, or too long for the budget."""
    most = line_limit()
    for number, raw in enumerate(iter(lambda: file.readline(most + 1), b""), 1):
        if len(raw) > most:
            raise InputError(path, f"line {number} is longer than {show_bytes(most)}", FIX)
        try:
            text = raw.decode("utf-8-sig" if number == 1 else "utf-8", errors)
        except UnicodeDecodeError as error:
            raise InputError(path, f"line {number} is not UTF-8 ({error.reason})", "Save it as UTF-8") from error
        if whole:
            yield number, text
        elif (text := text.rstrip("\r\n")) and not text.isspace():
            yield number, text


def whole_text(path: str | PathLike[str]) -> str:
    """A file as one text, line ends as LF.

    Raises
    ------
    InputError
        If it cannot be read, is too long for the budget of memory, or is no UTF-8.
    """
    try:
        with open_regular(path) as file:
            data = read_within(file, path, line_limit(), "is a text of")
        return data.decode("utf-8-sig").replace("\r\n", "\n")
    except UnicodeDecodeError as error:
        raise InputError(path, f"is not UTF-8 ({error.reason})", "Save it as UTF-8") from error
    except OSError as error:
        raise InputError(path, f"cannot be read ({error.strerror})", "Check its permissions") from error


def csv_rows(path: str | PathLike[str], *, delimiter: str = ",") -> Iterator[tuple[str, dict[str, str | None]]]:
    """``"line 7"`` and the cells of each row under the names of the first line; None where a row is too short.

    A cell in quotes may hold line ends; the line named is then the row's last.

    Raises
    ------
    InputError
        As ``lines``, or if the first line names a column twice, a row has more cells than that, or it is no CSV.
    """
    reader = csv.DictReader((text for _, text in lines(path, whole=True)), delimiter=delimiter)
    try:
        names = reader.fieldnames or ()
        if len(set(names)) < len(names):
            name, _ = Counter(names).most_common(1)[0]
            raise InputError(path, f"the first line names the column {name!r} twice", "Name each column once")
        for row in reader:
            if None in row:
                what = f"line {reader.line_num} has more columns than the first line"
                raise InputError(path, what, "Put texts with commas in quotes")
            yield f"line {reader.line_num}", row
    except csv.Error as error:
        raise InputError(path, f"is no CSV (line {reader.line_num}: {error})", "Save it again") from error


def json_lines(path: str | PathLike[str]) -> Iterator[tuple[str, dict[str, Any]]]:
    """``"line 7"`` and the object on it, for each line. Raises ``InputError`` as ``lines``, or if it is no object."""
    yield from json_objects(path, lines(path))


def json_objects(path: str | PathLike[str], lines: Iterable[tuple[int, str]]) -> Iterator[tuple[str, dict[str, Any]]]:
    """``json_lines`` of lines that are read already. Raises ``InputError`` if one is no object."""
    for number, text in lines:
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
    with opened(path) as file:
        return json_value(path, read_within(file, path, what="holds"))


def json_value(path: str | PathLike[str], data: bytes) -> Any:
    """The value of JSON that is read already. Raises ``InputError`` if it is none."""
    try:
        return json.loads(data.decode("utf-8-sig"), object_pairs_hook=_once)
    except UnicodeDecodeError as error:
        line = data.count(b"\n", 0, error.start) + 1
        raise InputError(path, f"line {line} is not UTF-8 ({error.reason})", "Save it as UTF-8") from error
    except (ValueError, RecursionError) as error:
        fix = "Repair it, or download it again; a file with an object on each line is a .jsonl"
        raise InputError(path, f"is no JSON ({error})", fix) from error


def _once(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    """An object, none of whose members would replace another. Raises ``ValueError`` for two of one name."""
    record = dict(pairs)
    if len(record) < len(pairs):
        name, _ = Counter(name for name, _ in pairs).most_common(1)[0]
        raise ValueError(f"an object has {name!r} twice")
    return record


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
    if not isinstance(value, list) or not all(isinstance(entry, str) for entry in value):
        what = f"has no {name!r}" if name not in record else f"has a {name!r} that is no list of strings"
        raise InputError(path, f"{place} {what}", f'Write "{name}": ["...", "..."]')
    return [_whole(path, place, name, entry) for entry in value]


def objects(path: str | PathLike[str], value: Any, what: str = "the file") -> Iterator[tuple[str, dict[str, Any]]]:
    """``"entry 3"`` and the object, for each member of a JSON list. Raises ``InputError`` for anything else."""
    if not isinstance(value, list):
        raise InputError(path, f"{what} is {_kind(value)}, not a list", "Write [{...}, {...}]")
    for number, entry in enumerate(value, 1):
        if not isinstance(entry, dict):
            raise InputError(path, f"entry {number} is {_kind(entry)}, not an object", "Write [{...}, {...}]")
        yield f"entry {number}", entry


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
