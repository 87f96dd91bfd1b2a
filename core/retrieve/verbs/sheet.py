"""A contact sheet: the hits of each query as one HTML page that needs nothing else, or as one picture."""

from __future__ import annotations

import base64
from html import escape
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ...errors import InputError
from ...io.atomic import write_text
from ...io.photo.read import PHOTO_SUFFIXES
from ...report.html import document, marked
from ..options.find import PAGES
from ..score.results import RankedDocument, Result
from .found import Explained, Found
from .picture import write_picture
from .thumbnail import thumbnail

NOTHING = Explained((), {})

STYLE = """
.hits { display: flex; flex-wrap: wrap; gap: 1rem; margin: .8rem 0 }
.hits figure { width: 240px } .hits img { width: 100% } .hits blockquote { margin: 0; padding: .5rem .7rem;
  background: var(--panel); border: 1px solid var(--line); border-radius: 4px; font-size: .87em;
  overflow-wrap: anywhere }
mark { color: inherit; padding: 0 .15em; border-radius: 2px }
"""


def write_sheet(path: Path, outcome: Found) -> None:
    """Write the page, or by the suffix of ``path`` one picture. Raises ``InputError`` if it cannot be written."""
    if path.suffix.lower() not in PAGES:
        write_picture(path, outcome)
        return
    report = outcome.report
    facts = " · ".join(escape(f"{text}") for text in (report.version, outcome.model, outcome.index))
    sections = [_section(result, outcome.explained.get(result.query_id, NOTHING)) for result in outcome.results]
    title = f"attn retrieve {report.arguments.get('verb', 'search')}"
    body = [f'<h1>{escape(title)}</h1><p class="facts">attn {facts}</p>', *sections]
    page = document(title, body, style=STYLE)
    write_text(path, page.encode(errors="backslashreplace").decode())  # names that are no UTF-8: escapes hold them


def _section(result: Result, why: Explained) -> str:
    photo = not result.sentence and Path(result.query).suffix.lower() in PHOTO_SUFFIXES
    picture = _thumbnail(Path(result.query)) if photo else ""
    picture_html = f'<img src="{picture}" alt="query" width="120">' if picture else ""
    hits = "".join(_figure(rank, hit, why.patches.get(hit.id)) for rank, hit in enumerate(result.ranked, 1))
    shown = hits or "Nothing found."
    query = marked(why.words) or escape(result.query)
    return f'<section>{picture_html}<h2>{query}</h2><div class="hits">{shown}</div></section>'


def _figure(rank: int, hit: RankedDocument, patches: NDArray[np.float32] | None) -> str:
    path = str(hit.meta.get("path") or "")
    shown = ""
    if Path(path).suffix.lower() in PHOTO_SUFFIXES:
        if source := _thumbnail(Path(path), patches):
            shown = f'<img src="{source}" alt="{escape(hit.id)}" loading="lazy">'
    elif text := str(hit.meta.get("text") or ""):
        shown = f"<blockquote>{escape(text)}</blockquote>"
    return f"<figure>{shown}<figcaption>{rank}. {hit.score:.4f}<br>{escape(path or hit.id)}</figcaption></figure>"


def _thumbnail(path: Path, patches: NDArray[np.float32] | None = None) -> str:
    """A small JPEG as a data: URI, darker where ``patches`` are low; nothing for a file that is gone or damaged."""
    try:
        return f"data:image/jpeg;base64,{base64.b64encode(thumbnail(path, patches)).decode('ascii')}"
    except InputError:
        return ""


def columns(hit: RankedDocument, name: str = "hit") -> dict[str, Any]:
    """A hit's metadata as a table shows it, its path or id under ``name``, long texts cut."""
    text = str(hit.meta.get("text") or "")
    return {name: hit.meta.get("path") or hit.id, "text": text if len(text) <= 80 else f"{text[:79]}…"}
