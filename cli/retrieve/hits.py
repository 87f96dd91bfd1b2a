"""What verbs that find entries share: how hits are asked for, checked before the work, and shown."""

from __future__ import annotations

import os
import sys
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from attn.core.bundles import Reporting

from ..say import say, say_bytes

if TYPE_CHECKING:
    from attn.core.retrieve.verbs.search import Found

TopOption = Annotated[int, typer.Option("--top", "-k", metavar="N", min=1, help="Hits per query.")]
ExactOption = Annotated[bool, typer.Option("--exact", help="Compare with every entry, whatever the store.")]
FormatOption = Annotated[
    str, typer.Option("--format", metavar="table|jsonl|trec|tsv|paths0", help="What stdout gets.")
]  # fmt: skip
HitsOption = Annotated[
    Path | None, typer.Option("--output", "-o", metavar="FILE", help="Write the hits there, in --format.")
]
SheetOption = Annotated[
    Path | None, typer.Option("--sheet", metavar="FILE.html", help="A page with pictures or texts of the hits.")
]


def check_hits(
    form: str, output: Path | None, sheet: Path | None, report_file: Path | None, formats: Sequence[str]
) -> None:
    """Raise ``UsageError`` for a format, a page or a report that could not be written: before the work, not after."""
    from attn.core.errors import UsageError, did_you_mean
    from attn.core.io.atomic import place_fault
    from attn.core.report.write import check_report_path

    if form not in ("table", *formats):
        hint = did_you_mean(form, formats) or f"Known: table, {', '.join(formats)}."
        raise UsageError(f"--format: {form!r} is not known. {hint}")
    if output is not None and form == "table":
        raise UsageError(f"-o {output}: name how with --format {', '.join(formats[:-1])} or {formats[-1]}.")
    if sheet is not None and sheet.suffix.lower() not in (".html", ".htm"):
        raise UsageError(f"--sheet {sheet}: the page is HTML. Name it {sheet.stem}.html.")
    for name, path in (("-o", output), ("--sheet", sheet)):
        if path is not None and (fault := place_fault(path)):
            raise UsageError(f"{name} {path}: {fault}.")
    if report_file is not None:
        check_report_path(report_file)


def show_hits(
    found: Found, form: str, output: Path | None, sheet: Path | None, report_file: Path | None,
    *, as_json: bool, quiet: bool, verbose: bool, row: Callable[[Any, int, Any], Mapping[str, Any]],
) -> bool:  # fmt: skip
    """Write and print what was found; true where the table, or the JSON document, was printed.

    ``row`` makes a line of the table of a result, a rank and a hit.
    """
    from attn.core.retrieve.score.runs import apart, render, write_results
    from attn.core.retrieve.verbs.sheet import write_sheet

    from ..show import ROWS_SHOWN, save_report, show

    for item in found.report.items:
        if item.error:
            say(f"attn: {item.input}: {item.error}", err=True)
    for warning in found.warnings:
        say(f"attn: warning: {warning}", err=True)
    if sheet is not None:
        write_sheet(sheet, found)
    results = list(apart(found.results)) if form == "trec" else found.results
    if output is not None:
        write_results(output, results, form)
    if form == "table" or as_json or output is not None:
        rows = [row(result, rank, hit) for result in found.results for rank, hit in enumerate(result.ranked, 1)]
        some = rows[:ROWS_SHOWN]
        show(found.report, Reporting(as_json, report_file, quiet, verbose), rows=some)
        if len(rows) > ROWS_SHOWN and not as_json and not quiet:
            say(f"the first {ROWS_SHOWN} of {len(rows)} are shown; --format jsonl and --report have all")
        return True
    if report_file is not None:
        save_report(found.report, report_file, verbose=verbose)
    if sys.stdout.isatty():  # somebody looks at it: ids and texts must not steer the terminal
        for piece in [*render(results, form)]:
            say(os.fsdecode(piece).removesuffix("\n").removesuffix("\0"), lines=True)
        return False
    for piece in [*render(results, form)]:  # all, or nothing where one of them cannot be written
        say_bytes(piece)
    return False
