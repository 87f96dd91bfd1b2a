"""Pictures with captions and scene labels, ready for the model: from a file of captions, or synthetic.

Specification: methods/priorclip.md, sections 3D, 5 and 9.
"""

from __future__ import annotations

import os
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from ...errors import InputError, UsageError
from ...io.photo.read import read_photo
from ...options import OptionError
from ..data.formats import Captioned, image_root, read_captioned
from .model import fit_image
from .scenes import SIZE, Scene, draw_scenes
from .text import clean_caption

SPLITS = ("train", "val", "test")
TRAINING = {"": "train", "restval": "train"}
"""Other names of the training split; without a name all is for training."""
HELD_OUT = 10
"""Where a file names no validation pictures, every n-th of the training pictures is taken."""


@dataclass(frozen=True, slots=True)
class Pictures:
    """One split.

    Parameters
    ----------
    names : tuple of n str
    images : Tensor, shape (n, 3, S, S), uint8
    captions : tuple of n tuples of str
        At least one each, cleaned.
    labels : tuple of n str
        Scene of each picture.
    objects : Tensor, shape (n, S, S), bool, optional
        Where the objects are that the captions name; known for synthetic scenes.
    """

    names: tuple[str, ...]
    images: Tensor
    captions: tuple[tuple[str, ...], ...]
    labels: tuple[str, ...]
    objects: Tensor | None = None

    def __len__(self) -> int:
        return len(self.names)

    def take(self, rows: Sequence[int]) -> Pictures:
        """Some of the pictures."""
        return Pictures(
            tuple(self.names[i] for i in rows), self.images[list(rows)], tuple(self.captions[i] for i in rows),
            tuple(self.labels[i] for i in rows), None if self.objects is None else self.objects[list(rows)],
        )  # fmt: skip

    @property
    def caption_image(self) -> np.ndarray[Any, np.dtype[np.int64]]:
        """Row of the picture that each caption describes, captions in the order of the pictures."""
        return np.repeat(np.arange(len(self)), [len(row) for row in self.captions])


def scene_label(filename: str) -> str:
    """The scene in a file's name: what stands before the first "_"; without one the whole stem."""
    return Path(filename).stem.split("_", 1)[0]


def label_warning(labels: Sequence[str], batch: int, seed: int = 0) -> str | None:
    """What to tell the user where most pictures of a batch are a scene of their own (section 9), else None."""
    batch = min(batch, len(labels))
    generator = np.random.default_rng(seed)
    drawn = [len({labels[i] for i in generator.choice(len(labels), batch, replace=False)}) for _ in range(8)]
    if np.mean(drawn) <= 0.5 * batch:
        return None
    return (
        f"a batch of {batch} holds {np.mean(drawn):.0f} scenes on average: the affiliation loss has little to gather. "
        "File names should begin with the scene, as harbour_12.png"
    )


def of_scenes(scenes: Sequence[Scene], size: int = SIZE) -> Pictures:
    """Synthetic scenes as pictures."""
    images = torch.from_numpy(np.stack([scene.pixels for scene in scenes])).permute(0, 3, 1, 2).contiguous()
    objects = torch.from_numpy(np.stack([scene.objects for scene in scenes]))
    if size != SIZE:
        images = torch.stack([_stored(fit_image(image / 255, size)) for image in images])
        objects = torch.stack([fit_image(o.float().expand(3, -1, -1), size)[0] > 0.5 for o in objects])
    return Pictures(
        tuple(scene.name for scene in scenes), images,
        tuple(tuple(clean_caption(caption) for caption in scene.captions) for scene in scenes),
        tuple(scene.label for scene in scenes), objects,
    )  # fmt: skip


def synthetic(counts: Mapping[str, int], seed: int, size: int = SIZE) -> dict[str, Pictures]:
    """Splits of one run of synthetic scenes. Raises ``UsageError`` where a split would be empty."""
    if empty := [split for split in SPLITS if counts.get(split, 0) < 1]:
        raise UsageError(f"synthetic data: {empty[0]} must have at least one picture.")
    pictures = of_scenes(draw_scenes(sum(counts[split] for split in SPLITS), seed), size)
    out, start = {}, 0
    for split in SPLITS:
        out[split] = pictures.take(range(start, start + counts[split]))
        start += counts[split]
    return out


def read_dataset(path: Path, size: int) -> tuple[dict[str, Pictures], list[str]]:
    """Read a file of captions and its pictures.

    Parameters
    ----------
    path : Path
        Any form that ``formats.read_captioned`` knows; without splits all of it is for training.
    size : int
        Side to which pictures are resized.

    Returns
    -------
    Splits by name: ``train`` and ``val``, and ``test`` where the file has one; and what the user should know.

    Raises
    ------
    UsageError
        If there is no such file.
    InputError
        If it has another form, a caption without words, no training pictures, or a picture cannot be read.
    """
    rows, root = _rows(path, "data")
    notes: list[str] = []
    if not rows["val"]:
        named = list(rows["train"].items())
        rows["val"] = dict(named[HELD_OUT - 1 :: HELD_OUT])
        rows["train"] = {name: captions for name, captions in named if name not in rows["val"]}
        if not rows["val"]:
            raise InputError(path, f"has neither val nor {HELD_OUT} training pictures to hold one out", "Add some")
        notes.append(f"no split val: every {HELD_OUT}th training picture chooses the weights ({len(rows['val'])})")
    read = {split: _load(root, rows[split], size, notes) for split in SPLITS if rows[split]}
    return read, list(dict.fromkeys(notes))


def read_coarse(path: Path, size: int, held_out: Collection[str]) -> tuple[Pictures, list[str]]:
    """Read the pairs of stage 1: the training pictures of a file.

    Parameters
    ----------
    path, size
        As of ``read_dataset``.
    held_out : collection of str
        Pictures that choose or test a model: stage 1 should not have seen them.

    Raises
    ------
    UsageError, InputError
        As of ``read_dataset``.
    """
    rows, root = _rows(path, "coarse_data")
    notes: list[str] = []
    if left := len(rows["val"]) + len(rows["test"]):
        notes.append(f"{path.name}: {left} pictures of val and test are left out of stage 1")
    if shared := sorted(rows["train"].keys() & set(held_out)):
        notes.append(
            f"{path.name}: {len(shared)} pictures have the names of held-out ones ({shared[0]}): if they are the same, "
            "stage 1 has seen what is tested"
        )
    return _load(root, rows["train"], size, notes), list(dict.fromkeys(notes))


def _rows(path: Path, field: str) -> tuple[dict[str, dict[str, tuple[str, ...]]], Path]:
    """``_by_split`` of a file, some of it for training, and the folder that its names begin in."""
    if not os.path.isfile(path):
        raise OptionError(f"{{{field}}}: {path} is no file. Give a JSON file of captions.")
    _, captioned = read_captioned(path)
    rows = _by_split(path, captioned)
    if not rows["train"]:
        raise InputError(path, "has no pictures of the split train", 'Give each entry "split": train, val or test')
    return rows, image_root(path, captioned[0].image)


def _by_split(path: Path, captioned: Sequence[Captioned]) -> dict[str, dict[str, tuple[str, ...]]]:
    """Split -> picture -> its cleaned captions, also where an entry holds one of several (PIR's training lists)."""
    rows: dict[str, dict[str, tuple[str, ...]]] = {split: {} for split in SPLITS}
    for picture in captioned:
        split = TRAINING.get(picture.split, picture.split)
        if split not in rows or not picture.captions:
            what = f"{picture.place}: {picture.image} has split {picture.split!r} and {len(picture.captions)} captions"
            raise InputError(path, what, "Correct the entry")
        try:
            cleaned = tuple(clean_caption(caption) for caption in picture.captions)
        except ValueError as error:
            raise InputError(path, f"{picture.place}: {error}", "Correct or remove the caption") from error
        rows[split][picture.image] = rows[split].get(picture.image, ()) + cleaned
    if shared := sorted(rows["train"].keys() & (rows["val"].keys() | rows["test"].keys())):
        raise InputError(path, f"has {shared[0]} for training and for testing", "Name each picture once")
    return rows


def _load(root: Path, rows: Mapping[str, tuple[str, ...]], size: int, notes: list[str]) -> Pictures:
    images = []
    for name in rows:
        photo = read_photo(root / name, uniform=True)
        notes.extend(photo.warnings)
        images.append(_stored(fit_image(photo.pixels, size)))
    return Pictures(tuple(rows), torch.stack(images), tuple(rows.values()), tuple(scene_label(name) for name in rows))


def _stored(image: Tensor) -> Tensor:
    """[0, 1] as uint8."""
    return (image * 255).round().to(torch.uint8)
