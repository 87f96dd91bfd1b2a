"""The one writer that turns a report into JSON, CSV, Markdown or HTML."""

from __future__ import annotations

import json
import re
from collections.abc import Sequence
from os import PathLike
from pathlib import Path
from typing import Any

from ..io.atomic import atomic_path, check_suffix, place_fault
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
    unit_of,
)
from .sections import Row, Section
from .words import in_words


def write_report(report: Report, path: str | PathLike[str]) -> list[Path]:
    """Write a report in the form that the suffix of ``path`` names; each file appears whole or not at all.

    Parameters
    ----------
    report : Report
    path : path
        ``.json``, ``.csv`` (one row per item, for pandas), ``.md`` or ``.html`` (self-contained, pictures inline).

    Returns
    -------
    list of Path: what was written beside ``path``. Sections are tables of their own, so a CSV file ``run.csv`` has them
    in files beside it, ``run.NAME.csv``, each with the column ``input`` first where it is of items.

    Raises
    ------
    UsageError
        If the suffix is none of the four.
    """
    path = Path(path)
    _write(path, render(report, path))
    if path.suffix.lower() != ".csv":
        return []
    tables = {name: rows for name, rows in _tables(report).items() if rows}
    beside = {path.with_name(f"{path.stem}.{name}{path.suffix}"): rows for name, rows in tables.items()}
    for place, rows in beside.items():
        names = list(dict.fromkeys(name for row in rows for name in row))
        _write(place, csv_text([names, *([_csv_cell(row.get(name)) for name in names] for row in rows)]))
    return list(beside)


def _write(path: Path, text: str) -> None:
    with atomic_path(path) as temporary:
        # a file name that is not UTF-8 reaches us with lone surrogates; \udc.. in the report is better than no report
        temporary.write_text(text, encoding="utf-8", errors="backslashreplace", newline="")


def _tables(report: Report) -> dict[str, list[Row]]:
    """Rows of the sections that are no mere details, by name."""
    tables: dict[str, list[Row]] = {}
    for section in report.sections:
        if not section.detail:
            tables.setdefault(section.name, []).extend(section.rows())
    for item in report.items:
        for section in item.sections:
            if not section.detail:
                rows = ({"input": item.input, **row} for row in section.rows())
                tables.setdefault(section.name, []).extend(rows)
    return tables


def _csv_cell(value: Any) -> Any:
    value = plain(value)
    return json.dumps(value) if isinstance(value, (list, dict)) else value


def check_report_path(path: str | PathLike[str]) -> None:
    """Raise ``UsageError`` where ``write_report`` would fail: for commands to call before the work, not after it."""
    check_suffix(path, SUFFIXES, "reports", "report_file")
    if fault := place_fault(path):
        raise OptionError(f"{{report_file}} {path}: {fault}.")


def render(report: Report, path: str | PathLike[str]) -> str:
    """The text that ``write_report`` puts into ``path``."""
    check_suffix(path, SUFFIXES, "reports", "report_file")
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
    summary = rest_of_summary(report)
    lines += _md_table(["summary", "value"], [[name, number(value)] for name, value in summary.items()])
    for section in report.sections:
        lines += _md_section(section.heading, section)
    for item in report.items:
        for section in item.sections:
            if not section.detail:
                lines += _md_section(f"{item.input}: {section.heading}", section)
    for item in report.items:
        lines += [f"- {_md(item.input)}: {_md(warning)}" for warning in item.warnings]
    return "\n".join(lines).rstrip("\n") + "\n"


def _md_section(heading: str, section: Section) -> list[str]:
    table = markdown_table(section.rows())
    return [f"## {_md(heading)}", "", *table] if table else []


def markdown_table(rows: Sequence[Row], *, digits: int = 6) -> list[str]:
    """Lines of a table, an empty one last: a column for each name in any row, empty where a row has it not.

    ``digits``: significant ones of what is not whole. No rows: no lines.
    """
    names = list(dict.fromkeys(name for row in rows for name in row))
    return _md_table(names, [[number(row[name], digits) if name in row else "" for name in names] for row in rows])


def _md_table(header: Sequence[str], rows: Sequence[Sequence[str]]) -> list[str]:
    if not rows:
        return []
    cells = [[_md(cell) for cell in row] for row in [header, *rows]]
    lines = ["| " + " | ".join(row) + " |" for row in cells]
    return [lines[0], "|" + " --- |" * len(header), *lines[1:], ""]


def _md(text: str) -> str:
    """Text that Markdown shows as it is: file names may hold pipes, brackets and newlines."""
    return re.sub(r"([\\`*|<\[\]&]|(?<!\w)_|_(?!\w))", r"\\\1", one_line(text))
