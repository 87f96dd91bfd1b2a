"""CaptionedImages that GA-DMS trains on: synthetic people, or a data set of images with captions."""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from ...errors import InputError
from ...options import OptionError
from ...retrieve.data.formats import Captioned, image_root, read_captioned
from ...retrieve.gadms.confusable import make_families
from ...retrieve.gadms.people import SIZE, People, make_people
from ...retrieve.gadms.prepare import ArrayImages, CaptionedImages, FileImages
from .options import CONFUSABLE, SYNTHETIC

PERSONS, HELD_OUT = 1500, 400
"""Synthetic people to train on, and to choose and measure by."""
FAMILIES, FAMILIES_HELD_OUT = 200, 100
"""The same of confusable people, four in a family."""


@dataclass(frozen=True, slots=True)
class Data:
    """What a run needs.

    Parameters
    ----------
    name : str
    training, held_out : CaptionedImages
        Share no person.
    right, wrong : sequence of frozenset of int
        Which words of each training caption are known to be right or wrong; empty for real data.
    notes : tuple of str
    """

    name: str
    training: CaptionedImages
    held_out: CaptionedImages
    right: Sequence[frozenset[int]] = ()
    wrong: Sequence[frozenset[int]] = ()
    notes: tuple[str, ...] = ()


def synthetic(seed: int, persons: int = PERSONS, held_out: int = HELD_OUT, size: tuple[int, int] = SIZE) -> Data:
    """Drawn people: a fifth of the attribute words is wrong in training captions, none in held-out ones."""
    people = make_people(persons, seed, size=size)
    others = make_people(held_out, seed, skip=persons, captions_each=1, errors=0.0, size=size)
    return Data(SYNTHETIC, _pairs(people, "train"), _pairs(others, "val"), people.right, people.wrong)


def confusable(
    seed: int, families: int = FAMILIES, held_out: int = FAMILIES_HELD_OUT, size: tuple[int, int] = SIZE
) -> Data:
    """Families of drawn people; training captions mix up what is seen and invent things, held-out ones are right."""
    people = make_families(families, seed, size=size)
    others = make_families(held_out, seed, skip=families, captions_each=1, errors=0.0, invented=0.0, size=size)
    return Data(CONFUSABLE, _pairs(people, "train"), _pairs(others, "val"), people.right, people.wrong)


def drawn(name: str, seed: int, size: tuple[int, int]) -> Data:
    """The people of ``options.DRAWN``."""
    make = {SYNTHETIC: synthetic, CONFUSABLE: confusable}[name]
    return make(seed, size=size)


def _pairs(people: People, split: str) -> CaptionedImages:
    names = [f"{split}-{i:05d}" for i in range(len(people.images))]
    return CaptionedImages(ArrayImages(people.images), names, people.image_ids, people.captions, people.caption_image)


def read_data(path: Path, size: tuple[int, int], hold_out: int, seed: int, images: Path | None = None) -> Data:
    """A data set in one of the formats of ``retrieve.formats``.

    Parameters
    ----------
    path : Path
    size : (H, W)
        To which images are resized.
    hold_out : int
        Persons that are held out where there is no split ``val``. ``test`` is never looked at.
    seed : int
        Of their choice.
    images : Path, optional
        Folder of the images; by default found beside the file.

    Raises
    ------
    InputError, OptionError
        If it cannot be read, has nothing to train on, or images are missing.
    """
    _, entries = read_captioned(path)
    entries = [entry for entry in entries if entry.captions]
    training = [entry for entry in entries if entry.split in ("train", "")]
    if not training:
        raise InputError(path, "has no entries of split 'train' with captions", "Name a file with training data")
    held_out, notes = [entry for entry in entries if entry.split == "val"], list[str]()
    if not held_out:
        persons = sorted({entry.identity for entry in training})
        if not 1 <= hold_out < len(persons):
            raise OptionError(
                f"{{hold_out}}: {hold_out} of {len(persons)} persons leaves none to train on, or to choose by."
            )
        chosen = {persons[i] for i in np.random.default_rng((seed, 3)).permutation(len(persons))[:hold_out]}
        held_out = [entry for entry in training if entry.identity in chosen]
        training = [entry for entry in training if entry.identity not in chosen]
        notes.append(f"no split 'val': {hold_out} persons of the training half were held out")
    root = image_root(path, training[0].image, images)
    if missing := [entry for entry in training + held_out if not os.path.isfile(root / entry.image)]:
        what = f"{missing[0].place}: image {root / missing[0].image} is not there ({len(missing)} are missing)"
        raise InputError(path, what, "Name their folder (images)")
    return Data(path.name, _read(training, root, size), _read(held_out, root, size), notes=tuple(notes))


def _read(entries: Sequence[Captioned], root: Path, size: tuple[int, int]) -> CaptionedImages:
    persons = {name: i for i, name in enumerate(sorted({entry.identity for entry in entries}))}
    counts = [len(entry.captions) for entry in entries]
    return CaptionedImages(
        FileImages([root / entry.image for entry in entries], size),
        [entry.image for entry in entries],
        np.array([persons[entry.identity] for entry in entries], np.int64),
        [caption for entry in entries for caption in entry.captions],
        np.arange(len(entries)).repeat(counts),
    )
