"""The one writer that turns a report into JSON, CSV, Markdown or HTML."""

from __future__ import annotations

import re
from os import PathLike
from pathlib import Path

from ..io.atomic import atomic_path, place_fault
from ..options import OptionError
from ..text import csv_text, one_line, printable
from .model import (
    CSV_COLUMNS,
    MEAN,
    SUFFIXES,
    Report,
    dumps,
    means,
    metric_names,
    number,
    plain,
    rest_of_summary,
    split_tables,
    unit_of,
)
from .words import in_words


def write_report(report: Report, path: str | PathLike[str]) -> None:
    """Write a report in the form that the suffix of ``path`` names; the file appears whole or not at all.

    Parameters
    ----------
    report : Report
    path : path
        ``.json``, ``.csv`` (one row per item, for pandas), ``.md`` or ``.html`` (self-contained, pictures inline).

    Raises
    ------
    UsageError
        If the suffix is none of the four.
    """
    path = Path(path)
    text = render(report, path)
    with atomic_path(path) as temporary:
        # a file name that is not UTF-8 reaches us with lone surrogates; \udc.. in the report is better than no report
        temporary.write_text(text, encoding="utf-8", errors="backslashreplace", newline="")


def check_report_path(path: str | PathLike[str]) -> None:
    """Raise ``UsageError`` where ``write_report`` would fail: for commands to call before the work, not after it."""
    _check_suffix(path)
    if fault := place_fault(path):
        raise OptionError(f"{{report_file}} {path}: {fault}.")


def _check_suffix(path: str | PathLike[str]) -> None:
    if Path(path).suffix.lower() not in SUFFIXES:
        what = f"reports end in {', '.join(SUFFIXES[:-1])} or {SUFFIXES[-1]}"
        raise OptionError(f"{{report_file}} {path}: {what}, which says how they are written.")


def render(report: Report, path: str | PathLike[str]) -> str:
    """The text that ``write_report`` puts into ``path``."""
    _check_suffix(path)
    match Path(path).suffix.lower():
        case ".json":
            return dumps(report) + "\n"
        case ".csv":
            return _csv(report)
        case ".md":
            return _markdown(report)
        case _:
            from .html import page

            return page(report, Path(path))


def _csv(report: Report) -> str:
    """One row per item: five stable columns, then every metric that any item has."""
    names = [name for name in metric_names(report.items) if name not in CSV_COLUMNS]
    rows = [
        [plain(getattr(item, column)) for column in CSV_COLUMNS] + [plain(item.metrics.get(name)) for name in names]
        for item in report.items
    ]
    return csv_text([[*CSV_COLUMNS, *names], *rows])


def _markdown(report: Report) -> str:
    names = metric_names(report.items)
    header = ["input", "status", "output", "seconds", *(in_words(name, unit_of(report.items)) for name in names)]
    errors = any(item.error for item in report.items)
    lines = [f"# attn {report.command}", "", *(f"> **{_md(notice)}**\n" for notice in report.notices)]
    if report.command_line:
        lines += ["    " + line for line in printable(report.command_line, keep="\n").splitlines()] + [""]
    lines += [f"attn {report.version}, {_md(report.device)}, {report.seconds:.1f} s", ""]
    rows = [
        [item.input, item.status, item.output or "", f"{item.seconds:.2f}"]
        + [number(item.metrics[name]) if name in item.metrics else "" for name in names]
        + ([item.error or ""] if errors else [])
        for item in report.items
    ]
    if averages := means(report):
        row = [number(averages[name]) if name in averages else "" for name in names]
        rows.append([MEAN, "", "", "", *row, *([""] if errors else [])])
    lines += _md_table(header + (["error"] if errors else []), rows)
    single, tables = split_tables(rest_of_summary(report))
    lines += _md_table(["summary", "value"], [[name, number(value)] for name, value in single.items()])
    for name, table in tables.items():
        keys = list(dict.fromkeys(key for row in table for key in row))
        lines += [f"## {_md(name)}", ""]
        lines += _md_table(keys, [[number(row[key]) if key in row else "" for key in keys] for row in table])
    for item in report.items:
        lines += [f"- {_md(item.input)}: {_md(warning)}" for warning in item.warnings]
    return "\n".join(lines).rstrip("\n") + "\n"


def _md_table(header: list[str], rows: list[list[str]]) -> list[str]:
    if not rows:
        return []
    cells = [[_md(cell) for cell in row] for row in [header, *rows]]
    lines = ["| " + " | ".join(row) + " |" for row in cells]
    return [lines[0], "|" + " --- |" * len(header), *lines[1:], ""]


def _md(text: str) -> str:
    """Text that Markdown shows as it is: file names may hold pipes, brackets and newlines."""
    return re.sub(r"([\\`*|<\[\]&]|(?<!\w)_|_(?!\w))", r"\\\1", one_line(text))
