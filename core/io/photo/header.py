"""What the first bytes of a photo say: its kind, and for kinds whose decoders allocate at once its size and depth."""

from __future__ import annotations

import math
import struct
from dataclasses import dataclass
from pathlib import Path

from ..kinds import MAGIC, open_regular

_HEAD = 2**16
_MARKED = ("PNG", "JPEG", "TIFF", "GIF", "BMP", "NPY")
_JP2, _JP2_STREAM = b"\0\0\0\x0cjP  \r\n\x87\n", b"\xff\x4f\xff\x51"
_JXL, _JXL_STREAM = b"\0\0\0\x0cJXL \r\n\x87\n", b"\xff\x0a"
_AVIF = (b"avif", b"avis")
_HEIC = (b"heic", b"heix", b"heim", b"heis", b"hevc", b"hevx", b"hevm", b"hevs", b"mif1", b"msf1", b"miaf")
_RATIOS = (None, (1, 1), (12, 10), (4, 3), (3, 2), (16, 9), (5, 4), (2, 1))  # JPEG XL: width / height


@dataclass(frozen=True, slots=True)
class Declared:
    """Size (H, W) and bits per channel, where a header was read for them."""

    size: tuple[int, int] | None = None
    bits: int | None = None


def kind_by_head(head: bytes) -> str:
    """``PNG``, ``JPEG``, ... by the first bytes of a file, at least 32 of them; empty where they are of no photo."""
    for kind in _MARKED:
        if head.startswith(MAGIC[kind.lower()]):
            return kind
    if head[:1] == b"P" and head[1:2] in b"123456" and head[2:3].isspace():
        return "PPM"
    if head[:4] == b"RIFF" and head[8:12] == b"WEBP":
        return "WebP"
    if head.startswith((_JP2, _JP2_STREAM)):
        return "JPEG 2000"
    if head.startswith((_JXL, _JXL_STREAM)):
        return "JPEG XL"
    if head[4:8] == b"ftyp":
        brands = [head[8:12], *(head[i : i + 4] for i in range(16, min(len(head), int.from_bytes(head[:4], "big")), 4))]
        if any(brand in _AVIF for brand in brands):
            return "AVIF"
        if any(brand in _HEIC for brand in brands):
            return "HEIC"
    return ""


def declared(path: Path, kind: str) -> Declared:
    """What the header of a WebP, JPEG 2000, JPEG XL, AVIF or HEIC file says, as far as it can be understood."""
    reader = {"WebP": _webp, "JPEG 2000": _jpeg2000, "JPEG XL": _jpeg_xl, "AVIF": _isobmff, "HEIC": _isobmff}.get(kind)
    if reader is None:
        return Declared()
    with open_regular(path) as file:
        head = file.read(_HEAD)
    try:
        return reader(head)
    except (IndexError, struct.error):  # cut off: the decoder says so
        return Declared()


def _webp(head: bytes) -> Declared:
    """The canvas: RIFF container, lossy, lossless or extended."""
    kind = head[12:16]
    if kind == b"VP8X":
        width, height = (int.from_bytes(head[at : at + 3], "little") + 1 for at in (24, 27))
    elif kind == b"VP8L":
        both = struct.unpack("<I", head[21:25])[0]
        width, height = (both & 0x3FFF) + 1, (both >> 14 & 0x3FFF) + 1
    elif kind == b"VP8 ":
        width, height = (side & 0x3FFF for side in struct.unpack("<HH", head[26:30]))
    else:
        return Declared()
    return Declared((height, width), 8)


def _jpeg2000(head: bytes) -> Declared:
    """The SIZ marker, which begins every codestream."""
    at = head.find(_JP2_STREAM)
    if at < 0:
        return Declared()
    right, lower, left, upper = struct.unpack(">4I", head[at + 8 : at + 24])
    return Declared((lower - upper, right - left), (head[at + 42] & 0x7F) + 1)


def _isobmff(head: bytes) -> Declared:
    """AVIF, HEIC: the largest size of any item (``ispe``), tiles and the whole alike; the depth of the first."""
    sizes, at = [(0, 0)], head.find(b"ispe")
    while at >= 0:
        width, height = struct.unpack(">II", head[at + 8 : at + 16])
        sizes.append((height, width))
        at = head.find(b"ispe", at + 4)
    largest = max(sizes, key=math.prod)
    bits, at = None, head.find(b"pixi")
    if at >= 0:
        bits = head[at + 9]
    elif (at := head.find(b"av1C")) >= 0:
        bits = 12 if head[at + 6] & 0x20 else 10 if head[at + 6] & 0x40 else 8
    elif (at := head.find(b"hvcC")) >= 0:
        bits = (head[at + 21] & 7) + 8
    return Declared(largest if largest[0] else None, bits)


def _jpeg_xl(head: bytes) -> Declared:
    """The size that begins a codestream (ISO/IEC 18181-1, SizeHeader), bare or in a container."""
    at = 0
    if head.startswith(_JXL):
        at = head.find(b"jxlc") + 4
        if at < 4:
            at = head.find(b"jxlp") + 8
    if head[at : at + 2] != _JXL_STREAM:
        return Declared()
    bits, position = int.from_bytes(head[at + 2 : at + 18], "little"), 0

    def take(count: int) -> int:
        nonlocal position
        position += count
        return bits >> position - count & (1 << count) - 1

    def side(small: int) -> int:
        return 8 * (take(5) + 1) if small else take((9, 13, 18, 30)[take(2)]) + 1

    small = take(1)
    height = side(small)
    ratio = _RATIOS[take(3)]
    return Declared((height, side(small) if ratio is None else height * ratio[0] // ratio[1]))
