"""`attn retrieve eval`: parse, call core, show."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import typer

from attn.core.bundles import Reporting
from attn.core.retrieve.options.judge import DataSet, EvalOptions

from ..build import command
from .call import arguments, watching

if TYPE_CHECKING:
    from attn.core.report.model import Item


def _main(data: DataSet, reporting: Reporting, options: EvalOptions) -> None:
    """Score a model on a data set with judgements, by exact search.

    Metrics are in percent, of the ranking of all documents. Text data sets get nDCG@10, recall, MAP and MRR; images
    with captions R@1/5/10 in both directions and their mean; data sets of persons R@k, mAP and mINP. R@k counts a query
    as found when any right one is among the first k. Equal scores are ranked by id; scores in a --run file differ in
    their last digit there, so that trec_eval gives the same figures.
    """
    from attn.core.retrieve.verbs.evaluate import score

    from ..show import print_rows, show

    with watching(reporting) as watch:
        report = score(data.data, options, watcher=watch, arguments=arguments("eval", data, options))
    show(report, reporting, rows=[_row(item) for item in report.items])
    if not reporting.as_json and not reporting.quiet:
        for item in report.items:
            if differences := item.details.get("differences"):
                print_rows(differences, title=f"{item.input}: difference to the first, 95 % bootstrap over the queries")
        for name in ("length_buckets", "length_cross", "length_layers", "length_same_text"):
            if table := report.summary.get(name):
                print_rows(table, title=name.replace("_", " "))
    raise typer.Exit(report.exit_code)


main = command(_main)


def _row(item: Item) -> dict[str, Any]:
    return {"input": item.input, "status": item.status, **item.metrics, "error": item.error, "seconds": item.seconds}
