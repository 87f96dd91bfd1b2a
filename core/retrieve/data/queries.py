"""What `attn retrieve search` is asked: sentences, photos, a file of queries, standard input; each under an id."""

from __future__ import annotations

import csv
import io
import json
import sys
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import IO, Any

from ...errors import InputError, UsageError
from ...io.records import decoded, identifier, json_objects, json_value, opened
from ...memory import read_within
from ...options import OptionError
from ..score.escape import TABS
from .beir import document_text

Content = str | Path
"""A text, or the path of an image."""
IDS = ("_id", "id", "qid", "query_id", "query-id")
TEXTS = ("text", "query")
SUFFIXES = (".txt", ".tsv", ".jsonl", ".json", ".csv")
_LINES = (".txt", ".text", ".list", ".lst", "")
"""Suffixes of files with a query on each line."""
STDIN = "standard input"

Asked = tuple[str | None, str, str]
"""Id (None: it has none and gets a number), text, and where it stands (``"line 3"``)."""


def read_queries(path: str | Path) -> dict[str, Content]:
    """Queries of a file by id; its suffix says how it is read, and it may be packed by gzip.

    ``.txt`` (or none): one a line, named by the number of the line. ``.tsv``: id, tab, text; the first line may name
    the columns. ``.csv``: the first line names the columns, ``text`` (or ``query``) among them; without ``id`` queries
    are numbered. ``.jsonl``: {"_id", "text"} on each line. ``.json``: a list of such objects or of texts, or
    {id: text}. ``-`` is standard input: JSON as above, or one query a line.

    Raises
    ------
    InputError
        If the file cannot be read, is of another format, holds nothing, or an id occurs twice or is empty.
    """
    if str(path) == "-":
        return _named(STDIN, _stdin())[0]
    path = Path(path)
    return _named(path, _of_file(path))[0]


def queries_of(texts: Sequence[str], images: Sequence[Path], file: Path | None) -> dict[str, Content]:
    """All queries of a command line by id: sentences and lines of standard input (``-``) are numbered as they stand.

    Raises
    ------
    UsageError
        If there is none, a sentence is empty or no UTF-8, standard input is named twice, or two have the same id.
    InputError
        As ``read_queries``.
    """
    if [*texts, str(file)].count("-") > 1:
        raise UsageError("standard input (-) can be read once: name it once.")
    given: list[Asked] = []
    for number, text in enumerate(texts, 1):
        if text == "-":
            given += ((name, line, f"{place} of {STDIN}") for name, line, place in _stdin())
            continue
        if not text.strip():
            raise OptionError("the query is empty. Say what to look for, or give {image} FILE.")
        if not is_unicode(text):
            raise UsageError(f"the query {text!r} is not UTF-8. Type it again, or put it into a file saved as UTF-8.")
        given.append((None, text, f"sentence {number}"))
    if str(file) == "-":
        given += ((name, line, f"{place} of {STDIN}") for name, line, place in _stdin())
    queries: dict[str, Content] = {}
    places: dict[str, str] = {}
    for number, (name, text, place) in enumerate(given, 1):
        _add(queries, places, str(number) if name is None else name, text, place)
    for path in images:
        _add(queries, places, str(path), path, f"{{image}} {path}")
    if file is not None and str(file) != "-":
        more, lines = _named(file, _of_file(file))
        for key, content in more.items():
            _add(queries, places, key, content, f"{{queries}} {file}, {lines[key]}")
    if not queries:
        raise OptionError('nothing to search for. Give a sentence ("a bear on grass"), {image} FILE or {queries} FILE.')
    return queries


def _add(queries: dict[str, Content], places: dict[str, str], key: str, content: Content, place: str) -> None:
    """Put a query under its id. Raises ``UsageError`` that names both where another has it."""
    if key in queries:
        kind = "a sentence" if places[key].startswith("sentence") else "another query"
        raise OptionError(
            f"{place}: the id {key!r} is that of {kind}, too ({places[key]}). Ask for one of them alone."
        )  # fmt: skip
    queries[key], places[key] = content, place


def _named(path: str | Path, given: Iterable[Asked]) -> tuple[dict[str, Content], dict[str, str]]:
    """Queries of one source by id, and where each stands; those without an id are numbered.

    Raises ``InputError`` for an id that is empty or occurs twice, or where there is no query at all.
    """
    queries: dict[str, Content] = {}
    places: dict[str, str] = {}
    for number, (name, text, place) in enumerate(given, 1):
        key = str(number) if name is None else name
        if not key:
            raise InputError(path, f"{place}: the id is empty", "Give every query an id")
        if key in queries:
            what = f"{place}: the id {key!r} is that of {places[key]}, too"
            raise InputError(path, what, "Every id must occur once")
        queries[key], places[key] = text, place
    if not queries:
        raise InputError(path, "holds no queries", "Write one a line")
    return queries, places


def _stdin() -> Iterator[Asked]:
    """Queries on standard input. Raises ``InputError`` where there are none."""
    stream = getattr(sys.stdin, "buffer", None)
    data = sys.stdin.read().encode("utf-8", "surrogateescape") if stream is None else read_within(stream, STDIN)
    start = data.removeprefix(b"\xef\xbb\xbf").lstrip()
    lines = decoded(STDIN, io.BytesIO(data))
    if start[:1] == b"{":
        given = list(_objects(STDIN, json_objects(STDIN, lines)))
    elif start[:1] == b"[" and _is_json(start):
        given = list(_json(STDIN, json_value(STDIN, data)))
    else:
        given = [(None, text, f"line {number}") for number, text in lines]
    if not given:
        raise InputError(STDIN, "holds no queries", "Write one a line")
    yield from given


def _of_file(path: Path) -> Iterator[Asked]:
    name = path.name.lower().removesuffix(".gz")
    suffix = "." + name.rpartition(".")[2] if "." in name.lstrip(".") else ""
    if suffix not in (*SUFFIXES, *_LINES):
        fix = f"Known are {', '.join(SUFFIXES)}; a file with one query a line is a .txt"
        raise InputError(path, f"is of no format of queries ({suffix})", fix)
    with opened(path) as file:
        if suffix == ".json":
            yield from _json(path, json_value(path, read_within(file, path, what="holds")))
        elif suffix == ".csv":
            text = "\n".join(text for _, text in _all_lines(path, file))
            parted = max(",;\t", key=text.partition("\n")[0].count)
            yield from _table(path, csv.reader(io.StringIO(text), delimiter=parted, strict=True))
        elif suffix == ".jsonl":
            yield from _objects(path, json_objects(path, decoded(path, file)))
        elif suffix == ".tsv":
            yield from _tsv(path, decoded(path, file))
        else:
            yield from _plain(path, decoded(path, file))


def _plain(path: Path, lines: Iterable[tuple[int, str]]) -> Iterator[Asked]:
    first = True
    for number, text in lines:
        if first and text.lstrip()[:1] in ("{", "[") and _is_json(text):
            raise InputError(path, "holds JSON, not a query on each line", "Name it .jsonl or .json")
        first = False
        yield str(number), text.strip(), f"line {number}"


def _tsv(path: Path, lines: Iterable[tuple[int, str]]) -> Iterator[Asked]:
    """Id, tab, text; or columns that the first line names. Cells are taken as they are: no quotes."""
    rows = [(number, text.split("\t")) for number, text in lines]
    if rows and None not in _columns(rows[0][1]):
        yield from _rows(path, rows)
        return
    for number, cells in rows:
        if len(cells) != 2:
            what = "has no tab" if len(cells) == 1 else f"has {len(cells)} columns"
            raise InputError(path, f"line {number} {what}", "A line is an id, a tab and the query")
        yield TABS.read(cells[0]), cells[1].strip(), f"line {number}"


def _all_lines(path: Path, file: IO[bytes]) -> Iterator[tuple[int, str]]:
    """Every line, blank ones too: a cell in quotes may hold them."""
    at = 0
    for number, text in decoded(path, file):
        yield from ((blank, "") for blank in range(at + 1, number))
        yield number, text
        at = number


def _table(path: Path, reader: Any) -> Iterator[Asked]:
    rows: list[tuple[int, list[str]]] = []
    try:
        rows.extend((reader.line_num, cells) for cells in reader if any(cell.strip() for cell in cells))
    except csv.Error as error:
        raise InputError(path, f"line {reader.line_num} is no CSV ({error})", "Save the table again as CSV") from error
    if rows and _columns(rows[0][1])[1] is None:
        what = f"line {rows[0][0]} names no column 'text' or 'query'"
        raise InputError(path, what, "The first line names the columns, for example id,text")
    yield from _rows(path, rows)


def _columns(header: Sequence[str]) -> tuple[int | None, int | None]:
    """Which columns hold the id and the text, by their names; None where no column is called so."""
    names = [cell.strip().lower() for cell in header]
    key, text = (next((names.index(name) for name in known if name in names), None) for known in (IDS, TEXTS))
    return key, text


def _rows(path: Path, rows: Sequence[tuple[int, list[str]]]) -> Iterator[Asked]:
    """The rows below a header that names a column of texts."""
    if not rows:
        return
    width, (key, text) = len(rows[0][1]), _columns(rows[0][1])
    assert text is not None
    for number, cells in rows[1:]:
        if len(cells) != width:
            what = f"line {number} has {len(cells)} columns, the header {width}"
            raise InputError(path, what, "Put a text that holds the separator into quotes")
        yield None if key is None else TABS.read(cells[key]), cells[text].strip(), f"line {number}"


def _objects(path: str | Path, records: Iterable[tuple[str, dict[str, Any]]]) -> Iterator[Asked]:
    for place, record in records:
        key = identifier(path, place, record, *IDS)
        if "text" not in record and "query" in record:
            record = {"text": record["query"]}
        yield key, document_text(path, place, record), place


def _json(path: str | Path, value: Any) -> Iterator[Asked]:
    """A list of objects or of texts, {id: text}, or any of them as {"queries": ...}."""
    if isinstance(value, dict) and set(value) == {"queries"}:
        value = value["queries"]
    if isinstance(value, dict) and ("text" in value or "query" in value) and set(IDS) & set(value):
        value = [value]
    if isinstance(value, dict):
        value = [{"_id": key, "text": text} for key, text in value.items()]
    elif isinstance(value, list) and all(isinstance(entry, str) for entry in value):
        value = [{"_id": str(number), "text": text} for number, text in enumerate(value, 1)]
    if not isinstance(value, list) or not all(isinstance(entry, dict) for entry in value):
        raise InputError(path, "holds no list of queries", 'Write [{"_id": "...", "text": "..."}] or {"id": "text"}')
    yield from _objects(path, ((f"entry {number}", entry) for number, entry in enumerate(value, 1)))


def _is_json(text: str | bytes) -> bool:
    try:
        return isinstance(json.loads(text), dict | list)
    except (ValueError, RecursionError):
        return False


def is_unicode(text: str) -> bool:
    """Whether a text has no halves of pairs in it, which no tokeniser takes."""
    return not any("\ud800" <= letter <= "\udfff" for letter in text)
