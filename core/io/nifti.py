"""NIfTI volumes (``.nii``, ``.nii.gz``), read with nibabel. Only the voxels are replaced on writing, byte for byte."""

from __future__ import annotations

import gzip
import importlib.util
import io
import math
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np
from numpy.typing import NDArray

from ..errors import InputError
from ..memory import check_memory, read_within
from .atomic import atomic_path
from .axes import axes_note, plain_shape
from .image import GreyImage
from .kinds import open_regular
from .pixels import check_size, read_into, reading, replaced, to_float, to_stored
from .place import SlicePlace, place_of

_MM = {"mm": 1.0, "meter": 1000.0, "micron": 0.001}
"""NIfTI's units of length in mm."""
_HEADER = 540  # bytes of version 2; version 1 has 348


@dataclass(frozen=True, slots=True)
class NiftiSource:
    """A NIfTI file but for its voxels: the bytes before and after them, and how values are stored."""

    before: bytes
    after: bytes
    slope: float
    intercept: float
    dtype: str


def read_nifti(path: Path, *, fill: float | None = None) -> GreyImage:
    """Read a 3-D (or 2-D) NIfTI file; slices lie along its third axis, rows along its second. Axes of length 1 are left
    out: [1, y, z] is one image.

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
    with reading(path, "NIfTI", notes), open_regular(path) as file, _unpacked(file) as stream:
        head = stream.read(_HEADER)
        if head[344:347] == b"ni1" or head[4:7] == b"ni2":
            raise InputError(path, "is a NIfTI header whose voxels are in another file", "Convert it to one .nii file")
        if head[344:347] != b"n+1" and head[4:7] != b"n+2":
            kind = "a gzip'ed DICOM file" if head[128:132] == b"DICM" else "compressed, but not NIfTI"
            raise InputError(path, f"is {kind}", "Unpack it and name the file in it")
        reader = nibabel.Nifti1Header if head[344:347] == b"n+1" else nibabel.Nifti2Header
        header: Any = reader.from_fileobj(io.BytesIO(head))  # type: ignore[no-untyped-call]
        shape, dtype = tuple(int(side) for side in header.get_data_shape()), header.get_data_dtype()
        plain = plain_shape(shape[::-1])  # [Z, H, W] or [H, W]: the first axis varies fastest in the file
        if len(plain) not in (2, 3):
            raise InputError(path, f"has {len(plain)} axes (shape {shape})", "Split it into 3-D volumes")
        if dtype.kind not in "biuf" or dtype.itemsize > 8:
            held = nibabel.nifti1.data_type_codes.label[int(header["datatype"])]
            raise InputError(path, f"holds values of type {held}", "Convert it to integer or float")
        count = check_size(path, plain, itemsize=dtype.itemsize)
        offset = int(header["vox_offset"])
        if not header.sizeof_hdr <= offset:
            raise InputError(path, f"says its voxels begin at byte {offset}, inside the header", "It may be damaged")
        check_memory(path, 2 * offset, "its header and extensions take")
        extensions = bytearray(max(0, offset - len(head)))
        read_into(path, stream, memoryview(extensions), found=len(head))
        values = np.empty(count, dtype)
        raw = values.view(np.uint8).data
        early = head[offset:]
        raw[: len(early)] = early[: len(raw)]
        read_into(path, stream, raw[len(early) :], found=len(early))
        after = early[len(raw) :] + read_within(stream, path, what="has behind its voxels")
        stored = values.reshape(plain if len(plain) == 3 else (1, *plain))  # [Z, H, W]
        notes += axes_note(shape, stored.shape, "reorient it so that they come third")
        slope, intercept = (1.0 if value is None else float(value) for value in header.get_slope_inter())
        stored = replaced(path, stored, fill, notes, slope=slope, intercept=intercept)
        pixels = to_float(stored)
        if (slope, intercept) != (1.0, 0.0):
            pixels = (pixels.astype(np.float64) * slope + intercept).astype(pixels.dtype)
            if not np.isfinite(pixels).all():
                raise InputError(path, f"scales its values out of range (slope {slope:g})", "It may be damaged")
        spacing = _spacing(header, shape, len(plain))
        source = NiftiSource(head[:offset] + extensions, after, slope, intercept, dtype.str)
        places = _places(header, len(stored)) if len(plain) == 3 and len(shape) == 3 else ()
        return GreyImage(
            path, "nifti", pixels, spacing_mm=spacing, stored=stored, source=source, warnings=tuple(notes),
            places=places,
        )  # fmt: skip


def _spacing(header: Any, shape: tuple[int, ...], axes: int) -> tuple[float, float] | None:
    """Of rows and columns in mm: the second and the first axis, or the two of one image that are longer than 1."""
    zooms = [float(zoom) for zoom in header.get_zooms()]
    pair = [axis for axis, side in enumerate(shape) if side > 1] if axes == 2 and len(shape) > 2 else [0, 1]
    if len(pair) != 2 or len(zooms) < 2 or not all(math.isfinite(zooms[axis]) and zooms[axis] > 0 for axis in pair):
        return None
    return zooms[pair[1]], zooms[pair[0]]


def _places(header: Any, slices: int) -> tuple[SlicePlace | None, ...]:
    """Where the slices lie; empty for a header that has neither an affine nor a unit, whose 1 x 1 x 1 means nothing."""
    unit = _MM.get(header.get_xyzt_units()[0])
    if unit is None and not (int(header["qform_code"]) > 0 or int(header["sform_code"]) > 0):
        return ()
    affine = np.asarray(header.get_best_affine(), np.float64) * (unit or 1.0)
    across, down, beside, origin = affine[:3].T
    spacing = float(np.linalg.norm(down)), float(np.linalg.norm(across))
    return tuple(place_of(origin + z * beside, across, down, spacing) for z in range(slices))


def write_nifti(image: GreyImage, pixels: NDArray[Any], path: Path, notes: list[str] | None = None) -> None:
    """Write [Z, H, W] into the file that was read: same header, affine and type; gzip where the name says .gz.

    ``notes`` as ``to_stored`` has it.
    """
    source = image.source
    if not isinstance(source, NiftiSource):
        raise ValueError("a NIfTI file can only be written like one that was read")
    slices = len(image.pixels)
    slope, intercept = np.full(slices, source.slope), np.full(slices, source.intercept)
    stored = to_stored(image, pixels, slope=slope, intercept=intercept, notes=notes).astype(source.dtype, copy=False)
    with atomic_path(path) as temporary, open(temporary, "wb") as file:
        packed = path.name.lower().endswith(".gz")
        # no name and no time stamp in the gzip header: the same pixels give the same bytes
        with gzip.GzipFile("", "wb", 6, file, mtime=0) if packed else nullcontext(file) as stream:
            stream.write(source.before)
            for page in stored:
                stream.write(page.tobytes())
            stream.write(source.after)


def _unpacked(file: BinaryIO) -> AbstractContextManager[Any]:
    """The bytes of a file, unpacked while they are read if it is gzip."""
    packed = file.read(2) == b"\x1f\x8b"
    file.seek(0)
    return gzip.GzipFile(fileobj=file) if packed else nullcontext(file)
