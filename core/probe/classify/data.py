"""The pictures of a run with their classes: files, tables, and drawn ones."""

from __future__ import annotations

import hashlib
import os
import re
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from ...errors import InputError
from ...io.labelled import LabelledPicture, labelled_pictures
from ...io.tables import StoredImage
from ...models.pictures import ColourPicture, read_picture
from ...options import OptionError
from ...prune.shapes.labelled import labelled_set
from ...prune.shapes.words import COLOURS, SHAPES

DRAWN = re.compile(r"shapes(?::(\d+))?x(\d+)")
"""``shapesxN``, ``shapes:SEEDxN``: the class is the shape of the one large object."""


@dataclass(frozen=True, slots=True)
class ClassSet:
    """Pictures, or saved tokens, with classes.

    Parameters
    ----------
    source : str
        As the user named it.
    names : tuple of str
        What each is called, unique.
    labels : ndarray of int64, shape (n,)
        Numbers in ``classes``.
    classes : tuple of str
    splits : tuple of str
        ``"train"``, ``"val"``, ``"test"`` of each, or all empty.
    places : sequence of Path, StoredImage or ndarray of uint8 [H, W, 3]
        Where the pictures are; empty for saved tokens.
    identity : str
        Changes when a picture or a class does: files by size and time, drawn pictures by their seed.
    """

    source: str
    names: tuple[str, ...]
    labels: NDArray[np.int64]
    classes: tuple[str, ...]
    splits: tuple[str, ...]
    places: Sequence[Path | StoredImage | NDArray[np.uint8]]
    identity: str

    def __len__(self) -> int:
        return len(self.labels)

    def picture(self, number: int) -> ColourPicture:
        """Raises ``InputError`` if it cannot be read."""
        place = self.places[number]
        if isinstance(place, np.ndarray):
            pixels = np.ascontiguousarray(place.transpose(2, 0, 1), np.float32) / np.float32(255)
            return ColourPicture(pixels, (pixels.shape[1], pixels.shape[2]))
        if isinstance(place, StoredImage):
            with place.as_file() as file:
                return read_picture(file)
        return read_picture(place)


def read_classes(source: str, *, label: str | None, limit: int | None, seed: int) -> ClassSet:
    """The pictures that ``source`` names.

    Parameters
    ----------
    source : str
        ``shapesxN``, ``shapes:SEEDxN``, or see ``labelled_pictures``.
    label : str or None
        Column with the classes.
    limit : int or None
        So many, drawn at random.
    seed : int
        Of that draw.

    Raises
    ------
    InputError
        If it cannot be read, or has fewer classes than two.
    UsageError
        If an option makes no sense for it.
    """
    if match := DRAWN.fullmatch(source):
        if label is not None:
            raise OptionError("{label}: drawn pictures have no columns.")
        if limit is not None:
            raise OptionError("{limit}: the number of drawn pictures is in their name, shapesxN.")
        return _checked(_drawn(source, match))
    path = Path(source).expanduser()
    rows = labelled_pictures(path, label)
    if not rows:
        what = "holds no pictures in folders of classes" if path.is_dir() else "has no row"
        raise InputError(source, what, "Name a folder with a folder for each class, or one with labels.csv")
    if twice := [name for name, count in Counter(row.name for row in rows).items() if count > 1]:
        raise InputError(source, f"names {twice[0]!r} twice", "Name each picture once")
    if limit is not None and limit < len(rows):
        chosen = np.sort(np.random.default_rng((seed, 11)).permutation(len(rows))[:limit])
        rows = [rows[number] for number in chosen]
    classes = tuple(sorted({row.label for row in rows}))
    number = {name: i for i, name in enumerate(classes)}
    return _checked(
        ClassSet(
            source,
            tuple(row.name for row in rows),
            np.array([number[row.label] for row in rows], np.int64),
            classes,
            tuple(row.split for row in rows),
            [row.place for row in rows],
            identity_of([(row.name, row.label, row.split, _stamp(row)) for row in rows]),
        )
    )


def identity_of(content: object) -> str:
    """16 hexadecimal digits of whatever has a ``repr``."""
    return hashlib.blake2b(repr(content).encode(errors="replace"), digest_size=8).hexdigest()


def _checked(found: ClassSet) -> ClassSet:
    if len(found.classes) < 2:
        raise InputError(
            found.source, f"has one class only ({found.classes[0]!r})", "A probe tells classes apart: add another"
        )
    if len(found) < len(found.classes):
        what = f"has {len(found.classes)} classes and only {len(found)} pictures"
        raise InputError(found.source, what, "Add pictures of every class")
    return found


def _drawn(source: str, match: re.Match[str]) -> ClassSet:
    count = int(match[2])
    if count < 1:
        raise OptionError("{data}: shapesx0 draws nothing. Write shapesx600.")
    scenes = labelled_set(count, seed=int(match[1])) if match[1] else labelled_set(count)
    shape = np.asarray(scenes.label) // len(COLOURS)  # colour is left for the encoder to ignore
    present, renumbered = np.unique(shape, return_inverse=True)
    return ClassSet(
        source,
        tuple(f"{source} {number + 1}" for number in range(count)),
        renumbered.astype(np.int64),
        tuple(SHAPES[number] for number in present),
        ("",) * count,
        list(scenes.pictures),
        identity_of(source),
    )


def _stamp(row: LabelledPicture) -> object:
    """What changes when the file does; of one that is not there, that."""
    place = row.place
    file = place.table if isinstance(place, StoredImage) else place
    try:
        status = os.stat(file / "state.json" if file.is_dir() else file)
    except OSError:
        return None
    return status.st_size, status.st_mtime_ns, getattr(place, "row", None)
