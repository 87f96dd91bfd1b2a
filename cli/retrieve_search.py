"""`attn retrieve search`: parse, call core, show."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Annotated, Any

import typer

from .options import DeviceOption, JsonOption, QuietOption, ReportOption, ThreadsOption, VerboseOption


def main(
    index: Annotated[str, typer.Argument(metavar="INDEX", help="What `attn retrieve index` made.", show_default=False)],
    query: Annotated[
        list[str] | None, typer.Argument(metavar="QUERY", help="Sentences, each a query.", show_default=False)
    ] = None,
    image: Annotated[
        list[Path] | None, typer.Option("--image", metavar="FILE", help="A photo as the query; may be repeated.")
    ] = None,
    queries: Annotated[
        Path | None,
        typer.Option("--queries", metavar="FILE", help=".jsonl (_id, text), .tsv (id, text), or one query a line."),
    ] = None,
    top: Annotated[int, typer.Option("--top", "-k", metavar="N", min=1, help="Hits per query.")] = 10,
    where: Annotated[
        str | None,
        typer.Option("--where", metavar="EXPR", help="Only entries that fit: \"width > 800 AND lang = 'en'\"."),
    ] = None,
    exact: Annotated[bool, typer.Option("--exact", help="Compare with every entry, whatever the store.")] = False,
    form: Annotated[
        str, typer.Option("--format", metavar="table|jsonl|trec|tsv|paths0", help="What stdout gets.")
    ] = "table",
    output: Annotated[
        Path | None, typer.Option("--output", "-o", metavar="FILE", help="Write the hits there, in --format.")
    ] = None,
    sheet: Annotated[
        Path | None, typer.Option("--sheet", metavar="FILE.html", help="A page with pictures or texts of the hits.")
    ] = None,
    explain: Annotated[
        bool, typer.Option("--explain", help="Which words, and which part of each picture, made the match.")
    ] = False,
    model: Annotated[
        str | None, typer.Option("--model", "-m", metavar="NAME|DIR|FILE", help="Default: the index's own.")
    ] = None,
    temperature: Annotated[
        float | None, typer.Option("--temperature", "-T", metavar="T", help="Default: the index's own.")
    ] = None,
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
    from attn.core.errors import UsageError, did_you_mean
    from attn.core.io.report import check_report_path, write_report
    from attn.core.retrieve.runs import FORMATS, render, write_results
    from attn.core.retrieve.search import SearchOptions, encoder_options, queries_of, search
    from attn.core.retrieve.sheet import columns, write_sheet

    from .show import print_rows, show

    if form not in ("table", *FORMATS):
        hint = did_you_mean(form, FORMATS) or f"Known: table, {', '.join(FORMATS)}."
        raise UsageError(f"--format: {form!r} is not known. {hint}")
    if output is not None and form == "table":
        raise UsageError(f"-o {output}: name how with --format jsonl, trec, tsv or paths0.")
    if sheet is not None and sheet.suffix.lower() not in (".html", ".htm"):
        raise UsageError(f"--sheet {sheet}: the page is HTML. Name it {sheet.stem}.html.")
    if report_file is not None:
        check_report_path(report_file)
    asked = queries_of(query or [], image or [], queries)
    options = SearchOptions(
        encoder=encoder_options(index, model, temperature, device), device=device, top=top, where=where, exact=exact,
        explain=explain,
    )  # fmt: skip
    arguments: dict[str, Any] = {"verb": "search", "index": index, "queries": len(asked), "argv": sys.argv[1:]}
    found = search(index, asked, options, threads=threads, arguments=arguments)
    for item in found.report.items:
        if item.error:
            typer.echo(f"attn: {item.input}: {item.error}", err=True)
    if sheet is not None:
        write_sheet(sheet, found)
    if output is not None:
        write_results(output, found.results, form)
    if form == "table" or as_json or output is not None:
        rows = [
            {"query": result.query, "rank": rank, "score": hit.score, **columns(hit)}
            for result in found.results
            for rank, hit in enumerate(result.ranked, 1)
        ]
        show(found.report, as_json=as_json, quiet=quiet, verbose=verbose, report_file=report_file, rows=rows)
        if explain and not as_json and not quiet:
            for result in found.results:
                if (why := found.explained.get(result.query_id)) and why.words:
                    print_rows(
                        [{"word": word, "score": score} for word, score in why.words],
                        title=f"words of {result.query!r}",
                    )
    else:
        if report_file is not None:
            write_report(found.report, report_file)
        for piece in render(found.results, form):
            sys.stdout.buffer.write(piece)
        sys.stdout.buffer.flush()
    nothing = not any(result.hits for result in found.results)
    raise typer.Exit(1 if nothing else found.report.exit_code)
