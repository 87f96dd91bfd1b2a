"""A person crop: a photo, or the part of one that a box names; what is measured of it."""

from __future__ import annotations

import hashlib
import io
import os
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ...batch.task import Task
from ...errors import InputError
from ...io.atomic import write_bytes
from ...io.photo.read import read_photo, shrunk
from ...models.pictures import eight_bits
from ...report.model import Item
from ..places import file_stamp
from .boxes import PersonBox

SIDE = 384
"""Longer side, in pixels, at which crops are looked at: the height that GA-DMS trains on."""
THUMBNAIL = (16, 8)
"""(H, W) of what near-duplicates are told by."""
FOLDER = "crops"
BLANK = 2e-3
"""Contrast, ``contrast_of``, up to which nothing is to be seen."""


@dataclass(frozen=True, slots=True)
class Crop:
    """One crop.

    Parameters
    ----------
    image : str
        Its file as seen from the folder of results, with ``/``: the photo, or one in ``crops/`` that was cut out.
    photo : str
        As the user named it.
    stamp : str
        Of the photo's content, and of the box: equal ones are the same crop.
    size : (H, W)
        In pixels of the photo.
    blur : float
        ``blur_of``; NaN where it is too small for that, or blank.
    person : PersonBox or None
    thumbnail : ndarray [3 * h * w], float32
        Unit length, mean 0; zeros where it is of one colour.
    """

    image: str
    photo: str
    stamp: str
    size: tuple[int, int]
    blur: float
    person: PersonBox | None
    thumbnail: NDArray[np.float32]


@dataclass(frozen=True, slots=True)
class CropsItem(Item):
    """The item of a photo, with its crops."""

    crops: Sequence[Crop] = ()


def blur_of(pixels: NDArray[np.float32]) -> float:
    """How blurred [3, H, W] is, 0 to 1: Crete et al. 2007 (scikit-image), of its luminance at ``SIDE`` pixels."""
    from skimage.color import rgb2gray
    from skimage.measure import blur_effect

    if min(pixels.shape[1:]) < 16 or contrast_of(pixels) <= BLANK:
        return float("nan")
    grey: Any = rgb2gray(_reduced(pixels).transpose(1, 2, 0))
    return float(blur_effect(grey))  # type: ignore[no-untyped-call]


def contrast_of(pixels: NDArray[np.float32]) -> float:
    """Standard deviation of [3, H, W] in its best channel."""
    return float(pixels.std((1, 2)).max())


def thumbnail_of(pixels: NDArray[np.float32]) -> NDArray[np.float32]:
    """[3, H, W] as a unit vector of area means that does not change with brightness and contrast."""
    import torch

    small = torch.nn.functional.adaptive_avg_pool2d(torch.from_numpy(np.ascontiguousarray(pixels)), THUMBNAIL)
    flat = small.flatten().double().numpy()
    flat -= flat.mean()
    length = float(np.linalg.norm(flat))
    return np.asarray(flat / length if contrast_of(pixels) > BLANK else 0 * flat, np.float32)


def _reduced(pixels: NDArray[np.float32]) -> NDArray[np.float32]:
    return np.stack([shrunk(plane, SIDE) for plane in pixels])


def measure_photo(task: Task, step: Callable[[int, int], None], output: str) -> Item:
    """The crops of a photo, measured; those that boxes cut out are written to ``output``/crops.

    The payload of the task is None, or the boxes of the photo.
    """
    try:
        os.path.relpath(task.source, output).encode()
    except UnicodeEncodeError:
        raise InputError(task.source, "has a name that is no UTF-8, which a list cannot hold", "Rename it") from None
    people: Sequence[PersonBox] | None = task.payload
    stamp = file_stamp(task.source)
    photo = read_photo(task.source, max_side=SIDE if people is None else None, uniform=True)
    pixels, size = photo.pixels, photo.size
    if people is None:
        image = Path(os.path.relpath(task.source, output)).as_posix()
        crop = Crop(image, task.name, stamp, size, blur_of(pixels), None, thumbnail_of(pixels))
        return CropsItem(task.name, None, "ok", 0.0, warnings=photo.warnings, crops=(crop,))
    crops: list[Crop] = []
    warnings = list(photo.warnings)
    for number, person in enumerate(people, 1):
        y0, y1, x0, x1 = person.inside(size)
        if y0 == y1 or x0 == x1:
            warnings.append(f"box {number} of {len(people)} lies outside of the photo: left out")
            continue
        if (x1 - x0, y1 - y0) != (round(person.box[2]), round(person.box[3])):
            warnings.append(f"box {number} of {len(people)} reaches beyond the photo: cut at its edge")
        part = np.ascontiguousarray(pixels[:, y0:y1, x0:x1])
        mark = f"{stamp}:{y0}:{y1}:{x0}:{x1}"
        name = hashlib.sha256(f"{os.path.abspath(task.source)}\0{mark}".encode()).hexdigest()[:12]
        image = f"{FOLDER}/{task.source.stem[:60]}-{name}.png"
        if not os.path.isfile(os.path.join(output, image)):
            write_bytes(Path(output, image), png(part))
        looked_at = _reduced(part)
        crops.append(
            Crop(image, task.name, mark, (y1 - y0, x1 - x0), blur_of(looked_at), person, thumbnail_of(looked_at))
        )
        step(number, len(people))
    return CropsItem(task.name, None, "ok", 0.0, warnings=tuple(warnings), crops=tuple(crops))


def png(pixels: NDArray[np.float32]) -> bytes:
    """[3, H, W] in [0, 1] as a PNG of 8 bits."""
    file = io.BytesIO()
    picture(pixels).save(file, "PNG")
    return file.getvalue()


def picture(pixels: NDArray[np.float32]) -> Any:
    """[3, H, W] in [0, 1] as an image of Pillow."""
    from PIL import Image

    return Image.fromarray(eight_bits(pixels))
