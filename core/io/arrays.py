"""NumPy files: one array (NPY) or an archive of arrays (NPZ). Headers are checked before anything is allocated."""

from __future__ import annotations

import io
import math
import struct
import zipfile
from collections.abc import Collection
from os import PathLike
from pathlib import Path
from typing import IO, Any

import numpy as np
from numpy.typing import NDArray

from ..errors import InputError, decoding, did_you_mean
from ..memory import check_memory
from .atomic import atomic_path
from .axes import axes_note, is_colour, plain_shape
from .image import GreyImage
from .kinds import open_regular
from .pixels import check_bytes, check_size, grey, read_into, reading, replaced, to_float, to_stored

IMAGE_KEYS = ("image", "noisy", "data", "arr_0")
"""Keys of an archive that are taken for the image, in this order, when it holds several arrays."""
_HEADER = 2**16  # bytes; NumPy itself writes fewer than 200, and reads fewer than 10,000


def read_npy(path: Path, *, luma: bool = False, fill: float | None = None) -> GreyImage:
    """Read an NPY file of shape [H, W], [Z, H, W] or [H, W, 3 or 4]; axes of length 1 are left out.

    Raises
    ------
    InputError
    """
    notes: list[str] = []
    with reading(path, "NPY", notes), open_regular(path) as file:
        array = load_array(path, file, path.stat().st_size)
        return _image(path, "npy", array, luma, fill, notes, {})


def read_npz(path: Path, file: Path, key: str | None, *, luma: bool = False, fill: float | None = None) -> GreyImage:
    """Read one array of an NPZ archive; of the others no more than their headers is unpacked.

    Parameters
    ----------
    path, file : Path
        As the user named it (perhaps with ``#KEY``), and the archive itself.
    key : str or None
        Which array. None takes the only one that can be an image, else the first of ``IMAGE_KEYS``.

    Raises
    ------
    InputError
    """
    notes: list[str] = []
    with reading(path, "NPZ", notes), open_regular(file) as stream, zipfile.ZipFile(stream) as archive:
        members = {info.filename.removesuffix(".npy"): info for info in archive.infolist() if _is_array(info)}
        if not members:
            held = ", ".join(archive.namelist()[:4])
            what = "is a ZIP archive that holds no NumPy array" + (f", but {held}" if held else "")
            raise InputError(path, what, "Unpack it and name the files in it; an NPZ is made by numpy.savez")
        chosen = _choose(path, file, archive, members, key)
        with archive.open(members[chosen]) as member:
            array = load_array(path, member, members[chosen].file_size)
            member.read(1)  # its checksum is compared at its end
        others = sorted(set(archive.namelist()) - {members[chosen].filename})
        if others:
            listed = ", ".join(name.removesuffix(".npy") for name in others[:8])
            pick = f"; pick another with {file.name}#KEY" if key is None and len(members) > 1 else ""
            notes.append(f"read array '{chosen}', which alone is written{pick} (there are also: {listed})")
        return _image(path, "npz", array, luma, fill, notes, {"key": chosen})


def read_archive(path: str | PathLike[str], names: Collection[str], needed: Collection[str]) -> dict[str, NDArray[Any]]:
    """Numeric arrays of any shape from an NPZ archive, in this machine's byte order.

    Parameters
    ----------
    path : str or PathLike
    names : collection of str
        What to read, where it is there; other arrays are left alone.
    needed : collection of str
        Those of ``names`` that must be there.

    Raises
    ------
    InputError
        If the file cannot be read, lacks an array, or holds more than half of the budget of memory.
    """
    path = Path(path)
    fix = f"Give an NPZ archive with the arrays {', '.join(needed)}, as numpy.savez writes it"
    with open_regular(path) as file:
        if file.read(6) == b"\x93NUMPY":
            raise InputError(path, "is a single array, not an archive", fix)
        file.seek(0)
        with decoding(path, "an NPZ archive", fix), zipfile.ZipFile(file) as archive:
            members = {info.filename.removesuffix(".npy"): info for info in archive.infolist() if _is_array(info)}
            if missing := [name for name in needed if name not in members]:
                listed = ", ".join(list(members)[:12]) or "none"
                raise InputError(path, f"has no array {', '.join(missing)} (it has {listed})", fix)
            wanted = {name: info for name, info in members.items() if name in names}
            check_memory(path, 2 * sum(info.file_size for info in wanted.values()), "its arrays take")
            return {name: _numbers(path, name, archive, info) for name, info in wanted.items()}


def _numbers(path: Path, name: str, archive: zipfile.ZipFile, info: zipfile.ZipInfo) -> NDArray[Any]:
    """One array of an archive, its header checked before anything is allocated."""
    with archive.open(info) as member:
        shape, fortran, dtype = _header(path, member)
        _check_type(path, dtype, name)
        array = _values(path, member, info.file_size, shape, fortran, dtype)
        member.read(1)  # its checksum is compared at its end
    return array.astype(dtype.newbyteorder("="), copy=False)


def write_npy(image: GreyImage, pixels: NDArray[Any], path: Path, notes: list[str] | None = None) -> None:
    """Write [Z, H, W] as NPY with the dtype, byte order and axes that were read; ``notes`` as ``to_stored`` has it."""
    stored = _shaped(image, to_stored(image, pixels, notes=notes))
    with atomic_path(path) as temporary, open(temporary, "wb") as file:
        np.save(file, stored, allow_pickle=False)


def write_npz(image: GreyImage, pixels: NDArray[Any], path: Path, notes: list[str] | None = None) -> None:
    """Write [Z, H, W] as an NPZ archive that holds this one array under the key it was read from."""
    stored = _shaped(image, to_stored(image, pixels, notes=notes))
    member = zipfile.ZipInfo(f"{(image.source or {}).get('key', 'image')}.npy")  # of 1980: same pixels, same bytes
    member.compress_type = zipfile.ZIP_DEFLATED
    with atomic_path(path) as temporary, zipfile.ZipFile(temporary, "w") as archive:
        with archive.open(member, "w", force_zip64=stored.nbytes > 2**30) as file:
            np.lib.format.write_array(file, stored, allow_pickle=False)


def _is_array(info: zipfile.ZipInfo) -> bool:
    return info.filename.endswith(".npy") and not info.is_dir()


def _choose(
    path: Path, file: Path, archive: zipfile.ZipFile, members: dict[str, zipfile.ZipInfo], key: str | None
) -> str:
    """The key to read, or an error that lists what there is."""
    listed = ", ".join(list(members)[:12])
    if key is not None:
        if key in members:
            return key
        hint = did_you_mean(key, members)
        raise InputError(path, f"has no array '{key}'", f"{hint} It has: {listed}".strip())
    if len(members) == 1:
        return next(iter(members))
    images = [name for name, info in members.items() if _may_be_image(path, archive, info)]
    if len(images) == 1:
        return images[0]
    for name in IMAGE_KEYS:
        if name in images:
            return name
    pick = f"Pick one: {file.name}#KEY"
    raise InputError(path, f"holds {len(images)} arrays that could be the image. Keys: {listed}", pick)


def _may_be_image(path: Path, archive: zipfile.ZipFile, info: zipfile.ZipInfo) -> bool:
    """By its header; a damaged member beside the image does no harm."""
    try:
        with archive.open(info) as member:
            shape, _, dtype = _header(path, member)
    except (InputError, ValueError, OSError, EOFError, RuntimeError, NotImplementedError, zipfile.BadZipFile):
        return False
    return len(plain_shape(shape)) in (2, 3) and dtype.kind in "biuf" and 0 not in shape


def _header(path: Path, file: IO[bytes]) -> tuple[tuple[int, ...], bool, np.dtype[Any]]:
    """Shape, Fortran order and dtype that an NPY stream announces; leaves the stream behind the header."""
    version = np.lib.format.read_magic(file)
    width = 2 if version == (1, 0) else 4
    length = file.read(width)
    if len(length) < width:
        raise InputError(path, "is cut off in its NPY header", "Copy or export it again")
    size = struct.unpack("<H" if width == 2 else "<I", length)[0]
    if size > _HEADER:
        raise InputError(path, f"claims an NPY header of {size} bytes, which is no array's", "Save the array again")
    head = io.BytesIO(length + file.read(size))
    if version == (1, 0):
        shape, fortran, dtype = np.lib.format.read_array_header_1_0(head)
    elif version == (2, 0):
        shape, fortran, dtype = np.lib.format.read_array_header_2_0(head)
    else:
        raise InputError(path, f"has NPY version {version[0]}.{version[1]}", "Save a plain numeric array again")
    if dtype.hasobject:
        raise InputError(path, "holds pickled Python objects, which are never loaded", "Save a numeric array")
    return tuple(int(side) for side in shape), fortran, dtype


def _check_type(path: Path, dtype: np.dtype[Any], name: str = "") -> None:
    """``InputError`` for values that are no numbers; ``name`` of the array, where there are several."""
    if dtype.kind not in "biuf" or dtype.itemsize > 8:
        kinds = {"c": "complex numbers", "U": "text", "S": "text", "V": "records", "M": "dates", "m": "durations"}
        what = f"{name} holds values of type {dtype}".strip()[:120]
        what += f" ({kinds[dtype.kind]})" if dtype.kind in kinds else ""
        raise InputError(path, what, "Save it as bool, integer or float")


def load_array(path: Path, file: IO[bytes], size: int) -> NDArray[Any]:
    """The array of an NPY stream of ``size`` bytes, of the shape in the file; ``plain_shape`` of it has 2 or 3 axes."""
    shape, fortran, dtype = _header(path, file)
    _check_type(path, dtype)
    if len(plain_shape(shape)) not in (2, 3):
        raise InputError(path, f"has {len(shape)} axes (shape {shape})", "Save one image [H, W] or a stack [Z, H, W]")
    check_size(path, plain_shape(shape), itemsize=dtype.itemsize)
    return _values(path, file, size, shape, fortran, dtype)


def _values(
    path: Path, file: IO[bytes], size: int, shape: tuple[int, ...], fortran: bool, dtype: np.dtype[Any]
) -> NDArray[Any]:
    """What follows the header in an NPY stream of ``size`` bytes."""
    check_bytes(path, math.prod(shape) * dtype.itemsize, size - file.tell())
    array = np.empty(math.prod(shape), dtype)
    read_into(path, file, array.view(np.uint8).data)
    if dtype.kind == "b":
        array = array.view(np.uint8) != 0  # any other byte than 0 and 1 is a third truth to NumPy
    return array.reshape(shape[::-1]).T if fortran else array.reshape(shape)


def _image(
    path: Path, kind: Any, array: NDArray[Any], luma: bool, fill: float | None, notes: list[str], source: dict[str, Any]
) -> GreyImage:
    """GreyImage of an array; a last axis of 3 or 4 is colour."""
    shape = array.shape
    array = array.reshape(plain_shape(shape))
    if is_colour(array.shape):
        channels = array.shape[-1]
        hint = (
            f"shape {list(shape)} was read as colour, [H, W, {channels}]; "
            f"if these are {channels} slices, move them to the front: numpy.moveaxis(a, -1, 0)"
        )
        array = grey(path, array[..., :3], luma=luma, notes=notes, hint=hint)
        notes.append(hint)
        if channels == 4:
            notes.append("the fourth channel (alpha) was dropped")
        shape = array.shape
    stored = np.ascontiguousarray(array if array.ndim == 3 else array[None])  # [Z, H, W]
    slices, height, width = stored.shape
    notes += axes_note(shape, (slices, height, width))
    stored = replaced(path, stored, fill, notes)
    source["shape"] = shape
    return GreyImage(path, kind, to_float(stored), stored=stored, source=source, warnings=tuple(notes))


def _shaped(image: GreyImage, stored: NDArray[Any]) -> NDArray[Any]:
    """[Z, H, W] with the axes that the file had."""
    return stored.reshape((image.source or {}).get("shape", stored.shape))
