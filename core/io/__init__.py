"""Files in and out. Cheap to import: pydicom, Pillow, tifffile and nibabel come in with the first file of theirs."""

from __future__ import annotations

import warnings
from dataclasses import replace
from os import PathLike
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ..errors import InputError
from .axes import is_colour, plain_shape
from .dicom.series import Series, series_key, sort_series
from .image import Derivation, GreyImage, Kind, check_unit
from .kinds import SUFFIXES, sniff, split_key, suffix_of
from .pixels import check_fill, to_float
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
    "read_grey",
    "series_key",
    "sniff",
    "sort_series",
    "write",
    "write_grey",
]


def read_grey(
    path: str | PathLike[str], *, luma: bool = False, fill: float | None = None, unit: str | None = None
) -> GreyImage:
    """Read one file's grey image or stack of images.

    Parameters
    ----------
    path : str or PathLike
        A DICOM, PNG, TIFF, NPY, NPZ or NIfTI file, told by its content. ``FILE.npz#KEY`` picks an array of an archive.
    luma : bool
        Convert colour to grey (BT.601) instead of refusing it.
    fill : float or None
        What replaces NaN and infinities, in physical units; None refuses them.
    unit : "hu" or None
        What the values are in, for files that do not say: CT kept as NIfTI, TIFF, PNG or NumPy array.

    Returns
    -------
    GreyImage; pixels [Z, H, W] float32 in ``unit``.

    Raises
    ------
    InputError
        For everything that is wrong with the file. No other exception escapes, whatever the bytes.
    UsageError
        If ``fill`` is not finite or ``unit`` unknown.
    """
    check_fill(fill)
    check_unit(unit)
    image = _read(Path(path), luma, fill)
    if unit is None or image.unit == "HU":
        return image
    if image.kind == "dicom":
        raise InputError(path, "is DICOM, which says itself what its values are: not HU", "Leave --unit out")
    return replace(image, unit="HU")


def _read(path: Path, luma: bool, fill: float | None) -> GreyImage:
    file, key = split_key(path)
    kind = sniff(file)
    if key is not None and kind != "npz":
        raise InputError(path, f"has a key after #, but {file.name} is no NPZ archive", "Leave the key out")
    if kind == "dicom":
        from .dicom.read import read_dicom

        return read_dicom(path, luma=luma, fill=fill)
    if kind == "png":
        from .raster import read_png

        return read_png(path, luma=luma)
    if kind == "tiff":
        from .tiff.read import read_tiff

        return read_tiff(path, luma=luma, fill=fill)
    if kind == "nifti":
        from .nifti import read_nifti

        return read_nifti(path, fill=fill)
    from .arrays import read_npy, read_npz

    return read_npy(path, luma=luma, fill=fill) if kind == "npy" else read_npz(path, file, key, luma=luma, fill=fill)


def write_grey(
    image: GreyImage, pixels: NDArray[Any], path: str | PathLike[str], derivation: Derivation | None = None
) -> tuple[str, ...]:
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

    Returns
    -------
    tuple of str
        What of the source could not be kept, how many values did not fit into the file's type.

    Raises
    ------
    InputError
        If the place cannot be written.
    ValueError
        If the shape differs or a pixel to be written is NaN or infinite.
    """
    path, notes = Path(path), list[str]()
    if image.kind == "dicom":
        from .dicom.write import write_dicom

        write_dicom(image, pixels, path, derivation, notes)
    elif image.kind == "png":
        from .raster import write_png

        write_png(image, pixels, path, derivation, notes)
    elif image.kind == "tiff":
        from .tiff.write import write_tiff

        write_tiff(image, pixels, path, derivation, notes)
    elif image.kind == "nifti":
        from .nifti import write_nifti

        write_nifti(image, pixels, path, notes)
    else:
        from .arrays import write_npy, write_npz

        (write_npy if image.kind == "npy" else write_npz)(image, pixels, path, notes)
    return tuple(notes)


def read(
    path: str | PathLike[str], *, luma: bool = False, fill: float | None = None, unit: str | None = None
) -> NDArray[np.floating[Any]]:
    """The pixels of a file, [Z, H, W] float32, CT in HU. Parameters and errors are those of ``read_grey``.

    What the reader noticed (``GreyImage.warnings``) becomes Python warnings.
    """
    image = read_grey(path, luma=luma, fill=fill, unit=unit)
    for text in image.warnings:
        warnings.warn(f"{image.path}: {text}", stacklevel=2)
    return image.pixels


def write(path: str | PathLike[str], array: NDArray[Any], like: GreyImage | None = None) -> None:
    """Write an array as an image file, atomically.

    Parameters
    ----------
    path : str or PathLike
        The file to make. Without ``like`` its suffix says the kind: .npy, .npz, .png, .tif or .tiff.
    array : ndarray, shape (Z, H, W) or (H, W)
        Axes of length 1 beyond that make no slices: [H, W, 1] is one image. With
        ``like``: values in its unit. Without: values to store, in their own dtype (PNG: bool, uint8, uint16).
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
    if array.dtype.kind == "f" and not np.isfinite(array).all():
        raise ValueError("array holds NaN or infinite values: they cannot be written")
    plain = plain_shape(array.shape)
    if like is not None:
        if array.shape != like.pixels.shape and array.size == like.pixels.size and len(plain) in (2, 3):
            array = array.reshape(plain if len(plain) == 3 else (1, *plain))
        for text in write_grey(like, array, path, None):
            warnings.warn(f"{path}: {text}", stacklevel=2)
        return
    kind = SUFFIXES.get(suffix_of(path))
    if kind not in ("npy", "npz", "png", "tiff"):
        raise InputError(path, "cannot be made from an array alone", "Use .npy, .npz, .png or .tif, or pass like=")
    if len(plain) not in (2, 3) or not array.size:
        raise ValueError(f"array must be [H, W] or [Z, H, W] and not empty, its shape is {array.shape}")
    if kind in ("png", "tiff") and is_colour(plain):
        raise ValueError(f"array of shape {array.shape} looks like colour: write one channel, or slices as [Z, H, W]")
    if array.dtype.kind not in "biuf":
        raise ValueError(f"array must hold bool, integer or float values, its dtype is {array.dtype}")
    stack = array.reshape(plain if len(plain) == 3 else (1, *plain))  # [Z, H, W]
    values = to_float(stack)
    write_grey(GreyImage(path, kind, values, stored=stack, source={"shape": array.shape}), values, path)
