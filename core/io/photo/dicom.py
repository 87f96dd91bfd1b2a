"""DICOM as a photo: the first frame as stored, in colour where it has one (ophthalmic photography)."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ..dicom.codecs import check_encapsulated, is_colour, shape_of
from ..dicom.parse import parse
from ..dicom.read import pixel_keyword, read_dicom
from ..pixels import check_bytes


def read_frame(path: Path, notes: list[str]) -> tuple[NDArray[Any], int]:
    """The first frame of a DICOM file.

    Parameters
    ----------
    path : Path
    notes : list of str
        Gains what the user should know.

    Returns
    -------
    array : ndarray, shape (H, W) or (H, W, 3)
        Stored values, low is black. RGB where the file holds colours, whatever their coding.
    bits : int
        Used per channel.

    Raises
    ------
    InputError
        As ``read_dicom``.
    """
    from pydicom.pixels.processing import apply_color_lut
    from pydicom.pixels.utils import pixel_array

    dataset = parse(path)
    keyword = pixel_keyword(path, dataset)
    shape = shape_of(path, dataset, notes)
    if shape[0] > 1:
        notes.append(f"holds {shape[0]} pictures: only the first is read")
    if not is_colour(dataset):
        image = read_dicom(path)
        notes += image.warnings
        stored = image.pixels[0] if image.stored is None else image.stored[0]
        bits = int(image.source.dataset.get("BitsStored") or 8 * stored.dtype.itemsize)  # as the pixels have it
        if dataset.PhotometricInterpretation == "MONOCHROME1" and stored.dtype.kind == "u":  # low is white
            stored = (2**bits - 1 - stored.astype(np.int64)).clip(0).astype(stored.dtype)
        return stored, bits
    bits = int(dataset.get("BitsStored") or 8)
    expected = math.prod(shape) * int(dataset.BitsAllocated) // 8
    if dataset.file_meta.TransferSyntaxUID.is_encapsulated:
        check_encapsulated(path, dataset, shape, expected, notes)
    elif "422" not in str(dataset.PhotometricInterpretation):
        check_bytes(path, expected, len(dataset[keyword].value))
    if "PixelRepresentation" not in dataset:
        dataset.PixelRepresentation = 0
    array = pixel_array(dataset, index=0)  # [H, W, 3], or [H, W] of a palette
    if str(dataset.PhotometricInterpretation) == "PALETTE COLOR":
        array = apply_color_lut(array, dataset)
        bits = 8 * array.dtype.itemsize
    return np.ascontiguousarray(array[..., :3]), bits
