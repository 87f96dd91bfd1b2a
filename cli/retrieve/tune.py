"""`attn retrieve tune-temperature`: parse, call core, show."""

from __future__ import annotations

import typer

from attn.core.bundles import Reporting
from attn.core.retrieve.options.judge import DataSet, TuneOptions

from ..build import command
from .call import arguments, watching


def _main(data: DataSet, reporting: Reporting, options: TuneOptions) -> None:
    """Choose the attention temperature on one half of the queries, and score it on the other.

    The score on the half that chose is too good; the interval on the other half says what the temperature is worth.
    """
    from attn.core.retrieve.verbs.tune import tune

    from ..show import print_rows, show

    with watching(reporting) as watch:
        report = tune(data.data, options, watcher=watch, arguments=arguments("tune-temperature", data, options))
    (item,), metric = report.items, options.metric
    row = {
        "input": item.input, "chosen temperature": item.metrics["temperature"],
        f"{metric} at 1": item.metrics["held_out_at_1"], f"{metric} at the chosen one": item.metrics["held_out"],
        "difference": item.metrics["difference"], "95 % from": item.metrics["low"], "to": item.metrics["high"],
        "queries": int(item.metrics["queries"]),
    }  # fmt: skip
    show(report, reporting, rows=[row])
    if not reporting.as_json and not reporting.quiet:
        title = f"{metric} in percent, on the half that chose and on the held-out one"
        print_rows(report.summary["temperatures"], title=title)
    raise typer.Exit(report.exit_code)


main = command(_main)
