"""`attn retrieve compact`: parse, call core, show."""

from __future__ import annotations

import typer

from attn.core.bundles import Reporting
from attn.core.retrieve.options.index import Index

from ..build import command
from .call import arguments


def _main(index: Index, reporting: Reporting) -> None:
    """Give back the room of deleted entries, and bring an approximate index up to date. Searches find the same.

    A Lance table keeps older versions for a day, for those who read them: its size falls after that.
    """
    from attn.core.retrieve.verbs.compact import compact

    from ..show import show, watching

    with watching(reporting):
        report = compact(index.index, arguments=arguments("compact", index))
    show(report, reporting)
    raise typer.Exit(report.exit_code)


main = command(_main)
