"""NIfTI volumes (``.nii``, ``.nii.gz``), read with nibabel. Only the voxels are replaced on writing, byte for byte."""

from __future__ import annotations

import gzip
import importlib.util
import io
import math
import zlib
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ..errors import InputError
from ..memory import budget
from .atomic import atomic_path
from .image import GreyImage
from .kinds import open_regular
from .pixels import check_bytes, check_size, filled, reading, to_stored


@dataclass(frozen=True, slots=True)
class NiftiSource:
    """A NIfTI file but for its voxels: the bytes before and after them, and how values are stored."""

    before: bytes
    after: bytes
    shape: tuple[int, ...]
    slope: float
    intercept: float
    dtype: str


def read_nifti(path: Path, *, fill: float | None = None) -> GreyImage:
    """Read a 3-D (or 2-D) NIfTI file; slices lie along its third axis, rows along its second.

    Parameters
    ----------
    path : Path
    fill : float or None
        What replaces NaN and infinities; None refuses them.

    Returns
    -------
    GreyImage, pixels [Z, H, W] = file[x, y, z] at [z, y, x], with the header's slope and intercept applied.

    Raises
    ------
    InputError
        If nibabel is missing, or the file is damaged, a header without voxels, 4-D, or not numeric.
    """
    if importlib.util.find_spec("nibabel") is None:
        raise InputError(path, "is NIfTI and nibabel is not installed", "Install it: pip install nibabel")
    import nibabel  # before its warnings are captured, for it sets up its own logging when imported

    notes: list[str] = []
    with reading(path, "NIfTI", notes):
        data = _bytes(path)
        if data[344:347] == b"ni1" or data[4:7] == b"ni2":
            raise InputError(path, "is a NIfTI header whose voxels are in another file", "Convert it to one .nii file")
        if data[344:347] != b"n+1" and data[4:7] != b"n+2":
            raise InputError(path, "is compressed, but not NIfTI", "Unpack it and name the file in it")
        reader = nibabel.Nifti1Header if data[344:347] == b"n+1" else nibabel.Nifti2Header
        header: Any = reader.from_fileobj(io.BytesIO(data))  # type: ignore[no-untyped-call]
        shape, dtype = tuple(int(side) for side in header.get_data_shape()), header.get_data_dtype()
        slim = shape[:3] + tuple(side for side in shape[3:] if side != 1)
        if len(slim) not in (2, 3):
            raise InputError(path, f"has {len(slim)} axes (shape {shape})", "Split it into 3-D volumes")
        if dtype.kind not in "biuf" or dtype.itemsize > 8:
            raise InputError(path, f"holds values of type {dtype}", "Convert it to integer or float")
        check_size(path, slim, itemsize=dtype.itemsize)
        offset, count = int(header["vox_offset"]), math.prod(slim)
        if not header.sizeof_hdr <= offset:
            raise InputError(path, f"says its voxels begin at byte {offset}, inside the header", "It may be damaged")
        end = offset + count * dtype.itemsize
        check_bytes(path, end - offset, len(data) - offset)
        volume = np.frombuffer(data, dtype, count, offset).reshape(slim[::-1])  # first axis varies fastest in the file
        stored = volume if volume.ndim == 3 else volume[None]  # [Z, H, W]
        pixels = filled(path, stored, fill, notes)
        slope, intercept = (1.0 if value is None else float(value) for value in header.get_slope_inter())
        if (slope, intercept) != (1.0, 0.0):
            pixels = (pixels.astype(np.float64) * slope + intercept).astype(pixels.dtype)
            if not np.isfinite(pixels).all():
                raise InputError(path, f"scales its values out of range (slope {slope:g})", "It may be damaged")
        zooms = [float(zoom) for zoom in header.get_zooms()[:2]]
        spacing = (zooms[1], zooms[0]) if all(math.isfinite(zoom) and zoom > 0 for zoom in zooms) else None
        source = NiftiSource(data[:offset], data[end:], slim, slope, intercept, dtype.str)
        return GreyImage(path, "nifti", pixels, spacing_mm=spacing, stored=stored, source=source, warnings=tuple(notes))


def write_nifti(image: GreyImage, pixels: NDArray[Any], path: Path) -> None:
    """Write [Z, H, W] into the file that was read: same header, affine and type; gzip where the name says .gz."""
    source = image.source
    if not isinstance(source, NiftiSource):
        raise ValueError("a NIfTI file can only be written like one that was read")
    slices = len(image.pixels)
    slope, intercept = np.full(slices, source.slope), np.full(slices, source.intercept)
    stored = to_stored(image, pixels, slope=slope, intercept=intercept)
    data = source.before + stored.astype(source.dtype, copy=False).tobytes() + source.after
    with atomic_path(path) as temporary:
        # no time stamp in the gzip header: the same pixels give the same bytes
        temporary.write_bytes(gzip.compress(data, 6, mtime=0) if path.name.lower().endswith(".gz") else data)


def _bytes(path: Path) -> bytes:
    """The whole file, unpacked if it is gzip, within a third of the budget of memory."""
    limit = budget() // 3
    with open_regular(path) as file:
        if file.read(2) != b"\x1f\x8b":
            file.seek(0)
            return file.read(limit)
        file.seek(0)
        # look at the header before unpacking the rest: a small file can unpack to terabytes
        unpack = zlib.decompressobj(31)
        head = unpack.decompress(file.read(2**16), 352)
        if head[344:347] != b"n+1" and head[4:7] != b"n+2":
            raise InputError(path, "is compressed, but not NIfTI", "Unpack it and name the file in it")
        sides = (
            np.frombuffer(head[40:56], "<u2" if head[:1] in (b"\x5c", b"\x1c") else ">u2")
            if head[344:347] == b"n+1"
            else None
        )
        if sides is not None and 1 <= sides[0] <= 7:
            check_size(path, [max(1, int(side)) for side in sides[1 : 1 + sides[0]]])
        file.seek(0)
        with gzip.GzipFile(fileobj=file) as unpacked:
            data = unpacked.read(limit)
        check_bytes(path, len(data), path.stat().st_size, 1100.0)
        return data
