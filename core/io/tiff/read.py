"""TIFF (tifffile with imagecodecs): stacks, integers of 1 to 64 bits, floats of 16 to 64, every usual coding.

What a sample is, PhotometricInterpretation and ExtraSamples say, and nothing is guessed from their number. Tags that
describe the picture and not how it is stored are carried over byte for byte.
"""

from __future__ import annotations

import importlib.util
import io
import math
import re
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ...errors import InputError
from ...memory import check_memory
from ...text import one_line, reason_of
from ..axes import axes_note, plain_shape
from ..image import GreyImage
from ..kinds import open_regular
from ..pixels import DAMAGED, check_bytes, check_size, grey, reading, replaced, to_float
from ..raster import PACKING_RATIOS, painted, silenced, unlimited
from .segments import check_segments

_PLAIN_CODINGS = (1, 8, 32946, 32773, 34925)  # none, Deflate, PackBits, LZMA: without the package imagecodecs
_PILLOW_CODINGS = (2, 3, 4, 5, 6, 7)  # CCITT, LZW, JPEG: Pillow is exact for one sample of a usual type
_JPEG = (6, 7, 34892, 33007)
_SIZED = (*_JPEG, 33003, 33004, 33005, 34712, 34933, 50001)  # JPEG, JPEG 2000, PNG, WebP: a strip has a size of its own
_UNSIZED = (22610, 34887, 34934, 48124, 50002, 52546, 65000, 65001, 65002)  # nobody bounds what these unpack to
_GREY, _RGB, _PALETTE, _CMYK, _YCBCR = (0, 1, 51177), 2, 3, 5, 6  # 51177: depth map
_OTHER = {
    4: "a transparency mask",
    8: "colour in CIE L*a*b*",
    9: "colour in ICC L*a*b*",
    10: "colour in ITU L*a*b*",
    32803: "a camera's colour filter array",
    32844: "CIE log L",
    32845: "colour in CIE log L u'v'",
    34892: "a camera's linear raw values",
}
_CARRIED = frozenset(
    (269, 271, 272, 274, 285, 286, 287, 297, 306, 315, 316, 700, 33432, 33550, 33723, 33922, 34264, 34675, 34735,
     34736, 34737, 42112, 42113, 50838, 50839)
)  # fmt: skip
"""Names, orientation, position, time, XMP, IPTC, ICC, GeoTIFF, GDAL, ImageJ's labels and overlays."""
_STORAGE = frozenset(
    (*range(254, 260), *range(262, 267), 270, 273, *range(277, 285), *range(288, 294), 296, 301, 305, 317, 318, 319,
     *range(320, 326), 330, 332, 333, 334, 336, 337, 338, 339, 340, 341, 347, *range(512, 522), *range(529, 533),
     32996, 32997, 32998)
)  # fmt: skip
"""How the picture is stored: written anew."""
DESCRIPTION, _ICC, _NODATA = 270, 34675, 42113
_MOST_TAGS = 2**26
"""Bytes of carried tags, all pages together."""
_UUID = re.compile(r"<(\w+:)?UUID\b[^>]*?(/>|>.*?</(\w+:)?UUID>)", re.DOTALL)


def read_tiff(path: Path, *, luma: bool = False, fill: float | None = None) -> GreyImage:
    """Read a TIFF; several pages of one size are a stack.

    Parameters
    ----------
    path : Path
    luma : bool
        Convert colour (RGB, YCbCr, CMYK, palette) to grey instead of refusing it.
    fill : float or None
        What replaces NaN and infinities; None refuses them.

    Returns
    -------
    GreyImage, pixels [Z, H, W] as stored (also where white is 0: that concerns display only). Not valid are pixels of
    the value that GDAL_NODATA names.

    Raises
    ------
    InputError
        If the file is damaged, has pages of several sizes, more than three axes, channels that are neither colour nor
        transparency, premultiplied transparency, or a coding or colour space without decoder.
    """
    notes: list[str] = []
    with reading(path, "TIFF", notes), open_regular(path) as file:
        import tifffile

        with tifffile.TiffFile(file, name=path.name, _multifile=False) as tiff:
            series = _series(path, tiff, notes)
            page = series.keyframe
            _check(path, series, page)
            array, axes = _squeezed(_decoded(path, series, page), series.axes)
            _check_missing(series, page, notes)
            array = _grey(path, array, axes, page, luma, notes)
            if array.ndim not in (2, 3):
                raise InputError(
                    path, f"has axes {series.axes} of {series.shape}", "Save one image or one stack of images"
                )
            shape, plain = array.shape, plain_shape(array.shape)
            stored = np.ascontiguousarray(array.reshape(plain if len(plain) == 3 else (1, *plain)))  # [Z, H, W]
            notes += axes_note(shape, stored.shape)
            if axes.startswith("C") and len(stored) > 1:
                notes.append(f"its {len(stored)} channels were read as slices")
            source = _source(tiff, series, page, shape, notes)
        stored = replaced(path, stored, fill, notes)
    valid = _valid(source, stored, notes)
    return GreyImage(
        path, "tiff", to_float(stored), valid=valid, stored=stored, source=source, warnings=tuple(dict.fromkeys(notes))
    )


def _series(path: Path, tiff: Any, notes: list[str]) -> Any:
    """The one image or stack of a file; smaller copies and masks beside it are left out."""
    levels = list(tiff.series)
    series = [level for level in levels if not (level.keyframe.is_reduced or level.keyframe.is_mask)]
    if len(series) != 1:
        kinds = ", ".join(f"{level.shape} {level.dtype}" for level in series[:4])
        differ = "sizes" if len({level.dtype for level in series}) < 2 else "types"
        raise InputError(path, f"holds {len(series)} images of different {differ} ({kinds})", "Split the file")
    copies = len(levels) - 1 + len(getattr(series[0], "levels", [0])) - 1
    if copies:
        notes.append(f"{copies} reduced copies or masks beside the image are left out")
    return series[0]


def _named(page: Any) -> str:
    """What is odd about a page, in words: ``LZW, float64, predictor 3``."""
    coding = getattr(page.compression, "name", f"coding {int(page.compression)}")
    words = [coding, str(page.dtype) if page.dtype is not None else f"{page.bitspersample} bits"]
    words += [f"predictor {int(page.predictor)}"] if int(page.predictor) != 1 else []
    return ", ".join([*words, *(["tiles"] if page.is_tiled else [])])


def _check(path: Path, series: Any, page: Any) -> None:
    """Refuse by its header what cannot be read or takes too much memory."""
    if page.dtype is None or page.dtype.kind not in "biuf" or page.dtype.itemsize > 8:
        held = (
            page.dtype or f"SampleFormat {one_line(str(page.sampleformat))}, {one_line(str(page.bitspersample))} bits"
        )
        raise InputError(path, f"holds values of type {held}", "Save it as integer or float TIFF")
    if not isinstance(page.bitspersample, int):
        bits = one_line(str(page.bitspersample))[:40]
        raise InputError(path, f"has channels of different depth (bits {bits})", "Save it with one depth")
    if int(page.photometric) in _OTHER:
        raise InputError(path, f"holds {_OTHER[int(page.photometric)]}", "Save it as grey or RGB TIFF")
    if int(page.compression) in _UNSIZED:
        raise InputError(path, f"is coded as {_named(page)}, which is not read", "Save it with LZW or Deflate")
    size = page.dtype.itemsize
    count = math.prod(series.shape)
    plane = page.imagelength * page.imagewidth * page.samplesperpixel
    if min(series.shape, default=0) < 1 or plane < 1:
        check_size(path, series.shape)
    check_size(path, (max(1, count // plane), page.imagelength, page.imagewidth * page.samplesperpixel), itemsize=size)
    samples = page.samplesperpixel if int(page.planarconfig) == 1 else 1
    if page.is_tiled:
        segment = page.tiledepth * page.tilelength * page.tilewidth * samples * size
    else:
        segment = min(page.rowsperstrip, page.imagelength) * page.imagewidth * samples * size
    check_memory(path, count * size + 3 * segment, f"one of its {'tiles' if page.is_tiled else 'strips'} takes")
    if ratio := PACKING_RATIOS.get(int(page.compression)):
        check_bytes(path, (count * page.bitspersample + 7) // 8, path.stat().st_size, ratio)


def _check_missing(series: Any, page: Any, notes: list[str]) -> None:
    """Strips and tiles that are not in the file are filled by the decoder; that is told."""
    counts = [count for frame in series.pages if frame is not None for count in frame.databytecounts]
    if missing := counts.count(0) + sum(frame is None for frame in series.pages):
        notes.append(f"{missing} of {len(counts)} strips or tiles are not in the file: read as {page.nodata:g}")


def _check_segments(path: Path, series: Any, page: Any) -> None:
    """Refuse strips and tiles that are pictures of a larger size of their own than their place."""
    from PIL import Image

    rows, columns = (page.tilelength, page.tilewidth) if page.is_tiled else (page.rowsperstrip, page.imagewidth)
    rows = rows if page.is_tiled else min(rows, page.imagelength)
    file = page.parent.filehandle
    for frame in series.pages:
        for offset, count in zip(frame.dataoffsets, frame.databytecounts, strict=False) if frame is not None else ():
            file.seek(offset)
            with unlimited(), Image.open(io.BytesIO(file.read(count))) as picture:
                width, height = picture.size
            if width * height > 2 * (rows + 16) * (columns + 16):
                what = f"has a strip or tile of {width} x {height} pixels in a place of {columns} x {rows}"
                raise InputError(path, what, DAMAGED)


def _decoded(path: Path, series: Any, page: Any) -> NDArray[Any]:
    """The pixels of a series, with the axes it has; a segment unpacks to its place in the picture and no further."""
    coding, complete = int(page.compression), importlib.util.find_spec("imagecodecs") is not None
    if not complete and coding in _PILLOW_CODINGS and page.samplesperpixel == 1:
        return _by_pillow(path, series, page)
    if not complete and (coding not in _PLAIN_CODINGS or page.bitspersample not in (1, 8, 16, 32, 64)):
        what = f"is coded as {_named(page)}, which needs the package imagecodecs"
        raise InputError(path, what, "Install it: pip install imagecodecs")
    try:
        if not complete:  # then tifffile unpacks whatever a segment unpacks to
            for frame in series.pages:
                check_segments(path, frame)
        if coding in _SIZED:
            _check_segments(path, series, page)
        return np.asarray(series.asarray(maxworkers=1))
    except (InputError, MemoryError):
        raise
    except Exception as error:  # decoders raise anything on damaged bytes; the message says what was to be decoded
        what = f"cannot be decoded: it is coded as {_named(page)} ({reason_of(error)})"
        raise InputError(path, what, DAMAGED) from error


def _by_pillow(path: Path, series: Any, page: Any) -> NDArray[Any]:
    """One sample per pixel, where the package imagecodecs is not installed."""
    from PIL import Image

    frames = []
    with silenced(), open_regular(path) as again, unlimited(), Image.open(again, formats=["TIFF"]) as picture:
        for number in range(len(series.pages)):
            picture.seek(number)
            frame = np.asarray(picture)
            if frame.dtype == bool or (int(page.photometric) == 0 and page.dtype == np.uint8):
                inverted = int(page.photometric) == 0  # Pillow turns "white is zero" around for display
                frame = (~frame if frame.dtype == bool else 255 - frame) if inverted else frame
            frames.append(frame.astype(page.dtype))
    return np.stack(frames).reshape(series.shape)


def _squeezed(array: NDArray[Any], axes: str) -> tuple[NDArray[Any], str]:
    """Drop axes of length 1 other than rows and columns."""
    for position in reversed(range(array.ndim)):
        if array.shape[position] == 1 and axes[position] not in "YX":
            array, axes = np.squeeze(array, position), axes[:position] + axes[position + 1 :]
    return array, axes


def _grey(path: Path, array: NDArray[Any], axes: str, page: Any, luma: bool, notes: list[str]) -> NDArray[Any]:
    """One channel, by what the header says the samples are. [..., C] or [...] -> [...]."""
    kind, coding = int(page.photometric), int(page.compression)
    array = np.moveaxis(array, axes.index("S"), -1) if "S" in axes else array[..., None]
    samples, wanted = array.shape[-1], {_RGB: 3, _YCBCR: 3, _CMYK: 4}.get(kind, 1)
    if samples < wanted or kind not in (*_GREY, _RGB, _PALETTE, _CMYK, _YCBCR):
        name = getattr(page.photometric, "name", kind)
        raise InputError(path, f"has {samples} samples per pixel, which are no {name}", "Save it as grey or RGB TIFF")
    if samples > wanted:
        _drop_extras(path, array[..., wanted:], wanted, page, notes)
        array = array[..., :wanted]
    if kind in _GREY:
        return array[..., 0]
    if kind == _PALETTE:
        notes.append("palette expanded")
        return grey(path, painted(array[..., 0], page), luma=luma, notes=notes)
    if kind == _CMYK:
        return _inks(path, array, page, luma, notes)
    if kind == _YCBCR and (coding not in _JPEG or int(page.planarconfig) != 1):  # JPEG is decoded to RGB
        raise InputError(path, f"holds colour as YCbCr ({_named(page)})", "Save it as grey or RGB TIFF")
    return grey(path, array, luma=luma, notes=notes)


def _drop_extras(path: Path, extras: NDArray[Any], wanted: int, page: Any, notes: list[str]) -> None:
    """Say what is left out beside the colours, or refuse it: ExtraSamples tells. ``extras`` [..., N]."""
    kinds = [int(kind) for kind in page.extrasamples][-extras.shape[-1] :]
    kinds = [0] * (extras.shape[-1] - len(kinds)) + kinds
    for position, kind in enumerate(kinds):
        values = extras[..., position]
        opaque = bool((values == (np.iinfo(values.dtype).max if values.dtype.kind in "iu" else 1)).all())
        if kind == 1 and not opaque:
            what = "holds values that are multiplied by a transparency (associated alpha)"
            raise InputError(path, what, "Save it without transparency")
        if kind in (1, 2):
            notes.append("the alpha channel was dropped")
        elif wanted == 1:
            what = f"has {1 + len(kinds)} channels, and does not say what they are"
            raise InputError(path, what, "Save the one that is meant, or slices as pages")
        else:
            notes.append("a channel beside the colours, of no stated meaning, was dropped")


def _inks(path: Path, inks: NDArray[Any], page: Any, luma: bool, notes: list[str]) -> NDArray[Any]:
    """CMYK [..., 4] to grey: exactly where only black is used, else through RGB without a colour profile."""
    if int(page.tags.valueof(332, 1)) != 1 or inks.dtype.kind != "u" or int(page.compression) in _JPEG:
        raise InputError(path, f"holds inks other than plain CMYK ({_named(page)})", "Save it as grey or RGB TIFF")
    top = np.iinfo(inks.dtype).max
    if not inks[..., :3].any():
        notes.append("CMYK with black ink only: read as grey, white minus black, and written as grey")
        return np.asarray(top - inks[..., 3])
    notes.append("CMYK converted to RGB without a colour profile")
    light = top - inks.astype(np.float64)  # [..., 4]
    return grey(path, np.rint(light[..., :3] * light[..., 3:] / top).astype(inks.dtype), luma=luma, notes=notes)


def _valid(source: dict[str, Any], stored: NDArray[Any], notes: list[str]) -> NDArray[np.bool_] | None:
    """False where GDAL_NODATA says that there is no data; None where there is data everywhere. [Z, H, W]."""
    try:
        nodata = float(source.pop("nodata"))
    except (ValueError, KeyError, TypeError):
        return None
    missing = stored == nodata
    if not missing.any():
        return None
    notes.append(f"{int(missing.sum())} pixels are {nodata:g}, which GDAL_NODATA says is no data: left as they are")
    return np.asarray(~missing)


def _source(tiff: Any, series: Any, page: Any, shape: tuple[int, ...], notes: list[str]) -> dict[str, Any]:
    """What of the file's dress is kept; what is not is told."""
    source: dict[str, Any] = {
        "byteorder": tiff.byteorder,
        "bigtiff": tiff.is_bigtiff,
        "compression": "zlib" if int(page.compression) != 1 else None,
        "photometric": "miniswhite" if int(page.photometric) == 0 else "minisblack",
        "shape": shape,
        "nodata": page.tags.valueof(_NODATA),
    }
    across, down, unit = (page.tags.valueof(name) for name in ("XResolution", "YResolution", "ResolutionUnit"))
    if _is_ratio(across) and _is_ratio(down):
        source["resolution"] = (across, down)
        source["resolutionunit"] = int(unit) if unit in (1, 2, 3) else 2
    bits, written = page.bitspersample, 8 * page.dtype.itemsize
    if bits not in (1, written):
        notes.append(f"samples of {bits} bits are written with {written}")
    single = page.samplesperpixel == 1 and int(page.photometric) in _GREY
    in_order = [frame is not None and frame.index for frame in series.pages] == list(range(len(series.pages)))
    whole = single and in_order and len(tiff.pages) == len(series.pages)
    lost: set[str] = set()
    tags, total = [], 0
    for number, frame in enumerate(series.pages):
        kept = []
        for tag in getattr(frame, "tags", ()):
            if tag.code == DESCRIPTION:
                if page.is_shaped:
                    continue
                if tiff.is_ome and number == 0 and not whole:
                    lost.add("OME-XML")
                    continue
            elif tag.code in _STORAGE:
                continue
            total += tag.valuebytecount
            if (tag.code not in _CARRIED and tag.code != DESCRIPTION) or (tag.code == _ICC and not single):
                lost.add(tag.name)
            elif total > _MOST_TAGS:
                lost.add(tag.name)
            else:
                kept.append(_copied(tag, ome=tiff.is_ome and number == 0))
        tags.append(kept)
    source["tags"] = tags
    if lost:
        notes.append(f"not carried over: {', '.join(sorted(lost)[:8])}")
    return source


def _copied(tag: Any, *, ome: bool) -> tuple[Any, ...]:
    """A tag as tifffile writes one; OME-XML without the names of the files that it was spread over."""
    code, kind, count, value, _ = tag.astuple()
    if code == DESCRIPTION and ome:
        value = _UUID.sub("", value.decode("utf-8", "surrogateescape")).encode("utf-8", "surrogateescape")
        count = len(value)
    return code, kind, count, value, False


def _is_ratio(value: Any) -> bool:
    """Whether a tag's value is a positive fraction; damaged files hold anything."""
    return isinstance(value, tuple) and len(value) == 2 and all(isinstance(n, int) and n > 0 for n in value)
