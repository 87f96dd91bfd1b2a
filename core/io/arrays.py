"""NumPy files: one array (NPY) or an archive of arrays (NPZ). Headers are checked before anything is allocated."""

from __future__ import annotations

import io
import math
import zipfile
from pathlib import Path
from typing import IO, Any

import numpy as np
from numpy.typing import NDArray

from ..errors import InputError, did_you_mean
from .atomic import atomic_path
from .image import GreyImage
from .kinds import open_regular
from .pixels import check_bytes, check_size, filled, grey, reading, to_stored

IMAGE_KEYS = ("image", "noisy", "data", "arr_0")
"""Keys of an archive that are taken for the image, in this order, when it holds several arrays."""
_DEFLATE = 1100.0  # deflate packs at most 1032 bytes into one


def read_npy(path: Path, *, luma: bool = False, fill: float | None = None) -> GreyImage:
    """Read an NPY file of shape [H, W], [Z, H, W] or [H, W, 3 or 4]. Raises ``InputError``."""
    notes: list[str] = []
    with reading(path, "NPY", notes), open_regular(path) as file:
        array = _load(path, file, path.stat().st_size)
        return _image(path, "npy", array, luma, fill, notes, {"ndim": array.ndim})


def read_npz(path: Path, file: Path, key: str | None, *, luma: bool = False, fill: float | None = None) -> GreyImage:
    """Read one array of an NPZ archive.

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
    with reading(path, "NPZ", notes), zipfile.ZipFile(file) as archive:
        members = {info.filename.removesuffix(".npy"): info for info in archive.infolist() if _is_array(info)}
        chosen = _choose(path, file, archive, members, key)
        info = members[chosen]
        check_bytes(path, info.file_size, info.compress_size, _DEFLATE)
        with archive.open(info) as member:
            array = _load(path, member, info.file_size)
        others = sorted(set(members) - {chosen})
        if others and key is None:
            notes.append(f"read array '{chosen}'; pick another with {file.name}#KEY ({', '.join(others[:8])})")
        return _image(path, "npz", array, luma, fill, notes, {"ndim": array.ndim, "key": chosen})


def write_npy(image: GreyImage, pixels: NDArray[Any], path: Path) -> None:
    """Write [Z, H, W] as NPY with the dtype, byte order and number of axes that were read."""
    stored = _shaped(image, to_stored(image, pixels))
    with atomic_path(path) as temporary, open(temporary, "wb") as file:
        np.save(file, stored, allow_pickle=False)


def write_npz(image: GreyImage, pixels: NDArray[Any], path: Path) -> None:
    """Write [Z, H, W] as an NPZ archive that holds this one array under the key it was read from."""
    stored = _shaped(image, to_stored(image, pixels))
    key = str((image.source or {}).get("key", "image"))
    with atomic_path(path) as temporary, zipfile.ZipFile(temporary, "w", zipfile.ZIP_DEFLATED) as archive:
        buffer = io.BytesIO()
        np.save(buffer, stored, allow_pickle=False)
        archive.writestr(zipfile.ZipInfo(f"{key}.npy"), buffer.getvalue(), zipfile.ZIP_DEFLATED)


def _is_array(info: zipfile.ZipInfo) -> bool:
    return info.filename.endswith(".npy") and not info.is_dir()


def _choose(
    path: Path, file: Path, archive: zipfile.ZipFile, members: dict[str, zipfile.ZipInfo], key: str | None
) -> str:
    """The key to read, or an error that lists what there is."""
    listed = ", ".join(list(members)[:12])
    if not members:
        raise InputError(path, "holds no NumPy array", "An NPZ archive made by numpy.savez is needed")
    if key is not None:
        if key in members:
            return key
        hint = did_you_mean(key, members)
        raise InputError(path, f"has no array '{key}'", f"{hint} It has: {listed}".strip())
    images = []
    for name, info in members.items():
        with archive.open(info) as member:
            shape, dtype = _header(path, member)
        if len(shape) in (2, 3) and dtype.kind in "biuf" and 0 not in shape:
            images.append(name)
    if len(images) == 1:
        return images[0]
    for name in IMAGE_KEYS:
        if name in images:
            return name
    pick = f"Pick one: {file.name}#KEY"
    raise InputError(path, f"holds {len(images)} arrays that could be the image. Keys: {listed}", pick)


def _header(path: Path, file: IO[bytes]) -> tuple[tuple[int, ...], np.dtype[Any]]:
    """Shape and dtype that an NPY stream announces; leaves the stream behind the header."""
    version = np.lib.format.read_magic(file)
    if version == (1, 0):
        shape, _, dtype = np.lib.format.read_array_header_1_0(file)
    elif version == (2, 0):
        shape, _, dtype = np.lib.format.read_array_header_2_0(file)
    else:
        raise InputError(path, f"has NPY version {version[0]}.{version[1]}", "Save a plain numeric array again")
    if dtype.hasobject:
        raise InputError(path, "holds pickled Python objects, which are never loaded", "Save a numeric array")
    return tuple(int(side) for side in shape), dtype


def _load(path: Path, file: IO[bytes], size: int) -> NDArray[Any]:
    """The array of an NPY stream of ``size`` bytes: [H, W], [Z, H, W] or [H, W, 3 or 4]."""
    shape, dtype = _header(path, file)
    if dtype.kind not in "biuf" or dtype.itemsize > 8:
        raise InputError(path, f"holds values of type {dtype}", "Save it as bool, integer or float")
    if len(shape) not in (2, 3):
        raise InputError(path, f"has {len(shape)} axes (shape {shape})", "Save one image [H, W] or a stack [Z, H, W]")
    check_size(path, shape, itemsize=dtype.itemsize)
    check_bytes(path, math.prod(shape) * dtype.itemsize, size - file.tell())
    file.seek(0)
    return np.asarray(np.lib.format.read_array(file, allow_pickle=False))


def _image(
    path: Path, kind: Any, array: NDArray[Any], luma: bool, fill: float | None, notes: list[str], source: dict[str, Any]
) -> GreyImage:
    """GreyImage of an array; a last axis of 3 or 4 is colour (nobody has slices three pixels wide)."""
    if array.ndim == 3 and array.shape[-1] in (3, 4) and min(array.shape[:2]) > 4:
        if array.shape[-1] == 4:
            notes.append("the fourth channel (alpha) was dropped")
        array = grey(path, array[..., :3], luma=luma, notes=notes)
        source["ndim"] = 2
    stored = np.ascontiguousarray(array if array.ndim == 3 else array[None])  # [Z, H, W]
    return GreyImage(path, kind, filled(path, stored, fill, notes), stored=stored, source=source, warnings=tuple(notes))


def _shaped(image: GreyImage, stored: NDArray[Any]) -> NDArray[Any]:
    """[Z, H, W] with as many axes as the file had."""
    return stored[0] if (image.source or {}).get("ndim") == 2 else stored
