"""The strips and tiles of a TIFF: none may unpack to more than its place in the picture."""

from __future__ import annotations

import lzma
import zlib
from pathlib import Path
from typing import Any

from ...errors import InputError
from ...memory import check_memory

_STEP = 2**20
_DEFLATE, _LZMA = (8, 32946), (34925,)


def check_segments(path: Path, page: Any) -> None:
    """Refuse a page whose compressed strips or tiles unpack to more than they hold of the picture.

    tifffile unpacks a segment whole, whatever comes out, unless the package imagecodecs is there. So each is unpacked
    once more before, a block at a time and only to count.

    Parameters
    ----------
    path : Path
    page : tifffile.TiffPage
        Of an open file.

    Raises
    ------
    InputError
        If a segment unpacks to more than its share, or one segment takes more than the budget of memory.
    """
    height, width = (page.tilelength, page.tilewidth) if page.is_tiled else (page.rowsperstrip, page.imagewidth)
    if not page.is_tiled:
        height = min(int(height), int(page.imagelength))
    samples = page.samplesperpixel if int(page.planarconfig) == 1 else 1
    most = height * ((width * samples * page.bitspersample + 7) // 8)
    check_memory(path, 2 * most, "one of its tiles takes" if page.is_tiled else "one of its strips takes")
    coding = int(page.compression)
    if coding not in (*_DEFLATE, *_LZMA):
        return
    file = page.parent.filehandle
    for offset, count in zip(page.dataoffsets, page.databytecounts, strict=False):
        unpack: Any = zlib.decompressobj() if coding in _DEFLATE else lzma.LZMADecompressor()
        file.seek(offset)
        data, total = file.read(count), 0
        while total <= most and not unpack.eof:
            part = unpack.decompress(data, _STEP)
            total += len(part)
            data = getattr(unpack, "unconsumed_tail", b"")  # the other unpacker keeps the rest itself
            if not part and not data:
                break  # cut off: the decoder says so
        if total > most:
            raise InputError(
                path, f"has a strip or tile that unpacks to more than its {most} bytes", "It may be damaged"
            )
