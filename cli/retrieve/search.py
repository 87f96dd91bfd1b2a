"""`attn retrieve search`: parse, call core, show."""

from __future__ import annotations

import typer

from attn.core.bundles import Reporting
from attn.core.retrieve.options.find import Hits, SearchOptions, SearchQueries
from attn.core.retrieve.options.index import Index

from ..build import command
from .call import arguments


def _main(index: Index, queries: SearchQueries, reporting: Reporting, options: SearchOptions, hits: Hits) -> None:
    """Rank an index for sentences, photos or a file of queries.

    The model is the one that made the index. Exit code 1 when nothing is found at all.
    """
    from attn.core.retrieve.data.queries import queries_of
    from attn.core.retrieve.verbs.search import search

    from ..show import print_rows, watching
    from .hits import hit_row, show_hits

    with watching(reporting):
        contents = queries_of(queries.query, queries.image, queries.queries)
        named = arguments("search", index, queries, options, hits)
        outcome = search(index.index, contents, options, arguments=named)
    shown = show_hits(outcome, hits, reporting, hit_row)
    if shown and options.explain and not reporting.as_json and not reporting.quiet:
        for result in outcome.results:
            if (why := outcome.explained.get(result.query_id)) and why.words:
                rows = [{"word": word, "score": score} for word, score in why.words]
                print_rows(rows, title=f"words of {result.query!r}")
    nothing = not any(result.hits for result in outcome.results)
    raise typer.Exit(1 if nothing else outcome.report.exit_code)


main = command(_main)
