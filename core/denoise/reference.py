"""The clean image that a result is compared with: found, and known to be in the same unit and of the same place."""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ..errors import InputError
from ..io import GreyImage, read_grey
from ..io.kinds import sniff, split_key

_SCREEN = ("png", "tiff")
"""Kinds whose integers run from black to white: 255 of 8 bits is 65535 of 16."""
_FAR = 10.0
"""How many times wider one image's range may be than the other's, for both to be in one unit."""


@dataclass(frozen=True, slots=True)
class Reference:
    """A reference in the unit of the image.

    Parameters
    ----------
    pixels : ndarray, shape (Z, H, W)
    valid : ndarray of bool, shape (Z, H, W), or None
        False where the reference or the image is padding: there nothing is compared.
    warnings : tuple of str
    """

    pixels: NDArray[np.floating[Any]]
    valid: NDArray[np.bool_] | None = None
    warnings: tuple[str, ...] = ()


def read_reference(
    image: GreyImage, place: Path, *, luma: bool = False, fill: float | None = None, unit: str | None = None
) -> Reference:
    """Read the reference of an image.

    Parameters
    ----------
    image : GreyImage
    place : Path
        A file, or a directory with files of the images' names; where it has subdirectories of the images' too, the
        file with the longest common end of the path counts.
    luma, fill, unit
        As for ``read_grey``.

    Raises
    ------
    InputError
        If there is none, it cannot be read, its size, pixel spacing or orientation differ, or its values are in another
        unit, or in none that is known.
    """
    path = _find(image, place)
    reference = read_grey(path, luma=luma, fill=fill, unit=unit if sniff(split_key(path)[0]) != "dicom" else None)
    name = f"its reference {path}"
    if reference.pixels.shape != image.pixels.shape:
        sizes = [
            f"{z} x {h} x {w}" if z > 1 else f"{h} x {w}" for z, h, w in (reference.pixels.shape, image.pixels.shape)
        ]
        raise InputError(image.path, f"{name} is {sizes[0]}, the image {sizes[1]}", "Name a reference of the same size")
    notes = [f"reference: {text}" for text in reference.warnings]
    _check_place(image, reference, name, notes)
    _check_unit(image, reference, name)
    valid = image.valid
    if reference.valid is not None:
        valid = reference.valid if valid is None else valid & reference.valid
    notes += _level(image, reference, valid)
    if os.path.samefile(split_key(path)[0], split_key(image.path)[0]) and path.name == image.path.name:
        notes.append("the reference is the image itself: the scores say only how much was changed")
    elif np.array_equal(reference.pixels, image.pixels):
        notes.append("the reference equals the image: the scores say only how much was changed")
    return Reference(reference.pixels, valid, tuple(notes))


def _find(image: GreyImage, place: Path) -> Path:
    """The file itself, or the one in the directory ``place`` that belongs to the image."""
    if not place.is_dir():
        return place
    parts = image.path.absolute().parts[1:]
    for count in range(min(len(parts), 8), 0, -1):
        path = place.joinpath(*parts[-count:])
        if split_key(path)[0].is_file():
            return path
    what = f"the reference directory {place} has no {image.path.name}"
    raise InputError(image.path, what, "Give the reference the image's name, or name one file")


def _check_place(image: GreyImage, reference: GreyImage, name: str, notes: list[str]) -> None:
    """``InputError`` where both files say where they are and the pixels do not lie on each other."""
    if image.spacing_mm and reference.spacing_mm and not np.allclose(image.spacing_mm, reference.spacing_mm, rtol=0.01):
        sides = [" x ".join(f"{mm:.4g}" for mm in spacing) for spacing in (reference.spacing_mm, image.spacing_mm)]
        what = f"{name} has pixels of {sides[0]} mm, the image of {sides[1]} mm"
        raise InputError(image.path, what, "Name a reference of the same place")
    ours, theirs = (part.series.get("orientation") for part in (image, reference))
    if ours and theirs and not np.allclose(ours, theirs, rtol=0, atol=0.02):
        raise InputError(image.path, f"{name} is oriented otherwise (ImageOrientationPatient)", "Turn one of them")
    ours, theirs = (part.series.get("position") for part in (image, reference))
    if ours is not None and theirs is not None and abs(ours - theirs) > 0.5:
        notes.append(f"the reference lies {abs(ours - theirs):.1f} mm beside the image: is it the same slice?")


def _check_unit(image: GreyImage, reference: GreyImage, name: str) -> None:
    """``InputError`` unless both are in one unit, as far as their files say."""
    if image.unit != reference.unit:
        fix = "Name a reference in the same unit"
        if "HU" in (image.unit, reference.unit) and not image.kind == reference.kind == "dicom":
            fix += ", or say --unit hu if all values are in HU"
        raise InputError(image.path, f"{name} holds {_unit(reference)}, the image {_unit(image)}", fix)
    if image.kind == reference.kind == "dicom":
        return
    if image.unit != "stored":  # the user's word for one of them
        _check_range(image, reference, name)
        return
    tops = [_top(part) for part in (image, reference)]
    if None not in tops and tops[0] != tops[1] and (image.kind in _SCREEN or reference.kind in _SCREEN):
        what = f"{name} holds values up to {tops[1]}, the image up to {tops[0]}"
        raise InputError(image.path, what, "Save both with the same number of bits")
    if tops[0] != tops[1]:
        _check_range(image, reference, name)


def _unit(image: GreyImage) -> str:
    """What an image holds, in words."""
    if image.unit != "stored":
        return "rescaled values" if image.unit == "rescaled" else f"values in {image.unit}"
    if image.kind == "dicom":
        return "stored values without a rescale"
    bits = "" if image.stored is None else f"{8 * image.stored.dtype.itemsize}-bit "
    return f"{bits}values without a unit"


def _top(image: GreyImage) -> int | None:
    """The greatest value that an integer file can hold; None for other files."""
    if image.stored is None or image.stored.dtype.kind not in "biu":
        return None
    return 1 if image.stored.dtype.kind == "b" else int(np.iinfo(image.stored.dtype).max)


def _check_range(image: GreyImage, reference: GreyImage, name: str) -> None:
    """``InputError`` where the values of both cannot be in one unit."""
    low, high = zip(*(np.percentile(part.pixels, (1, 99)) for part in (image, reference)), strict=True)
    spans = [float(top - bottom) for bottom, top in zip(low, high, strict=True)]
    if min(spans) > 0 and max(spans) > _FAR * min(spans):
        what = f"{name} holds values from {low[1]:.4g} to {high[1]:.4g}, the image from {low[0]:.4g} to {high[0]:.4g}"
        raise InputError(image.path, what, "Bring both to the same unit")


def _level(image: GreyImage, reference: GreyImage, valid: NDArray[np.bool_] | None) -> list[str]:
    """What a user should know where one middle slice is brighter than the other by more than its pixels differ."""
    middle = len(image.pixels) // 2
    ours, theirs = (
        part.pixels[middle] if valid is None else part.pixels[middle][valid[middle]] for part in (image, reference)
    )
    if not ours.size:
        return []
    apart, spread = (
        float(theirs.mean(dtype=np.float64) - ours.mean(dtype=np.float64)),
        float(ours.std(dtype=np.float64)),
    )
    if spread == 0 or abs(apart) <= spread:
        return []
    side = "above" if apart > 0 else "below"
    return [f"the reference lies {abs(apart):.4g} {side} the image on average: is it in the same unit?"]
