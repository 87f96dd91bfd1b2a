"""Colour photos of any common kind, told by content, as RGB in [0, 1]; large ones can be reduced while they are read.

``photo_decode.py`` gives the stored values in strips; here they become upright float32, with white at 1.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from os import PathLike
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ...errors import InputError
from ..pixels import DAMAGED, reading
from .decode import DecodedPhoto, decode, kind_of, reduced

PHOTO_SUFFIXES = tuple(
    ".png .jpg .jpeg .jpe .jfif .tif .tiff .bmp .gif .ppm .pgm .pbm .pnm .webp .jp2 .j2k .jpf .jpx .avif .heic .heif "
    ".jxl .npy".split()
)
"""Suffixes under which a directory is searched for photos; ``photo_decode.OPTIONAL`` says which need another reader."""
_SHALLOW = (10, 12, 14)  # bits of sensors whose values cameras store in 16 without scaling them
STRIP = 2**24  # 64 MB as float32


@dataclass(frozen=True, slots=True)
class Photo:
    """A colour photo.

    Parameters
    ----------
    path : Path
        Where it was read.
    pixels : ndarray, shape (3, h, w), float32 in [0, 1]
        Red, green and blue, upright. (h, w) is ``size`` unless the photo was reduced.
    size : (H, W)
        Of the whole photo in pixels, upright.
    bits : int
        Stored bits per channel.
    white : float
        The stored value that became 1.
    orientation : int
        EXIF's, 1 to 8, which was undone: ``pixels`` are upright. 1 where the file names none.
    warnings : tuple of str
        What the reader noticed and the user should know.
    """

    path: Path
    pixels: NDArray[np.float32]
    size: tuple[int, int]
    bits: int
    white: float = 255.0
    orientation: int = 1
    warnings: tuple[str, ...] = ()


def read_photo(
    path: str | PathLike[str],
    *,
    max_side: int | None = None,
    uniform: bool = False,
    alpha: bool = False,
    orientation: int | None = None,
    strip: int = STRIP,
) -> Photo:
    """Read a colour photo.

    Parameters
    ----------
    path : str or PathLike
        PNG (1 to 16 bits), JPEG (RGB, grey, CMYK), TIFF (8 or 16 bits, float), BMP, GIF, PPM, WebP, JPEG 2000, AVIF,
        DICOM or NPY ([H, W], [H, W, 3 or 4], [3, H, W]); HEIC and JPEG XL where Pillow's plug-in for them is installed.
        Told by content, not by name.
    max_side : int, optional
        Reduce a larger photo so that its longer side has this many pixels, by area means; a smaller one is left. JPEG
        is reduced while it is decoded. Without it 20000 x 20000 pixels take 4.8 GB, and 1.2 to 1.6 GB while decoding.
    uniform : bool
        Accept one colour all over, as a mask may have; a photo of that kind is refused.
    alpha : bool
        Read the opacity in the place of the colours: 1 all over where the file has none.
    orientation : int, optional
        Undo this EXIF orientation, whatever the file says: 1 leaves it as it is stored.
    strip : int
        Values that are decoded and reduced at a time.

    Returns
    -------
    Photo. EXIF orientation is applied, alpha dropped, grey copied to all three channels; the latter two are warned of.

    Raises
    ------
    InputError
        If the file is no picture, damaged, larger than the budget of memory allows, holds NaN or one colour only
        (unless ``uniform``), or needs a reader that is not installed.
    ValueError
        If ``max_side`` < 1.
    """
    if max_side is not None and max_side < 1:
        raise ValueError(f"max_side must be at least 1, got {max_side}")
    path, notes = Path(path), list[str]()
    kind = kind_of(path)
    with reading(path, kind, notes):
        source = decode(path, kind, max_side, notes, alpha=alpha)
        pixels, white = _assemble(path, source, max_side, uniform or alpha, notes, strip)
    size, declared, turned = source.size, source.orientation, source.turned
    if turned != 1 and orientation is not None:  # the decoder has turned it: back to what is stored
        pixels, size = _upright(pixels, _INVERSE[turned]), _sides(size, turned)
        declared = 1
    wanted = declared if orientation is None else orientation
    pixels, size = _upright(pixels, wanted), _sides(size, wanted)
    turn = max(declared, turned) if orientation is None else orientation
    return Photo(path, pixels, size, source.bits, white, turn, tuple(dict.fromkeys(notes)))


_INVERSE = {**{turn: turn for turn in range(1, 9)}, 6: 8, 8: 6}
"""EXIF orientations by the one that undoes them."""


def _sides(size: tuple[int, int], orientation: int) -> tuple[int, int]:
    """(H, W) once turned."""
    return size[::-1] if orientation in (5, 6, 7, 8) else size


def _area_weights(extent: float, count: int) -> Any:
    """Sparse [count, ceil(extent)]: each row takes the mean of one of ``count`` equal shares of ``extent`` pixels."""
    from scipy.sparse import csr_array

    cuts = np.union1d(np.arange(math.ceil(extent)), np.linspace(0, extent, count + 1))
    middle, length = (cuts[1:] + cuts[:-1]) / 2, np.diff(cuts)
    row = np.minimum((middle * count / extent).astype(np.int64), count - 1)
    weight = (length * count / extent).astype(np.float32)
    return csr_array((weight, (row, middle.astype(np.int64))), shape=(count, math.ceil(extent)))


def shrunk(plane: NDArray[np.float32], max_side: int) -> NDArray[np.float32]:
    """``plane`` [H, W] by area means, with the longer side at most ``max_side``, as a photo of that size is reduced."""
    height, width = plane.shape
    small = reduced((height, width), max_side)
    if small == (height, width):
        return plane
    narrow = (_area_weights(width, small[1]) @ plane.T).T  # [H, w]
    return np.asarray(_area_weights(height, small[0]) @ narrow, np.float32)


def _assemble(
    path: Path, source: DecodedPhoto, max_side: int | None, uniform: bool, notes: list[str], values: int
) -> tuple[NDArray[np.float32], float]:
    """Strip by strip to float32 [3, h, w] in [0, 1], as it is stored, and the value of white."""
    height, width = reduced(source.size, max_side)
    total = math.ceil(source.extent[0])
    down: Any = None
    across: Any = None
    if (height, width) != (total, math.ceil(source.extent[1])):
        down, across = _area_weights(source.extent[0], height), _area_weights(source.extent[1], width)
    pixels = np.empty((3, height, width), np.float32)
    per_row = 3 * source.extent[1] * source.extent[0] / height
    step = max(1, int(values / per_row))  # rows of the result at a time
    low: Any = None
    high: Any = None
    kind = np.dtype(np.uint8)
    coloured = False
    for start in range(0, height, step):
        stop = min(start + step, height)
        begin, end = start, stop
        if down is not None:
            begin = int(start * source.extent[0] / height)
            end = min(total, math.ceil(stop * source.extent[0] / height))
        strip = source.rows(begin, end)
        strip = strip[..., None] if strip.ndim == 2 else strip  # [n, W, 1 or 3]
        if strip.dtype.kind == "f" and not np.isfinite(strip).all():
            raise InputError(path, "holds NaN or infinite values", "Replace them and save it again")
        kind = strip.dtype
        low, high = _extremes(strip, low, high)
        coloured = coloured or (strip.shape[-1] == 3 and bool((strip != strip[..., :1]).any()))
        for channel in range(3):
            plane = strip[..., min(channel, strip.shape[-1] - 1)]
            if down is not None:
                narrow = (across @ plane.T.astype(np.float32)).T  # [n, w]
                plane = down[start:stop, begin:end] @ narrow
            pixels[channel, start:stop] = plane
    if not uniform and np.array_equal(low, high):
        colour = "of one colour" if np.any(high) else "black"
        raise InputError(path, f"is all {colour}: nothing is to be seen in it", DAMAGED)
    if not coloured:
        notes.append("grey: its one channel serves as red, green and blue")
    top = source.top or _white(path, kind, float(low.min()), float(high.max()), notes)
    pixels *= np.float32(1 / top)
    np.clip(pixels, 0, 1, out=pixels)
    return pixels, top


def _extremes(strip: NDArray[Any], low: Any, high: Any) -> tuple[Any, Any]:
    """Least and greatest value of each channel so far, of [n, W, C]."""
    least, most = strip.min((0, 1)), strip.max((0, 1))
    return (least, most) if low is None else (np.minimum(low, least), np.maximum(high, most))


def _white(path: Path, dtype: np.dtype[Any], low: float, high: float, notes: list[str]) -> float:
    """The value that stands for white."""
    if low < (-1e-3 if dtype.kind == "f" else 0):
        raise InputError(path, f"holds negative values, down to {low:g}", "Scale them to 0 ... 1")
    if dtype.kind == "b":
        return 1.0
    if dtype == np.uint8:
        return 255.0
    if dtype == np.int8:
        return 127.0
    if dtype.kind == "f" and high <= 1.001:
        return 1.0
    if high <= 255 and (dtype.kind == "f" or dtype.itemsize > 2):
        if dtype.kind == "f":
            notes.append("values above 1: taken as 0 ... 255")
        return 255.0
    if dtype.kind == "f" or high > 65535:
        raise InputError(path, f"holds values up to {high:g}", "Scale them to 0 ... 1, or save it with 16 bits")
    for bits in _SHALLOW:
        if 255 < high < 2**bits:
            notes.append(f"no value above {high:.0f} in 16 bits: taken as {bits}-bit data")
            return float(2**bits - 1)
    return 65535.0


def _upright(pixels: NDArray[np.float32], orientation: int) -> NDArray[np.float32]:
    """Undo the EXIF orientation of [3, h, w]."""
    if orientation in (5, 6, 7, 8):
        pixels = pixels.swapaxes(1, 2)
    if orientation in (3, 4, 7, 8):
        pixels = pixels[:, ::-1]
    if orientation in (2, 3, 6, 7):
        pixels = pixels[:, :, ::-1]
    return np.ascontiguousarray(pixels)
