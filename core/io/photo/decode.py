"""Decoders of photos: a file of any common kind, told by content, as values handed out in strips.

PNG, JPEG, GIF, BMP, PPM, WebP, JPEG 2000 and AVIF go through Pillow, HEIC and JPEG XL through a plug-in of Pillow
where one is installed, TIFF through tifffile (through Pillow where tifffile would need the package imagecodecs), DICOM
through our own reader, arrays through NumPy. Pillow cuts 16-bit colour to its high bytes; the low bytes of PNG and TIFF
come from a second decoding that reads the same samples in the other byte order. What a picture will take is computed
from its header and compared with the budget of memory before a decoder sees it.
"""

from __future__ import annotations

import math
import sys
from collections.abc import Callable
from dataclasses import dataclass, replace
from importlib import import_module
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ...errors import InputError
from ...memory import check_memory
from ..arrays import load_array
from ..axes import plain_shape
from ..kinds import open_regular, sniff
from ..pixels import DAMAGED, check_bytes
from ..raster import PACKING_RATIOS, PNG_CHANNELS, painted, png_header, silenced, unlimited
from ..tiff.segments import check_segments
from .header import declared, kind_by_head

_READABLE = (
    "Readable are PNG, JPEG, TIFF, BMP, GIF, PPM, WebP, JPEG 2000, AVIF, DICOM and NPY, with a plug-in HEIC and JPEG XL"
)
_FORMATS = {"WebP": ["WEBP"], "JPEG": ["JPEG", "MPO"], "JPEG 2000": ["JPEG2000"], "HEIC": ["HEIF"], "JPEG XL": ["JXL"]}
"""Pillow's names, where they are others than ours."""
_DENSEST = {"JPEG": 1e4, "GIF": 2500.0, "PPM": 8.0}  # most bytes of pixels in one byte of file; PPM: bitmaps
_TIFFFILE_CODINGS = (1, 8, 32773, 32946, 34925)  # none, Deflate, PackBits, LZMA: those without imagecodecs
_BESIDE = {"WebP": 12, "AVIF": 12, "HEIC": 16, "JPEG XL": 16, "JPEG 2000": 20}
"""Bytes per pixel that a decoder holds beside Pillow's picture: frames of its own, planes of 32-bit integers."""
ALPHA_DROPPED = "the alpha channel was dropped"
_STRIP_BYTES = 2**28
"""Most that a strip takes on its way to float32 (``photo.py``), copies and all."""


@dataclass(frozen=True, slots=True)
class Optional:
    """A reader that not every installation has: a module, or (``feature``) a part that Pillow was built with."""

    module: str
    get: str
    feature: str = ""

    @property
    def found(self) -> bool:
        if not self.feature:
            return find_spec(self.module) is not None
        from PIL import features

        return self.feature in features.get_supported()


_PLUGINS = "pip install 'attn[photos]'"
OPTIONAL = {
    "WebP": Optional("PIL", "pip install --upgrade pillow", "webp"),
    "JPEG 2000": Optional("PIL", "pip install --upgrade pillow", "jpg_2000"),
    "AVIF": Optional("PIL", "pip install --upgrade 'pillow>=11.3'", "avif"),
    "HEIC": Optional("pillow_heif", _PLUGINS),
    "JPEG XL": Optional("pillow_jxl", _PLUGINS),
}
"""Kinds of photo that need an optional reader."""


@dataclass(frozen=True, slots=True)
class DecodedPhoto:
    """Decoded values, handed out in strips so that no second copy of a large photo is made.

    rows(a, b) gives [b - a, W] or [b - a, W, C]; ``extent`` is the part of them (rows, columns) that is picture;
    ``top`` is the value of white where the type does not tell; ``orientation`` is EXIF's, still to be applied, and
    ``turned`` what the decoder has applied already.
    """

    rows: Callable[[int, int], NDArray[Any]]
    size: tuple[int, int]
    extent: tuple[float, float]
    bits: int
    top: float | None = None
    orientation: int = 1
    turned: int = 1


def decode(path: Path, kind: str, max_side: int | None, notes: list[str], *, alpha: bool = False) -> DecodedPhoto:
    """The first picture of a file of ``kind``; a JPEG perhaps already reduced towards ``max_side``.

    With ``alpha`` its opacity in the place of its colours, opaque where the file has none.
    """
    if kind == "NPY":
        return _array(path, notes, alpha)
    if kind == "TIFF":
        return _tiff(path, max_side, notes, alpha)
    if kind == "DICOM":
        return _dicom(path, max_side, notes, alpha)
    return _pillow(path, kind, max_side, notes, alpha)


def kind_of(path: Path) -> str:
    """``PNG``, ``JPEG``, ... by the first bytes. Raises ``InputError`` for what is no photo."""
    with open_regular(path) as file:
        head = file.read(64)
    if kind := kind_by_head(head):
        return kind
    try:
        other = sniff(path)
    except InputError as error:
        raise InputError(path, error.what, _READABLE if head else error.fix) from None
    if other == "dicom":
        return "DICOM"
    raise InputError(path, f"is no colour photo but a file of kind {other}", "Export it as PNG, TIFF or JPEG")


def reduced(size: tuple[int, int], max_side: int | None) -> tuple[int, int]:
    """The two sides, with the longer at most ``max_side``."""
    scale = 1.0 if max_side is None else min(1.0, max_side / max(size))
    return max(1, round(size[0] * scale)), max(1, round(size[1] * scale))


def _check_fits(path: Path, size: tuple[int, int], need: int, max_side: int | None) -> None:
    """``InputError`` unless a picture of ``size`` (H, W) has pixels and fits the budget with ``need`` more bytes."""
    if min(size) < 1:
        raise InputError(path, f"has no pixels: its size is {size[1]} x {size[0]}", "The header may be damaged")
    height, width = reduced(size, max_side)
    result = 24 * height * width  # float32 [3, h, w], once more while it is turned upright
    whole = need + result + min(_STRIP_BYTES, 36 * size[0] * size[1])
    fix = "The header may be damaged; if it is not, reduce the photo or raise --max-memory"
    check_memory(path, whole, f"claims {size[1]} x {size[0]} pixels, which take", fix)


def _array(path: Path, notes: list[str], alpha: bool) -> DecodedPhoto:
    """NPY of [H, W], [H, W, 3 or 4] or [3, H, W]."""
    with open_regular(path) as file:
        array = load_array(path, file, path.stat().st_size)
    array = array.reshape(plain_shape(array.shape))
    if array.ndim == 3 and array.shape[-1] not in (3, 4):
        if len(array) != 3:
            raise InputError(path, f"has shape {array.shape}", "Save one photo as [H, W, 3] or [3, H, W]")
        array = np.moveaxis(array, 0, -1)  # [H, W, 3]
    bits = 1 if array.dtype.kind == "b" else 8 * array.dtype.itemsize
    return _whole(array, bits, notes, alpha)


def _whole(
    array: NDArray[Any], bits: int, notes: list[str], alpha: bool, top: float | None = None, orientation: Any = 1
) -> DecodedPhoto:
    """A source of [H, W] or [H, W, C], all of it in memory."""
    height, width = array.shape[:2]
    if array.ndim == 3 and array.shape[-1] in (2, 4):
        notes.append(ALPHA_DROPPED)
        array = array[..., -1] if alpha else array[..., :-1]
    elif alpha:
        array, top = np.ones((height, width), bool), None
    return DecodedPhoto(lambda a, b: array[a:b], (height, width), (height, width), bits, top, _turn(orientation))


def _tiff(path: Path, max_side: int | None, notes: list[str], alpha: bool) -> DecodedPhoto:
    """The first full-size picture of a TIFF."""
    import tifffile

    with open_regular(path) as file, tifffile.TiffFile(file, name=path.name) as tiff:
        page = tiff.pages.first
        height, width, bits = page.imagelength, page.imagewidth, page.bitspersample
        if not all(isinstance(value, int) for value in (height, width, bits)):  # each may be a tuple in a damaged file
            raise InputError(path, f"has channels of different depth or no proper size (bits {bits!s:.40})", DAMAGED)
        coding, photometric, colours = int(page.compression), int(page.photometric), page.samplesperpixel
        if not 1 <= colours <= 5 or page.imagedepth != 1:
            raise InputError(path, f"has {colours} channels and depth {page.imagedepth}", "Save it as an RGB image")
        values = height * width * colours * max(1, bits // 8)
        _check_fits(path, (height, width), 2 * values, max_side)
        packed = (height * width * colours * bits + 7) // 8
        check_bytes(path, packed, path.stat().st_size, PACKING_RATIOS.get(coding, 1e4))
        if len(tiff.pages) > 1:
            notes.append(f"holds {len(tiff.pages)} pictures: only the first is read")
        if coding not in _TIFFFILE_CODINGS or photometric not in (0, 1, 2, 3):
            return _pillow(path, "TIFF", max_side, notes, alpha)
        if page.dtype is None or page.dtype.kind not in "biuf":
            raise InputError(path, f"holds values of type {page.dtype}", "Save it with 8 or 16 bits per channel")
        check_segments(path, page)
        array = page.asarray()
        if array.ndim == 3 and page.axes[0] == "S":
            array = np.moveaxis(array, 0, -1)  # [H, W, C]
        top = None if array.dtype.kind == "f" or bits in (8, 16) else float(2**bits - 1)
        if photometric == 3 and page.colormap is not None:
            array, bits, top = painted(array, page), 8, None  # [H, W, 3]
        elif photometric == 0 and array.dtype.kind in "bu":
            array = ~array if top is None or array.dtype.kind == "b" else (int(top) - array).astype(array.dtype)
        return _whole(array, bits, notes, alpha, top, page.tags.valueof(274))


def _dicom(path: Path, max_side: int | None, notes: list[str], alpha: bool) -> DecodedPhoto:
    """The first frame of a DICOM file, in colour where it has one."""
    from .dicom import read_frame

    array, bits = read_frame(path, notes)  # [H, W] or [H, W, 3]
    _check_fits(path, array.shape[:2], array.nbytes, max_side)
    return _whole(array, bits, notes, alpha, None if array.dtype.kind == "f" else float(2**bits - 1))


def _opener(path: Path, kind: str) -> None:
    """See that Pillow can read ``kind``. Raises ``InputError`` that says how to get the reader."""
    if (optional := OPTIONAL.get(kind)) is None:
        return
    if not optional.found:
        raise InputError(path, f"is {kind}, for which no reader is installed", optional.get)
    if optional.module != "PIL":
        module = import_module(optional.module)
        if hasattr(module, "register_heif_opener"):
            module.register_heif_opener()


def _pillow(path: Path, kind: str, max_side: int | None, notes: list[str], alpha: bool) -> DecodedPhoto:
    """The first picture of a file that Pillow reads."""
    from PIL import Image

    _opener(path, kind)
    formats = _FORMATS.get(kind, [kind])
    depth, beside = 8, _BESIDE.get(kind, 0)
    said = declared(path, kind)
    if said.size is not None:  # these readers allocate as soon as they open the file
        _check_fits(path, said.size, (4 + beside) * said.size[0] * said.size[1], max_side)
    if kind == "PNG":
        width, height, depth, colour = png_header(path)
        _check_fits(path, (height, width), 0, max_side)
        row = (width * depth * PNG_CHANNELS[colour] + 7) // 8
        check_bytes(path, height * row, path.stat().st_size, 1100.0)
        depth = 8 if colour == 3 else depth
    with silenced(), unlimited(), open_regular(path) as file, Image.open(file, formats=formats) as picture:
        width, height = picture.size
        if kind in _DENSEST:
            check_bytes(path, height * width * len(picture.getbands()), path.stat().st_size, _DENSEST[kind])
        if getattr(picture, "n_frames", 1) > 1 and kind != "TIFF":
            notes.append("holds several pictures: only the first is read")
        if said.bits is not None and said.bits > 8 and not picture.mode.startswith(("I", "F")):
            notes.append(f"{said.bits} bits per channel were cut to 8")
        if kind == "JPEG" and picture.info.get("progressive"):
            beside = 2 * len(picture.getbands())  # all coefficients of the whole picture, reduced or not
        beside *= height * width
        if kind == "JPEG" and max_side is not None and max(width, height) > max_side:
            picture.draft(None, reduced((width, height), max_side))  # decodes 1/2, 1/4 or 1/8 of the size
        extent, low = (float(height), float(width)), None
        mark, second = _raw_mode(picture), 1
        if ";16" in mark and not picture.mode.startswith("I"):
            second = 2
        _check_fits(path, (height, width), beside + second * 4 * picture.size[0] * picture.size[1], max_side)
        if second == 2:
            if mark == "LA;16B":  # as four bytes per pixel: high and low of grey, high and low of alpha
                picture._mode = "RGBA"
                _set_raw_mode(picture, "RGBA")
            elif mark[:-1] in ("RGB;16", "RGBA;16", "RGBX;16"):
                low = _low_bytes(file, formats, mark)
            else:
                notes.append("16 bits per channel were cut to 8")
                mark = ""
        turned = 1
        if kind == "TIFF":  # Pillow turns it itself while it loads
            turned = picture.getexif().get(274, 1)
        elif kind == "HEIC":  # so does the plug-in
            turned = picture.info.get("original_orientation") or 1
        picture.load()
        if kind == "JPEG":  # a reduced picture's last row and column may stand for less than a whole pixel
            scale = max(1, round(width / picture.size[0]), round(height / picture.size[1]))
            extent = (height / scale, width / scale)
        elif picture.size != (width, height):  # TIFF: Pillow has turned it already
            (width, height), extent = picture.size, (float(picture.size[1]), float(picture.size[0]))
        # what HEIC says of turning is done by its decoder; in JPEG XL and JPEG 2000 EXIF does not count
        orientation = 1 if kind in ("JPEG XL", "JPEG 2000") else picture.getexif().get(274, 1)
        has_alpha = bool({"A", "a"} & set(picture.getbands())) or "transparency" in picture.info
        if has_alpha:
            notes.append(ALPHA_DROPPED)
        if picture.mode == "CMYK":
            notes.append("CMYK converted to RGB without a colour profile")
    if alpha:
        decoded = _opacity(picture if has_alpha else None, mark, (height, width), extent)
        return replace(decoded, orientation=_turn(orientation), turned=_turn(turned))
    deep = mark == "LA;16B" or low is not None or picture.mode.startswith("I")
    bits = 16 if deep else 1 if picture.mode == "1" else 32 if picture.mode == "F" else min(depth, 8)
    rows = _strips(picture, low, mark)
    return DecodedPhoto(rows, (height, width), extent, bits, None, _turn(orientation), _turn(turned))


def _opacity(picture: Any, mark: str, size: tuple[int, int], extent: tuple[float, float]) -> DecodedPhoto:
    """The alpha channel of a decoded picture, eight bits; opaque where there is no picture or it has none."""
    if picture is None:
        return DecodedPhoto(lambda a, b: np.full((b - a, math.ceil(extent[1])), 255, np.uint8), size, extent, 8)

    def rows(start: int, stop: int) -> NDArray[Any]:
        strip = picture.crop((0, start, picture.size[0], stop))
        if mark == "LA;16B":  # high and low byte of grey, then those of alpha
            return np.asarray(strip)[..., 2]
        return np.asarray(strip if strip.mode in ("RGBA", "LA") else strip.convert("RGBA"))[..., -1]

    return DecodedPhoto(rows, size, extent, 8)


def _turn(orientation: Any) -> int:
    """EXIF's orientation, 1 to 8; damaged files hold anything."""
    return orientation if isinstance(orientation, int) and 1 <= orientation <= 8 else 1


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
            both = [np.asarray(part)[..., :3].astype(np.uint16) for part in (strip, low.crop(box))]  # [n, W, 3]
            return both[0] << 8 | both[1]
        if not grey:
            return np.asarray(strip if strip.mode == "RGB" else strip.convert("RGB"))
        return np.asarray(strip.convert("L") if strip.mode in ("LA", "La") else strip)

    return rows
