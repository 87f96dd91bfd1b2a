"""`attn retrieve search`: parse, call core, show."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Annotated, Any

import typer

from ..options import (
    AllowDownloadOption,
    DeviceOption,
    IndexArgument,
    JsonOption,
    QuietOption,
    ReportOption,
    ThreadsOption,
    VerboseOption,
    WhereOption,
    complete_encoders,
)
from .hits import ExactOption, FormatOption, HitsOption, SheetOption, TopOption


def main(
    index: IndexArgument,
    query: Annotated[
        list[str] | None,
        typer.Argument(
            metavar="QUERY", help="Sentences, each a query; - reads more of standard input.", show_default=False
        ),
    ] = None,
    image: Annotated[
        list[Path] | None, typer.Option("--image", metavar="FILE", help="A photo as the query; may be repeated.")
    ] = None,
    queries: Annotated[
        Path | None,
        typer.Option("--queries", metavar="FILE", help=".txt (one a line), .tsv (id, text), .csv, .jsonl or .json."),
    ] = None,
    top: TopOption = 10,
    where: WhereOption = None,
    exact: ExactOption = False,
    form: FormatOption = "table",
    output: HitsOption = None,
    sheet: SheetOption = None,
    explain: Annotated[
        bool, typer.Option("--explain", help="Which words, and which part of each picture, made the match.")
    ] = False,
    model: Annotated[
        str | None,
        typer.Option(
            "--model",
            "-m",
            metavar="NAME|DIR|FILE",
            help="Default: the index's own.",
            autocompletion=complete_encoders,
        ),
    ] = None,
    temperature: Annotated[
        float | None, typer.Option("--temperature", "-T", metavar="T", help="Default: the index's own.")
    ] = None,
    allow_download: AllowDownloadOption = False,
    as_json: JsonOption = False,
    report_file: ReportOption = None,
    quiet: QuietOption = False,
    verbose: VerboseOption = False,
    device: DeviceOption = "auto",
    threads: ThreadsOption = None,
) -> None:
    """Rank an index for sentences, photos or a file of queries.

    The model is the one that made the index. Exit code 1 when nothing is found at all.
    """
    from attn.core.retrieve.data.queries import queries_of
    from attn.core.retrieve.score.runs import FORMATS
    from attn.core.retrieve.verbs.search import SearchOptions, encoder_options, search

    from ..show import print_rows
    from .hits import check_hits, show_hits

    check_hits(form, output, sheet, report_file, FORMATS)
    asked = queries_of(query or [], image or [], queries)
    options = SearchOptions(
        encoder=encoder_options(index, model, temperature, device), device=device, top=top, where=where, exact=exact,
        explain=explain, allow_download=allow_download,
    )  # fmt: skip
    arguments: dict[str, Any] = {"verb": "search", "index": index, "queries": len(asked), "argv": sys.argv[1:]}
    found = search(index, asked, options, threads=threads, arguments=arguments)
    shown = show_hits(
        found, form, output, sheet, report_file, as_json=as_json, quiet=quiet, verbose=verbose, row=hit_row
    )  # fmt: skip
    if shown and explain and not as_json and not quiet:
        for result in found.results:
            if (why := found.explained.get(result.query_id)) and why.words:
                rows = [{"word": word, "score": score} for word, score in why.words]
                print_rows(rows, title=f"words of {result.query!r}")
    nothing = not any(result.hits for result in found.results)
    raise typer.Exit(1 if nothing else found.report.exit_code)


def hit_row(result: Any, rank: int, hit: Any) -> dict[str, Any]:
    """A hit as a line of the table."""
    from attn.core.retrieve.verbs.sheet import columns

    return {"query": result.query, "rank": rank, "score": hit.score, **columns(hit)}
