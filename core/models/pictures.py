"""Any file that is a picture, as image towers take it: photos in colour, CT and other grey images mapped to greys."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from ..io import read_grey
from ..io.kinds import HEAD, is_dicom, open_regular, suffix_of
from ..io.photo.read import PHOTO_SUFFIXES, read_photo

PICTURE_SUFFIXES = (*PHOTO_SUFFIXES, ".dcm", ".dicom", ".ima", ".nii", ".nii.gz")
"""Suffixes under which a directory is searched for pictures."""
MAX_SIDE = 2048
"""Larger photos are reduced while they are read; image towers see a few hundred pixels."""
BLACK, WHITE = 0.5, 99.5
"""Percentiles of a grey image that become black and white."""


@dataclass(frozen=True, slots=True)
class ColourPicture:
    """A picture.

    Parameters
    ----------
    pixels : ndarray, shape (3, h, w), float32 in [0, 1]
        Upright.
    size : (H, W)
        Of the file, upright; (h, w) unless it was reduced.
    warnings : tuple of str
    """

    pixels: NDArray[np.float32]
    size: tuple[int, int]
    warnings: tuple[str, ...] = ()


def eight_bits(pixels: NDArray[np.float32]) -> NDArray[np.uint8]:
    """A picture [3, H, W] in [0, 1] as [H, W, 3] in 0..255."""
    return np.asarray(np.rint(pixels.transpose(1, 2, 0).clip(0, 1) * 255), np.uint8)


def read_picture(path: Path) -> ColourPicture:
    """A file as a picture in colour.

    Of a stack the middle slice. Grey images of more than 8 bits, such as CT, are mapped from their 0.5 and 99.5
    percentiles to black and white. What is chosen so is among the warnings.

    Raises
    ------
    InputError
        If the file is no picture, or damaged.
    """
    if not _is_medical(path):
        photo = read_photo(path, max_side=MAX_SIDE)
        return ColourPicture(photo.pixels, photo.size, photo.warnings)
    image = read_grey(path, luma=True)
    warnings = list(image.warnings)
    slices = len(image.pixels)
    if slices > 1:
        warnings.append(f"has {slices} slices: the middle one, {slices // 2} counted from 0, is looked at")
    plane = image.pixels[slices // 2]
    low, high = (float(value) for value in np.percentile(plane, (BLACK, WHITE)))
    unit = f" {image.unit}" if image.unit == "HU" else ""
    warnings.append(f"grey values from {low:.6g}{unit} (black) to {high:.6g}{unit} (white) are shown to the model")
    grey = np.clip((plane - low) / ((high - low) or 1), 0, 1).astype(np.float32)
    return ColourPicture(np.repeat(grey[None], 3, 0), (grey.shape[0], grey.shape[1]), tuple(warnings))


def _is_medical(path: Path) -> bool:
    """Whether a file is DICOM or NIfTI; some DICOM files begin like TIFF."""
    if suffix_of(path) in (".nii", ".nii.gz"):
        return True
    with open_regular(path) as file:
        return is_dicom(file.read(HEAD))
