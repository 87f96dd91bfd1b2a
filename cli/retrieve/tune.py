"""`attn retrieve tune-temperature`: parse, call core, show."""

from __future__ import annotations

import typer

from attn.core.bundles import Reporting
from attn.core.retrieve.options.judge import DataSet, TuneOptions

from ..build import command
from .call import arguments


def _main(data: DataSet, reporting: Reporting, options: TuneOptions) -> None:
    """Choose the attention temperature on one half of the queries, and score it on the other.

    The score on the half that chose is too good; the interval on the other half says what the temperature is worth.
    """
    from attn.core.retrieve.verbs.tune import tune

    from ..show import show, watching

    with watching(reporting) as watch:
        report = tune(data.data, options, watcher=watch, arguments=arguments("tune-temperature", data, options))
    show(report, reporting)
    raise typer.Exit(report.exit_code)


main = command(_main)
