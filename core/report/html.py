"""A report as one HTML page that needs nothing else: no network, no scripts, pictures inside.

Everything that comes from outside (file names, errors, settings) passes ``escape``; the page's own content security
policy forbids it to load or run anything even so.
"""

from __future__ import annotations

import base64
import math
import os
from collections.abc import Iterable, Mapping, Sequence
from html import escape
from io import BytesIO
from pathlib import Path
from typing import Any
from urllib.parse import quote

from .model import MEAN, Item, Report, means, metric_names, number, plain, rest_of_summary, split_tables, unit_of
from .words import in_words

MAX_SIDE = 1600  # px, longer side of an inlined picture: wide enough for any screen, small enough for a hundred
MAX_INLINE_BYTES = 48 * 2**20  # of all pictures together, before base64
MEDIA = {".png": "image/png", ".jpg": "image/jpeg", ".jpeg": "image/jpeg", ".svg": "image/svg+xml"}

STYLE = """
:root { color-scheme: light dark; --ink: #1b1f24; --soft: #5c6570; --line: #d5dae0; --back: #fff; --panel: #f5f7f9;
  --good: #1a7f37; --bad: #c62828; --wait: #8a6100; --accent: #1f5fbf }
@media (prefers-color-scheme: dark) { :root { --ink: #e4e7eb; --soft: #9aa4b0; --line: #363c44; --back: #14171a;
  --panel: #1d2126; --good: #57c46d; --bad: #ff7b72; --wait: #e0b341; --accent: #78aefc } }
* { box-sizing: border-box }
body { margin: 0 auto; padding: 2rem 1.5rem 4rem; max-width: 76rem; color: var(--ink); background: var(--back);
  font: 15px/1.5 system-ui, "Segoe UI", Roboto, "Helvetica Neue", Arial, sans-serif }
h1 { font-size: 1.6rem; margin: 0 } h2 { font-size: 1.15rem; margin: 0; overflow-wrap: anywhere }
h3 { font-size: .95rem; margin: 1.4rem 0 .4rem; color: var(--soft); font-weight: 600 }
a { color: var(--accent); text-decoration: none } a:hover { text-decoration: underline }
code, pre { font-family: ui-monospace, "SF Mono", Consolas, "DejaVu Sans Mono", monospace; font-size: .87em }
pre { background: var(--panel); border: 1px solid var(--line); border-radius: 6px; padding: .7rem .9rem; margin: 1rem 0;
  white-space: pre-wrap; overflow-wrap: anywhere }
.facts { color: var(--soft); margin: .2rem 0 0 }
.notice { border: 1px solid var(--wait); border-left-width: 5px; border-radius: 6px; padding: .6rem .9rem;
  margin: 1rem 0; font-weight: 600 }
.scroll { overflow-x: auto; margin: .4rem 0 }
table { border-collapse: collapse; font-variant-numeric: tabular-nums }
th, td { text-align: left; padding: .28rem .9rem .28rem 0; border-bottom: 1px solid var(--line); vertical-align: top }
th { font-weight: 600; color: var(--soft); white-space: nowrap } td.n, th.n { text-align: right }
td.name { overflow-wrap: anywhere; min-width: 12rem }
.status { font-weight: 600 } .ok { color: var(--good) } .failed { color: var(--bad) } .skipped { color: var(--wait) }
section { border-top: 2px solid var(--line); margin-top: 2.2rem; padding-top: 1rem }
.columns { display: flex; flex-wrap: wrap; gap: 0 3rem } .error { color: var(--bad); overflow-wrap: anywhere }
.mean td { font-weight: 600; border-top: 2px solid var(--line) }
.pictures { display: flex; flex-wrap: wrap; gap: 1rem; margin: .8rem 0 }
figure { margin: 0; max-width: 100%; flex: 0 1 auto }
figure img { display: block; max-width: 100%; max-height: 56vh; width: auto; height: auto; background: #fff;
  border: 1px solid var(--line); border-radius: 4px }
figcaption { color: var(--soft); font-size: .87em; margin-top: .25rem; overflow-wrap: anywhere }
svg text { fill: var(--soft); font-size: 11px } ul { margin: .3rem 0; padding-left: 1.2rem }
@media print { body { max-width: none; padding: 0; font-size: 10.5pt } section, figure, tr { break-inside: avoid }
  .pictures img { max-height: 20cm } a { color: inherit } .scroll { overflow: visible } }
"""


def page(report: Report, path: Path) -> str:
    """The whole page. ``path`` is where it will lie: links and pictures are looked for from there as well.

    Pictures beyond ``MAX_INLINE_BYTES`` in all are linked instead of inlined, so that a batch of thousands still opens.
    """
    title = f"attn {report.command}"
    pictures = _Pictures(path.parent)
    body = [
        f"<h1>{escape(title)}</h1>",
        f'<p class="facts">attn {escape(report.version)} · {escape(report.device)} · {report.seconds:.1f} s</p>',
        *(f'<p class="notice" role="note">{escape(notice)}</p>' for notice in report.notices),
    ]
    if len(report.items) > 1:
        body.append(_overview(report))
    body += [_section(index, item, pictures) for index, item in enumerate(report.items)]
    told = [_values("Summary", rest_of_summary(report))]
    if arguments := {name: value for name, value in report.arguments.items() if name != "argv"}:
        told.append(_values("Arguments", arguments))
    if report.command_line:
        told.append(f"<h3>Command</h3><pre>{escape(report.command_line)}</pre>")
    if any(told):
        body.append(f"<section>{''.join(told)}</section>")
    return document(title, body)


def document(title: str, body: Iterable[str], *, style: str = "") -> str:
    """A page of ready HTML pieces; its policy allows nothing but inlined pictures and styles."""
    policy = "default-src 'none'; img-src data:; style-src 'unsafe-inline'"
    return (
        f'<!doctype html>\n<html lang="en">\n<head>\n<meta charset="utf-8">\n'
        f'<meta http-equiv="Content-Security-Policy" content="{policy}">\n'
        f'<meta name="viewport" content="width=device-width, initial-scale=1">\n'
        f"<title>{escape(title)}</title>\n<style>{STYLE}{style}</style>\n</head>\n<body>\n" + "\n".join(body)
    ) + "\n</body>\n</html>\n"


def _section(index: int, item: Item, pictures: _Pictures) -> str:
    details = dict(item.details)
    losses = details.pop("losses", None)
    settings = details.pop("settings", {})
    settings = {**settings, **details} if isinstance(settings, Mapping) else {"settings": settings, **details}
    facts = [f'<span class="status {item.status}">{item.status}</span>', f"{item.seconds:.2f} s"]
    if item.output:
        facts.append(pictures.link(item.output))
    unit = unit_of([item])
    metrics = {in_words(name, unit): value for name, value in item.metrics.items()}
    parts = [
        f'<section id="item-{index}">',
        f"<h2>{escape(item.input)}</h2>",
        f'<p class="facts">{" · ".join(facts)}</p>',
        f'<p class="error">{escape(item.error)}</p>' if item.error else "",
        pictures.show(item.files),
        _list("Warnings", item.warnings),
        f'<div class="columns">{_pairs("Measured", metrics)}{_values("Settings", settings, unit)}</div>',
        _curve(losses) if losses is not None else "",
        pictures.links(),
        "</section>",
    ]
    return "\n".join(filter(None, parts))


def _overview(report: Report) -> str:
    names, averages = metric_names(report.items), means(report)
    rows = []
    for index, item in enumerate(report.items):
        cells = [f'<td class="name"><a href="#item-{index}">{escape(item.input)}</a></td>']
        cells += [f'<td class="status {item.status}">{item.status}</td>', f'<td class="n">{item.seconds:.2f}</td>']
        cells += [_cell(item.metrics[name]) if name in item.metrics else "<td></td>" for name in names]
        rows.append(f"<tr>{''.join(cells)}</tr>")
    if averages:
        cells = [_cell(averages[name]) if name in averages else "<td></td>" for name in names]
        rows.append(f'<tr class="mean"><td class="name">{MEAN}</td><td></td><td></td>{"".join(cells)}</tr>')
    unit = unit_of(report.items)
    heads = [_head("input", False), _head("status", False), _head("time, s", True)]
    heads += [_head(in_words(name, unit), True) for name in names]
    return _table("All inputs", f"<thead><tr>{''.join(heads)}</tr></thead><tbody>{''.join(rows)}</tbody>")


def _rows(title: str, rows: Sequence[Mapping[str, Any]], unit: str = "") -> str:
    """Flat dicts as a table: columns in the order in which they first appear, named in words."""
    columns = list(dict.fromkeys(key for row in rows for key in row))
    numeric = {c for c in columns if any(isinstance(plain(row.get(c)), (int, float)) for row in rows)}
    heads = "".join(_head(in_words(str(column), unit), column in numeric) for column in columns)
    body = "".join(f"<tr>{''.join(_cell(row[c]) if c in row else '<td></td>' for c in columns)}</tr>" for row in rows)
    return _table(title, f"<thead><tr>{heads}</tr></thead><tbody>{body}</tbody>")


def _values(title: str, values: Mapping[str, Any], unit: str = "") -> str:
    """Names and values, then each list of flat dicts among them as a table of its own."""
    single, tables = split_tables(values)
    named = {in_words(str(name), unit): value for name, value in single.items()}
    return _pairs(title, named) + "".join(
        _rows(name.replace("_", " ").capitalize(), rows, unit) for name, rows in tables.items()
    )


def _pairs(title: str, values: Mapping[str, Any]) -> str:
    if not values:
        return ""
    rows = "".join(f"<tr><th>{escape(str(name))}</th>{_cell(value)}</tr>" for name, value in values.items())
    aligned = all(isinstance(plain(value), (int, float)) for value in values.values())
    return _table(title, rows if aligned else rows.replace('<td class="n">', "<td>"))  # numbers among words: left


def _table(title: str, content: str) -> str:
    return f'<div><h3>{escape(title)}</h3><div class="scroll"><table>{content}</table></div></div>'


def _head(name: str, numeric: bool) -> str:
    return f'<th class="n">{escape(name)}</th>' if numeric else f"<th>{escape(name)}</th>"


def _cell(value: Any) -> str:
    value = plain(value)
    if value is None or isinstance(value, (int, float)):
        return f'<td class="n">{number(value)}</td>'
    text = escape(number(value))
    return f'<td class="name">{f"<pre>{text}</pre>" if chr(10) in text else text}</td>'


def _list(title: str, lines: Iterable[str]) -> str:
    points = "".join(f"<li>{escape(line)}</li>" for line in lines)
    return f"<h3>{title}</h3><ul>{points}</ul>" if points else ""


class _Pictures:
    """Inlines the pictures of all items within one budget of bytes."""

    def __init__(self, folder: Path) -> None:
        self.folder, self.left = folder, MAX_INLINE_BYTES
        self.linked: list[str] = []

    def link(self, name: str) -> str:
        """A link that works while report and file keep their places relative to each other."""
        target = os.path.relpath(self._find(name), self.folder)
        address = quote(os.fsencode(target))  # a colon becomes %3A, so that no name can pass for a scheme
        return f'<a href="{escape(address)}">{escape(name)}</a>'

    def show(self, files: Mapping[str, str]) -> str:
        """The pictures among the files, as far as the budget goes; ``links`` has the rest."""
        figures = []
        self.linked = []
        for what, name in files.items():
            caption = f"{escape(what.replace('_', ' ').capitalize())}: {self.link(name)}"
            if source := self._inline(self._find(name)):
                picture = f'<img src="{source}" alt="{escape(what)}" loading="lazy">'
                figures.append(f"<figure>{picture}<figcaption>{caption}</figcaption></figure>")
            else:
                self.linked.append(f"<li>{caption}</li>")
        return f'<div class="pictures">{"".join(figures)}</div>' if figures else ""

    def links(self) -> str:
        """The files that ``show`` did not show."""
        return f"<h3>Files</h3><ul>{''.join(self.linked)}</ul>" if self.linked else ""

    def _find(self, name: str) -> Path:
        """Names are relative to the working directory; a worker's may be relative to the report."""
        path = Path(name)
        return path if path.exists() or not (self.folder / path).exists() else self.folder / path

    def _inline(self, path: Path) -> str:
        """A data: URI, or nothing for a file that is no picture, cannot be read, or would pass the budget."""
        media = MEDIA.get(path.suffix.lower())
        if not media or not path.is_file() or path.stat().st_size > 4 * MAX_INLINE_BYTES:
            return ""
        data = path.read_bytes()
        if media != "image/svg+xml":
            data = _shrink(data)
        if not data or len(data) > self.left:
            return ""
        self.left -= len(data)
        return f"data:{media};base64,{base64.b64encode(data).decode('ascii')}"


def _shrink(data: bytes) -> bytes:
    """The same picture in the same format, no side over ``MAX_SIDE``; nothing when it is broken."""
    from PIL import Image

    try:
        with Image.open(BytesIO(data)) as image:
            if max(image.size) <= MAX_SIDE:
                image.verify()
                return data
            kind = image.format
            if image.mode.startswith("I"):  # 16-bit grey: Pillow would clip, not scale, on the way to 8 bits
                small = image.convert("I").point(lambda v: v / 256).convert("L")
            else:
                small = image.convert("RGBA" if "A" in image.getbands() or "transparency" in image.info else "RGB")
            small.thumbnail((MAX_SIDE, MAX_SIDE))
            out = BytesIO()
            small.save(out, format=kind)
            return out.getvalue()
    except (OSError, ValueError, SyntaxError, Image.DecompressionBombError):  # what Pillow raises on broken files
        return b""


def _curve(losses: Sequence[float]) -> str:
    """The loss over the steps as an inline SVG, 640 × 180, logarithmic where it spans more than a decade."""
    values = [(step, value) for step, loss in enumerate(losses, 1) if (value := plain(loss)) is not None]
    if len(values) < 2:
        return ""
    low, high = min(v for _, v in values), max(v for _, v in values)
    log = low > 0 and high > 10 * low
    scale = math.log if log else float
    span = (scale(high) - scale(low)) or 1.0
    stride = -(-len(values) // 600)  # one point a pixel is enough
    left, top, width, height = 70, 10, 560, 140
    steps = max(len(losses) - 1, 1)
    points = " ".join(
        f"{left + width * (step - 1) / steps:.1f},{top + height * (1 - (scale(value) - scale(low)) / span):.1f}"
        for step, value in [*values[:-1:stride], values[-1]]
    )
    return (
        f'<h3>Loss{" (logarithmic)" if log else ""}</h3><svg viewBox="0 0 640 180" width="640" role="img" '
        f'aria-label="Loss over {len(losses)} steps" style="max-width:100%">'
        f'<rect x="{left}" y="{top}" width="{width}" height="{height}" fill="none" stroke="var(--line)"/>'
        f'<polyline points="{points}" fill="none" stroke="var(--accent)" stroke-width="1.5"/>'
        f'<text x="{left - 6}" y="{top + 9}" text-anchor="end">{high:.4g}</text>'
        f'<text x="{left - 6}" y="{top + height}" text-anchor="end">{low:.4g}</text>'
        f'<text x="{left}" y="{top + height + 16}">step 1</text>'
        f'<text x="{left + width}" y="{top + height + 16}" text-anchor="end">{len(losses)}</text></svg>'
    )
