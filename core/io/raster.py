"""PNG (Pillow) and TIFF (tifffile, Pillow for the codings it cannot unpack): 1 to 16 bits, stacks, float TIFF."""

from __future__ import annotations

import os
import struct
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ..errors import InputError
from .atomic import atomic_path
from .image import Derivation, GreyImage
from .kinds import open_regular
from .pixels import captured, check_bytes, check_size, grey, reading, replaced, to_float, to_stored

_PNG_CHANNELS = {0: 1, 2: 3, 3: 1, 4: 2, 6: 4}
_RATIOS = {1: 1.0, 5: 2500.0, 32773: 64.0}  # uncompressed, LZW (12-bit codes of up to 4096 bytes), PackBits
_PILLOW_CODINGS = (2, 3, 4, 5, 6, 7)  # CCITT, LZW, JPEG: tifffile needs the package imagecodecs for these
_CARRIED = ("dpi", "gamma", "transparency")


def read_png(path: Path, *, luma: bool = False) -> GreyImage:
    """Read a PNG of 1 to 16 bits; grey of 2 or 4 bits and grey palettes become 8-bit grey.

    Parameters
    ----------
    path : Path
    luma : bool
        Convert colour to grey instead of refusing it.

    Returns
    -------
    GreyImage, pixels [1, H, W] as stored. Fully transparent pixels are not valid; transparency is kept.

    Raises
    ------
    InputError
        If the file is damaged, in colour (unless ``luma``), or has 16-bit colour or alpha (Pillow cuts it to 8 bits).
    """
    notes: list[str] = []
    with reading(path, "PNG", notes):
        width, height, depth, colour = _png_header(path)
        check_size(path, (height, width))
        bits = depth * _PNG_CHANNELS[colour]
        check_bytes(path, height * ((width * bits + 7) // 8), path.stat().st_size, 1100.0)
        if depth == 16 and colour != 0:
            raise InputError(path, "is a 16-bit PNG with colour or alpha", "Save it as 16-bit grey PNG or TIFF")
        from PIL import Image

        with open_regular(path) as file, _unlimited(), Image.open(file, formats=["PNG"]) as opened:
            picture: Image.Image = opened
            if getattr(picture, "n_frames", 1) > 1:
                notes.append("animated PNG: only its first picture is read")
            picture.load()
            info = {key: picture.info[key] for key in _CARRIED if key in picture.info}
            if colour in (0, 4) and "icc_profile" in picture.info:  # a colour profile would not fit a grey file
                info["icc_profile"] = picture.info["icc_profile"]
            alpha = None
            if colour == 3:  # palette
                notes.append("palette expanded")
                picture = picture.convert("RGBA" if "transparency" in info else "RGB")
                info.pop("transparency", None)
            array = np.asarray(picture)  # [H, W] or [H, W, C]
        if array.ndim == 3 and array.shape[-1] in (2, 4):
            alpha, array = np.ascontiguousarray(array[..., -1]), array[..., :-1]
            alpha = None if (alpha == 255).all() else alpha
        if array.ndim == 3:
            info.pop("transparency", None)
            array = array[..., 0] if array.shape[-1] == 1 else grey(path, array, luma=luma, notes=notes)
        if array.shape != (height, width) or array.dtype.kind not in "bu":
            array = array.astype(np.uint16)  # older Pillow: mode "I" for 16 bits
    stored = np.ascontiguousarray(array)[None]  # [1, H, W]
    valid = None if alpha is None or alpha.all() else (alpha > 0)[None]
    if valid is not None:
        notes.append("fully transparent pixels are left as they are")
    source = {"info": info, "alpha": alpha}
    return GreyImage(path, "png", to_float(stored), valid=valid, stored=stored, source=source, warnings=tuple(notes))


def write_png(
    image: GreyImage,
    pixels: NDArray[Any],
    path: Path,
    derivation: Derivation | None = None,
    notes: list[str] | None = None,
) -> None:
    """Write [1, H, W] as grey PNG of the depth that was read (bool: 1 bit). Raises ``ValueError`` for other dtypes."""
    from PIL import Image
    from PIL.PngImagePlugin import PngInfo

    stored = to_stored(image, pixels, notes=notes)
    if len(stored) != 1 or stored.dtype not in (np.dtype(bool), np.dtype(np.uint8), np.dtype(np.uint16)):
        raise ValueError(f"PNG holds one image of bool, uint8 or uint16; got {stored.dtype}, shape {stored.shape}")
    source = image.source or {}
    picture = Image.fromarray(stored[0])
    if (alpha := source.get("alpha")) is not None:
        picture = Image.merge("LA", (picture.convert("L"), Image.fromarray(alpha)))
    text = PngInfo()
    if derivation:
        text.add_text("Description", derivation.description)
    info = {key: value for key, value in source.get("info", {}).items() if key != "gamma"}
    with atomic_path(path) as temporary:
        picture.save(temporary, "PNG", pnginfo=text, **info)


def _png_header(path: Path) -> tuple[int, int, int, int]:
    """Width, height, bit depth and colour type of a PNG."""
    with open_regular(path) as file:
        head = file.read(29)
    if len(head) < 29 or head[12:16] != b"IHDR":
        raise InputError(path, "is cut off or damaged: it has no PNG header", "Copy or export it again")
    width, height, depth, colour = struct.unpack(">IIBB", head[16:26])
    if colour not in _PNG_CHANNELS or depth not in (1, 2, 4, 8, 16):
        raise InputError(path, f"has no valid PNG header (depth {depth}, colour type {colour})", "It may be damaged")
    return width, height, depth, colour


@contextmanager
def _unlimited() -> Iterator[None]:
    """Lift Pillow's own limit, which is lower than a budget may be; the size was checked before."""
    from PIL import Image

    before, Image.MAX_IMAGE_PIXELS = Image.MAX_IMAGE_PIXELS, None
    try:
        yield
    finally:
        Image.MAX_IMAGE_PIXELS = before


def read_tiff(path: Path, *, luma: bool = False, fill: float | None = None) -> GreyImage:
    """Read a TIFF; several pages of one size are a stack.

    Parameters
    ----------
    path : Path
    luma : bool
        Convert colour to grey instead of refusing it.
    fill : float or None
        What replaces NaN and infinities; None refuses them.

    Returns
    -------
    GreyImage, pixels [Z, H, W] as stored (also where white is 0: that concerns display only).

    Raises
    ------
    InputError
        If the file is damaged, has pages of several sizes, more than three axes, or a coding without decoder.
    """
    notes: list[str] = []
    with reading(path, "TIFF", notes), open_regular(path) as file:
        import tifffile

        with tifffile.TiffFile(file, name=path.name) as tiff:
            series = [one for one in tiff.series if not one.keyframe.is_reduced]
            if len(series) != 1:
                sizes = ", ".join(str(one.shape) for one in series[:4])
                raise InputError(path, f"holds {len(series)} images of different sizes ({sizes})", "Split the file")
            one, page = series[0], series[0].keyframe
            if page.dtype is None or page.dtype.kind not in "biuf":
                raise InputError(path, f"holds values of type {page.dtype}", "Save it as integer or float TIFF")
            check_size(path, one.shape, itemsize=page.dtype.itemsize)
            packed = (int(np.prod(one.shape)) * page.bitspersample + 7) // 8
            check_bytes(path, packed, path.stat().st_size, _RATIOS.get(int(page.compression), 1100.0))
            array = _tiff_pixels(path, one, page)
            array, axes = _squeezed(array, one.axes)
            if int(page.photometric) == 3 and page.colormap is not None:
                array, axes = _painted(array, page), axes + "S"
                notes.append("palette expanded")
            if "S" in axes:
                array = np.moveaxis(array, axes.index("S"), -1)  # [..., C]
                if array.shape[-1] in (2, 4):
                    notes.append("the alpha channel was dropped")
                array = array[..., 0] if array.shape[-1] < 3 else grey(path, array[..., :3], luma=luma, notes=notes)
            if array.ndim not in (2, 3):
                raise InputError(path, f"has axes {one.axes} of {one.shape}", "Save one image or one stack of images")
            stored = np.ascontiguousarray(array if array.ndim == 3 else array[None])  # [Z, H, W]
            source = _tiff_source(tiff, page)
        stored = replaced(path, stored, fill, notes)
    return GreyImage(path, "tiff", to_float(stored), stored=stored, source=source, warnings=tuple(notes))


def _painted(index: NDArray[Any], page: Any) -> NDArray[np.uint8]:
    """The colours of palette entries, from a page's 16-bit table of 8-bit colours. [...] -> [..., 3]."""
    table = np.moveaxis(page.colormap >> 8, 0, -1).astype(np.uint8)
    return np.asarray(table[index])


def _squeezed(array: NDArray[Any], axes: str) -> tuple[NDArray[Any], str]:
    """Drop axes of length 1 other than rows and columns."""
    for position in reversed(range(array.ndim)):
        if array.shape[position] == 1 and axes[position] not in "YX":
            array, axes = np.squeeze(array, position), axes[:position] + axes[position + 1 :]
    return array, axes


def _tiff_pixels(path: Path, series: Any, page: Any) -> NDArray[Any]:
    """The pixels of a tifffile series, through Pillow where tifffile would need another package."""
    if int(page.compression) not in _PILLOW_CODINGS:
        return np.asarray(series.asarray())
    from PIL import Image

    frames = []
    with _silenced(), open_regular(path) as file, _unlimited(), Image.open(file, formats=["TIFF"]) as picture:
        for number in range(len(series.pages)):
            picture.seek(number)
            frame = np.asarray(picture)
            if frame.dtype == bool or (int(page.photometric) == 0 and page.dtype == np.uint8):
                inverted = int(page.photometric) == 0  # Pillow turns "white is zero" around for display
                frame = (~frame if frame.dtype == bool else 255 - frame) if inverted else frame
            frames.append(frame.astype(page.dtype))
    array = np.stack(frames)
    return array.reshape(series.shape) if array.size == np.prod(series.shape) else array[0]


@contextmanager
def _silenced() -> Iterator[None]:
    """Keep libtiff, which writes its complaints to the process's stderr itself, quiet; Pillow raises them anyway."""
    sys.stderr.flush()
    kept, sink = os.dup(2), os.open(os.devnull, os.O_WRONLY)
    try:
        os.dup2(sink, 2)
        yield
    finally:
        os.dup2(kept, 2)
        os.close(kept)
        os.close(sink)


def _tiff_source(tiff: Any, page: Any) -> dict[str, Any]:
    """What of the file's dress is kept."""
    source: dict[str, Any] = {
        "byteorder": tiff.byteorder,
        "compression": "zlib" if int(page.compression) != 1 else None,
        "photometric": "miniswhite" if int(page.photometric) == 0 else "minisblack",
    }
    across, down, unit = (page.tags.valueof(name) for name in ("XResolution", "YResolution", "ResolutionUnit"))
    if _is_ratio(across) and _is_ratio(down):
        source["resolution"] = (across, down)
        source["resolutionunit"] = int(unit) if unit in (1, 2, 3) else 2
    if page.description and page.description.isascii() and not page.is_shaped and not page.is_ome:
        source["description"] = page.description
    return source


def _is_ratio(value: Any) -> bool:
    """Whether a tag's value is a positive fraction; damaged files hold anything."""
    return isinstance(value, tuple) and len(value) == 2 and all(isinstance(n, int) and n > 0 for n in value)


def write_tiff(
    image: GreyImage,
    pixels: NDArray[Any],
    path: Path,
    derivation: Derivation | None = None,
    notes: list[str] | None = None,
) -> None:
    """Write [Z, H, W] as TIFF of the type, byte order and resolution that were read; compressed stays compressed."""
    import tifffile

    stored, source = to_stored(image, pixels, notes=notes), dict(image.source or {})
    source.pop("shape", None)
    if derivation and "description" not in source:
        source["description"] = derivation.description.encode("ascii", "replace").decode()
    source.setdefault("photometric", "minisblack")
    with atomic_path(path) as temporary, captured([]):
        with tifffile.TiffWriter(temporary, byteorder=source.pop("byteorder", "<")) as writer:
            for number, page in enumerate(stored):
                keep = {key: value for key, value in source.items() if number == 0 or key != "description"}
                writer.write(page, contiguous=False, metadata=None, software="attn", **keep)
