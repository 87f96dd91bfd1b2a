"""What a person sees: the summary table on stdout, progress and faults on stderr; with `--json` the document."""

from __future__ import annotations

import math
import pkgutil
import sys
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import typer

from attn.core.batch.run import BatchOutcome
from attn.core.bundles import Inputs, Reporting
from attn.core.errors import AttnError
from attn.core.fit.processes import processes_of_environment
from attn.core.io.walk import read_list
from attn.core.options import values
from attn.core.report.model import Item, Report, dumps
from attn.core.report.sections import Passage, Section
from attn.core.report.write import check_report_path, write_report
from attn.core.text import one_line, printable

from .interrupts import insist
from .say import say, say_above, say_coloured, say_table, undelivered

if TYPE_CHECKING:
    from rich.progress import Progress

    from attn.core.bundles import Placement
    from attn.core.command import Verb

ROWS_SHOWN = 200
"""A terminal is no place for ten thousand rows; reports hold all of them."""

PASSAGE_STYLES = {"planted": "bold green", "prompt": "dim", "masked": "dim"}
"""Kinds of pieces of a passage, as Rich shows them."""


class Watch:
    """Progress on stderr, only where stderr is a terminal; failures as one line each, as they happen."""

    def __init__(self, *, quiet: bool) -> None:
        self._progress: Progress | None = None
        if not quiet and sys.stderr.isatty():
            from rich.console import Console
            from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn

            name = TextColumn("{task.description}", markup=False)  # a file's name is no markup
            columns = (name, BarColumn(), MofNCompleteColumn(), TimeElapsedColumn())
            self._progress = Progress(*columns, console=Console(stderr=True), transient=True)
            self._files = self._progress.add_task("files", total=None)
            self._steps = self._progress.add_task("steps", total=None, visible=False)
            self._progress.start()

    def item(self, item: Item, done: int, total: int) -> None:
        if self._progress:
            self._progress.update(self._files, completed=done, total=total)
            self._progress.update(self._steps, visible=False)
        if item.error:
            self._say(f"attn: {item.input}: {item.error}")

    def step(self, name: str, done: int, total: int) -> None:
        insist()
        if self._progress:
            name = printable(name)
            shown = name if len(name) <= 40 else f"…{name[-39:]}"
            self._progress.update(self._steps, description=shown, completed=done, total=total, visible=True)

    def _say(self, text: str) -> None:
        if self._progress:
            say_above(self._progress.console, text)
        else:
            say(text, err=True)

    def close(self) -> None:
        if self._progress:
            self._progress.stop()


def run_files(
    run: str,
    inputs: Inputs,
    options: Any,
    placement: Placement,
    reporting: Reporting,
) -> None:
    """Call a command's ``run`` over the user's files, show its report, and leave with the report's exit code.

    ``run`` is where it is, ``attn.core.COMMAND.MODULE:NAME``: Ctrl-C while it is imported is told as any other.
    """
    names = list(inputs.inputs)
    arguments = {
        "inputs": names, "output": inputs.output, **asdict(options), **asdict(placement), "argv": sys.argv[1:],
    }  # fmt: skip

    def call(watch: Watch) -> Report:
        listed = read_list(nul=inputs.nul) if "-" in names else []
        report: Report = pkgutil.resolve_name(run)(
            names, inputs.output, options, placement, watcher=watch, stdin=listed, arguments=arguments
        )
        return report

    report = watched(run.split(".")[2], call, arguments, names, reporting)
    show(report, reporting)
    raise typer.Exit(report.exit_code)


def run_verb(verb: Verb, group: str, name: str, options: Any, reporting: Reporting) -> None:
    """Do the work of a registry's row, show its report, and leave with the report's exit code."""
    arguments = {**values(options), "argv": sys.argv[1:]}

    def call(watch: Watch) -> Report:
        return verb.resolve()(options, watcher=watch, arguments=arguments)

    inputs = getattr(options, "inputs", None)
    named = inputs.inputs if isinstance(inputs, Inputs) else ()
    left = list(named) or [name]  # attn probe saliency may have a prompt alone
    report = watched(group, call, arguments, left, reporting)
    rows = None
    if verb.columns:
        rows = [
            {"input": item.input, "status": item.status, **{name: item.metrics.get(name) for name in verb.columns}}
            for item in report.items[:ROWS_SHOWN]
        ]
    show(report, reporting, rows=rows)
    raise typer.Exit(report.exit_code)


@contextmanager
def watching(reporting: Reporting) -> Iterator[Watch]:
    """The progress display of a call; that the report could be written is checked before the work, not after it."""
    if reporting.report_file is not None:
        check_report_path(reporting.report_file)
    watch = Watch(quiet=reporting.quiet)
    try:
        yield watch
    finally:
        watch.close()


def watched(
    command: str,
    call: Callable[[Watch], Report],
    arguments: Mapping[str, Any],
    left: Sequence[str],
    reporting: Reporting,
) -> Report:
    """The report of ``call``, which is given the progress display.

    Ctrl-C that ``call`` does not answer itself (before its first file) gives a report too, with all of ``left``.
    """
    start = time.perf_counter()
    with watching(reporting) as watch:
        try:
            return call(watch)
        except KeyboardInterrupt:
            return BatchOutcome((), tuple(left), interrupted=True).report(command, arguments, "-", start)


def show_interrupted(command: str, options: Mapping[str, Any]) -> None:
    """The report of a command that was interrupted where it has none: for ``--json`` and ``--report``."""
    lists = [value for value in options.values() if isinstance(value, list) and all(isinstance(v, str) for v in value)]
    left = tuple(lists[0]) if lists else ()  # the arguments come first
    report = BatchOutcome((), left, interrupted=True).report(command, {"argv": sys.argv[1:]}, "-", time.perf_counter())
    say(f"attn: interrupted, {len(left)} inputs left" if left else "attn: interrupted", err=True)
    if options.get("report_file") is not None:
        save_report(report, options["report_file"], verbose=False)
    if options.get("as_json"):
        say(dumps(report), lines=True)


def show(report: Report, reporting: Reporting, *, rows: Sequence[Mapping[str, Any]] | None = None) -> None:
    """Print a report and write it to the report's file where one is wanted; that this fails loses nothing else.

    Tracebacks are for ``verbose``.
    """
    if reporting.report_file is not None:
        save_report(report, reporting.report_file, verbose=reporting.verbose, quiet=reporting.quiet)
    if reporting.verbose:
        for item in report.items:
            if item.traceback:
                say(item.traceback.rstrip(), err=True, lines=True)
    for remark in report.urgent:
        say(f"attn: {remark}", err=True)
    if not reporting.quiet:
        _print_warnings(report)
    if report.left is not None:
        onward = "" if report.command == "bench" else "; the same command again goes on from here"
        say(f"attn: interrupted, {len(report.left)} inputs left{onward}", err=True)
    if reporting.as_json:
        say(dumps(report if reporting.verbose else _without_traces(report)), lines=True)
    elif not reporting.quiet:
        _print_items(report, rows)
        for section in report.sections:
            _print_section(section, section.heading)
        for item in report.items[:ROWS_SHOWN]:
            for section in item.sections:
                _print_section(section, f"{item.input}: {section.heading}")
        for what, path in report.files.items():
            say(f"{what}: {path}")
        for notice in report.notices:
            say(notice)


def _print_section(section: Section, title: str) -> None:
    if section.detail or not section.printed:
        return
    if isinstance(section, Passage):
        say(title)
        say_coloured([(text, PASSAGE_STYLES.get(kind, "")) for text, kind in section.marked])
    elif section.brief:
        say(section.brief)
    elif rows := section.short_rows():
        print_rows(rows[:ROWS_SHOWN], title=title)


def save_report(report: Report, path: Path, *, verbose: bool, quiet: bool = True) -> None:
    """Write a report file; where that fails, say so: the work is done, and what is printed is still to come."""
    if not processes_of_environment().first:
        return
    try:
        beside = write_report(report if verbose else _without_traces(report), path)
        if beside and not quiet:
            say(f"attn: tables of the report, beside it: {', '.join(place.name for place in beside)}", err=True)
    except AttnError as error:
        say(f"attn: {error}", err=True)
        undelivered(True)
    except Exception as error:  # a fault of ours in a picture of the report costs the report, not the results
        say(f"attn: {path}: internal error, {type(error).__name__}: {one_line(str(error))}. Please report it", err=True)
        undelivered(True)


def _without_traces(report: Report) -> Report:
    """The report without the tracebacks of failed items: those are for who asks for them."""
    return replace(report, items=tuple(replace(item, traceback="") for item in report.items))


def _print_warnings(report: Report) -> None:
    """One line a warning; one that many files share is said once."""
    inputs_of: dict[str, list[str]] = {}
    for item in report.items:
        for warning in item.warnings:
            inputs_of.setdefault(warning, []).append(item.input)
    for warning, names in inputs_of.items():
        more = f" and {len(names) - 1} more" if len(names) > 1 else ""
        say(f"attn: warning: {names[0]}{more}: {warning}", err=True)
    for remark in report.remarks:
        say(f"attn: {remark}", err=True)


def _print_items(report: Report, shown: Sequence[Mapping[str, Any]] | None = None) -> None:
    names = [
        name
        for name in dict.fromkeys(name for item in report.items for name in item.metrics)
        if any(item.metrics.get(name) for item in report.items)  # classical methods learn 0 numbers in 0 steps
    ]
    rows = (
        shown
        or list(report.overview[:ROWS_SHOWN])
        or [
            {
                "input": item.input,
                "status": item.status,
                **{n: item.metrics.get(n) for n in names},
                "seconds": item.seconds,
            }
            for item in report.items[:ROWS_SHOWN]
        ]
    )
    counts = ", ".join(
        f"{sum(item.status == status for item in report.items)} {status}"
        for status in ("ok", "skipped", "failed")
        if any(item.status == status for item in report.items)
    )
    if len(report.items) > ROWS_SHOWN:
        counts += f" (the first {ROWS_SHOWN} are shown; --report has all)"
    title = f"attn {report.command}: {counts or 'nothing done'}, {report.seconds:.1f} s on {report.device}"
    if rows:
        print_rows(rows, title=title)
    else:
        say(title)
    if len(report.items) == 1 and report.items[0].output:
        verb = "written" if report.items[0].status == "ok" else "exists already"
        say(f"{verb}: {report.items[0].output}")


def print_rows(rows: Sequence[Mapping[str, Any]], *, title: str | None = None) -> None:
    """A table of flat rows; columns in the order in which keys first appear, empty columns left out."""
    keys = [
        key
        for key in dict.fromkeys(key for row in rows for key in row)
        if any(row.get(key) not in (None, "") for row in rows)
    ]
    texts = [{k: _seconds(row.get(k)) if k.endswith("seconds") else cell(row.get(k)) for k in keys} for row in rows]
    if title:
        say(title)
    say_table(texts, right=frozenset(k for k in keys if any(isinstance(row.get(k), (int, float)) for row in rows)))


def _seconds(value: Any) -> str:
    return "" if value is None else f"{value:.2f}"


def cell(value: Any) -> str:
    """A number as people read it, a dash where it is none; anything else as text; None is empty."""
    if value is None:
        return ""
    if isinstance(value, float) and math.isnan(value):
        return "–"
    if isinstance(value, float):
        return f"{value:.2f}" if 10 <= abs(value) < 1e9 else f"{value:.4g}"
    return str(value)
