"""A contact sheet as one picture, for a README or a slide: a row of hits for each query."""

from __future__ import annotations

from io import BytesIO
from pathlib import Path
from textwrap import wrap
from typing import TYPE_CHECKING

from ...errors import InputError
from ...io.atomic import atomic_path
from ...io.photo.read import PHOTO_SUFFIXES
from ...text import printable
from ..score.results import RankedDocument
from .found import Explained, Found
from .thumbnail import THUMBNAIL, thumbnail

if TYPE_CHECKING:
    from PIL.Image import Image
    from PIL.ImageDraw import ImageDraw

ACROSS = 4
"""Hits beside each other."""
GAP, LINE, TITLE = 12, 18, 30
"""Space around a picture, height of a line of text and of a query, in px."""
INK, FAINT, PAPER = (20, 20, 20), (105, 105, 105), (255, 255, 255)
CELL = THUMBNAIL + GAP
TALLEST = 30_000
"""Of a picture, in px: JPEG ends at 65,535, and few programs like to open those."""


def write_picture(path: Path, outcome: Found) -> None:
    """Draw the hits of each query; a text, and the name of a photo that is gone or damaged, in words.

    Raises ``InputError`` if there are too many for one picture, or the file cannot be written.
    """
    from PIL import Image, ImageDraw

    heights = [TITLE + max(1, -(-len(result.ranked) // ACROSS)) * (CELL + LINE) for result in outcome.results]
    if sum(heights) > TALLEST:
        raise InputError(path, "would be too tall a picture for so many hits", "Name a page, such as hits.html")
    sheet = Image.new("RGB", (GAP + ACROSS * CELL, GAP + sum(heights)), PAPER)
    pen, top = ImageDraw.Draw(sheet), GAP
    for result, height in zip(outcome.results, heights, strict=True):
        query = result.query if result.sentence else Path(result.query).name
        _words(pen, (GAP, top), query, sheet.width - 2 * GAP, 20, INK)
        why = outcome.explained.get(result.query_id, Explained((), {}))
        for rank, hit in enumerate(result.ranked):
            down, across = divmod(rank, ACROSS)
            place = GAP + across * CELL, top + TITLE + down * (CELL + LINE)
            _show(sheet, pen, place, hit, why)
            name = f"{rank + 1}.  {hit.score:.3f}  {Path(str(hit.meta.get('path') or hit.id)).name}"
            _words(pen, (place[0], place[1] + THUMBNAIL + 2), name, THUMBNAIL, 13, FAINT)
        if not result.ranked:
            _words(pen, (GAP, top + TITLE), "Nothing found.", sheet.width - 2 * GAP, 13, FAINT)
        top += height
    with atomic_path(path) as temporary:
        sheet.save(temporary, "PNG" if path.suffix.lower() == ".png" else "JPEG", quality=88)


def _show(sheet: Image, pen: ImageDraw, place: tuple[int, int], hit: RankedDocument, why: Explained) -> None:
    """A photo in the middle of its cell; of anything else its text, as far as there is room."""
    from PIL import Image

    path = Path(str(hit.meta.get("path") or ""))
    if path.suffix.lower() in PHOTO_SUFFIXES:
        try:
            small = Image.open(BytesIO(thumbnail(path, why.patches.get(hit.id))))
        except InputError:
            _words(pen, place, f"{path.name} is gone or damaged", THUMBNAIL, 13, FAINT)
            return
        sheet.paste(small, tuple(p + (THUMBNAIL - side) // 2 for p, side in zip(place, small.size, strict=True)))  # type: ignore[arg-type]
        return
    for number, line in enumerate(wrap(str(hit.meta.get("text") or "")[:1000], 34)[: THUMBNAIL // LINE]):
        _words(pen, (place[0], place[1] + number * LINE), line, THUMBNAIL, 13, INK)


def _words(
    pen: ImageDraw, place: tuple[int, int], text: str, width: int, size: int, colour: tuple[int, int, int]
) -> None:
    """One line of text, cut where it is longer than ``width`` px."""
    shown = printable(" ".join(text[:300].split()))
    while pen.textlength(shown, font_size=size) > width:
        shown = f"{shown[:-2].rstrip('…')}…" if len(shown) > 2 else ""
    pen.text(place, shown, colour, font_size=size)
