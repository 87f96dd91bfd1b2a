"""What can be indexed, told by content: folders of texts and pictures, BEIR corpora, JSONL and TSV lists, tables.

Every entry has a stamp that changes with its content, so that an index embeds again only what changed.
"""

from __future__ import annotations

import csv
import hashlib
import math
import os
import re
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from ..errors import InputError, UsageError, did_you_mean
from ..io.photo import PHOTO_SUFFIXES
from ._beir import find, read_corpus
from ._evalset import counted
from ._mteb import is_mteb, parts
from ._records import identifier, json_lines, lines, text_field
from ._tables import Picture, StoredImage, is_saved, read_parquet, read_picture, read_saved

TEXT_SUFFIXES = (".txt", ".md")
KINDS = ("folder", "beir", "mteb", "jsonl", "tsv", "parquet", "saved")
"""``saved`` is a folder of ``Dataset.save_to_disk``."""
BOTH = frozenset(("text", "image"))

_IDS = ("_id", "id", "image_id", "doc_id", "docid")
_IMAGES = ("image", "file_name", "image_path", "img_path", "file_path", "path")
ADDED = ("stamp", "kind", "text")
"""Metadata that an index adds to those of an entry."""
RESERVED = ("id", *ADDED)
"""Fields of a record with these names are kept as ``id_``, ``stamp_``, ``kind_``, ``text_``."""
_NUMBER = re.compile(r"-?(0|[1-9]\d*)(\.\d+)?([eE][+-]?\d+)?")
"""Not ``007``: that is a name."""
_TEXTS = ("text", "caption", "captions", "content", "body", "sentence")


@dataclass(frozen=True, slots=True)
class Entry:
    """One text or picture of a gallery; its content is read when it is asked for.

    Parameters
    ----------
    id : str
        Unique in its source: as the file says, else the path below the folder (``/`` between parts).
    kind : {"text", "image"}
    name : str
        What reports call it.
    stamp : str
        Changes when the content does: size and time of a file, or a hash of the text.
    path : Path or None
        The file that holds it alone.
    text : str or None
        The text, where it came with a list.
    stored : StoredImage or None
        The picture inside a table.
    meta : mapping
        Further fields of its record, for filters, and ``path`` where there is one.
    """

    id: str
    kind: Literal["text", "image"]
    name: str
    stamp: str
    path: Path | None = None
    text: str | None = None
    stored: StoredImage | None = None
    meta: Mapping[str, Any] = field(default_factory=dict)

    def read_text(self) -> str:
        """The text. Raises ``InputError`` if its file cannot be read or is no UTF-8."""
        if self.text is not None or self.path is None:
            return self.text or ""
        try:
            return self.path.read_bytes().decode("utf-8-sig").replace("\r\n", "\n")
        except UnicodeDecodeError as error:
            raise InputError(self.path, f"is not UTF-8 ({error.reason})", "Save it as UTF-8") from error
        except FileNotFoundError as error:
            raise InputError(
                self.path, "is not there", "Remove it from the list, or the link that leads to it"
            ) from error
        except OSError as error:
            raise InputError(self.path, f"cannot be read ({error.strerror})", "Check its permissions") from error

    def read_pixels(self, max_side: int | None = None) -> NDArray[np.float32]:
        """The picture [3, H, W], RGB in [0, 1]. Raises ``InputError`` if it cannot be read."""
        image = self.stored or self.path
        if image is None:
            raise InputError(self.name, "is a text, not a picture", "Use a model that reads texts")
        return read_picture(image, max_side)


@dataclass(frozen=True, slots=True)
class Source:
    """The entries of one argument in their order, what the user should know, and folders that could not be listed."""

    kind: str
    entries: tuple[Entry, ...]
    warnings: tuple[str, ...] = ()
    failed: tuple[InputError, ...] = ()


def recognise(path: Path) -> str:
    """The kind of a source by its name and content. Raises ``InputError`` if it is none."""
    if path.is_dir():
        if find(path, "corpus.jsonl"):
            return "beir"
        if is_mteb(path):
            return "mteb"
        return "saved" if is_saved(path) else "folder"
    name = path.name.lower().removesuffix(".gz")
    for suffix, kind in ((".jsonl", "jsonl"), (".ndjson", "jsonl"), (".tsv", "tsv"), (".parquet", "parquet")):
        if name.endswith(suffix):
            return kind
    if not path.exists():
        raise InputError(path, "does not exist", "Check the name")
    raise InputError(path, "is no gallery", "Name a folder, a .jsonl, .tsv or .parquet file, or a BEIR folder")


def read_source(path: str | Path, modalities: Collection[str] = BOTH, *, kind: str | None = None) -> Source:
    """List what there is to index.

    Parameters
    ----------
    path : str or Path
        A folder of pictures and ``.txt``, ``.md`` files (searched below, hidden ones passed by; ``metadata.jsonl`` or
        ``metadata.csv`` with ``file_name`` describes its pictures), a BEIR or MTEB folder, a JSONL or TSV file with an
        id and a text or image path on each line, a parquet file, or a folder that ``datasets`` saved.
    modalities : collection of {"text", "image"}
        What the encoder reads; of a row with both the picture is taken, if it may be.
    kind : str, optional
        One of ``KINDS``; by default told by name and content.

    Returns
    -------
    Source

    Raises
    ------
    InputError
        If it cannot be read, is malformed, has an id twice, or holds nothing to index.
    UsageError
        If ``kind`` is unknown.
    """
    path = Path(path)
    if kind is not None and kind not in KINDS:
        hint = did_you_mean(kind, KINDS)
        raise UsageError(f"no kind of gallery named {kind!r}. {hint} There are: {', '.join(KINDS)}".replace("  ", " "))
    kind = kind or recognise(path)
    found = list(_READERS[kind](path, modalities))
    entries = [one for one in found if isinstance(one, Entry)]
    failed = [one for one in found if isinstance(one, InputError)]
    if not entries:
        if failed:
            raise failed[0]
        wanted = " or ".join(sorted(modalities))
        fix = (
            "Name another gallery" if len(modalities) == 2 else f"This model reads {wanted}s only: name another --model"
        )
        raise InputError(path, f"holds no {wanted} to index", fix)
    seen: set[str] = set()
    for entry in entries:
        if entry.id in seen:
            raise InputError(path, f"the id {entry.id!r} occurs twice", "Every id must occur once")
        seen.add(entry.id)
    warnings: list[str] = []
    renamed = sorted({key for entry in entries for key in entry.meta} & {f"{name}_" for name in RESERVED})
    if renamed:
        warnings.append(f"fields that an index uses itself got an underscore: {', '.join(renamed)}")
    missing = [entry for entry in entries if entry.path is not None and not entry.stamp]
    if missing:
        warnings.append(counted(len(missing), "file is", "files are") + f" not there (such as {missing[0].path})")
    return Source(kind, tuple(entries), tuple(warnings), tuple(failed))


def file_stamp(path: Path) -> str:
    """Size and time of change; empty where there is no such file."""
    try:
        state = path.stat()
    except OSError:
        return ""
    return f"{state.st_size}:{state.st_mtime_ns}"


def text_stamp(text: str) -> str:
    """16 hex digits that change with the text."""
    return hashlib.blake2b(text.encode("utf-8", "surrogatepass"), digest_size=8).hexdigest()


def _folder(root: Path, modalities: Collection[str]) -> Iterator[Entry | InputError]:
    """Pictures and text files below a folder, in sorted order; an error for each folder that cannot be listed."""
    described = _described(root)
    problems: list[OSError] = []
    for directory, names, files in os.walk(root, onerror=problems.append):
        names[:] = sorted(name for name in names if not name.startswith("."))
        for name in sorted(files):
            path = Path(directory, name)
            suffix = path.suffix.lower()
            kind: Literal["text", "image"] = "text" if suffix in TEXT_SUFFIXES else "image"
            if name.startswith(".") or kind not in modalities or suffix not in (*TEXT_SUFFIXES, *PHOTO_SUFFIXES):
                continue
            if path.exists() and not path.is_file():
                continue  # a pipe or a device: reading it would wait for ever
            key = path.relative_to(root).as_posix()
            yield Entry(key, kind, str(path), file_stamp(path), path, meta=described.get(key, {}) | {"path": str(path)})
    for problem in problems:
        yield InputError(str(problem.filename), f"cannot be listed ({problem.strerror})", "Check its permissions")


def _described(root: Path) -> dict[str, dict[str, Any]]:
    """Picture -> its fields in ``metadata.jsonl`` or ``metadata.csv``, as the image folders of ``datasets`` have."""
    listed = root / "metadata.jsonl"
    if listed.is_file():
        rows = list(json_lines(listed))
    elif (table := root / "metadata.csv").is_file():
        listed = table
        rows = [(f"line {i}", dict(row)) for i, row in enumerate(csv.DictReader(t for _, t in lines(table)), 2)]
        _numbers([row for _, row in rows], ("file_name",))
    else:
        return {}
    return {identifier(listed, place, row, "file_name"): _plain(row, ("file_name",)) for place, row in rows}


def _beir(path: Path, modalities: Collection[str]) -> Iterator[Entry]:
    corpus = (find(path, "corpus.jsonl") or path / "corpus.jsonl") if path.is_dir() else path
    if "text" in modalities:
        for key, text, _ in read_corpus(corpus):
            yield Entry(key, "text", key, text_stamp(text), text=text)


def _jsonl(path: Path, modalities: Collection[str]) -> Iterator[Entry]:
    for place, record in json_lines(path):
        yield from _row(path, place, record, modalities)


def _tsv(path: Path, modalities: Collection[str]) -> Iterator[Entry]:
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
    _numbers([row for _, row in rows], (*_IDS, *_IMAGES, *_TEXTS, "title"))
    for place, row in rows:
        yield from _row(path, place, row, modalities)


def _table(path: Path, modalities: Collection[str]) -> Iterator[Entry]:
    for row, cells in read_saved(path) if path.is_dir() else read_parquet(path):
        yield from _row(path, f"row {row + 1}", cells, modalities, number=row)


def _mteb(folder: Path, modalities: Collection[str]) -> Iterator[Entry]:
    for path in parts(folder, "corpus"):
        yield from _table(path, modalities)


def _row(
    path: Path, place: str, record: Mapping[str, Any], modalities: Collection[str], number: int | None = None
) -> Iterator[Entry]:
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
        key = picture.name if isinstance(picture, Picture) and picture.name else str(number)
    else:
        raise InputError(path, f"{place} has no 'id'", "Give every line an id")
    used = (name, text_name, "title")
    if picture is not None and "image" in modalities:
        if isinstance(picture, Picture):
            stamp = f"{file_stamp(path)}:{picture.image.row}"
            meta = _plain(record, (*used, image_name))
            yield Entry(key, "image", f"{path}#{key}", stamp, stored=picture.image, meta=meta)
            return
        if not isinstance(picture, str):
            raise InputError(path, f"{place}: {image_name!r} is no path of an image", "Write the path as a string")
        file = path.parent / picture
        meta = _plain(record, (*used, image_name)) | {"path": str(file)}
        yield Entry(key, "image", str(file), file_stamp(file), file, meta=meta)
    elif text_name is not None or "title" in record:
        if "text" in modalities:
            parts = (_text(path, place, record, one) for one in ("title", text_name) if one)
            text = " ".join(part for part in parts if part)
            yield Entry(key, "text", f"{path}#{key}", text_stamp(text), text=text, meta=_plain(record, used))
    elif picture is None:
        raise InputError(path, f"{place} has neither text nor image", "Add 'text', or 'image' with a path")


def _text(path: Path, place: str, record: Mapping[str, Any], name: str) -> str | None:
    """A text cell; several captions of one picture become one text."""
    value = record.get(name)
    if isinstance(value, list) and all(isinstance(one, str) for one in value):
        return " ".join(value)
    return text_field(path, place, record, name)


def _plain(record: Mapping[str, Any], used: Collection[str | None]) -> dict[str, Any]:
    """Fields that a filter can compare, of those that are not used otherwise: text, finite numbers, yes and no.

    A number that is not finite (as pandas writes for what is missing) is left out; one beyond 64 bits becomes text.
    Names that an index uses itself get an underscore, see ``RESERVED``.
    """
    found: dict[str, Any] = {}
    for key, value in record.items():
        if key in used or not isinstance(value, str | int | float | bool):
            continue
        if isinstance(value, float) and not math.isfinite(value):
            continue
        if isinstance(value, int) and not -(2**63) <= value < 2**63:
            value = str(value)
        found[f"{key}_" if key in RESERVED else key] = value
    return found


def _numbers(rows: Sequence[dict[str, Any]], text: Collection[str]) -> None:
    """In tables of text, columns all of whose cells are plain numbers become numbers (in place); empty ones go.

    Parameters
    ----------
    rows : sequence of dict
    text : collection of str
        Columns that stay text.
    """
    for name in {key for row in rows for key in row} - set(text):
        cells = [row.get(name) or "" for row in rows]
        if any(cells) and all(not cell or _NUMBER.fullmatch(cell) for cell in cells):
            for row, cell in zip(rows, cells, strict=True):
                row[name] = (float(cell) if set(cell) & set(".eE") else int(cell)) if cell else None


_READERS: dict[str, Callable[[Path, Collection[str]], Iterator[Entry | InputError]]] = {
    "folder": _folder,
    "beir": _beir,
    "mteb": _mteb,
    "jsonl": _jsonl,
    "tsv": _tsv,
    "parquet": _table,
    "saved": _table,
}
