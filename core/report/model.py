"""The report that every command returns: items, numbers, and typed sections of what else there is to show.

Schema of JSON: DESIGN.md section 2; a section stands under its name in ``summary`` or in an item's ``details``.
NaN and infinity become ``null`` (an empty cell in a table): JSON has no word for them.
"""

from __future__ import annotations

import dataclasses
import enum
import json
import math
import shlex
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal

from .sections import Row, Section
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
        Settings and circumstances that only one method has, as JSON can hold them. Nobody reads them back.
    sections : tuple of Section
        Tables, curves, pictures, words. JSON has each in ``details``, under its name.
    unit : str
        Of the pixels, where there are any; ``details`` in JSON.
    traceback : str
        Of a fault of ours; shown to who asks for it, then in ``details`` of JSON.
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
    sections: tuple[Section, ...] = ()
    unit: str = ""
    traceback: str = ""

    @property
    def known(self) -> dict[str, Any]:
        """The details with the unit of the pixels among them, and what went wrong."""
        more = {"unit": self.unit, "traceback": self.traceback}
        return {**self.details, **{name: text for name, text in more.items() if text}}

    def to_dict(self) -> dict[str, Any]:
        """The schema of an item."""
        document = {name: plain(getattr(self, name)) for name in _ITEM_FIELDS}
        return document | {"details": plain(self.known | _named(self.sections))}


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
        Normally ``summarise(items)``, and further single values.
    notices : tuple of str
        What every reader of the report must know; shown once, at the top.
    sections : tuple of Section
        Of all items together. JSON has each in ``summary``, under its name.
    left : tuple of str or None
        What was not reached after Ctrl-C, which makes the exit code 130; None: nobody interrupted.
        ``interrupted`` and ``left`` of ``summary`` in JSON.
    gate : bool
        What failed is that numbers of ours are wrong, which is not the user's fault: exit code 3 instead of 1.
    files : mapping of str to str
        What was written for all items together, by what it is; in ``summary`` of JSON, too.
    overview : sequence of mapping
        Rows that a terminal shows in the place of all metrics of all items, where those are too many.
    remarks : tuple of str
        Lines that a terminal says about all items together, for example which files were passed by; the files of a
        report have what they are made of as sections.
    urgent : tuple of str
        Remarks that are said even where the user wants quiet: what cannot be had back.
    """

    command: str
    version: str
    arguments: Mapping[str, Any]
    device: str
    seconds: float
    items: tuple[Item, ...]
    summary: Mapping[str, Any]
    notices: tuple[str, ...] = ()
    sections: tuple[Section, ...] = ()
    left: tuple[str, ...] | None = None
    gate: bool = False
    files: Mapping[str, str] = field(default_factory=dict)
    overview: Sequence[Row] = ()
    remarks: tuple[str, ...] = ()
    urgent: tuple[str, ...] = ()

    @property
    def exit_code(self) -> int:
        """0 all inputs done, 1 at least one failed (3 with ``gate``), 130 interrupted."""
        if self.left is not None:
            return 130
        failed = any(item.status == "failed" for item in self.items)
        return (3 if self.gate else 1) if failed else 0

    @property
    def known(self) -> dict[str, Any]:
        """The summary with further files, and what was left, among it."""
        stopped = {} if self.left is None else {"interrupted": True, "left": self.left}
        return {**self.summary, **self.files, **stopped}

    def to_dict(self) -> dict[str, Any]:
        """The schema as plain dicts, lists, strings, numbers, booleans and None; open-ended mappings sorted by name."""
        replaced = {
            "items": [item.to_dict() for item in self.items],
            "summary": plain(self.known | _named(self.sections)),
        }
        return {name: replaced[name] if name in replaced else plain(getattr(self, name)) for name in _REPORT_FIELDS}

    @property
    def command_line(self) -> str:
        """The command as it was typed, quoted for a POSIX shell; empty where Python code made the call."""
        return command_line_of(self.arguments)


def command_line_of(arguments: Mapping[str, Any]) -> str:
    """``Report.command_line`` of a report's arguments."""
    words = arguments.get("argv", ())
    return shlex.join(["attn", *map(str, words)]) if words else ""


_REPORT_FIELDS = ("command", "version", "arguments", "device", "seconds", "items", "summary", "notices")
_ITEM_FIELDS = ("input", "output", "status", "error", "seconds", "metrics", "files", "warnings", "details")


def _named(sections: Iterable[Section]) -> dict[str, Any]:
    return {section.name: section.plain() for section in sections}


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
            return [plain(entry) for entry in sorted(value, key=str)]
        case list() | tuple() | range():
            return [plain(entry) for entry in value]
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


def rows_with_errors(items: Iterable[Item]) -> list[Row]:
    """An overview of all metrics, whatever they are, and of why items failed."""
    return [
        {"input": item.input, "status": item.status, **item.metrics, "error": item.error, "seconds": item.seconds}
        for item in items
    ]


def dumps(report: Report) -> str:
    """The report as one JSON document. ASCII only, so that no terminal, pipe or odd file name can spoil it."""
    return json.dumps(report.to_dict(), indent=2, allow_nan=False)


def unit_of(items: Iterable[Item]) -> str:
    """The unit of the pixels, where all items have the same."""
    units = {item.unit for item in items if item.unit}
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
    return {name: value for name, value in report.known.items() if name not in names}


def number(value: Any, digits: int = 6) -> str:
    """A value for people: so many significant digits of what is not whole, an en dash where there is none."""
    value = plain(value)
    match value:
        case None:
            return "–"
        case float():
            return f"{value:.{digits}g}"
        case list() | dict():
            return json.dumps(value, ensure_ascii=False)
    return str(value)
