"""InlinedPictures inside a page: as they are where there is room, else smaller; the files stay as they are."""

from __future__ import annotations

import base64
import os
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from io import BytesIO
from pathlib import Path
from typing import TYPE_CHECKING
from urllib.parse import quote

from .model import Report
from .sections import Picture

if TYPE_CHECKING:
    from PIL.Image import Image as PillowImage

MAX_SIDE = 1600
"""px, longer side of an inlined picture: wide enough for any screen."""
SMALLER = (1600, 1200, 800, 480, 240)
"""Longer sides that are tried, as JPEG, where the page has no room for more."""
QUALITY = 85
MAX_INLINE_BYTES = 13 * 2**20
"""Of all pictures together, before base64: 18.2 MB in it, so that a page with its text stays below 20 MB."""
LARGEST = 192 * 2**20
"""Bytes of a file that is looked into at all."""
MEDIA = {".png": "image/png", ".jpg": "image/jpeg", ".jpeg": "image/jpeg", ".svg": "image/svg+xml"}


def pictures_of(report: Report) -> int:
    """How many pictures a report names."""
    return sum(Path(name).suffix.lower() in MEDIA for name in _names(report))


def _names(report: Report) -> Iterator[str]:
    for item in report.items:
        yield from item.files.values()
    for sections in (report.sections, *(item.sections for item in report.items)):
        yield from (section.path for section in sections if isinstance(section, Picture))


@dataclass(frozen=True, slots=True)
class _Files:
    """Files of an item: name and data: URI of those that the page shows, the rest."""

    inlined: Sequence[tuple[str, str, str]]
    linked: Sequence[tuple[str, str]]


class InlinedPictures:
    """Inlines the pictures of a report within one budget of bytes, each with an equal share of what is left of it.

    Parameters
    ----------
    folder : Path
        Of the page.
    count : int
        How many pictures are to come.
    """

    def __init__(self, folder: Path, count: int) -> None:
        self.folder, self.left, self.to_come = folder, MAX_INLINE_BYTES, count
        self.reduced = self.left_out = 0

    def address(self, name: str) -> str:
        """Of a link that works while report and file keep their places relative to each other."""
        target = os.path.relpath(self._find(name), self.folder)
        return quote(os.fsencode(target))  # a colon becomes %3A, so that no name can pass for a scheme

    def sort(self, files: Mapping[str, str]) -> _Files:
        """The pictures among the files, as far as the budget goes, and the others."""
        sources = [(what, name, self.inline(name)) for what, name in files.items()]
        return _Files([source for source in sources if source[2]], [source[:2] for source in sources if not source[2]])

    def _find(self, name: str) -> Path:
        """Names are relative to the working directory; a worker's may be relative to the report."""
        path = Path(name)
        return path if path.exists() or not (self.folder / path).exists() else self.folder / path

    def inline(self, name: str) -> str:
        """A data: URI, or nothing for a file that is no picture, cannot be read, or would pass the budget."""
        path = self._find(name)
        media = MEDIA.get(path.suffix.lower(), "")
        if not media:
            return ""
        share = self.left // max(1, self.to_come)
        self.to_come -= 1
        if not path.is_file() or path.stat().st_size > LARGEST:
            return ""
        data = path.read_bytes()
        if media != "image/svg+xml":
            data = _fitting(data)
            if len(data) > share:
                data, media = _reduced(data, share), "image/jpeg"
                self.reduced += bool(data)
                self.left_out += not data
        elif len(data) > self.left:
            self.left_out += 1
            return ""
        self.left -= len(data)
        return f"data:{media};base64,{base64.b64encode(data).decode('ascii')}" if data else ""


def _fitting(data: bytes) -> bytes:
    """The same picture in the same format, no side over ``MAX_SIDE``; nothing when it is broken."""
    from PIL import Image

    try:
        with Image.open(BytesIO(data)) as image:
            if max(image.size) <= MAX_SIDE:
                image.verify()
                return data
            kind, small = image.format, _eight_bits(image)
            small.thumbnail((MAX_SIDE, MAX_SIDE))
            return _saved(small, kind)
    except (OSError, ValueError, SyntaxError, Image.DecompressionBombError):  # what Pillow raises on broken files
        return b""


def _reduced(data: bytes, share: int) -> bytes:
    """A whole picture as a JPEG of ``share`` bytes at most, as large as that allows; nothing where none does."""
    from PIL import Image

    with Image.open(BytesIO(data)) as image:
        small = _eight_bits(image)
    if small.mode == "RGBA":  # JPEG has no alpha; the pages lay pictures on white
        white = Image.new("RGB", small.size, "white")
        white.paste(small, mask=small.getchannel("A"))
        small = white
    for side in SMALLER:
        small.thumbnail((side, side))
        if len(made := _saved(small, "JPEG")) <= share:
            return made
    return b""


def _eight_bits(image: PillowImage) -> PillowImage:
    if image.mode.startswith("I"):  # 16-bit grey: Pillow would clip, not scale, on the way to 8 bits
        return image.convert("I").point(lambda v: v / 256).convert("L")
    return image.convert("RGBA" if "A" in image.getbands() or "transparency" in image.info else "RGB")


def _saved(image: PillowImage, kind: str | None) -> bytes:
    out = BytesIO()
    image.save(out, format=kind, **({"quality": QUALITY} if kind == "JPEG" else {}))
    return out.getvalue()
