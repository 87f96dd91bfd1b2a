"""A report as one HTML page that needs nothing else: no network, no scripts, pictures inside.

The pages are jinja2 templates beside this file, with everything escaped that is not markup of theirs; the page's own
content security policy forbids it to load or run anything even so.
"""

from __future__ import annotations

import functools
import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from jinja2 import Environment, FileSystemLoader, StrictUndefined
from markupsafe import Markup

from .inline import InlinedPictures, pictures_of
from .model import Report, means, metric_names, number, plain, rest_of_summary, unit_of
from .sections import Curve, Row
from .words import in_words

PAGE = 64
"""So many inputs are shown at a time; the others are a link away, on the same page."""
COLOURS = ("var(--accent)", "var(--bad)", "var(--good)", "var(--wait)", "var(--soft)")


def page(report: Report, path: Path) -> str:
    """The whole page. ``path`` is where it will lie: links and pictures are looked for from there as well.

    It stays below 20 MB (``inline.MAX_INLINE_BYTES``), so that a batch of thousands still opens.
    """
    numbered = list(enumerate(report.items))
    shown = {section.name for item in report.items for section in item.sections} if len(report.items) == 1 else set()
    return (
        _environment()
        .get_template("report.html")
        .render(
            title=f"attn {report.command}",
            style="",
            report=report,
            names=metric_names(report.items),
            averages=means(report),
            unit=unit_of(report.items),
            pictures=InlinedPictures(path.parent, pictures_of(report)),
            pages=[numbered[start : start + PAGE] for start in range(0, len(numbered), PAGE)],
            summary=rest_of_summary(report),
            sections=[section for section in report.sections if section.name not in shown],
            arguments={name: value for name, value in report.arguments.items() if name != "argv"},
        )
    )


def document(title: str, body: Iterable[str], *, style: str = "") -> str:
    """A page of ready HTML pieces."""
    values = {"title": title, "style": Markup(style), "body": Markup("\n".join(body))}
    return _environment().get_template("document.html").render(values)


def marked(words: Sequence[tuple[str, float]]) -> Markup:
    """The words of a text, each as strongly coloured as it weighs, as HTML."""
    mark = Markup('<mark title="{:.3f}" style="background: rgb(224 179 65 / {:.2f})">{}</mark>')
    return Markup(" ").join(mark.format(weight, min(1.0, max(0.0, weight)), word) for word, weight in words)


def coloured(spans: Sequence[tuple[str, str]]) -> Markup:
    """The pieces of a text, each in the colour of its kind, as HTML."""
    piece = Markup('<span class="{}" title="{}">{}</span>')
    return Markup("").join(piece.format(kind, kind, text) for text, kind in spans)


@functools.cache
def _environment() -> Environment:
    loader = FileSystemLoader(Path(__file__).parent)
    made = Environment(loader=loader, autoescape=True, trim_blocks=True, lstrip_blocks=True, undefined=StrictUndefined)
    made.filters |= {
        "plain": plain,
        "shown": number,
        "rounded": lambda value: "–" if plain(value) is None else f"{value:.3g}",
        "words": lambda name, unit: in_words(str(name), unit),
        "sentence": lambda text: text.replace("_", " ")[:1].upper() + text.replace("_", " ")[1:],
        "columns": _columns,
        "all_numbers": lambda values: all(_numeric(value) for value in values.values()),
        "drawn": _drawn,
        "marked": marked,
        "coloured": coloured,
    }
    return made


def _numeric(value: Any) -> bool:
    return isinstance(plain(value), (int, float))


def _columns(rows: Sequence[Row]) -> dict[str, bool]:
    """Columns in the order in which they first appear, and whether they hold numbers."""
    return {
        key: any(_numeric(row.get(key)) for row in rows) for key in dict.fromkeys(key for row in rows for key in row)
    }


@dataclass(frozen=True, slots=True)
class _Drawn:
    """A curve as an inline SVG of 640 x 180 has it: name, colour and points of each line, and its labels."""

    lines: Sequence[tuple[str, str, str]]
    low: str
    high: str
    first: str
    last: str
    log: bool
    count: int
    left: int = 70
    top: int = 10
    width: int = 560
    height: int = 140


def _drawn(curve: Curve) -> _Drawn | None:
    """Logarithmic where the values span more than a decade; None where there is no line to draw."""
    axis = list(curve.axis)
    lines = {
        name: [(x, value) for x, given in zip(axis, values, strict=True) if (value := plain(float(given))) is not None]
        for name, values in curve.lines.items()
    }
    heights = [value for points in lines.values() for _, value in points]
    if max(map(len, lines.values()), default=0) < 2:
        return None
    low, high = min(heights), max(heights)
    log = low > 0 and high > 10 * low
    scale = math.log if log else float
    span, reach = (scale(high) - scale(low)) or 1.0, (axis[-1] - axis[0]) or 1.0
    drawn = _Drawn((), f"{low:.4g}", f"{high:.4g}", f"{axis[0]:g}", f"{axis[-1]:g}", log, len(axis))

    def polyline(points: Sequence[tuple[float, float]]) -> str:
        stride = -(-len(points) // 600)  # one point a pixel is enough
        return " ".join(
            f"{drawn.left + drawn.width * (x - axis[0]) / reach:.1f},"
            f"{drawn.top + drawn.height * (1 - (scale(value) - scale(low)) / span):.1f}"
            for x, value in [*points[:-1:stride], points[-1]]
        )

    colours = (COLOURS[index % len(COLOURS)] for index in range(len(lines)))
    return replace(drawn, lines=[(name, next(colours), polyline(ps)) for name, ps in lines.items() if len(ps) > 1])
