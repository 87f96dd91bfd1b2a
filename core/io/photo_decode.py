"""Decoders of photos: a file of any common kind, told by content, as values handed out in strips.

PNG, JPEG, GIF, BMP, PPM and WebP go through Pillow, TIFF through tifffile (through Pillow where tifffile would need
the package imagecodecs), arrays through NumPy. Pillow cuts 16-bit colour to its high bytes; the low bytes come from a
second decoding that reads the same samples in the other byte order.
"""

from __future__ import annotations

import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ..errors import InputError
from .arrays import _load
from .axes import plain_shape
from .kinds import MAGIC, open_regular, sniff
from .pixels import DAMAGED, check_bytes, check_size
from .raster import _PNG_CHANNELS, _RATIOS, _painted, _png_header, _silenced, _unlimited

MAX_PHOTO_PIXELS = 2**29
"""Pixels in one photo; 20000 x 20000 fits. Headers that promise more are refused before anything is allocated."""

_MARKED = ("PNG", "JPEG", "TIFF", "GIF", "BMP", "NPY")
_READABLE = "Readable are PNG, JPEG, TIFF, BMP, GIF, PPM, WebP and NPY"
_DENSEST = {"JPEG": 1e4, "GIF": 2500.0, "PPM": 8.0}  # most bytes of pixels in one byte of file; PPM: bitmaps
_TIFFFILE_CODINGS = (1, 8, 32773, 32946, 34925)  # none, Deflate, PackBits, LZMA: those without imagecodecs


@dataclass(frozen=True, slots=True)
class Source:
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


def decode(path: Path, kind: str, max_side: int | None, notes: list[str]) -> Source:
    """The first picture of a file of ``kind``; a JPEG perhaps already reduced towards ``max_side``."""
    if kind == "NPY":
        return _array(path, notes)
    if kind == "TIFF":
        return _tiff(path, notes)
    return _pillow(path, kind, max_side, notes)


def kind_of(path: Path) -> str:
    """``PNG``, ``JPEG``, ... by the first bytes. Raises ``InputError`` for what is no photo."""
    with open_regular(path) as file:
        head = file.read(16)
    for kind in _MARKED:
        if head.startswith(MAGIC[kind.lower()]):
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


def reduced(size: tuple[int, int], max_side: int | None) -> tuple[int, int]:
    """The two sides, with the longer at most ``max_side``."""
    scale = 1.0 if max_side is None else min(1.0, max_side / max(size))
    return max(1, round(size[0] * scale)), max(1, round(size[1] * scale))


def _check_size(path: Path, height: int, width: int) -> None:
    # four bytes per pixel while decoding; what is made of a photo depends on its reduction, and is its user's to count
    check_size(path, (height, width), itemsize=1, each=2, slice_each=0, limit=MAX_PHOTO_PIXELS, advice="reduce it")


def _array(path: Path, notes: list[str]) -> Source:
    """NPY of [H, W], [H, W, 3 or 4] or [3, H, W]."""
    with open_regular(path) as file:
        array = _load(path, file, path.stat().st_size)
    array = array.reshape(plain_shape(array.shape))
    if array.ndim == 3 and array.shape[-1] not in (3, 4):
        if len(array) != 3:
            raise InputError(path, f"has shape {array.shape}", "Save one photo as [H, W, 3] or [3, H, W]")
        array = np.moveaxis(array, 0, -1)  # [H, W, 3]
    bits = 1 if array.dtype.kind == "b" else 8 * array.dtype.itemsize
    return _whole(array, bits, notes)


def _whole(array: NDArray[Any], bits: int, notes: list[str], top: float | None = None, orientation: Any = 1) -> Source:
    """A source of [H, W] or [H, W, C], all of it in memory."""
    height, width = array.shape[:2]
    if array.ndim == 3 and array.shape[-1] in (2, 4):
        notes.append("the alpha channel was dropped")
        array = array[..., :-1]
    return Source(lambda a, b: array[a:b], (height, width), (height, width), bits, top, _turn(orientation))


def _tiff(path: Path, notes: list[str]) -> Source:
    """The first full-size picture of a TIFF."""
    import tifffile

    with open_regular(path) as file, tifffile.TiffFile(file, name=path.name) as tiff:
        page = tiff.pages.first
        height, width, bits = page.imagelength, page.imagewidth, page.bitspersample
        if not all(isinstance(value, int) for value in (height, width, bits)):  # each may be a tuple in a damaged file
            raise InputError(path, f"has channels of different depth or no proper size (bits {bits!s:.40})", DAMAGED)
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
        top = None if array.dtype.kind == "f" or bits in (8, 16) else float(2**bits - 1)
        if photometric == 3 and page.colormap is not None:
            array, bits, top = _painted(array, page), 8, None  # [H, W, 3]
        elif photometric == 0 and array.dtype.kind in "bu":
            array = ~array if top is None or array.dtype.kind == "b" else (int(top) - array).astype(array.dtype)
        return _whole(array, bits, notes, top, page.tags.valueof(274))


def _pillow(path: Path, kind: str, max_side: int | None, notes: list[str]) -> Source:
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
            picture.draft(None, reduced((width, height), max_side))  # decodes 1/2, 1/4 or 1/8 of the size
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
    return Source(rows, (height, width), extent, bits, None, _turn(orientation))


def _turn(orientation: Any) -> int:
    """EXIF's orientation; damaged files hold anything."""
    return orientation if isinstance(orientation, int) else 1


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
