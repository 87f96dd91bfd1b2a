"""`attn retrieve eval`: parse, call core, show."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from attn.core.bundles import Reporting

from ..options import (
    AllowDownloadOption,
    DeviceOption,
    DtypeOption,
    JsonOption,
    MaxTokensOption,
    QuietOption,
    ReportOption,
    RetrievalModelOption,
    ThreadsOption,
    VerboseOption,
)

if TYPE_CHECKING:
    from attn.core.report.model import Item

DataArgument = Annotated[
    Path,
    typer.Argument(
        metavar="DATA",
        help="A BEIR or MTEB folder, or a .json or .jsonl file of images with captions (or a folder that holds one).",
        show_default=False,
    ),
]
SplitOption = Annotated[
    str | None, typer.Option("--split", metavar="NAME", help="Part to read.", show_default="test, or the only one")
]


KeepIdenticalOption = Annotated[
    bool,
    typer.Option(
        "--keep-identical",
        help="Rank a document with the id of the query, too; else it is left out, as in BEIR, unless judged relevant.",
    ),
]


def parse_temperatures(text: str) -> tuple[float, ...]:
    """``1,0.9,0.8`` as numbers. Raises ``UsageError`` for anything else."""
    from attn.core.errors import UsageError

    try:
        found = tuple(dict.fromkeys(float(part) for part in text.split(",")))
    except ValueError:
        raise UsageError(f"--temperature: {text!r} is no list of numbers, as 1,0.9,0.8.") from None
    if not all(0 < value < 100 for value in found):
        raise UsageError(f"--temperature: {text} must be above 0; 1 is the model as it is.")
    return found


def main(
    data: DataArgument,
    model: RetrievalModelOption = "minilm",
    temperature: Annotated[
        str,
        typer.Option("--temperature", "-T", metavar="T[,T...]", help="Of the attention (TempScale); a row for each."),
    ] = "1",
    max_tokens: MaxTokensOption = None,
    split: SplitOption = None,
    kind: Annotated[
        str | None, typer.Option("--kind", metavar="NAME", help="Format of the data.", show_default="by content")
    ] = None,
    images: Annotated[
        Path | None, typer.Option("--images", metavar="DIR", help="Folder that image paths are relative to.")
    ] = None,
    metrics: Annotated[
        str | None,
        typer.Option(
            "--metrics", metavar="NAMES", help="As ndcg@10,recall@100,map,mrr@10,hit@1,minp.", show_default="by data"
        ),
    ] = None,
    run_file: Annotated[
        Path | None, typer.Option("--run", metavar="FILE", help="Write the rankings as a TREC run.")
    ] = None,
    keep_identical: KeepIdenticalOption = False,
    answerable: Annotated[
        bool,
        typer.Option("--answerable", help="Leave out queries without a relevant document; trec_eval counts them as 0."),
    ] = False,
    diagnose: Annotated[
        bool, typer.Option("--diagnose", help="Do embeddings crowd together as texts grow longer?")
    ] = False,
    allow_download: AllowDownloadOption = False,
    as_json: JsonOption = False,
    report_file: ReportOption = None,
    quiet: QuietOption = False,
    verbose: VerboseOption = False,
    device: DeviceOption = "auto",
    dtype: DtypeOption = "float32",
    threads: ThreadsOption = None,
) -> None:
    """Score a model on a data set with judgements, by exact search.

    Metrics are in percent, of the ranking of all documents. Text data sets get nDCG@10, recall, MAP and MRR; images
    with captions R@1/5/10 in both directions and their mean; data sets of persons R@k, mAP and mINP. R@k counts a query
    as found when any right one is among the first k. Equal scores are ranked by id; scores in a --run file differ in
    their last digit there, so that trec_eval gives the same figures.
    """
    from attn.core.report.write import check_report_path
    from attn.core.retrieve.options import EncoderOptions
    from attn.core.retrieve.verbs.evaluate import EvalOptions, score

    from ..show import Watch, print_rows, show

    if report_file is not None:
        check_report_path(report_file)
    options = EvalOptions(
        EncoderOptions(model, 1.0, max_tokens, device, dtype, allow_download),
        parse_temperatures(temperature), kind, split, images,
        tuple(dict.fromkeys(name.strip() for name in metrics.split(","))) if metrics else (), run_file, diagnose,
        keep_identical, answerable,
    )  # fmt: skip
    watch = Watch(quiet=quiet)
    try:
        arguments = {"verb": "eval", "data": str(data), "model": model, "argv": sys.argv[1:]}
        report = score(data, options, threads=threads, watcher=watch, arguments=arguments)
    finally:
        watch.close()
    rows = [_row(item) for item in report.items]
    show(report, Reporting(as_json, report_file, quiet, verbose), rows=rows)
    if not as_json and not quiet:
        for item in report.items:
            if differences := item.details.get("differences"):
                print_rows(differences, title=f"{item.input}: difference to the first, 95 % bootstrap over the queries")
        for name in ("length_buckets", "length_cross", "length_layers", "length_same_text"):
            if table := report.summary.get(name):
                print_rows(table, title=name.replace("_", " "))
    raise typer.Exit(report.exit_code)


def _row(item: Item) -> dict[str, Any]:
    return {"input": item.input, "status": item.status, **item.metrics, "error": item.error, "seconds": item.seconds}
