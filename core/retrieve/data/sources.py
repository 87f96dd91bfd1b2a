"""What can be indexed, told by content: folders of texts and pictures, BEIR corpora, JSONL and TSV lists, tables.

Every entry has a stamp that changes with its content, so that an index embeds again only what changed.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterator
from dataclasses import dataclass
from pathlib import Path

from ...errors import InputError, UsageError, did_you_mean
from ...io.tables import is_saved
from ...memory import check_memory
from .beir import find, read_corpus
from .entry import Entry, Unseen, text_stamp
from .evalset import counted
from .folder import folder_entries
from .mteb import is_mteb
from .rows import RESERVED, jsonl_entries, mteb_entries, table_entries, tsv_entries

KINDS = ("folder", "beir", "mteb", "jsonl", "tsv", "parquet", "saved")
"""``saved`` is a folder of ``Dataset.save_to_disk``."""
BOTH = frozenset(("text", "image"))


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
    for read in _READERS[kind](path, modalities):
        if isinstance(read, Unseen):
            unseen.append(read)
            continue
        entries.append(read)
        held += 4 * len(read.text or "")  # bytes of a letter, at most; file sizes say little of packed lists
        check_memory(path, held, "its texts take")
    failed = [read.error for read in unseen if read.error]
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
    warnings = list(dict.fromkeys(read.warning for read in unseen if read.warning))
    renamed = sorted({key for entry in entries for key in entry.meta} & {f"{name}_" for name in RESERVED})
    if renamed:
        warnings.append(f"fields that an index uses itself got an underscore: {', '.join(renamed)}")
    missing = [entry for entry in entries if entry.path is not None and not entry.stamp]
    if missing:
        warnings.append(counted(len(missing), "file is", "files are") + f" not there (such as {missing[0].path})")
    prefixes = tuple(read.prefix for read in unseen if read.prefix is not None)
    return SourceEntries(kind, tuple(entries), tuple(warnings), tuple(failed), prefixes)


def _beir(path: Path, modalities: Collection[str]) -> Iterator[Entry]:
    corpus = (find(path, "corpus.jsonl") or path / "corpus.jsonl") if path.is_dir() else path
    if "text" in modalities:
        for key, text, _ in read_corpus(corpus):
            yield Entry(key, "text", key, text_stamp(text), text=text)


_READERS: dict[str, Callable[[Path, Collection[str]], Iterator[Entry | Unseen]]] = {
    "folder": folder_entries,
    "beir": _beir,
    "mteb": mteb_entries,
    "jsonl": jsonl_entries,
    "tsv": tsv_entries,
    "parquet": table_entries,
    "saved": table_entries,
}
