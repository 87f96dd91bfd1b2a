"""Photos and their vessel labels: which label belongs to which photo, by name and never by order."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import combinations
from pathlib import Path
from typing import Any

from ...errors import InputError
from ...io.kinds import open_regular
from ...io.photo.read import PHOTO_SUFFIXES
from ...memory import read_within
from ...options import OptionError
from ...segment.companions import core_of

IMAGES = ("images", "image", "img")
LABELS = ("manual", "1st_manual", "labels", "label", "truth", "masks", "annotations", "vessels")
FIELDS = ("fov", "mask")
SECOND = ("2ndho", "2ndmanual", "manual2", ".vk")
"""Ends of the names of second observers' labels in CHASE_DB1, HRF, DRIVE and STARE."""


@dataclass(frozen=True, slots=True)
class Pair:
    """One photo with its label and, where the data set has one, its field-of-view mask."""

    name: str
    image: Path
    label: Path
    fov: Path | None = None
    left_out: str = ""
    """Name of the second observer's label, which yields to the first's."""
    group: str = ""
    """Name of the data set's folder."""
    held_out: bool = False
    """Whether a split says that it chooses weights and threshold."""


def by_stem(folder: Path, left_out: dict[str, str] | None = None) -> dict[str, Path]:
    """Pictures of a folder by their common stem; a second observer's label yields to the first's: see ``left_out``.

    Raises ``InputError`` where two have the same stem otherwise.
    """
    pictures: dict[str, Path] = {}
    for path in sorted(folder.iterdir(), key=lambda path: (path.stem.lower().endswith(SECOND), path.name)):
        if path.suffix.lower() in PHOTO_SUFFIXES and not path.name.startswith("."):
            stem = core_of(path.stem)
            if stem in pictures and path.stem.lower().endswith(SECOND):
                if left_out is not None:
                    left_out[stem] = path.name
                continue
            if stem in pictures:
                raise InputError(path, f"has the same stem as {pictures[stem].name}", "Keep one picture per name")
            pictures[stem] = path
    return pictures


@dataclass(frozen=True, slots=True)
class PhotoSplit:
    """Stems of a data set that are trained on, and of those that choose weights and threshold."""

    train: frozenset[str]
    held_out: frozenset[str] = frozenset()


def find_pairs(data: Path, split: PhotoSplit | None = None) -> list[Pair]:
    """The training pairs of a folder.

    Parameters
    ----------
    data : Path
        Holds a folder of photos (``images``) and one of labels (``manual``, ``1st_manual``, ``labels``, ``truth``,
        ``masks``, ...), perhaps one of field-of-view masks (``fov``). With a ``splits.json`` whose ``train`` is a list
        of stems, these alone are used. A folder ``training`` with these inside is entered.
    split : PhotoSplit, optional
        Which of them are used, instead of what ``splits.json`` says.

    Returns
    -------
    list of Pair, in the order of their names.

    Raises
    ------
    OptionError
        If there is no such folder, a photo without label, or a photo of the split is missing.
    """
    if not data.is_dir():
        raise OptionError(f"{{data}}: {data} is no directory.")
    root = data / "training" if (data / "training").is_dir() else data
    images, labels, fields = (_folder(root, names) for names in (IMAGES, LABELS, FIELDS))
    if images is None or labels is None:
        wanted = "images and labels" if images is None and labels is None else "images" if images is None else "labels"
        raise OptionError(
            f"{{data}}: {root} has no folder of {wanted}. Photos go into {IMAGES[0]}/, labels of the same names into "
            f"{LABELS[0]}/ (or {', '.join(LABELS[1:])})."
        )
    seconds: dict[str, str] = {}
    photos, truths = by_stem(images), by_stem(labels, seconds)
    masks = by_stem(fields) if fields is not None else {}
    source, named = data / "splits.json", split is not None
    if split is None and source.exists():
        split = PhotoSplit(_train_split(source))
    if split is not None:
        used = split.train | split.held_out
        if absent := sorted(used - photos.keys()):
            if named:
                raise OptionError(f"{{split}} lists {absent[0]} of {data.name}, which is not in {images}.")
            raise InputError(source, f"lists {absent[0]}, which is not in {images}", "Correct the list")
        photos = {stem: path for stem, path in photos.items() if stem in used}
    missing = [path.name for stem, path in photos.items() if stem not in truths]
    if missing:
        raise OptionError(
            f"{{data}}: no label in {labels} for {missing[0]}" + f" and {len(missing) - 1} more." * (len(missing) > 1)
        )
    held_out = frozenset() if split is None else split.held_out
    return [
        Pair(stem, path, truths[stem], masks.get(stem), seconds.get(stem, ""), data.name, stem in held_out)
        for stem, path in photos.items()
    ]


def find_all_pairs(folders: Sequence[Path], split: Path | None) -> list[Pair]:
    """The training pairs of several folders, each by ``find_pairs``; ``split`` is a file for ``read_splits``."""
    names = [folder.name for folder in folders]
    if twice := next((name for name in names if names.count(name) > 1), None):
        raise OptionError(f"{{data}} names two folders {twice}: data sets are told apart by their names.")
    splits = None if split is None else read_splits(split)
    if splits is not None and (without := next((name for name in names if name not in splits), None)):
        raise OptionError(f"{{split}}: {split} has no entry {without}.")
    return [pair for folder in folders for pair in find_pairs(folder, None if splits is None else splits[folder.name])]


def left_out(pairs: Sequence[Pair]) -> list[str]:
    """What a user should know of labels that were not used."""
    names = [pair.left_out for pair in pairs if pair.left_out]
    if not names:
        return []
    return [f"{len(names)} labels of a second observer were left out, the first's serve (such as {names[0]})."]


def _folder(root: Path, names: Sequence[str]) -> Path | None:
    return next((root / name for name in names if (root / name).is_dir()), None)


def _train_split(path: Path) -> frozenset[str]:
    """Stems of the training list. Raises ``InputError`` where the file lists none, or one for testing, too."""
    return _split_of(_read_json(path), path).train


def read_splits(path: Path) -> dict[str, PhotoSplit]:
    """Which photos of which data set are for what: ``{"HRF": {"train": [stems], "held_out": [...], "test": [...]}}``.

    Raises ``InputError`` where the file is none, or a photo is in two lists.
    """
    listed = _read_json(path)
    if not isinstance(listed, dict) or not listed:
        raise InputError(path, "has no data sets", 'Write {"FOLDER": {"train": [stems], "held_out": [stems]}}')
    return {str(name): _split_of(parts, path) for name, parts in listed.items()}


def _read_json(path: Path) -> Any:
    try:
        with open_regular(path) as file:
            return json.loads(read_within(file, path, what="holds"))
    except (ValueError, RecursionError) as error:
        raise InputError(path, "is no JSON", 'Write {"train": [stems]}') from error


def _split_of(listed: Any, path: Path) -> PhotoSplit:
    """One data set's lists. Raises ``InputError`` where there is none for training, or a stem is in two."""
    try:
        parts = {part: listed.get(part, []) for part in ("train", "held_out", "test")}
        if not all(isinstance(stems, list) for stems in parts.values()) or not parts["train"]:
            raise TypeError
        stems = {part: frozenset(core_of(str(stem)) for stem in listed) for part, listed in parts.items()}
    except (AttributeError, TypeError) as error:
        raise InputError(path, "has no list named train", 'Write {"train": [stems]}') from error
    uses = {"train": "training", "held_out": "choosing", "test": "testing"}
    for one, other in combinations(uses, 2):
        if both := sorted(stems[one] & stems[other]):
            raise InputError(path, f"lists {both[0]} for {uses[one]} and for {uses[other]}", "Name each photo once")
    return PhotoSplit(stems["train"], stems["held_out"])
