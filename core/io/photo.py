"""Colour photos of any common kind, told by content, as RGB in [0, 1]; large ones can be reduced while they are read.

PNG, JPEG, GIF, BMP, PPM and WebP go through Pillow, TIFF through tifffile (through Pillow where tifffile would need
the package imagecodecs), arrays through NumPy. Pillow cuts 16-bit colour to its high bytes; the low bytes come from a
second decoding that reads the same samples in the other byte order.
"""

from __future__ import annotations

import math
import sys
from collections.abc import Callable
from dataclasses import dataclass
from os import PathLike
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ..errors import InputError
from .arrays import _load
from .kinds import open_regular, sniff
from .pixels import check_bytes, reading
from .raster import _PNG_CHANNELS, _RATIOS, _png_header, _silenced, _unlimited

MAX_PHOTO_PIXELS = 2**29
"""Pixels in one photo; 20000 x 20000 fits. Headers that promise more are refused before anything is allocated."""

PHOTO_SUFFIXES = (".png", ".jpg", ".jpeg", ".tif", ".tiff", ".bmp", ".gif", ".ppm", ".pgm", ".webp", ".npy")
"""Suffixes under which a directory is searched for photos."""

_MAGIC: tuple[tuple[bytes, str], ...] = (
    (b"\x89PNG\r\n\x1a\n", "PNG"),
    (b"\xff\xd8\xff", "JPEG"),
    (b"II*\0", "TIFF"),
    (b"MM\0*", "TIFF"),
    (b"II+\0", "TIFF"),  # BigTIFF
    (b"MM\0+", "TIFF"),
    (b"GIF8", "GIF"),
    (b"BM", "BMP"),
    (b"\x93NUMPY", "NPY"),
)
_READABLE = "Readable are PNG, JPEG, TIFF, BMP, GIF, PPM, WebP and NPY"
_DENSEST = {"JPEG": 1e4, "GIF": 2500.0, "PPM": 8.0}  # most bytes of pixels in one byte of file; PPM: bitmaps
_TIFFFILE_CODINGS = (1, 8, 32773, 32946, 34925)  # none, Deflate, PackBits, LZMA: those without imagecodecs
_SHALLOW = (10, 12, 14)  # bits of sensors whose values cameras store in 16 without scaling them
_STRIP = 2**24  # values per strip: 64 MB as float32
_AGAIN = "The file may be damaged: copy or export it again"


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
    warnings : tuple of str
        What the reader noticed and the user should know.
    """

    path: Path
    pixels: NDArray[np.float32]
    size: tuple[int, int]
    bits: int
    warnings: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class _Source:
    """Decoded values, handed out in strips so that no second copy of a large photo is made.

    rows(a, b) gives [b - a, W] or [b - a, W, C]; ``extent`` is the part of them (rows, columns) that is picture;
    ``top`` is the value of white where the type does not tell; ``orientation`` is EXIF's.
    """

    rows: Callable[[int, int], NDArray[Any]]
    size: tuple[int, int]
    extent: tuple[float, float]
    bits: int
    top: float | None = None
    orientation: int = 1


def read_photo(path: str | PathLike[str], *, max_side: int | None = None, uniform: bool = False) -> Photo:
    """Read a colour photo.

    Parameters
    ----------
    path : str or PathLike
        PNG (1 to 16 bits), JPEG (RGB, grey, CMYK), TIFF (8 or 16 bits, float), BMP, GIF, PPM, WebP or NPY ([H, W],
        [H, W, 3 or 4], [3, H, W]). Told by content, not by name.
    max_side : int, optional
        Reduce a larger photo so that its longer side has this many pixels, by area means; a smaller one is left. JPEG
        is reduced while it is decoded. Without it 20000 x 20000 pixels take 4.8 GB, and 1.2 to 1.6 GB while decoding.
    uniform : bool
        Accept one colour all over, as a mask may have; a photo of that kind is refused.

    Returns
    -------
    Photo. EXIF orientation is applied, alpha dropped, grey copied to all three channels; the latter two are warned of.

    Raises
    ------
    InputError
        If the file is no picture, damaged, too large (``MAX_PHOTO_PIXELS``), holds NaN, or one colour only
        (unless ``uniform``).
    ValueError
        If ``max_side`` < 1.
    """
    if max_side is not None and max_side < 1:
        raise ValueError(f"max_side must be at least 1, got {max_side}")
    path, notes = Path(path), list[str]()
    kind = _kind(path)
    with reading(path, kind, notes):
        if kind == "NPY":
            source = _array(path, notes)
        elif kind == "TIFF":
            source = _tiff(path, notes)
        else:
            source = _pillow(path, kind, max_side, notes)
        pixels, size = _assemble(path, source, max_side, uniform, notes)
    return Photo(path, pixels, size, source.bits, tuple(dict.fromkeys(notes)))


def _kind(path: Path) -> str:
    with open_regular(path) as file:
        head = file.read(16)
    for magic, kind in _MAGIC:
        if head.startswith(magic):
            return kind
    if head[:1] == b"P" and head[1:2] in b"123456" and head[2:3].isspace():
        return "PPM"
    if head[:4] == b"RIFF" and head[8:12] == b"WEBP":
        return "WEBP"
    try:
        other = sniff(path)
    except InputError as error:
        raise InputError(path, error.what, _READABLE if head else error.fix) from None
    raise InputError(path, f"is no colour photo but a file of kind {other}", "Export it as PNG, TIFF or JPEG")


def _check_size(path: Path, height: int, width: int) -> None:
    if min(height, width) < 1:
        raise InputError(path, f"has no pixels: its size is {height} x {width}", "The header may be damaged")
    if height * width > MAX_PHOTO_PIXELS:
        what = f"claims {height} x {width} pixels, more than the limit of {MAX_PHOTO_PIXELS}"
        raise InputError(path, what, "The header may be damaged; if it is not, reduce the photo")


def _array(path: Path, notes: list[str]) -> _Source:
    """NPY of [H, W], [H, W, 3 or 4] or [3, H, W]."""
    with open_regular(path) as file:
        array = _load(path, file, path.stat().st_size)
    if array.ndim == 3 and array.shape[-1] not in (3, 4):
        if len(array) != 3:
            raise InputError(path, f"has shape {array.shape}", "Save one photo as [H, W, 3] or [3, H, W]")
        array = np.moveaxis(array, 0, -1)  # [H, W, 3]
    bits = 1 if array.dtype.kind == "b" else 8 * array.dtype.itemsize
    return _whole(array, bits, notes)


def _whole(array: NDArray[Any], bits: int, notes: list[str], top: float | None = None, orientation: int = 1) -> _Source:
    """A source of [H, W] or [H, W, C], all of it in memory."""
    height, width = array.shape[:2]
    if array.ndim == 3 and array.shape[-1] in (2, 4):
        notes.append("the alpha channel was dropped")
        array = array[..., :-1]
    return _Source(lambda a, b: array[a:b], (height, width), (height, width), bits, top, orientation)


def _tiff(path: Path, notes: list[str]) -> _Source:
    """The first full-size picture of a TIFF."""
    import tifffile

    with open_regular(path) as file, tifffile.TiffFile(file, name=path.name) as tiff:
        page = tiff.pages.first
        height, width, bits = page.imagelength, page.imagewidth, page.bitspersample
        if not all(isinstance(value, int) for value in (height, width, bits)):  # each may be a tuple in a damaged file
            raise InputError(path, f"has channels of different depth or no proper size (bits {bits!s:.40})", _AGAIN)
        _check_size(path, height, width)
        coding, photometric, colours = int(page.compression), int(page.photometric), page.samplesperpixel
        if not 1 <= colours <= 5 or page.imagedepth != 1:
            raise InputError(path, f"has {colours} channels and depth {page.imagedepth}", "Save it as an RGB image")
        packed = (height * width * colours * bits + 7) // 8
        check_bytes(path, packed, path.stat().st_size, _RATIOS.get(coding, 1e4))
        if len(tiff.pages) > 1:
            notes.append(f"holds {len(tiff.pages)} pictures: only the first is read")
        if coding not in _TIFFFILE_CODINGS or photometric not in (0, 1, 2, 3):
            return _pillow(path, "TIFF", None, notes)
        if page.dtype is None or page.dtype.kind not in "biuf":
            raise InputError(path, f"holds values of type {page.dtype}", "Save it with 8 or 16 bits per channel")
        array = page.asarray()
        if array.ndim == 3 and page.axes[0] == "S":
            array = np.moveaxis(array, 0, -1)  # [H, W, C]
        orientation = page.tags.valueof(274)
        top = None if array.dtype.kind == "f" or bits in (8, 16) else float(2**bits - 1)
        if photometric == 3 and page.colormap is not None:
            array, bits, top = np.moveaxis(page.colormap >> 8, 0, -1).astype(np.uint8)[array], 8, None  # [H, W, 3]
        elif photometric == 0 and array.dtype.kind in "bu":
            array = ~array if top is None or array.dtype.kind == "b" else (int(top) - array).astype(array.dtype)
        return _whole(array, bits, notes, top, orientation if isinstance(orientation, int) else 1)


def _pillow(path: Path, kind: str, max_side: int | None, notes: list[str]) -> _Source:
    """The first picture of a file that Pillow reads."""
    from PIL import Image

    formats = ["JPEG", "MPO"] if kind == "JPEG" else [kind]
    depth = 8
    if kind == "PNG":
        width, height, depth, colour = _png_header(path)
        _check_size(path, height, width)
        row = (width * depth * _PNG_CHANNELS[colour] + 7) // 8
        check_bytes(path, height * row, path.stat().st_size, 1100.0)
        depth = 8 if colour == 3 else depth
    with _silenced(), _unlimited(), open_regular(path) as file, Image.open(file, formats=formats) as picture:
        width, height = picture.size
        _check_size(path, height, width)
        if kind in _DENSEST:
            check_bytes(path, height * width * len(picture.getbands()), path.stat().st_size, _DENSEST[kind])
        if getattr(picture, "n_frames", 1) > 1 and kind in ("PNG", "GIF", "WEBP"):
            notes.append("holds several pictures: only the first is read")
        if kind == "JPEG" and max_side is not None and max(width, height) > max_side:
            picture.draft(None, _reduced((width, height), max_side))  # decodes 1/2, 1/4 or 1/8 of the size
        extent, low = (float(height), float(width)), None
        mark = _raw_mode(picture)
        if ";16" in mark and not picture.mode.startswith("I"):
            if mark == "LA;16B":  # as four bytes per pixel: high and low of grey, high and low of alpha
                picture._mode = "RGBA"
                _set_raw_mode(picture, "RGBA")
            elif mark[:-1] in ("RGB;16", "RGBA;16", "RGBX;16"):
                low = _low_bytes(file, formats, mark)
            else:
                notes.append("16 bits per channel were cut to 8")
                mark = ""
        picture.load()
        if kind == "JPEG":  # a reduced picture's last row and column may stand for less than a whole pixel
            scale = max(1, round(width / picture.size[0]), round(height / picture.size[1]))
            extent = (height / scale, width / scale)
        elif picture.size != (width, height):  # TIFF: Pillow has turned it already
            (width, height), extent = picture.size, (float(picture.size[1]), float(picture.size[0]))
        orientation = picture.getexif().get(274, 1)
        if "A" in picture.getbands() or "transparency" in picture.info:
            notes.append("the alpha channel was dropped")
        if picture.mode == "CMYK":
            notes.append("CMYK converted to RGB without a colour profile")
    deep = mark == "LA;16B" or low is not None or picture.mode.startswith("I")
    bits = 16 if deep else 1 if picture.mode == "1" else 32 if picture.mode == "F" else min(depth, 8)
    rows = _strips(picture, low, mark)
    return _Source(rows, (height, width), extent, bits, None, orientation if isinstance(orientation, int) else 1)


def _raw_mode(picture: Any) -> str:
    """How Pillow is about to unpack the stored samples."""
    args = picture.tile[0][3] if picture.tile else ""
    mark = args[0] if isinstance(args, tuple) and args else args
    return mark if isinstance(mark, str) else ""


def _set_raw_mode(picture: Any, mark: str) -> None:
    tiles = []
    for tile in picture.tile:  # a plain tuple before Pillow 11, a named one since
        args = (mark, *tile[3][1:]) if isinstance(tile[3], tuple) else mark
        tiles.append(tile._replace(args=args) if hasattr(tile, "_replace") else (*tile[:3], args))
    picture.tile = tiles


def _low_bytes(file: Any, formats: list[str], mark: str) -> Any:
    """The low bytes of 16-bit colour: decoded once more, as if the samples were stored in the other byte order."""
    from PIL import Image

    order = {"little": "L", "big": "B"}[sys.byteorder] if mark[-1] == "N" else mark[-1]
    position = file.tell()
    file.seek(0)
    picture = Image.open(file, formats=formats)
    _set_raw_mode(picture, mark[:-1] + ("B" if order == "L" else "L"))
    picture.load()
    file.seek(position)
    return picture


def _strips(picture: Any, low: Any, mark: str) -> Callable[[int, int], NDArray[Any]]:
    """Rows of a decoded Pillow picture: [n, W] grey or [n, W, 3] colour, alpha dropped."""
    grey, width = picture.mode in ("1", "L", "LA", "La", "F") or picture.mode.startswith("I"), picture.size[0]

    def rows(start: int, stop: int) -> NDArray[Any]:
        box = (0, start, width, stop)
        strip = picture.crop(box)
        if mark == "LA;16B":
            pair = np.asarray(strip).astype(np.uint16)  # [n, W, 4]
            return pair[..., 0] << 8 | pair[..., 1]
        if low is not None:
            both = [np.asarray(one)[..., :3].astype(np.uint16) for one in (strip, low.crop(box))]  # [n, W, 3]
            return both[0] << 8 | both[1]
        if not grey:
            return np.asarray(strip if strip.mode == "RGB" else strip.convert("RGB"))
        return np.asarray(strip.convert("L") if strip.mode in ("LA", "La") else strip)

    return rows


def _reduced(size: tuple[int, int], max_side: int | None) -> tuple[int, int]:
    """The two sides, with the longer at most ``max_side``."""
    scale = 1.0 if max_side is None else min(1.0, max_side / max(size))
    return max(1, round(size[0] * scale)), max(1, round(size[1] * scale))


def _area_weights(extent: float, count: int) -> Any:
    """Sparse [count, ceil(extent)]: each row takes the mean of one of ``count`` equal shares of ``extent`` pixels."""
    from scipy.sparse import csr_array

    cuts = np.union1d(np.arange(math.ceil(extent)), np.linspace(0, extent, count + 1))
    middle, length = (cuts[1:] + cuts[:-1]) / 2, np.diff(cuts)
    row = np.minimum((middle * count / extent).astype(np.int64), count - 1)
    weight = (length * count / extent).astype(np.float32)
    return csr_array((weight, (row, middle.astype(np.int64))), shape=(count, math.ceil(extent)))


def _assemble(
    path: Path, source: _Source, max_side: int | None, uniform: bool, notes: list[str]
) -> tuple[NDArray[np.float32], tuple[int, int]]:
    """Strip by strip to float32 [3, h, w] in [0, 1], and the size of the whole photo; both upright."""
    height, width = _reduced(source.size, max_side)
    total = math.ceil(source.extent[0])
    down: Any = None
    across: Any = None
    if (height, width) != (total, math.ceil(source.extent[1])):
        down, across = _area_weights(source.extent[0], height), _area_weights(source.extent[1], width)
    pixels = np.empty((3, height, width), np.float32)
    per_row = 3 * source.extent[1] * source.extent[0] / height
    step = max(1, int(_STRIP / per_row))  # rows of the result at a time
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
        raise InputError(path, f"is all {colour}: there is no field of view to be found", _AGAIN)
    if not coloured:
        notes.append("grey: its one channel serves as red, green and blue")
    top = source.top or _white(path, kind, float(low.min()), float(high.max()), notes)
    pixels *= np.float32(1 / top)
    np.clip(pixels, 0, 1, out=pixels)
    size = source.size[::-1] if source.orientation in (5, 6, 7, 8) else source.size
    return _upright(pixels, source.orientation), size


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
