"""What the arguments of `attn retrieve index` stand for: folders and lists, single files, paths on stdin.

Which entries of an index are gone is decided here: those of an argument that was read whole now, and does not hold them
any more (``Gallery.forgets``). What was not looked into, is not named now, or holds nothing at all now is not gone.
"""

from __future__ import annotations

import os
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from ...errors import InputError, UsageError
from ...io.photo.read import PHOTO_SUFFIXES
from ...io.walk import read_list
from ...report.model import Item
from ..places import FOLDER, GALLERY, Places, absolute, file_name, file_stamp, is_below, stored_name, stored_path
from .entry import Entry
from .evalset import counted
from .folder import TEXT_SUFFIXES
from .sources import NothingToIndex, read_source


@dataclass(frozen=True, slots=True)
class Argument:
    """One argument, or one line of a list of paths.

    Parameters
    ----------
    name : str
        As it was typed.
    place : str
        Its absolute path, as the system has it.
    entries : tuple of Entry
        With the ids of this argument alone.
    unseen : tuple of str
        How the ids begin of what could not be looked into; ``("",)`` where nothing could.
    error : str
        Why not.
    empty : bool
        It was read whole and holds nothing: perhaps the place of something that is not mounted.
    """

    name: str
    place: str
    entries: tuple[Entry, ...] = ()
    unseen: tuple[str, ...] = ()
    error: str = ""
    empty: bool = False


@dataclass(frozen=True, slots=True)
class Gallery:
    """What there is to embed, what the user should know, and what cannot be read."""

    arguments: tuple[Argument, ...]
    warnings: tuple[str, ...] = ()
    failed: tuple[Item, ...] = ()
    """Parts of arguments: folders below them."""

    def __len__(self) -> int:
        return sum(len(argument.entries) for argument in self.arguments)


def read_gallery(
    arguments: Sequence[str], modalities: Collection[str], *, stdin: Iterable[str] | None = None,
    nothing: str = "nothing to index, so nothing was changed.",
) -> Gallery:  # fmt: skip
    """List the entries of all arguments.

    Parameters
    ----------
    arguments : sequence of str
        What ``read_source`` takes, single images and texts, or ``-`` for paths on standard input, one a line.
    modalities : collection of {"text", "image"}
        What the encoder reads.
    stdin : iterable of str, optional
    nothing : str
        How the error begins where there is nothing at all.

    Raises
    ------
    UsageError
        If there is nothing at all to read.
    """
    read: dict[str, Argument] = {}
    warnings: list[str] = []
    failed: list[Item] = []
    for name in named(arguments, stdin):
        place = absolute(name)
        if place in read:
            continue
        try:
            if not name.strip():
                raise InputError(name, "an empty name", "Name a folder or a file; . is this folder")
            entries, unseen = _entries(Path(name), modalities, warnings, failed)
            read[place] = Argument(name, place, tuple(entries), unseen)
        except (InputError, OSError, ValueError) as error:  # OSError: a folder that may not be looked into
            if isinstance(error, UsageError):
                raise
            error = error if isinstance(error, InputError) else InputError(name, f"cannot be read ({error})")
            reason = error.reason if error.path == name else str(error)
            read[place] = Argument(name, place, unseen=("",), error=reason, empty=isinstance(error, NothingToIndex))
    if not any(argument.entries for argument in read.values()):
        reasons = "; ".join(f"{argument.name}: {argument.error}" for argument in read.values())
        raise UsageError(f"{nothing} {reasons}".strip())
    return Gallery(tuple(read.values()), tuple(warnings), tuple(failed))


def named(arguments: Iterable[str], stdin: Iterable[str] | None = None) -> list[str]:
    """The arguments, and in the place of ``-`` the paths on standard input, which can be read once."""
    lines: list[str] = []
    for argument in arguments:
        if argument == "-":
            lines += read_list(stdin) if stdin is None or hasattr(stdin, "read") else stdin
        else:
            lines.append(argument)
    return lines


def _entries(
    path: Path, modalities: Collection[str], warnings: list[str], failed: list[Item]
) -> tuple[Sequence[Entry], tuple[str, ...]]:
    suffix = path.suffix.lower()
    single = (("text", TEXT_SUFFIXES), ("image", PHOTO_SUFFIXES))
    for kind, suffixes in single:
        if suffix in suffixes and not path.is_dir():
            if not path.exists():
                raise InputError(path, "does not exist", "Check the name")
            if kind not in modalities:
                raise InputError(path, f"is of the kind {kind}, which this model does not read", "Name another --model")
            name, meta = stored_name(path), {"path": stored_path(path)}
            return [Entry(name, kind, str(path), file_stamp(path), path, meta=meta)], ()  # type: ignore[arg-type]
    source = read_source(path, modalities)
    warnings.extend(source.warnings)
    failed.extend(Item(error.path, None, "failed", 0.0, error=error.reason) for error in source.failed)
    return source.entries, source.unseen


@dataclass(frozen=True, slots=True)
class Known:
    """An entry of the index: the argument it came from, where that may be now; None in an index of an older attn."""

    owners: tuple[str, ...] | None
    meta: Mapping[str, Any]

    @classmethod
    def of(cls, meta: Mapping[str, Any], places: Places) -> Known:
        stored = meta.get(GALLERY)
        if not isinstance(stored, str) or "\0" in stored:
            return cls(None, meta)
        name = file_name(stored)
        return cls(tuple(dict.fromkeys((name, places.moved(name, meta)))), meta)


class Matched:
    """The entries of a gallery under their ids in an index, and what the index holds beside them.

    An id is that which the entry has in its argument. Where two arguments have an entry of the same id, the name of
    the argument, as seen from beside the index, is put before it.

    Parameters
    ----------
    gallery : Gallery
    known : mapping of str to Known
        Entries of the index by id.
    places : Places
    prune : bool
        Forget also what is of arguments that are empty now, or not named.
    """

    def __init__(self, gallery: Gallery, known: Mapping[str, Known], places: Places, *, prune: bool = False) -> None:
        self.gallery, self.known, self.places, self.prune = gallery, known, places, prune
        self.named = {given.place: given for given in gallery.arguments}
        self.entries: dict[str, Entry] = {}
        self._old: dict[str, list[str]] = {given: [] for given in self.named}  # entries of the index by argument
        self._others: list[str] = []
        for key, meta in known.items():
            owner = self._owner(meta)
            (self._old[owner] if owner else self._others).append(key)
        counts: dict[str, int] = {}
        for argument in gallery.arguments:
            for entry in argument.entries:
                counts[entry.id] = counts.get(entry.id, 0) + 1
        for argument in gallery.arguments:
            self._take(argument, {key for key, count in counts.items() if count > 1})

    def _owner(self, known: Known) -> str | None:
        """The argument of this run of which an entry is."""
        if known.owners is not None:
            return next((place for place in reversed(known.owners) if place in self.named), None)
        path = known.meta.get("path")  # an older attn did not say; a path as it was typed tells of folders
        below = (
            argument.place
            for argument in self.gallery.arguments
            if isinstance(path, str) and is_below(absolute(path), argument.place)
        )
        return next(below, None)

    def _take(self, argument: Argument, shared: Collection[str]) -> None:
        """Give the entries of an argument their ids."""
        prefix = f"{self._label(argument.place)}/"
        mine = set(self._old[argument.place])
        qualified = any(key.startswith(prefix) for key in mine) and not any(e.id in mine for e in argument.entries)
        alone = len(argument.entries) == 1 and argument.entries[0].path == Path(argument.name)
        meta = {GALLERY: stored_name(argument.place)}
        if self.places.folder is not None:
            meta[FOLDER] = stored_name(self.places.folder)
        for entry in argument.entries:
            key, other = entry.id, prefix[:-1] if alone else prefix + entry.id
            if alone and len(mine) == 1:
                key = next(iter(mine))
            elif other in mine or (key not in mine and (qualified or key in shared or not self._free(entry))):
                key = other
            if key in self.entries:
                raise UsageError(f"{argument.name}: another argument has an entry {key!r}, too. Index them apart.")
            self.entries[key] = replace(entry, id=key, meta={**entry.meta, **meta})

    def _free(self, entry: Entry) -> bool:
        """Whether an entry may have its own id: no other one of the index has it that is to stay."""
        there = self.known.get(entry.id)
        if there is None or there.owners is None:
            return True
        if self._owner(there) is not None:
            return False
        renamed = there.meta.get("stamp") == entry.stamp and not any(map(os.path.lexists, there.owners))
        return self.prune or renamed

    def _label(self, place: str) -> str:
        """How an argument is called in ids: as seen from beside the index, if it is there, else whole."""
        beside = os.path.dirname(self.places.folder) if self.places.folder else ""
        return stored_name(
            Path(os.path.relpath(place, beside) if beside and is_below(place, beside) else place).as_posix()
        )

    def forgets(self) -> tuple[list[str], dict[str, str], list[str]]:
        """What of the index is not in the gallery.

        Returns
        -------
        list of str
            Ids of what is gone.
        dict of str to str
            By argument, why it is not read whole, with the count of entries that were kept.
        list of str
            Warnings: what was kept of arguments that were not named.
        """
        gone: list[str] = []
        failed: dict[str, str] = {}
        for argument in self.gallery.arguments:
            rest = [key for key in self._old[argument.place] if key not in self.entries]
            prefix = f"{self._label(argument.place)}/"
            unseen = () if self.prune and argument.empty else argument.unseen
            kept = [key for key in rest if unseen and key.removeprefix(prefix).startswith(unseen)]
            gone += set(rest) - set(kept)
            if kept:
                stay = counted(len(kept), "entry of it was kept", "entries of it were kept")
                reason = argument.error or "parts of it cannot be read now"
                more = " (--prune forgets them)" if argument.empty else ""
                failed[argument.name] = f"{reason.rstrip('.')}. {stay}{more}"
            elif argument.error:
                failed[argument.name] = argument.error
        others: dict[str, int] = {}
        for key in self._others:
            if key in self.entries:
                continue
            owners = self.known[key].owners
            if self.prune or self._seen_absent(self.known[key]):
                gone.append(key)
            else:
                name = owners[-1] if owners else ""
                others[name] = others.get(name, 0) + 1
        warnings = []
        if old := others.pop("", 0):
            warnings.append(
                counted(old, "entry", "entries")
                + " of an older attn, which did not note the gallery of an entry, may be"
                " gone: kept. --prune forgets them"
            )
        if others:
            some = ", ".join(list(others)[:3]) + (", ..." if len(others) > 3 else "")
            total = counted(sum(others.values()), "entry", "entries")
            warnings.append(f"{total} of galleries that were not named now ({some}) kept. --prune forgets them")
        return sorted(gone), failed, warnings

    def _seen_absent(self, known: Known) -> bool:
        """Whether an entry was a file that was named itself, and is gone from a folder that is there."""
        owners, path = known.owners, known.meta.get("path")
        return bool(owners) and path == known.meta.get(GALLERY) and all(map(_absent, owners or ()))


def _absent(place: str) -> bool:
    try:
        return os.path.basename(place) not in (there := os.listdir(os.path.dirname(place))) and bool(there)
    except OSError:
        return False
