"""What the arguments of `attn retrieve index` stand for: folders and lists, single files, paths on stdin."""

from __future__ import annotations

import sys
from collections.abc import Collection, Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

from ..errors import InputError, UsageError
from ..io.photo import PHOTO_SUFFIXES
from ..io.report import Item
from .sources import TEXT_SUFFIXES, Entry, file_stamp, read_source


@dataclass(frozen=True, slots=True)
class Gallery:
    """What there is to embed, what the user should know, and arguments that cannot be read."""

    entries: tuple[Entry, ...]
    warnings: tuple[str, ...] = ()
    failed: tuple[Item, ...] = ()


def read_gallery(
    arguments: Sequence[str], modalities: Collection[str], *, stdin: Iterable[str] | None = None
) -> Gallery:
    """List the entries of all arguments.

    Parameters
    ----------
    arguments : sequence of str
        What ``read_source`` takes, single images and texts, or ``-`` for paths on standard input, one a line.
    modalities : collection of {"text", "image"}
        What the encoder reads.
    stdin : iterable of str, optional

    Raises
    ------
    UsageError
        If two arguments have an entry of the same id, or there is nothing at all to index.
    """
    entries: dict[str, tuple[Entry, str]] = {}
    warnings: list[str] = []
    failed: list[Item] = []
    for argument in _lines(arguments, stdin):
        try:
            found = _entries(Path(argument), modalities, warnings, failed)
        except InputError as error:
            reason = error.reason if error.path == argument else str(error)
            failed.append(Item(argument, None, "failed", 0.0, error=reason))
            continue
        for entry in found:
            if not _is_unicode(entry.id):
                failed.append(Item(entry.name, None, "failed", 0.0, error="its name is not valid UTF-8. Rename it"))
                continue
            if entry.id in entries and entries[entry.id][1] != argument:
                raise UsageError(
                    f"{argument} and {entries[entry.id][1]} both have an entry {entry.id!r}. "
                    "Index them apart, or name the folder above both."
                )
            entries[entry.id] = entry, argument
    if not entries:
        reasons = "; ".join(f"{item.input}: {item.error}" for item in failed)
        raise UsageError(f"nothing to index. {reasons}".strip())
    return Gallery(tuple(entry for entry, _ in entries.values()), tuple(warnings), tuple(failed))


def _is_unicode(text: str) -> bool:
    return not any("\ud800" <= character <= "\udfff" for character in text)


def _lines(arguments: Iterable[str], stdin: Iterable[str] | None) -> list[str]:
    found: list[str] = []
    for argument in arguments:
        if argument == "-":
            found += [text for line in (sys.stdin if stdin is None else stdin) if (text := line.rstrip("\r\n"))]
        else:
            found.append(argument)
    return found


def _entries(path: Path, modalities: Collection[str], warnings: list[str], failed: list[Item]) -> Sequence[Entry]:
    suffix = path.suffix.lower()
    single = (("text", TEXT_SUFFIXES), ("image", PHOTO_SUFFIXES))
    for kind, suffixes in single:
        if suffix in suffixes and not path.is_dir():
            if not path.exists():
                raise InputError(path, "does not exist", "Check the name")
            if kind not in modalities:
                raise InputError(path, f"is of the kind {kind}, which this model does not read", "Name another --model")
            return [Entry(str(path), kind, str(path), file_stamp(path), path, meta={"path": str(path)})]  # type: ignore[arg-type]
    source = read_source(path, modalities)
    warnings.extend(source.warnings)
    failed.extend(Item(error.path, None, "failed", 0.0, error=error.reason) for error in source.failed)
    return source.entries
