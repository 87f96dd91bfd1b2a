"""`attn retrieve similar`: parse, call core, show."""

from __future__ import annotations

import sys
from typing import Annotated, Any

import typer

from ..options import IndexArgument, JsonOption, QuietOption, ReportOption, ThreadsOption, VerboseOption, WhereOption
from .hits import ExactOption, FormatOption, HitsOption, SheetOption, TopOption


def main(
    index: IndexArgument,
    entries: Annotated[
        list[str],
        typer.Argument(metavar="ID", help="Entries, by id or by path as hits show them.", show_default=False),
    ],
    top: TopOption = 10,
    where: WhereOption = None,
    exact: ExactOption = False,
    form: FormatOption = "table",
    output: HitsOption = None,
    sheet: SheetOption = None,
    as_json: JsonOption = False,
    report_file: ReportOption = None,
    quiet: QuietOption = False,
    verbose: VerboseOption = False,
    threads: ThreadsOption = None,
) -> None:
    """Find the entries most like entries of the index, by the vectors it has; no model is loaded.

    An entry is not among its own hits. Exit code 1 when nothing is found at all, or an entry is unknown.
    """
    from attn.core.retrieve.score.runs import FORMATS
    from attn.core.retrieve.verbs.similar import SimilarOptions, similar

    from .hits import check_hits, show_hits
    from .search import hit_row

    check_hits(form, output, sheet, report_file, FORMATS)
    arguments: dict[str, Any] = {"verb": "similar", "index": index, "entries": entries, "argv": sys.argv[1:]}
    found = similar(index, entries, SimilarOptions(top, where, exact), threads=threads, arguments=arguments)
    show_hits(
        found, form, output, sheet, report_file, as_json=as_json, quiet=quiet, verbose=verbose, row=hit_row
    )  # fmt: skip
    nothing = not any(result.hits for result in found.results)
    raise typer.Exit(1 if nothing else found.report.exit_code)
