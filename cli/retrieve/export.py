"""`attn retrieve export`: parse, call core, show."""

from __future__ import annotations

import sys
from typing import Annotated

import typer

from attn.core.bundles import Reporting

from ..options import IndexArgument, JsonOption, OverwriteOption, QuietOption, ReportOption, VerboseOption


def main(
    index: IndexArgument,
    output: Annotated[
        str,
        typer.Option(
            "--output", "-o", metavar="OUT", help="FILE.parquet, FILE.npz, a folder, or qdrant://HOST:PORT/NAME."
        ),
    ],
    to: Annotated[
        str | None,
        typer.Option(
            "--to",
            metavar="parquet|npz|arrays|flat|lance",
            help="What OUT is to be.",
            show_default="by its name; a folder: arrays",
        ),
    ] = None,
    overwrite: OverwriteOption = False,
    as_json: JsonOption = False,
    report_file: ReportOption = None,
    quiet: QuietOption = False,
    verbose: VerboseOption = False,
) -> None:
    """Write an index as a table, as arrays, or as another store that can be searched.

    Ids, metadata and what is known of the model go along. A folder of arrays holds vectors.npy, entries.jsonl and
    header.json; .npz the same in one file. OUT appears whole or not at all (a Qdrant collection keeps what was sent).
    """
    from attn.core.report.write import check_report_path
    from attn.core.retrieve.verbs.export import export

    from ..show import Watch, show

    if report_file is not None:
        check_report_path(report_file)
    watch = Watch(quiet=quiet)
    try:
        arguments = {"verb": "export", "index": index, "output": output, "to": to, "argv": sys.argv[1:]}
        report = export(index, output, to, overwrite=overwrite, watcher=watch, arguments=arguments)
    finally:
        watch.close()
    show(report, Reporting(as_json, report_file, quiet, verbose))
    raise typer.Exit(report.exit_code)
