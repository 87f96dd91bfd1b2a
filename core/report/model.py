"""The report that every command returns, and the one writer that turns it into JSON, CSV, Markdown or HTML.

Schema: DESIGN.md section 2. NaN and infinity become ``null`` (an empty cell in a table): JSON has no word for them.
"""

from __future__ import annotations

import dataclasses
import enum
import json
import math
import shlex
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any, Literal

from .words import SETTINGS

Status = Literal["ok", "failed", "skipped"]
SUFFIXES = (".json", ".csv", ".md", ".html")
MEAN = "mean"
"""What the line of means is called in a table."""
CSV_COLUMNS = ("input", "output", "status", "error", "seconds")


@dataclass(frozen=True, slots=True)
class Item:
    """What became of one input.

    Parameters
    ----------
    input, output : str
        Paths as the user knows them; ``output`` is None where nothing was written.
    status : {"ok", "failed", "skipped"}
    seconds : float
        Wall time spent on this input, in s.
    error : str or None
        Why it failed, without the file's name.
    metrics : mapping of str to float
        Plain numbers under stable lower-case names that carry their unit where they have one (``rmse_hu``).
    files : mapping of str to str
        Further files that were written, by what they are (``"sigma_maps"``). HTML reports show PNG, JPEG and SVG.
    warnings : tuple of str
    details : mapping
        What only one method has to say, as JSON can hold it. HTML reports draw ``losses`` (one number a step) as a
        curve, ``comparison`` (flat dicts, one a row) as a table, and everything else as settings.
    """

    input: str
    output: str | None
    status: Status
    seconds: float
    error: str | None = None
    metrics: Mapping[str, float] = field(default_factory=dict)
    files: Mapping[str, str] = field(default_factory=dict)
    warnings: tuple[str, ...] = ()
    details: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Report:
    """What a command did: how it was called, what became of each input, and the sum of it.

    Parameters
    ----------
    command, version : str
        Subcommand (``"denoise"``) and version of attn.
    arguments : mapping
        What it was called with. ``argv``, where a command line was: its words after ``attn``.
    device : str
        Where it ran (``"cpu"``, ``"cuda:0"``).
    seconds : float
        Wall time of the whole command, in s.
    items : tuple of Item
    summary : mapping
        Normally ``summarise(items)``. ``interrupted`` true makes the exit code 130.
    notices : tuple of str
        What every reader of the report must know; shown once, at the top.
    """

    command: str
    version: str
    arguments: Mapping[str, Any]
    device: str
    seconds: float
    items: tuple[Item, ...]
    summary: Mapping[str, Any]
    notices: tuple[str, ...] = ()

    @property
    def exit_code(self) -> int:
        """0 all inputs done, 1 at least one failed, 130 interrupted."""
        if self.summary.get("interrupted"):
            return 130
        return int(any(item.status == "failed" for item in self.items))

    def to_dict(self) -> dict[str, Any]:
        """The schema as plain dicts, lists, strings, numbers, booleans and None; open-ended mappings sorted by name."""
        document = {name: plain(getattr(self, name)) for name in _REPORT_FIELDS if name != "items"}
        items = [{name: plain(getattr(item, name)) for name in _ITEM_FIELDS} for item in self.items]
        return {name: items if name == "items" else document[name] for name in _REPORT_FIELDS}

    @property
    def command_line(self) -> str:
        """The command as it was typed, quoted for a POSIX shell; empty where Python code made the call."""
        words = self.arguments.get("argv", ())
        return shlex.join(["attn", *map(str, words)]) if words else ""


_REPORT_FIELDS = ("command", "version", "arguments", "device", "seconds", "items", "summary", "notices")
_ITEM_FIELDS = ("input", "output", "status", "error", "seconds", "metrics", "files", "warnings", "details")


def plain(value: Any) -> Any:
    """``value`` as JSON can hold it: NumPy and torch numbers and arrays, paths, dataclasses, non-finite numbers."""
    match value:
        case enum.Enum():
            return plain(value.value)
        case None | bool() | int() | str():
            return value
        case float():
            return float(value) if math.isfinite(value) else None
        case Mapping():
            return {str(key): plain(value[key]) for key in sorted(value, key=str)}
        case set() | frozenset():
            return [plain(one) for one in sorted(value, key=str)]
        case list() | tuple():
            return [plain(one) for one in value]
    if hasattr(value, "tolist"):  # NumPy scalars and arrays, torch tensors, without importing either
        return plain(value.tolist())
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        return {f.name: plain(getattr(value, f.name)) for f in dataclasses.fields(value)}
    return str(value)


def summarise(items: Iterable[Item]) -> dict[str, Any]:
    """Counts and means over the items of a report.

    Returns
    -------
    dict
        ``done``, ``failed``, ``skipped`` (numbers of items; done are those with status "ok"), and ``mean_NAME`` for
        each metric that is measured, not set (``metric_words.SETTINGS``): its mean over the done items that report a
        finite value, or None where none does.
    """
    items = list(items)
    counts = {key: sum(i.status == status for i in items) for key, status in _COUNTS.items()}
    done = [item for item in items if item.status == "ok"]
    means: dict[str, float | None] = {}
    for name in metric_names(done):
        if name in SETTINGS:
            continue
        values = [v for item in done if (v := plain(item.metrics.get(name))) is not None]
        means[f"mean_{name}"] = math.fsum(values) / len(values) if values else None
    return {**counts, **means}


_COUNTS = {"done": "ok", "failed": "failed", "skipped": "skipped"}


def metric_names(items: Iterable[Item]) -> list[str]:
    """Names of all metrics, in the order in which they first appear."""
    return list(dict.fromkeys(name for item in items for name in item.metrics))


def split_tables(values: Mapping[str, Any]) -> tuple[dict[str, Any], dict[str, list[Mapping[str, Any]]]]:
    """``values`` in two: what fits a cell, and what is a table of its own: lists of flat dicts, dicts of numbers."""
    tables: dict[str, list[Mapping[str, Any]]] = {}
    for name, value in values.items():
        if isinstance(value, (list, tuple)) and value and all(isinstance(row, Mapping) for row in value):
            tables[name] = list(value)
        elif isinstance(value, Mapping) and value and all(type(plain(one)) in (int, float) for one in value.values()):
            tables[name] = [value]
    return {name: value for name, value in values.items() if name not in tables}, tables


def dumps(report: Report) -> str:
    """The report as one JSON document. ASCII only, so that no terminal, pipe or odd file name can spoil it."""
    return json.dumps(report.to_dict(), indent=2, allow_nan=False)


def unit_of(items: Iterable[Item]) -> str:
    """The unit of the pixels, where all items have the same."""
    units = {str(item.details["unit"]) for item in items if "unit" in item.details}
    return units.pop() if len(units) == 1 else ""


def means(report: Report) -> dict[str, Any]:
    """The means of the summary by the name of their metric, where there are several files to take the mean of."""
    if sum(item.status == "ok" for item in report.items) < 2:
        return {}
    names = metric_names(report.items)
    return {name: report.summary[f"mean_{name}"] for name in names if f"mean_{name}" in report.summary}


def rest_of_summary(report: Report) -> dict[str, Any]:
    """The summary without means; of one item that is done, without counts and without what its details say, too."""
    names = {f"mean_{name}" for name in metric_names(report.items)}
    if len(report.items) == 1 and report.items[0].status == "ok":
        names |= {*_COUNTS, *report.items[0].details}
    return {name: value for name, value in report.summary.items() if name not in names}


def number(value: Any) -> str:
    """A value for people: six significant digits, an en dash where there is none."""
    value = plain(value)
    match value:
        case None:
            return "–"
        case float():
            return f"{value:.6g}"
        case list() | dict():
            return json.dumps(value, ensure_ascii=False)
    return str(value)
