"""`attn retrieve compact`: parse, call core, show."""

from __future__ import annotations

import sys

import typer

from attn.core.bundles import Reporting

from ..options import IndexArgument, JsonOption, QuietOption, ReportOption, VerboseOption


def main(
    index: IndexArgument,
    as_json: JsonOption = False,
    report_file: ReportOption = None,
    quiet: QuietOption = False,
    verbose: VerboseOption = False,
) -> None:
    """Give back the room of deleted entries, and bring an approximate index up to date. Searches find the same.

    A Lance table keeps older versions for a day, for those who read them: its size falls after that.
    """
    from attn.core.report.write import check_report_path
    from attn.core.retrieve.verbs.compact import compact

    from ..show import show

    if report_file is not None:
        check_report_path(report_file)
    report = compact(index, arguments={"verb": "compact", "index": index, "argv": sys.argv[1:]})
    show(report, Reporting(as_json, report_file, quiet, verbose))
    raise typer.Exit(report.exit_code)
