"""Pictures a band of rows at a time: brought to another size, written as PNG, their text read back.

A photo of 20000 x 20000 pixels so costs no more memory than the reduced one that was segmented.
"""

from __future__ import annotations

import struct
import zlib
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np
from numpy.typing import NDArray

from .atomic import atomic_path
from .kinds import MAGIC, open_regular

BAND_PIXELS = 2**21
LEVEL = 4
"""Of zlib: on an overlay of 1411 x 1411 pixels, 6 took 2.6 times as long and saved 7 %."""
_TEXT_BYTES = 2**20


def spans(size: tuple[int, int]) -> Iterator[tuple[int, int]]:
    """First row and the one after the last of each band of a picture of ``size`` (H, W)."""
    rows = max(1, BAND_PIXELS // size[1])
    for start in range(0, size[0], rows):
        yield start, min(start + rows, size[0])


def _positions(count: int, source: int) -> tuple[NDArray[np.intp], NDArray[np.intp], NDArray[np.float32]]:
    """For each of ``count`` positions the two neighbours among ``source`` and the weight of the second."""
    at = np.clip((np.arange(count) + 0.5) * (source / count) - 0.5, 0, source - 1)
    low = np.floor(at).astype(np.intp)
    return low, np.minimum(low + 1, source - 1), (at - low).astype(np.float32)


def bilinear(values: NDArray[Any], size: tuple[int, int], start: int, stop: int) -> NDArray[np.float32]:
    """Rows ``start`` to ``stop`` of ``values`` [h, w] enlarged to ``size``: no seams between bands."""
    if values.shape == size:
        return values[start:stop].astype(np.float32)
    low, high, weight = (part[start:stop] for part in _positions(size[0], values.shape[0]))
    rows = values[low] * (1 - weight[:, None]) + values[high] * weight[:, None]  # [n, w]
    low, high, weight = _positions(size[1], values.shape[1])
    return np.asarray(rows[:, low] * (1 - weight) + rows[:, high] * weight, np.float32)  # [n, W]


def resized(values: NDArray[Any], size: tuple[int, int]) -> NDArray[np.float32]:
    """``values`` [h, w] at another size, bilinear."""
    return bilinear(values, size, 0, size[0])


def nearest(values: NDArray[Any], size: tuple[int, int], start: int, stop: int) -> NDArray[Any]:
    """Rows ``start`` to ``stop`` of ``values`` [h, w] at ``size``, nearest neighbour."""
    if values.shape == size:
        return values[start:stop]
    rows = np.arange(start, stop) * values.shape[0] // size[0]
    columns = np.arange(size[1]) * values.shape[1] // size[1]
    return np.asarray(values[rows[:, None], columns])


def write_png(
    path: Path,
    size: tuple[int, int],
    bands: Iterable[NDArray[Any]],
    *,
    bits: int = 8,
    channels: int = 1,
    text: Mapping[str, str] | None = None,
) -> None:
    """Write a PNG from bands of rows, atomically, without ever holding the whole picture.

    Parameters
    ----------
    path : Path
    size : (H, W)
    bands : iterable of ndarray, shape (n, W) or (n, W, 3), uint8 or uint16; n adds up to H
    bits : {8, 16}
    channels : {1, 3}
    text : mapping of str to str, ASCII

    Raises
    ------
    InputError
        If the place cannot be written.
    """
    above = np.zeros(size[1] * channels * bits // 8, np.uint8)
    packer = zlib.compressobj(LEVEL)
    with atomic_path(path) as temporary, temporary.open("wb") as file:
        file.write(MAGIC["png"][0])
        _chunk(file, b"IHDR", struct.pack(">IIBBBBB", size[1], size[0], bits, 2 if channels == 3 else 0, 0, 0, 0))
        for key, value in (text or {}).items():
            _chunk(file, b"tEXt", key.encode("ascii") + b"\0" + value.encode("latin-1", "replace"))
        for band in bands:
            whole = np.ascontiguousarray(band, np.dtype(">u2") if bits == 16 else np.uint8)
            rows = whole.view(np.uint8).reshape(len(band), -1)
            filtered = np.empty((len(rows), rows.shape[1] + 1), np.uint8)
            filtered[:, 0] = 2  # filter "up": the difference to the row above, modulo 256
            np.subtract(rows[0], above, out=filtered[0, 1:])
            np.subtract(rows[1:], rows[:-1], out=filtered[1:, 1:])
            above = rows[-1].copy()
            _chunk(file, b"IDAT", packer.compress(filtered.data))
        _chunk(file, b"IDAT", packer.flush())
        _chunk(file, b"IEND", b"")


def _chunk(file: BinaryIO, kind: bytes, data: bytes) -> None:
    if data or kind == b"IEND":
        file.write(struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data)))


def read_text(path: Path, key: str) -> bytes | None:
    """The text that a PNG holds under ``key``, before its pixels; None where there is none. Raises ``InputError``."""
    with open_regular(path) as file:
        if not file.read(8).startswith(MAGIC["png"]):
            return None
        while len(head := file.read(8)) == 8 and head[4:] != b"IDAT":
            (length,) = struct.unpack(">I", head[:4])
            data = file.read(min(length, _TEXT_BYTES))
            if head[4:] == b"tEXt" and data.startswith(key.encode() + b"\0"):
                return data.partition(b"\0")[2]
            file.seek(length - len(data) + 4, 1)
    return None
