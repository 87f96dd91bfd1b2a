"""Files in and out. Cheap to import: pydicom, Pillow, tifffile and nibabel come in with the first file of theirs."""

from __future__ import annotations

from os import PathLike
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ..errors import InputError
from .dicom_series import Series, series_key, sort_series
from .image import Derivation, GreyImage, Kind
from .kinds import SUFFIXES, sniff, split_key, suffix_of
from .pixels import to_float
from .walk import EXAMPLES, Input, expand_inputs, output_path, output_paths

__all__ = [
    "EXAMPLES",
    "Derivation",
    "GreyImage",
    "Input",
    "Kind",
    "Series",
    "expand_inputs",
    "output_path",
    "output_paths",
    "read",
    "read_image",
    "series_key",
    "sniff",
    "sort_series",
    "write",
    "write_image",
]


def read_image(path: str | PathLike[str], *, luma: bool = False, fill: float | None = None) -> GreyImage:
    """Read one file's grey image or stack of images.

    Parameters
    ----------
    path : str or PathLike
        A DICOM, PNG, TIFF, NPY, NPZ or NIfTI file, told by its content. ``FILE.npz#KEY`` picks an array of an archive.
    luma : bool
        Convert colour to grey (BT.601) instead of refusing it.
    fill : float or None
        What replaces NaN and infinities; None refuses them.

    Returns
    -------
    GreyImage; pixels [Z, H, W] float32 in ``unit``.

    Raises
    ------
    InputError
        For everything that is wrong with the file. No other exception escapes, whatever the bytes.
    """
    path = Path(path)
    file, key = split_key(path)
    kind = sniff(file)
    if key is not None and kind != "npz":
        raise InputError(path, f"has a key after #, but {file.name} is no NPZ archive", "Leave the key out")
    if kind == "dicom":
        from .dicom_read import read_dicom

        return read_dicom(path, luma=luma, fill=fill)
    if kind == "png":
        from .raster import read_png

        return read_png(path, luma=luma)
    if kind == "tiff":
        from .raster import read_tiff

        return read_tiff(path, luma=luma, fill=fill)
    if kind == "nifti":
        from .nifti import read_nifti

        return read_nifti(path, fill=fill)
    from .arrays import read_npy, read_npz

    return read_npy(path, luma=luma, fill=fill) if kind == "npy" else read_npz(path, file, key, luma=luma, fill=fill)


def write_image(
    image: GreyImage, pixels: NDArray[Any], path: str | PathLike[str], derivation: Derivation | None = None
) -> None:
    """Write new pixels in the form of the file ``image`` was read from, atomically.

    Parameters
    ----------
    image : GreyImage
        As read. Its kind, storage type, header and metadata are kept.
    pixels : ndarray, shape (Z, H, W)
        Values in ``image.unit``. Those equal to ``image.pixels``, and all pixels that are not valid, come back as the
        exact stored value; others are rounded half to even and clipped to what the file can store.
    path : str or PathLike
        The file to make.
    derivation : Derivation or None
        What the file says about its making. None for DICOM: a new instance only if a pixel changed, in the same series.

    Raises
    ------
    InputError
        If the place cannot be written.
    ValueError
        If the shape differs or a pixel to be written is NaN or infinite.
    """
    path = Path(path)
    if image.kind == "dicom":
        from .dicom_write import write_dicom

        write_dicom(image, pixels, path, derivation)
    elif image.kind in ("png", "tiff"):
        from .raster import write_png, write_tiff

        (write_png if image.kind == "png" else write_tiff)(image, pixels, path, derivation)
    elif image.kind == "nifti":
        from .nifti import write_nifti

        write_nifti(image, pixels, path)
    else:
        from .arrays import write_npy, write_npz

        (write_npy if image.kind == "npy" else write_npz)(image, pixels, path)


def read(path: str | PathLike[str]) -> NDArray[np.floating[Any]]:
    """The pixels of a file, [Z, H, W] float32, CT in HU. Raises ``InputError`` as ``read_image`` does."""
    return read_image(path).pixels


def write(path: str | PathLike[str], array: NDArray[Any], like: GreyImage | None = None) -> None:
    """Write an array as an image file, atomically.

    Parameters
    ----------
    path : str or PathLike
        The file to make. Without ``like`` its suffix says the kind: .npy, .npz, .png, .tif or .tiff.
    array : ndarray, shape (Z, H, W) or (H, W)
        With ``like``: values in its unit. Without: values to store, in their own dtype (PNG: bool, uint8, uint16).
    like : GreyImage or None
        A file as read, whose kind, storage and metadata are kept (needed for DICOM and NIfTI).

    Raises
    ------
    InputError
        If the place cannot be written or the suffix names no kind that can be made from an array alone.
    ValueError
        If the array does not fit the kind, or holds NaN or infinite values.
    """
    path, array = Path(path), np.asarray(array)
    if like is not None:
        write_image(like, array.reshape(like.pixels.shape) if array.ndim == 2 else array, path, None)
        return
    kind = SUFFIXES.get(suffix_of(path))
    if kind not in ("npy", "npz", "png", "tiff"):
        raise InputError(path, "cannot be made from an array alone", "Use .npy, .npz, .png or .tif, or pass like=")
    if array.ndim not in (2, 3) or not array.size:
        raise ValueError(f"array must be [H, W] or [Z, H, W] and not empty, its shape is {array.shape}")
    if array.dtype.kind not in "biuf":
        raise ValueError(f"array must hold bool, integer or float values, its dtype is {array.dtype}")
    stack = array if array.ndim == 3 else array[None]  # [Z, H, W]
    values = to_float(stack)
    write_image(GreyImage(path, kind, values, stored=stack, source={"ndim": array.ndim}), values, path)
