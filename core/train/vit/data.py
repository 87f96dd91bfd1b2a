"""Pictures with classes: scenes of one shape that are drawn, folders of class folders, and tables of ``datasets``."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F

from ...errors import InputError
from ...fit.epochs import epoch_rows
from ...io.labelled import SPLITS, LabelledPicture, labelled_pictures
from ...io.tables import read_picture
from ...memory import check_memory
from ...models.images import ImagePreparation
from ...prune.shapes.labelled import CLASSES, labelled_scenes
from ...prune.vit.trained import MEAN, STD
from ..priorclip.recipe import random_crop
from .options import DRAWN

COUNTS = {"train": 8000, "val": 500, "test": 1000}
"""Drawn pictures by split."""
WINDOW = 32
"""Side of what is seen of a drawn scene, in pixels."""
NAMED = 5
"""Pictures that were left out are named, up to so many."""
HELD_OUT = 0.1
"""Share of the pictures of each of val and test, where a source has no splits."""


@dataclass(frozen=True, slots=True)
class LabelledPictures:
    """Pictures of one size in memory.

    Parameters
    ----------
    images : Tensor of uint8 [n, 3, S, S]
    labels : Tensor of int64 [n]
    names : tuple of str
        What makes them these pictures: files, or how they were drawn.
    """

    images: Tensor
    labels: Tensor
    names: tuple[str, ...]

    def __len__(self) -> int:
        return len(self.labels)

    def batches(self, size: int, device: torch.device) -> Iterator[tuple[Tensor, Tensor]]:
        """All of them, normalised, in their order."""
        for start in range(0, len(self), size):
            yield normalised(self.images[start : start + size], device), self.labels[start : start + size].to(device)


@dataclass(frozen=True, slots=True)
class PictureSplits:
    """Pictures by split: ``train``, ``val``, ``test``; the names of their classes, and what to tell the user."""

    parts: Mapping[str, LabelledPictures]
    classes: tuple[str, ...]
    notes: tuple[str, ...] = ()


def normalised(images: Tensor, device: torch.device | str) -> Tensor:
    """uint8 [n, 3, S, S] as the models take it."""
    mean, std = (torch.tensor(value, device=device)[:, None, None] for value in (MEAN, STD))
    return (images.to(device).float() / 255 - mean) / std


@dataclass(frozen=True, slots=True)
class ClassBatches:
    """Random pictures of a split with their classes.

    Parameters
    ----------
    pictures : LabelledPictures
    batch, seed : int
    augment : {"mirror", "crop", "none"}
        Mirror images; crops of half to all of the picture as well.
    device : torch.device
    """

    pictures: LabelledPictures
    batch: int
    seed: int
    augment: str
    device: torch.device

    def __call__(self, step: int) -> tuple[Tensor, Tensor]:
        """Images [B, 3, S, S], normalised, and classes [B]; the same for the same step."""
        rows = torch.tensor(epoch_rows(step, self.batch, len(self.pictures), self.seed))
        generator = np.random.default_rng((self.seed, 2, step))
        images = self.pictures.images[rows]
        if self.augment == "crop":
            images = (random_crop(images.float() / 255, generator) * 255).round().to(torch.uint8)
        elif self.augment == "mirror":
            turned = torch.from_numpy(generator.random(len(rows)) < 0.5)
            images = torch.where(turned[:, None, None, None], images.flip(-1), images)
        return normalised(images, self.device), self.pictures.labels[rows].to(self.device)


def read_pictures(
    data: str, size: int, seed: int, *, label: str | None = None, leave_out: bool = False
) -> PictureSplits:
    """The pictures of a source.

    Parameters
    ----------
    data : str
        ``"shapes"``; a folder with a folder for each class, perhaps inside ``train``, ``val``, ``test``; a parquet file
        or a folder that ``datasets`` saved, with the columns ``image`` and ``label``.
    size : int
        Side in pixels: photos are resized and cut to the middle.
    seed : int
        Of what is drawn, and of the split where there is none.
    label : str, optional
        Column with the classes, of lists and tables.
    leave_out : bool
        Pictures that cannot be read are left out, and the notes name them.

    Raises
    ------
    InputError
        If there are no such pictures, one cannot be read, or there are fewer than two classes.
    """
    if data == DRAWN:
        return drawn(COUNTS, size, seed)
    path = Path(data).expanduser()
    if not path.exists():
        raise InputError(path, "does not exist", "Name a folder of class folders, a parquet file, or shapes")
    sources: dict[str, list[LabelledPicture]] = {}
    for row in labelled_pictures(path, label):
        sources.setdefault(row.split, []).append(row)
    classes = tuple(sorted({row.label for rows in sources.values() for row in rows}))
    if len(classes) < 2:
        raise InputError(path, f"has {len(classes)} classes", "Name a folder with a folder for each class")
    total = sum(len(rows) for rows in sources.values())
    check_memory(path, total * 3 * size**2, f"its {total} pictures of {size} px take", "Use smaller or fewer pictures")
    broken: list[str] | None = [] if leave_out else None
    parts = {split: _read(rows, classes, size, broken) for split, rows in sources.items() if rows}
    notes = []
    if broken:
        listed = "; ".join(broken[:NAMED]) + (f"; and {more} more" if (more := len(broken) - NAMED) > 0 else "")
        notes.append(f"{len(broken)} of {total} pictures are left out, since they cannot be read: {listed}")
        parts = {split: part for split, part in parts.items() if len(part)}
    if not parts.keys() & {"", "train"}:
        raise InputError(path, "has no picture to train on that can be read", "Name another folder")
    if set(parts) != set(SPLITS):
        pictures = next(iter(parts.values())) if "" in parts else parts["train"]
        missing = [split for split in ("val", "test") if split not in parts]
        parts |= _split(pictures, missing, seed)
        notes.append(f"without a split {' and '.join(missing)}, {HELD_OUT:.0%} of the pictures were drawn for each")
    return PictureSplits({split: parts[split] for split in SPLITS}, classes, tuple(notes))


def drawn(counts: Mapping[str, int], size: int, seed: int) -> PictureSplits:
    """Windows of scenes of one large shape in one colour, which lies in the window; a class is both."""
    parts = {}
    for number, (split, count) in enumerate(counts.items()):
        scenes = labelled_scenes(np.random.default_rng((seed, 7, number)), count, WINDOW, most=1, digits=0.0)
        images = torch.from_numpy(scenes.pictures).permute(0, 3, 1, 2).contiguous()
        if size != WINDOW:
            smooth = F.interpolate(images.float(), (size, size), mode="bicubic", antialias=True, align_corners=False)
            images = smooth.clamp(0, 255).round().to(torch.uint8)
        named = (f"{split}: {count} drawn with seed {seed}",)
        parts[split] = LabelledPictures(images, torch.from_numpy(scenes.label), named)
    return PictureSplits(parts, CLASSES, ("drawn pictures of one shape each",))


def _read(
    rows: Sequence[LabelledPicture], classes: Sequence[str], size: int, broken: list[str] | None
) -> LabelledPictures:
    """The pictures of a split; those that cannot be read are refused, or told in ``broken`` and left out."""
    number = {name: i for i, name in enumerate(classes)}
    prepare = ImagePreparation((size, size), (0.0,) * 3, (1.0,) * 3)
    images = torch.empty(len(rows), 3, size, size, dtype=torch.uint8)
    kept: list[LabelledPicture] = []
    for row in rows:
        try:
            pixels = read_picture(row.place, max_side=4 * size)
        except InputError as error:
            if broken is None:
                raise
            broken.append(f"{row.name} ({error.reason})")
            continue
        images[len(kept)] = (prepare(pixels) * 255).round().to(torch.uint8)
        kept.append(row)
    labels = torch.tensor([number[row.label] for row in kept], dtype=torch.int64)
    return LabelledPictures(images[: len(kept)], labels, tuple(row.name for row in kept))


def _split(pictures: LabelledPictures, missing: Sequence[str], seed: int) -> dict[str, LabelledPictures]:
    """``pictures`` less a part for each missing split, as ``train``, and these parts."""
    order = np.random.default_rng((seed, 3)).permutation(len(pictures))
    count = max(1, round(HELD_OUT * len(pictures)))
    parts = {split: order[i * count : (i + 1) * count] for i, split in enumerate(missing)}
    parts["train"] = order[len(missing) * count :]
    return {
        split: LabelledPictures(
            pictures.images[torch.from_numpy(rows)], pictures.labels[torch.from_numpy(rows)],
            tuple(pictures.names[row] for row in rows),
        )
        for split, rows in parts.items()
    }  # fmt: skip
