"""`attn retrieve export`: parse, call core, show."""

from __future__ import annotations

import typer

from attn.core.bundles import Reporting
from attn.core.retrieve.options.index import ExportOptions, Index

from ..build import command
from .call import arguments


def _main(index: Index, reporting: Reporting, options: ExportOptions) -> None:
    """Write an index as a table, as arrays, or as another store that can be searched.

    Ids, metadata and what is known of the model go along. A folder of arrays holds vectors.npy, entries.jsonl and
    header.json; .npz the same in one file. OUT appears whole or not at all (a Qdrant collection keeps what was sent).
    """
    from attn.core.retrieve.verbs.export import export

    from ..show import show, watching

    with watching(reporting) as watch:
        report = export(
            index.index, options.output, options.to, overwrite=options.overwrite, watcher=watch,
            arguments=arguments("export", index, options),
        )  # fmt: skip
    show(report, reporting)
    raise typer.Exit(report.exit_code)


main = command(_main)
