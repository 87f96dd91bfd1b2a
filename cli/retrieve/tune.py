"""`attn retrieve tune-temperature`: parse, call core, show."""

from __future__ import annotations

import sys
import time
from typing import Annotated

import typer

from attn.core.bundles import Reporting

from ..options import (
    AllowDownloadOption,
    DeviceOption,
    JsonOption,
    MaxTokensOption,
    QuietOption,
    ReportOption,
    RetrievalModelOption,
    SeedOption,
    ThreadsOption,
    VerboseOption,
)
from .eval import DataArgument, KeepIdenticalOption, SplitOption, parse_temperatures


def main(
    data: DataArgument,
    model: RetrievalModelOption = "minilm",
    grid: Annotated[
        str, typer.Option("--grid", metavar="T,T,...", help="Temperatures to try; 1 is always among them.")
    ] = "1,0.95,0.9,0.85,0.8,0.75,0.7,0.6,0.5",
    metric: Annotated[str, typer.Option("--metric", metavar="NAME", help="What is to be largest.")] = "ndcg@10",
    max_tokens: MaxTokensOption = None,
    split: SplitOption = None,
    keep_identical: KeepIdenticalOption = False,
    allow_download: AllowDownloadOption = False,
    as_json: JsonOption = False,
    report_file: ReportOption = None,
    quiet: QuietOption = False,
    verbose: VerboseOption = False,
    device: DeviceOption = "auto",
    seed: SeedOption = 77,
    threads: ThreadsOption = None,
) -> None:
    """Choose the attention temperature on one half of the queries, and score it on the other.

    The score on the half that chose is too good; the interval on the other half says what the temperature is worth.
    """
    import attn
    from attn.core.device import set_threads
    from attn.core.report.model import Item, Report, plain, summarise
    from attn.core.report.write import check_report_path
    from attn.core.retrieve.data.formats import read_dataset
    from attn.core.retrieve.verbs.tune import tune_temperature

    from ..show import Watch, print_rows, show

    if report_file is not None:
        check_report_path(report_file)
    start = time.perf_counter()
    set_threads(threads)
    values = tuple(dict.fromkeys((1.0, *parse_temperatures(grid))))
    watch = Watch(quiet=quiet)
    try:
        data_set = read_dataset(data, split=split)
        found = tune_temperature(
            model, data_set, values, seed, metric=metric, watcher=watch, keep_identical=keep_identical, device=device,
            max_tokens=max_tokens, allow_download=allow_download,
        )  # fmt: skip
    finally:
        watch.close()
    held = found.held_out
    metrics = {
        "temperature": found.temperature, "held_out_at_1": 100 * held.first, "held_out": 100 * held.second,
        "difference": 100 * held.difference, "low": 100 * held.low, "high": 100 * held.high,
        "queries": float(found.queries[1]),
    }  # fmt: skip
    seconds = time.perf_counter() - start
    table = [{key: value if key == "temperature" else 100 * value for key, value in row.items()} for row in found.table]
    item = Item(str(data), None, "ok", seconds, metrics=metrics, warnings=(*data_set.warnings, *found.notes))
    report = Report(
        "retrieve", attn.__version__,
        {"verb": "tune-temperature", "data": str(data), "model": model, "metric": metric, "argv": sys.argv[1:]},
        device, seconds, (item,), dict(summarise([item])) | {"metric": metric, "temperatures": plain(table)},
    )  # fmt: skip
    row = {
        "input": item.input, "chosen temperature": found.temperature, f"{metric} at 1": metrics["held_out_at_1"],
        f"{metric} at the chosen one": metrics["held_out"], "difference": metrics["difference"],
        "95 % from": metrics["low"], "to": metrics["high"], "queries": found.queries[1],
    }  # fmt: skip
    show(report, Reporting(as_json, report_file, quiet, verbose), rows=[row])
    if not as_json and not quiet:
        print_rows(table, title=f"{metric} in percent, on the half that chose and on the held-out one")
    raise typer.Exit(report.exit_code)
