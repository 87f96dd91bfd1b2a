"""What can be indexed, told by content: folders of texts and pictures, BEIR corpora, JSONL and TSV lists, tables.

Every entry has a stamp that changes with its content, so that an index embeds again only what changed.
"""

from __future__ import annotations

import csv
import hashlib
import json
import math
import os
import re
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from ...errors import InputError, UsageError, did_you_mean
from ...io.kinds import open_regular
from ...io.photo.read import PHOTO_SUFFIXES
from ...io.records import identifier, json_lines, line_limit, lines, text_field
from ...io.tables import StoredImage, TablePicture, is_saved, read_parquet, read_picture, read_saved
from ...io.walk import Passed
from ...memory import check_memory, read_within
from ..passages import PASSAGE_OF
from ..places import FOLDER, GALLERY, file_stamp, stored_name, stored_path
from .beir import find, read_corpus
from .evalset import counted
from .mteb import is_mteb, parts

TEXT_SUFFIXES = (".txt", ".md")
KINDS = ("folder", "beir", "mteb", "jsonl", "tsv", "parquet", "saved")
"""``saved`` is a folder of ``Dataset.save_to_disk``."""
BOTH = frozenset(("text", "image"))

_IDS = ("_id", "id", "image_id", "doc_id", "docid")
_IMAGES = ("image", "file_name", "image_path", "img_path", "file_path", "path")
ADDED = ("stamp", "kind", "text")
"""Metadata that an index adds to those of an entry when it embeds it."""
RESERVED = ("id", *ADDED, GALLERY, FOLDER, PASSAGE_OF)
"""Fields of a record with these names get an underscore: ``id_``, ``stamp_``, ``kind_``, ``text_``, ``gallery_``."""
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
            with open_regular(self.path) as file:
                data = read_within(file, self.path, line_limit(), "is a text of")
            return data.decode("utf-8-sig").replace("\r\n", "\n")
        except UnicodeDecodeError as error:
            raise InputError(self.path, f"is not UTF-8 ({error.reason})", "Save it as UTF-8") from error
        except OSError as error:
            raise InputError(self.path, f"cannot be read ({error.strerror})", "Check its permissions") from error

    def read_pixels(self, max_side: int | None = None) -> NDArray[np.float32]:
        """The picture [3, H, W], RGB in [0, 1]. Raises ``InputError`` if it cannot be read."""
        image = self.stored or self.path
        if image is None:
            raise InputError(self.name, "is a text, not a picture", "Use a model that reads texts")
        return read_picture(image, max_side)


@dataclass(frozen=True, slots=True)
class SourceEntries:
    """The entries of one argument in their order, and what the user should know.

    Parameters
    ----------
    kind : str
    entries : tuple of Entry
    warnings : tuple of str
    failed : tuple of InputError
        Folders that could not be listed.
    unseen : tuple of str
        What could not be looked into: beginnings of ids that may exist all the same.
    """

    kind: str
    entries: tuple[Entry, ...]
    warnings: tuple[str, ...] = ()
    failed: tuple[InputError, ...] = ()
    unseen: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class Unseen:
    """What of a source is not among its entries.

    Parameters
    ----------
    prefix : str or None
        How the ids begin of what was not looked into; None where that is nothing.
    error : InputError or None
    warning : str
    """

    prefix: str | None
    error: InputError | None = None
    warning: str = ""


class NothingToIndex(InputError):
    """A source that was read whole, and holds nothing for this model."""


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


def read_source(path: str | Path, modalities: Collection[str] = BOTH, *, kind: str | None = None) -> SourceEntries:
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
    SourceEntries

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
    entries: list[Entry] = []
    unseen: list[Unseen] = []
    held = 0
    for one in _READERS[kind](path, modalities):
        if isinstance(one, Unseen):
            unseen.append(one)
            continue
        entries.append(one)
        held += 4 * len(one.text or "")  # bytes of a letter, at most; file sizes say little of packed lists
        check_memory(path, held, "its texts take")
    failed = [one.error for one in unseen if one.error]
    if not entries:
        if failed:
            raise failed[0]
        wanted = " or ".join(sorted(modalities))
        fix = (
            "Name another gallery" if len(modalities) == 2 else f"This model reads {wanted}s only: name another --model"
        )
        raise NothingToIndex(path, f"holds no {wanted} to index", fix)
    seen: set[str] = set()
    for entry in entries:
        if entry.id in seen:
            raise InputError(path, f"the id {entry.id!r} occurs twice", "Every id must occur once")
        seen.add(entry.id)
    warnings = list(dict.fromkeys(one.warning for one in unseen if one.warning))
    renamed = sorted({key for entry in entries for key in entry.meta} & {f"{name}_" for name in RESERVED})
    if renamed:
        warnings.append(f"fields that an index uses itself got an underscore: {', '.join(renamed)}")
    missing = [entry for entry in entries if entry.path is not None and not entry.stamp]
    if missing:
        warnings.append(counted(len(missing), "file is", "files are") + f" not there (such as {missing[0].path})")
    prefixes = tuple(one.prefix for one in unseen if one.prefix is not None)
    return SourceEntries(kind, tuple(entries), tuple(warnings), tuple(failed), prefixes)


def text_stamp(text: str) -> str:
    """16 hex digits that change with the text."""
    return hashlib.blake2b(text.encode("utf-8", "surrogatepass"), digest_size=8).hexdigest()


def _folder(root: Path, modalities: Collection[str]) -> Iterator[Entry | Unseen]:
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
            told = f"{directory} is a link to a folder that is in the gallery already: not read twice"
            yield Unseen(prefix(directory), warning=told)
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


DESCRIPTIONS = ("metadata.jsonl", "metadata.csv")
"""Files that describe the pictures beside them."""


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
        _numbers([row for _, row in rows], ("file_name",))
    else:
        return {}
    return {identifier(listed, place, row, "file_name"): _plain(row, ("file_name",)) for place, row in rows}


def _beir(path: Path, modalities: Collection[str]) -> Iterator[Entry]:
    corpus = (find(path, "corpus.jsonl") or path / "corpus.jsonl") if path.is_dir() else path
    if "text" in modalities:
        for key, text, _ in read_corpus(corpus):
            yield Entry(key, "text", key, text_stamp(text), text=text)


def _jsonl(path: Path, modalities: Collection[str]) -> Iterator[Entry | Unseen]:
    for place, record in json_lines(path):
        yield from _row(path, place, record, modalities)


def _tsv(path: Path, modalities: Collection[str]) -> Iterator[Entry | Unseen]:
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


def _table(path: Path, modalities: Collection[str]) -> Iterator[Entry | Unseen]:
    for row, cells in read_saved(path) if path.is_dir() else read_parquet(path):
        yield from _row(path, f"row {row + 1}", cells, modalities, number=row)


def _mteb(folder: Path, modalities: Collection[str]) -> Iterator[Entry | Unseen]:
    for path in parts(folder, "corpus"):
        yield from _table(path, modalities)


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
            meta = _plain(record, (*used, image_name))
            yield Entry(key, "image", f"{path}#{key}", stamp, stored=picture.image, meta=meta)
            return
        if not isinstance(picture, str):
            raise InputError(path, f"{place}: {image_name!r} is no path of an image", "Write the path as a string")
        file = path.parent / picture
        meta = _plain(record, (*used, image_name)) | {"path": stored_path(file)}
        yield Entry(stored_name(key), "image", str(file), file_stamp(file), file, meta=meta)
    elif text_name is not None or "title" in record:
        if "text" in modalities:
            parts = (_text(path, place, record, one) for one in ("title", text_name) if one)
            text = " ".join(part for part in parts if part)
            meta = _plain(record, used)
            if meta.get("path") and isinstance(meta["path"], str):
                meta["path"] = stored_path(meta["path"], path.parent)
            yield Entry(key, "text", f"{path}#{key}", text_stamp(text), text=text, meta=meta)
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

    Fields of an object inside get dotted names (``meta.lang``), a list becomes its JSON text, a date its ISO form. A
    number that is not finite (as pandas writes for what is missing) and null are left out; a number beyond 64 bits
    becomes text. Names that an index uses itself get an underscore, see ``RESERVED``.
    """
    found: dict[str, Any] = {}
    waiting = [(str(key), value) for key, value in [*record.items()][::-1] if key not in used]
    while waiting:
        key, value = waiting.pop()
        if isinstance(value, Mapping):
            waiting += [(f"{key}.{name}", one) for name, one in [*value.items()][::-1]]
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
        found[f"{key}_" if key in RESERVED else key] = _encodable(value) if isinstance(value, str) else value
    return found


def _encodable(text: str) -> str:
    """Text that a file can hold: half a character (a lone surrogate) becomes ``\ufffd``, which says so."""
    return text if text.isascii() else re.sub("[\ud800-\udfff]", "\ufffd", text)


def _left_out(path: Path, record: Mapping[str, Any], used: Collection[str | None]) -> Iterator[Unseen]:
    """A word on fields that cannot be metadata."""
    for key, value in record.items():
        if key not in used and isinstance(value, TablePicture | bytes):
            yield Unseen(None, warning=f"{path}: the field {key!r} holds bytes: left out")


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
        if any(cells) and all(not cell or (len(cell) < 400 and _NUMBER.fullmatch(cell)) for cell in cells):
            for row, cell in zip(rows, cells, strict=True):
                row[name] = (float(cell) if set(cell) & set(".eE") else int(cell)) if cell else None


_READERS: dict[str, Callable[[Path, Collection[str]], Iterator[Entry | Unseen]]] = {
    "folder": _folder,
    "beir": _beir,
    "mteb": _mteb,
    "jsonl": _jsonl,
    "tsv": _tsv,
    "parquet": _table,
    "saved": _table,
}
