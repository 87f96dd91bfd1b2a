"""Rows of lists and tables as entries: JSONL, TSV, parquet, what ``datasets`` saved, MTEB."""

from __future__ import annotations

import json
import math
import re
from collections.abc import Collection, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from ...errors import InputError
from ...io.records import identifier, json_lines, lines, text_field
from ...io.tables import TablePicture, read_parquet, read_saved
from ..passages import PASSAGE_OF
from ..places import FOLDER, GALLERY, file_stamp, stored_name, stored_path
from .entry import Entry, Unseen, text_stamp
from .mteb import parts

_IDS = ("_id", "id", "image_id", "doc_id", "docid")
_IMAGES = ("image", "file_name", "image_path", "img_path", "file_path", "path")
ADDED = ("stamp", "kind", "text")
"""Metadata that an index adds to those of an entry when it embeds it."""
RESERVED = ("id", *ADDED, GALLERY, FOLDER, PASSAGE_OF)
"""Fields of a record with these names get an underscore: ``id_``, ``stamp_``, ``kind_``, ``text_``, ``gallery_``."""
_NUMBER = re.compile(r"-?(0|[1-9]\d*)(\.\d+)?([eE][+-]?\d+)?")
"""Not ``007``: that is a name."""
_TEXTS = ("text", "caption", "captions", "content", "body", "sentence")


def jsonl_entries(path: Path, modalities: Collection[str]) -> Iterator[Entry | Unseen]:
    for place, record in json_lines(path):
        yield from _row(path, place, record, modalities)


def tsv_entries(path: Path, modalities: Collection[str]) -> Iterator[Entry | Unseen]:
    """Cells are taken as they are: no quotes, no escapes. Columns of numbers are numbers."""
    header: list[str] | None = None
    rows: list[tuple[str, dict[str, Any]]] = []
    for number, text in lines(path):
        cells = text.split("\t")
        if header is None:
            header = [cell.strip() for cell in cells]
            if not set(header) & {*_IDS, *_IMAGES}:
                what = f"line {number} names no column 'id'"
                raise InputError(path, what, "The first line names the columns, for example id, text")
            continue
        if len(cells) != len(header):
            what = f"line {number} has {len(cells)} columns, the header {len(header)}"
            raise InputError(path, what, "Part columns by one tab and remove tabs inside texts")
        rows.append((f"line {number}", dict(zip(header, cells, strict=True))))
    as_numbers([row for _, row in rows], (*_IDS, *_IMAGES, *_TEXTS, "title"))
    for place, row in rows:
        yield from _row(path, place, row, modalities)


def table_entries(path: Path, modalities: Collection[str]) -> Iterator[Entry | Unseen]:
    for row, cells in read_saved(path) if path.is_dir() else read_parquet(path):
        yield from _row(path, f"row {row + 1}", cells, modalities, number=row)


def mteb_entries(folder: Path, modalities: Collection[str]) -> Iterator[Entry | Unseen]:
    for path in parts(folder, "corpus"):
        yield from table_entries(path, modalities)


def _row(
    path: Path, place: str, record: Mapping[str, Any], modalities: Collection[str], number: int | None = None
) -> Iterator[Entry | Unseen]:
    """The entry of a record: its picture if that may be, else its text; nothing if the encoder reads neither.

    Rows of tables (``number``) without an id get the name of the picture, or their number.
    """
    image_name = next((name for name in _IMAGES if record.get(name) not in (None, "")), None)
    text_name = next((name for name in _TEXTS if name in record), None)
    name = next((name for name in _IDS if name in record), None)
    picture = record[image_name] if image_name else None
    if name is not None:
        key = identifier(path, place, record, name)
    elif isinstance(picture, str) and picture:
        key = picture
    elif number is not None:
        key = picture.name if isinstance(picture, TablePicture) and picture.name else str(number)
    else:
        raise InputError(path, f"{place} has no 'id'", "Give every line an id")
    used = (name, text_name, "title")
    yield from _left_out(path, record, (*used, image_name))
    if picture is not None and "image" in modalities:
        if isinstance(picture, TablePicture):
            stamp = f"{file_stamp(path)}:{picture.image.row}"
            meta = plain_fields(record, (*used, image_name))
            yield Entry(key, "image", f"{path}#{key}", stamp, stored=picture.image, meta=meta)
            return
        if not isinstance(picture, str):
            raise InputError(path, f"{place}: {image_name!r} is no path of an image", "Write the path as a string")
        file = path.parent / picture
        meta = plain_fields(record, (*used, image_name)) | {"path": stored_path(file)}
        yield Entry(stored_name(key), "image", str(file), file_stamp(file), file, meta=meta)
    elif text_name is not None or "title" in record:
        if "text" in modalities:
            parts = (_text(path, place, record, column) for column in ("title", text_name) if column)
            text = " ".join(part for part in parts if part)
            meta = plain_fields(record, used)
            if meta.get("path") and isinstance(meta["path"], str):
                meta["path"] = stored_path(meta["path"], path.parent)
            yield Entry(key, "text", f"{path}#{key}", text_stamp(text), text=text, meta=meta)
    elif picture is None:
        raise InputError(path, f"{place} has neither text nor image", "Add 'text', or 'image' with a path")


def _text(path: Path, place: str, record: Mapping[str, Any], name: str) -> str | None:
    """A text cell; several captions of one picture become one text."""
    value = record.get(name)
    if isinstance(value, list) and all(isinstance(entry, str) for entry in value):
        return " ".join(value)
    return text_field(path, place, record, name)


def plain_fields(record: Mapping[str, Any], used: Collection[str | None]) -> dict[str, Any]:
    """Fields that a filter can compare, of those that are not used otherwise: text, finite numbers, yes and no.

    Fields of an object inside get dotted names (``meta.lang``), a list becomes its JSON text, a date its ISO form. A
    number that is not finite (as pandas writes for what is missing) and null are left out; a number beyond 64 bits
    becomes text. Names that an index uses itself get an underscore, see ``RESERVED``.
    """
    fields: dict[str, Any] = {}
    waiting = [(str(key), value) for key, value in [*record.items()][::-1] if key not in used]
    while waiting:
        key, value = waiting.pop()
        if isinstance(value, Mapping):
            waiting += [(f"{key}.{name}", inner) for name, inner in [*value.items()][::-1]]
            continue
        if (
            value is None
            or isinstance(value, TablePicture | bytes)
            or (isinstance(value, float) and not math.isfinite(value))
        ):
            continue
        if isinstance(value, int) and not -(2**63) <= value < 2**63:
            value = hex(value) if value.bit_length() > 10_000 else str(value)
        elif isinstance(value, list | tuple):
            value = json.dumps(value, ensure_ascii=False, default=str)
        elif not isinstance(value, str | int | float | bool):
            value = value.isoformat() if hasattr(value, "isoformat") else str(value)
        key = _encodable(key) or "_"
        fields[f"{key}_" if key in RESERVED else key] = _encodable(value) if isinstance(value, str) else value
    return fields


def _encodable(text: str) -> str:
    """Text that a file can hold: half a character (a lone surrogate) becomes ``\ufffd``, which says so."""
    return text if text.isascii() else re.sub("[\ud800-\udfff]", "\ufffd", text)


def _left_out(path: Path, record: Mapping[str, Any], used: Collection[str | None]) -> Iterator[Unseen]:
    """A word on fields that cannot be metadata."""
    for key, value in record.items():
        if key not in used and isinstance(value, TablePicture | bytes):
            yield Unseen(None, warning=f"{path}: the field {key!r} holds bytes: left out")


def as_numbers(rows: Sequence[dict[str, Any]], text: Collection[str]) -> None:
    """In tables of text, columns all of whose cells are plain numbers become numbers (in place); empty ones go.

    Parameters
    ----------
    rows : sequence of dict
    text : collection of str
        Columns that stay text.
    """
    for name in {key for row in rows for key in row} - set(text):
        cells = [row.get(name) or "" for row in rows]
        if any(cells) and all(not cell or (len(cell) < 400 and _NUMBER.fullmatch(cell)) for cell in cells):
            for row, cell in zip(rows, cells, strict=True):
                row[name] = (float(cell) if set(cell) & set(".eE") else int(cell)) if cell else None
