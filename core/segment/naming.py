"""Where results go, under names that depend on the photo alone: not on what else was named, or in which order.

``eye.jpg`` -> ``eye.mask.png``. Where another photo in its folder shares its stem, ``eye.jpg.mask.png``. A result that
is there already, and whose record names another photo, is neither overwritten nor taken for done.
"""

from __future__ import annotations

import os
import zlib
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from ..batch.task import Task
from ..errors import InputError, UsageError
from ..io.bands import read_text
from ..io.photo.read import PHOTO_SUFFIXES
from ..io.walk import Input, output_paths
from .outputs import side_path, side_paths
from .record import SourcePhoto, read_record, source_of

SUFFIXES = (*PHOTO_SUFFIXES, ".dcm", ".dicom")
"""Suffixes under which a directory is searched for fundus photographs."""
_WORD = ".mask"


@dataclass(frozen=True, slots=True)
class Target:
    """Where the mask of one photo goes, why it cannot go there, and what the user should know about it."""

    path: Path
    error: InputError | None = None
    notes: tuple[str, ...] = ()


def places(
    sources: Sequence[Input], output: str | Path | None, *, overwrite: bool = False
) -> tuple[Path, list[Target]]:
    """The folder that all results share, and where each photo's mask goes.

    Raises
    ------
    UsageError
        If ``output`` names one file for several photos or another kind than PNG.
    """
    suffix = "" if output is None else Path(output).suffix.lower()
    if suffix in SUFFIXES and not str(output).endswith(("/", os.sep)) and not Path(str(output)).is_dir():
        if len(sources) > 1 or sources[0].root is not None:
            raise UsageError(f"-o {output} names one file, but the input is a directory or several. Name a directory.")
        if suffix != ".png":
            raise UsageError(f"-o {output}: masks are PNG files. Name it {Path(str(output)).stem}.png, or a directory.")
        path = Path(str(output))
        return path.parent, [_named(sources[0], path, overwrite)]
    folders = _folders(sources, output)
    labels = _Labels()
    wishes = Counter((os.path.realpath(f), s.path.stem.casefold()) for f, s in zip(folders, sources, strict=True))
    targets = []
    for source, folder in zip(sources, folders, strict=True):
        alone = wishes[os.path.realpath(folder), source.path.stem.casefold()] == 1
        targets.append(_free(source, folder, labels.of(source.path), alone, overwrite))
    once = Counter(os.path.realpath(target.path) for target in targets)
    for number, (source, target) in enumerate(zip(sources, targets, strict=True)):
        if once[os.path.realpath(target.path)] > 1 and source.error is None:
            targets[number] = replace(target, path=_distinct(target.path.parent, source))
    shared = [os.path.abspath(target.path.parent) for target in targets]
    return (Path(os.path.commonpath(shared)) if output is None else Path(output)), targets


def _folders(sources: Sequence[Input], output: str | Path | None) -> list[Path]:
    """The folder of each result: ``output_paths`` decides, of names that keep their suffix and so never meet."""
    named = [replace(source, path=source.path.with_name(source.path.name + _WORD)) for source in sources]
    out = None if output is None else f"{output}{os.sep}"
    return [path.parent for path in output_paths(named, out, word="mask", suffix=".png")]


class _Labels:
    """What the names of a photo's results begin with, by what else is in its folder; each folder is listed once."""

    def __init__(self) -> None:
        self._listed: dict[Path, list[str]] = {}

    def of(self, path: Path) -> str:
        """``eye``; ``eye.jpg`` where another photo has that stem; with a check sum where names differ by case alone."""
        others = [name for name in self._names(path.parent) if name != path.name]
        if path.name.casefold() in map(str.casefold, others):
            return f"{path.name}-{zlib.crc32(os.fsencode(path.name)):08x}"
        stem = path.stem.casefold()
        shared = any(stem in (Path(name).stem.casefold(), name.casefold()) for name in others)
        return path.name if shared else path.stem

    def _names(self, folder: Path) -> list[str]:
        if folder not in self._listed:
            try:
                with os.scandir(folder) as entries:
                    names = [e.name for e in entries if e.name.lower().endswith(SUFFIXES) and e.name[0] != "."]
            except OSError:
                names = []
            stems = Counter(Path(name).stem.casefold() for name in names)
            self._listed[folder] = [
                name
                for name in names  # a mask that -o has named like the photo is no photo
                if not (name.lower().endswith(".png") and stems[Path(name).stem.casefold()] > 1)
                or read_record(folder / name) is None
            ]
        return self._listed[folder]


def _free(source: Input, folder: Path, label: str, alone: bool, overwrite: bool) -> Target:
    """The result of this photo where there is one; else the first name that nothing else has."""
    if label == source.path.stem and not alone:
        label = source.path.name  # another photo of this run, from another folder, has its stem
    plain, wanted, own = (folder / f"{name}{_WORD}.png" for name in (source.path.stem, label, source.path.name))
    if source.error is not None or not any(os.path.lexists(path) or _beside(path) for path in (plain, wanted, own)):
        return Target(wanted)
    try:
        this = source_of(source.path)
    except InputError as error:
        return Target(wanted, error)
    distinct = _distinct(folder, source, this)
    for path in (plain, wanted, own, distinct):
        if (record := read_record(path)) is not None and record.source is not None and record.source.same(this):
            return Target(path)
    notes: list[str] = []
    for path in dict.fromkeys((wanted, own, distinct)):
        if not os.path.lexists(path):
            if overwrite or not (foreign := _beside(path)):
                return Target(path, notes=tuple(notes))
            notes.append(f"{foreign} is there and no result of attn segment: this one gets another name")
            continue
        if (record := read_record(path)) is None:
            if overwrite:
                return Target(path, notes=(*notes, f"{path.name} was there, no result of attn segment: overwritten"))
            notes.append(f"{path.name} is there and no result of attn segment: this one gets another name")
        elif record.source is None and path == plain:
            note = "the result that exists does not say which photo it is of: an older attn made it"
            return Target(path, notes=() if overwrite else (note,))
        elif record.source is not None and (record.source.name, record.source.place) == (this.name, this.place):
            note = "the photo has changed since the result that exists was made; --overwrite makes it again"
            return Target(path, notes=() if overwrite else (note,))
        else:
            notes.append(f"{path.name} is the result of another photo: this one gets another name")
    return Target(wanted, InputError(source.path, f"has no free name for its result in {folder}", "Name another place"))


def _beside(mask: Path) -> str:
    """Name of a picture beside the mask that would be overwritten and is not of attn; empty if there is none."""
    for path in (side_path(mask, "prob"), side_path(mask, "overlay")):
        if os.path.lexists(path):
            try:
                description = read_text(path, "Description") or b""
            except (OSError, InputError):
                description = b""
            if not description.startswith(b"attn "):
                return path.name
    return ""


def _distinct(folder: Path, source: Input, this: SourcePhoto | None = None) -> Path:
    """A name that no other photo has: by what is in it."""
    try:
        sample = (this or source_of(source.path)).sample[:8]
    except InputError:
        sample = "unreadable"
    return folder / f"{source.path.name}-{sample}{_WORD}.png"


def _named(source: Input, path: Path, overwrite: bool) -> Target:
    """The one file that the user named, unless it is there and no result of this photo."""
    if source.error is not None or overwrite or not os.path.lexists(path) or _is_file(source.path, path):
        return Target(path)
    record = read_record(path)
    try:
        this = source_of(source.path)
    except InputError as error:
        return Target(path, error)
    if record is not None and (record.source is None or record.source.same(this)):
        return Target(path)
    what = "no result of attn segment" if record is None else "the result of another photo"
    taken = InputError(source.path, f"{path} is there and {what}", "Name another place, or add --overwrite")
    return Target(path, taken)


def _is_file(path: Path, other: Path) -> bool:
    return os.path.realpath(path) == os.path.realpath(other)


def keep_what_is_there(tasks: Sequence[Task]) -> None:
    """``UsageError`` if a result would overwrite a photo, a truth or a mask that the user named."""
    given = {os.path.realpath(task.source): task.name for task in tasks}
    for task in tasks:
        if task.payload is not None:
            given |= {os.path.realpath(path): path.name for path in (task.payload.truth, task.payload.fov) if path}
    for task in tasks:
        if task.output is not None:
            for path in (task.output, *side_paths(task.output)):
                if name := given.get(os.path.realpath(path)):
                    raise UsageError(f"a result of {task.name} would overwrite {name}: name another place with -o.")
