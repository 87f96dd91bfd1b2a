"""`attn retrieve dedup`: parse, call core, show."""

from __future__ import annotations

import sys
from typing import Annotated, Any

import typer

from ..options import IndexArgument, JsonOption, QuietOption, ReportOption, ThreadsOption, VerboseOption, WhereOption
from ..say import say
from .hits import HitsOption, SheetOption

FORMATS = ("jsonl", "tsv", "paths0")


def main(
    index: IndexArgument,
    threshold: Annotated[
        float, typer.Option("--threshold", metavar="T", help="Least cosine of near duplicates, above 0, at most 1.")
    ] = 0.95,
    where: WhereOption = None,
    form: Annotated[
        str, typer.Option("--format", metavar="table|jsonl|tsv|paths0", help="What stdout gets.")
    ] = "table",
    output: HitsOption = None,
    sheet: SheetOption = None,
    as_json: JsonOption = False,
    report_file: ReportOption = None,
    quiet: QuietOption = False,
    verbose: VerboseOption = False,
    threads: ThreadsOption = None,
) -> None:
    """Group near duplicates by the vectors of the index; no model is loaded and no file is removed.

    Entries are taken in the order of their ids. One joins the first kept entry whose cosine with it is at least the
    threshold, or else is kept: every extra copy is like the one that is kept, and chains of likeness do not merge what
    is unlike. The comparison is exact.

    Formats: jsonl and tsv have a query for each group, the kept entry, and its extra copies as hits; paths0 has the
    paths of the extra copies only, for xargs -0; files that are gone or changed since they were indexed are left out
    of it, and said. Exit code 0 with duplicates and without.
    """
    from attn.core.retrieve.verbs.dedup import DedupOptions, dedup
    from attn.core.retrieve.verbs.sheet import columns

    from ..show import Watch
    from .hits import check_hits, show_hits

    def row(result: Any, rank: int, hit: Any) -> dict[str, Any]:
        return {"kept": result.query, "score": hit.score, **columns(hit, "duplicate")}

    check_hits(form, output, sheet, report_file, FORMATS)
    arguments: dict[str, Any] = {"verb": "dedup", "index": index, "threshold": threshold, "argv": sys.argv[1:]}
    watch = Watch(quiet=quiet)
    try:
        options = DedupOptions(threshold, where, present=form == "paths0")
        found = dedup(index, options, threads=threads, watcher=watch, arguments=arguments)
    finally:
        watch.close()
    shown = show_hits(
        found, form, output, sheet, report_file, as_json=as_json, quiet=quiet, verbose=verbose, row=row
    )  # fmt: skip
    if shown and not as_json and not quiet:
        counts = found.report.items[0].metrics
        say(f"{counts['duplicates']} of {counts['entries']} entries are extra copies, in {counts['groups']} groups")
    raise typer.Exit(found.report.exit_code)
