"""A photo that a caller of the library holds or names, as the models take it."""

from __future__ import annotations

import warnings
from os import PathLike
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from .read import read_photo


def photo_pixels(photo: NDArray[Any] | str | PathLike[str]) -> NDArray[np.float32]:
    """Red, green and blue of a photo.

    Parameters
    ----------
    photo : ndarray or path
        [H, W] grey, [H, W, 1] or [H, W, 3] RGB: unsigned integers, whose largest value is white, bool, or floats in
        [0, 1]. Or a file; what its reader noticed becomes Python warnings.

    Returns
    -------
    ndarray, shape (3, H, W), float32 in [0, 1]

    Raises
    ------
    InputError
        If the file cannot be read.
    ValueError
        If the array is no photo.
    """
    if isinstance(photo, (str, PathLike)):
        read = read_photo(Path(photo), uniform=True)
        for text in read.warnings:
            warnings.warn(f"{read.path}: {text}", stacklevel=3)
        return read.pixels
    values = np.asarray(photo)
    if values.ndim == 2:
        values = values[..., None]
    if values.ndim != 3 or values.shape[2] not in (1, 3) or not values.size:
        hint = " Move the channels last." if values.ndim == 3 and values.shape[0] in (1, 3) else ""
        raise ValueError(f"a photo is an array [H, W], [H, W, 1] or [H, W, 3], not {values.shape}.{hint}")
    if values.dtype.kind == "u":
        pixels = values.astype(np.float32) / np.float32(np.iinfo(values.dtype).max)
    elif values.dtype.kind in "fb":
        pixels = values.astype(np.float32)
    else:
        raise ValueError(f"a photo holds unsigned integers, or floats in [0, 1], not {values.dtype}.")
    if not (pixels.min() >= 0 and pixels.max() <= 1):  # NaN is neither
        raise ValueError(
            f"a photo of {values.dtype} holds values in [0, 1], this one {pixels.min():g} to {pixels.max():g}."
        )
    return np.ascontiguousarray(np.broadcast_to(np.moveaxis(pixels, 2, 0), (3, *pixels.shape[:2])))
