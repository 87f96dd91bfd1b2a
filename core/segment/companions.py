"""Which truth and which mask belong to a photo: by name, never by order, and never by a silent pick among several."""

from __future__ import annotations

import os
import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

from ..errors import InputError
from ..io.photo.read import PHOTO_SUFFIXES
from ..io.walk import Input
from .options import SegmentOptions
from .record import read_record

ROLES = frozenset(
    "ah fov gt image img label labels manual manual1 manual2 mask masks seg test training truth vessel vessels vk "
    "1stho 2ndho 1stmanual 2ndmanual".split()
)
"""Last words of a name that say what a file is, not which photo it belongs to: ``21_training``, ``21_manual1``."""
_OTHERS = frozenset("fov image img mask masks seg test training".split())
"""Those that do not speak of a truth."""


@dataclass(frozen=True, slots=True)
class Companions:
    """The files that belong to one photo, absolute, and what the user should know about how they were found."""

    truth: Path | None = None
    fov: Path | None = None
    notes: tuple[str, ...] = ()


def companions(source: Input, options: SegmentOptions) -> Companions:
    """Truth and mask of one photo.

    Raises
    ------
    InputError
        If one is missing, or several could be meant.
    """
    notes: list[str] = []
    truth = None
    if options.truth is not None:
        truth = _belonging(source, options.truth, "truth", notes, options.observer)
    fov = None
    if options.fov not in ("auto", "none"):
        fov = _belonging(source, Path(options.fov), "mask of the field of view", notes, None)
    return Companions(truth, fov, tuple(notes))


def _belonging(source: Input, place: Path, what: str, notes: list[str], observer: str | None) -> Path:
    """``place`` itself, or the file in it that is named like the photo."""
    if not place.is_dir():
        return place.absolute()
    below = source.path.parent.relative_to(source.root) if source.root is not None else Path()
    folder = place / below if (place / below).is_dir() else place  # a tree of truths mirrors a tree of photos
    stem = source.path.stem
    names = _listed(source, folder, what)
    exact, alike = _candidates(source, names)
    if not exact and not alike:  # DRIVE: a folder for each observer
        folders = [candidate for candidate in names if candidate.is_dir() and not candidate.name.startswith(".")]
        exact, alike = _candidates(source, [path for candidate in folders for path in _listed(source, candidate, what)])
    if observer is not None:
        fitting = [path for path in (*exact, *alike) if _is_by(path, folder, stem, observer)]
        if not fitting and (exact or alike):
            there = _names([*exact, *alike], folder)
            missing = f"has no {what} by observer {observer!r} in {folder}, only {there}"
            raise InputError(source.path, missing, "Name another observer")
    else:
        fitting = exact or alike
    if len(fitting) > 1:
        fix = "Name another place" if what != "truth" else "Choose one with --observer"
        raise InputError(source.path, f"has several candidates for its {what}: {_names(fitting, folder)}", fix)
    if fitting:
        others = [path for path in (*exact, *alike) if path != fitting[0] and not _OTHERS & set(_words(path.stem)[1:])]
        more = f"; {_names(others, folder)} would fit, too" if others and observer is None else ""
        if more or fitting[0] not in exact:
            how = "by the beginning of the name" if fitting[0] not in exact else "by its name"
            notes.append(f"its {what} is taken to be {_names(fitting, folder)}, {how}{more}")
        return fitting[0].absolute()
    near = [p for p in names if p.name.lower().startswith(stem.lower()) and p.is_file() and not _is_own(source, p)]
    if near and near[0].suffix.lower() not in PHOTO_SUFFIXES:
        hint = f"{_names(near, folder)} is of no kind that is read: unpack or convert it"
    else:
        hint = (
            f"{_names(near, folder)} begins like it: rename it to {stem}{near[0].suffix}" if near else f"Add {stem}.png"
        )
    raise InputError(source.path, f"has no {what} in {folder}", hint)


def _candidates(source: Input, paths: Iterable[Path]) -> tuple[list[Path], list[Path]]:
    """Pictures of the photo's own name, and those that share its first words; the photo and our results are none."""
    stem = source.path.stem
    exact: list[Path] = []
    alike: list[Path] = []
    for path in paths:
        if path.suffix.lower() not in PHOTO_SUFFIXES or path.name.startswith("."):
            continue
        same = path.stem.lower() == stem.lower()
        if (same or core_of(path.stem) == core_of(stem)) and not _is_own(source, path) and not read_record(path):
            (exact if same else alike).append(path)
    return exact, alike


def _listed(source: Input, folder: Path, what: str) -> list[Path]:
    """What is in a folder, in order. Raises ``InputError`` where it may not be listed."""
    try:
        return sorted(folder.iterdir())
    except OSError as error:
        reason = f"its {what} is looked for in {folder}, which cannot be listed ({error.strerror})"
        raise InputError(source.path, reason, "Check its permissions") from None


def _is_own(source: Input, path: Path) -> bool:
    return os.path.realpath(path) == os.path.realpath(source.path)


def _is_by(path: Path, folder: Path, stem: str, observer: str) -> bool:
    """Whether a file's folder or the last words of its name tell of an observer: ``2`` -> ``manual2``, ``2ndHO``."""
    words = _words(path.stem)
    tail = words[len(_words(core_of(stem))) :]
    if path.parent != folder:
        tail.append(path.parent.name.lower())
    wanted = re.sub(r"[_\-. ]+", "", observer.lower())
    said = [re.sub(r"[_\-. ]+", "", word) for word in ("".join(tail), *tail)]
    if wanted.isdigit():  # 1 is not the 1 of manual10
        return any(wanted in re.findall(r"\d+", word) for word in said)
    return any(wanted in word for word in said)


def core_of(stem: str) -> str:
    """What of a name says which photo it is: ``21_training_mask`` -> ``21``, ``Image_01L_1stHO`` -> ``image_01l``."""
    words = _words(stem)
    while len(words) > 1 and (words[-1] in ROLES or _is_ordinal(words)):
        words.pop()
    return "_".join(words)


def _words(name: str) -> list[str]:
    return re.split(r"[_\-. ]+", name.lower())


def _is_ordinal(words: Sequence[str]) -> bool:
    """Whether what is left of a name ends like ``1st_manual``, whose last word is gone."""
    return words[-1] in ("1st", "2nd", "3rd")


def _names(paths: Sequence[Path], folder: Path) -> str:
    names = [str(path.relative_to(folder)) for path in paths]
    return ", ".join(names[:3]) + (" and more" if len(names) > 3 else "")
