"""`attn retrieve similar`: parse, call core, show."""

from __future__ import annotations

import typer

from attn.core.bundles import Reporting
from attn.core.retrieve.options.find import Entries, Hits, SimilarOptions
from attn.core.retrieve.options.index import Index

from ..build import command
from .call import arguments


def _main(index: Index, entries: Entries, reporting: Reporting, options: SimilarOptions, hits: Hits) -> None:
    """Find the entries most like entries of the index, by the vectors it has; no model is loaded.

    An entry is not among its own hits. Exit code 1 when nothing is found at all, or an entry is unknown.
    """
    from attn.core.retrieve.verbs.similar import similar

    from ..show import watching
    from .hits import hit_row, show_hits

    with watching(reporting):
        named = arguments("similar", index, entries, options, hits)
        outcome = similar(index.index, entries.entries, options, arguments=named)
    show_hits(outcome, hits, reporting, hit_row)
    nothing = not any(result.hits for result in outcome.results)
    raise typer.Exit(1 if nothing else outcome.report.exit_code)


main = command(_main)
