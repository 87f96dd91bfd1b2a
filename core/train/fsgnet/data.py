"""Photos and their vessel labels: which label belongs to which photo, by name and never by order."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

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


def find_pairs(data: Path) -> list[Pair]:
    """The training pairs of a folder.

    Parameters
    ----------
    data : Path
        Holds a folder of photos (``images``) and one of labels (``manual``, ``1st_manual``, ``labels``, ``truth``,
        ``masks``, ...), perhaps one of field-of-view masks (``fov``). With a ``splits.json`` whose ``train`` is a list
        of stems, these alone are used. A folder ``training`` with these inside is entered.

    Returns
    -------
    list of Pair, in the order of their names.

    Raises
    ------
    OptionError
        If there is no such folder, or a photo without label.
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
    if (data / "splits.json").exists():
        train = _train_split(data / "splits.json")
        if absent := sorted(train - photos.keys()):
            raise InputError(data / "splits.json", f"lists {absent[0]}, which is not in {images}", "Correct the list")
        photos = {stem: path for stem, path in photos.items() if stem in train}
    missing = [path.name for stem, path in photos.items() if stem not in truths]
    if missing:
        raise OptionError(
            f"{{data}}: no label in {labels} for {missing[0]}" + f" and {len(missing) - 1} more." * (len(missing) > 1)
        )
    return [Pair(stem, path, truths[stem], masks.get(stem), seconds.get(stem, "")) for stem, path in photos.items()]


def left_out(pairs: Sequence[Pair]) -> list[str]:
    """What a user should know of labels that were not used."""
    names = [pair.left_out for pair in pairs if pair.left_out]
    if not names:
        return []
    return [f"{len(names)} labels of a second observer were left out, the first's serve (such as {names[0]})."]


def _folder(root: Path, names: Sequence[str]) -> Path | None:
    return next((root / name for name in names if (root / name).is_dir()), None)


def _train_split(path: Path) -> set[str]:
    """Stems of the training list. Raises ``InputError`` where the file lists none, or one for testing, too."""
    try:
        with open_regular(path) as file:
            listed = json.loads(read_within(file, path, what="holds"))
        parts = {part: listed.get(part, []) for part in ("train", "test")}
        if not all(isinstance(stems, list) for stems in parts.values()) or not parts["train"]:
            raise TypeError
        train, test = ({core_of(str(stem)) for stem in stems} for stems in parts.values())
    except (ValueError, AttributeError, TypeError, RecursionError) as error:
        raise InputError(path, "has no list named train", 'Write {"train": [stems]}') from error
    if both := sorted(train & test):
        raise InputError(path, f"lists {both[0]} for training and for testing", "Name each photo once")
    return train
