"""`attn retrieve eval`: parse, call core, show."""

from __future__ import annotations

import typer

from attn.core.bundles import Reporting
from attn.core.retrieve.options.judge import DataSet, EvalOptions

from ..build import command
from .call import arguments


def _main(data: DataSet, reporting: Reporting, options: EvalOptions) -> None:
    """Score a model on a data set with judgements, by exact search.

    Metrics are in percent, of the ranking of all documents. Text data sets get nDCG@10, recall, MAP and MRR; images
    with captions R@1/5/10 in both directions and their mean; data sets of persons R@k, mAP and mINP. R@k counts a query
    as found when any right one is among the first k. Equal scores are ranked by id; scores in a --run file differ in
    their last digit there, so that trec_eval gives the same figures.
    """
    from attn.core.retrieve.verbs.evaluate import score

    from ..show import show, watching

    with watching(reporting) as watch:
        report = score(data.data, options, watcher=watch, arguments=arguments("eval", data, options))
    show(report, reporting)
    raise typer.Exit(report.exit_code)


main = command(_main)
