"""PNG (Pillow): 1 to 16 bits. Also what readers of PNG, TIFF and photos share."""

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
from .pixels import check_bytes, check_size, grey, reading, to_float, to_stored

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


def _painted(index: NDArray[Any], page: Any) -> NDArray[Any]:
    """The colours of palette entries of a TIFF page; 8-bit where its 16-bit table holds no more. [...] -> [..., 3]."""
    table = np.moveaxis(page.colormap, 0, -1)
    low, high = table & 255, table >> 8
    if (low == high).all() or not low.any():
        table = high.astype(np.uint8)
    return np.asarray(table[index])


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
