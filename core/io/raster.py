"""PNG (Pillow): 1 to 16 bits. Also what readers of PNG, TIFF and photos share."""

from __future__ import annotations

import importlib.util
import io
import os
import struct
import sys
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ..errors import InputError
from ..memory import read_within
from .atomic import atomic_path
from .image import Derivation, GreyImage
from .kinds import open_regular
from .pixels import check_bytes, check_size, grey, reading, to_float, to_stored

PNG_CHANNELS = {0: 1, 2: 3, 3: 1, 4: 2, 6: 4}
PACKING_RATIOS = {1: 1.0, 5: 2500.0, 32773: 64.0}  # uncompressed, LZW (12-bit codes of up to 4096 bytes), PackBits
_NEEDED = (b"IHDR", b"PLTE", b"tRNS", b"IDAT", b"IEND")  # all that a decoder is given: nothing else is unpacked
_CARRIED = (b"gAMA", b"cHRM", b"sRGB", b"iCCP", b"sBIT", b"pHYs", b"sCAL", b"oFFs", b"eXIf", b"tEXt", b"zTXt", b"iTXt")
"""Chunks that are written as they were read, packed as they are."""
_OF_COLOURS = (b"gAMA", b"cHRM", b"sRGB", b"iCCP", b"sBIT")
_MEANT = {"tIME", "acTL", "fcTL", "fdAT", *(kind.decode() for kind in (*_NEEDED, *_CARRIED))}
"""Chunks about which nothing need be said: tIME would no longer be true."""


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
        If the file is damaged, or in colour (unless ``luma``).
    """
    notes: list[str] = []
    with reading(path, "PNG", notes):
        width, height, depth, colour = png_header(path)
        channels = PNG_CHANNELS[colour]
        check_size(path, (height, width * channels), itemsize=max(1, depth // 8))
        size = path.stat().st_size
        check_bytes(path, height * ((width * depth * channels + 7) // 8), size, 1100.0)
        chunks = _png_chunks(path)
        kinds = [kind for kind, _ in chunks]
        if b"acTL" in kinds:
            notes.append("animated PNG: only its first picture is read")
        bare = _png_bytes([chunk for chunk in chunks if chunk[0] in _NEEDED])
        array = _png_pixels(path, bare, depth, colour)  # [H, W] or [H, W, C]
        transparent = next((data for kind, data in chunks if kind == b"tRNS"), None)
        keep = {kind: [data for other, data in chunks if other == kind] for kind in _CARRIED if kind in kinds}
        lost = sorted({kind.decode("latin-1") for kind in kinds} - _MEANT)
        alpha = hidden = None
        if colour == 3:  # palette
            notes.append("palette expanded")
        if array.ndim == 3 and array.shape[-1] in (2, 4):
            alpha, array = np.ascontiguousarray(array[..., -1]), array[..., :-1]
            alpha = None if (alpha == np.iinfo(alpha.dtype).max).all() else alpha
        if array.ndim == 3:
            array = array[..., 0] if array.shape[-1] == 1 else grey(path, array, luma=luma, notes=notes)
        if array.shape != (height, width) or array.dtype.kind not in "bu":
            array = array.astype(np.uint16)  # older Pillow: mode "I" for 16 bits
        if colour == 0 and transparent is not None and len(transparent) == 2:
            value = int.from_bytes(transparent, "big") * (1 if depth in (1, 8, 16) else 255 // (2**depth - 1))
            hidden, keep[b"tRNS"] = array == bool(value) if depth == 1 else array == value, [struct.pack(">H", value)]
        if colour not in (0, 4):  # what describes colours would not fit a grey file
            lost += sorted(kind.decode() for kind in keep if kind in _OF_COLOURS)
            keep = {kind: data for kind, data in keep.items() if kind not in _OF_COLOURS}
        if depth in (2, 4) and colour == 0:
            notes.append(f"grey of {depth} bits is written with 8")
            keep.pop(b"sBIT", None)
        if lost:
            notes.append(f"not carried over: {', '.join(lost[:8])}")
    stored = np.ascontiguousarray(array)[None]  # [1, H, W]
    seen = None if alpha is None else alpha > 0
    seen = seen if hidden is None else ~hidden
    valid = None if seen is None or seen.all() else seen[None]
    if valid is not None:
        notes.append("fully transparent pixels are left as they are")
    source = {"chunks": keep, "alpha": alpha}
    return GreyImage(path, "png", to_float(stored), valid=valid, stored=stored, source=source, warnings=tuple(notes))


def _png_pixels(path: Path, data: bytes, depth: int, colour: int) -> NDArray[Any]:
    """The samples of a PNG of nothing but critical chunks (and tRNS): [H, W] or [H, W, C]."""
    if depth == 16 and colour != 0:  # Pillow cuts these to 8 bits
        if importlib.util.find_spec("imagecodecs") is None:
            what = "is a 16-bit PNG with colour or alpha, which needs the package imagecodecs"
            raise InputError(path, what, "Install it: pip install imagecodecs")
        import imagecodecs

        return np.asarray(imagecodecs.png_decode(data))
    from PIL import Image

    with unlimited(), Image.open(io.BytesIO(data), formats=["PNG"]) as opened:
        picture: Image.Image = opened
        picture.load()
        if colour == 3 or ("transparency" in picture.info and colour == 2):
            picture = picture.convert("RGBA" if "transparency" in picture.info else "RGB")
        return np.asarray(picture)


def write_png(
    image: GreyImage,
    pixels: NDArray[Any],
    path: Path,
    derivation: Derivation | None = None,
    notes: list[str] | None = None,
) -> None:
    """A ``GreyWriter`` of [1, H, W], of the depth that was read (bool: 1 bit)."""
    from PIL import Image

    stored = to_stored(image, pixels, notes=notes)
    if len(stored) != 1 or stored.dtype not in (np.dtype(bool), np.dtype(np.uint8), np.dtype(np.uint16)):
        raise ValueError(f"PNG holds one image of bool, uint8 or uint16; got {stored.dtype}, shape {stored.shape}")
    source = image.source or {}
    alpha = source.get("alpha")
    if alpha is not None and stored.dtype == np.uint16:
        import imagecodecs

        data = bytes(imagecodecs.png_encode(np.stack([stored[0], alpha], -1)))
    else:
        picture, buffer = Image.fromarray(stored[0]), io.BytesIO()
        if alpha is not None:
            picture = Image.merge("LA", (picture.convert("L"), Image.fromarray(alpha)))
        picture.save(buffer, "PNG")
        data = buffer.getvalue()
    made = [chunk for chunk in _split(data) if chunk[0] in (b"IHDR", b"IDAT", b"IEND")]
    added = [(kind, body) for kind, every in source.get("chunks", {}).items() for body in every]
    if derivation:
        text = derivation.description.encode("latin-1", "replace")
        added = [chunk for chunk in added if chunk != (b"tEXt", b"Description\0" + chunk[1][12:])]
        added.append((b"tEXt", b"Description\0" + text))
    with atomic_path(path) as temporary:
        temporary.write_bytes(_png_bytes([made[0], *added, *made[1:]]))


def _png_chunks(path: Path) -> list[tuple[bytes, bytes]]:
    """The chunks of a PNG file, none of them unpacked; damaged ones beside the pixels are left out."""
    with open_regular(path) as file:
        data = read_within(file, path, what="takes")
    chunks = _split(data)
    if not any(kind == b"IDAT" for kind, _ in chunks):
        raise InputError(path, "is cut off or damaged: it has no pixels", "Copy or export it again")
    return chunks


def _split(data: bytes) -> list[tuple[bytes, bytes]]:
    """Kind and content of each chunk of a PNG up to IEND or the end; the last may be cut off."""
    chunks, at = [], 8
    while at + 8 <= len(data):
        size, kind = struct.unpack(">I4s", data[at : at + 8])
        body = data[at + 8 : at + 8 + size]
        sound = data[at + 8 + size : at + 12 + size] == struct.pack(">I", zlib.crc32(kind + body))
        if kind in _NEEDED and kind != b"IDAT" and not sound:
            raise ValueError(f"chunk {kind.decode()} is damaged: its checksum differs")
        if kind in _NEEDED or sound:
            chunks.append((kind, body))
            if kind == b"IDAT" and not sound:
                raise ValueError("a chunk of pixels is damaged or cut off: its checksum differs")
        if kind == b"IEND":
            break
        at += 12 + size
    return chunks


def _png_bytes(chunks: list[tuple[bytes, bytes]]) -> bytes:
    """A PNG file of these chunks."""
    parts = [b"\x89PNG\r\n\x1a\n"]
    for kind, body in chunks:
        parts += [struct.pack(">I", len(body)), kind, body, struct.pack(">I", zlib.crc32(kind + body))]
    return b"".join(parts)


def png_header(path: Path) -> tuple[int, int, int, int]:
    """Width, height, bit depth and colour type of a PNG."""
    with open_regular(path) as file:
        head = file.read(29)
    if len(head) < 29 or head[12:16] != b"IHDR":
        raise InputError(path, "is cut off or damaged: it has no PNG header", "Copy or export it again")
    width, height, depth, colour = struct.unpack(">IIBB", head[16:26])
    if colour not in PNG_CHANNELS or depth not in (1, 2, 4, 8, 16):
        raise InputError(path, f"has no valid PNG header (depth {depth}, colour type {colour})", "It may be damaged")
    return width, height, depth, colour


@contextmanager
def unlimited() -> Iterator[None]:
    """Lift Pillow's own limit, which is lower than a budget may be; the size was checked before."""
    from PIL import Image

    before, Image.MAX_IMAGE_PIXELS = Image.MAX_IMAGE_PIXELS, None
    try:
        yield
    finally:
        Image.MAX_IMAGE_PIXELS = before


def painted(index: NDArray[Any], page: Any) -> NDArray[Any]:
    """The colours of palette entries of a TIFF page; 8-bit where its 16-bit table holds no more. [...] -> [..., 3]."""
    table = np.moveaxis(page.colormap, 0, -1)
    low, high = table & 255, table >> 8
    if (low == high).all() or not low.any():
        table = high.astype(np.uint8)
    return np.asarray(table[index])


@contextmanager
def silenced() -> Iterator[None]:
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
