"""`attn retrieve search`: parse, call core, show."""

from __future__ import annotations

import typer

from attn.core.bundles import Reporting
from attn.core.retrieve.options.find import Hits, SearchOptions, SearchQueries
from attn.core.retrieve.options.serve import Searched

from ..build import command
from .call import arguments


def _main(
    searched: Searched, queries: SearchQueries, reporting: Reporting, options: SearchOptions, hits: Hits,
    given: frozenset[str],
) -> None:  # fmt: skip
    """Rank an index for sentences, photos or a file of queries.

    The model is the one that made the index. With --server it is asked of a running `attn retrieve serve`, at once and
    with the same output; an INDEX beside it must be the one that is open there. Exit code 1 when nothing is found at
    all.
    """
    from attn.core.retrieve.data.queries import queries_of

    from ..show import print_rows, watching
    from .hits import hit_row, show_hits

    with watching(reporting):
        named = arguments("search", searched, queries, options, hits)
        if searched.server is None:
            from attn.core.retrieve.verbs.search import search

            contents = queries_of(queries.query, queries.image, queries.queries)
            outcome = search(str(searched.index), contents, options, arguments=named)
        else:
            from attn.core.retrieve.serve.client import asked, search_served

            index, words = asked(searched, queries.query, given)
            contents = queries_of(words, queries.image, queries.queries)
            outcome = search_served(searched.server, contents, options, index=index, arguments=named)
    shown = show_hits(outcome, hits, reporting, hit_row)
    if shown and options.explain and not reporting.as_json and not reporting.quiet:
        for result in outcome.results:
            if (why := outcome.explained.get(result.query_id)) and why.words:
                rows = [{"word": word, "score": score} for word, score in why.words]
                print_rows(rows, title=f"words of {result.query!r}")
    nothing = not any(result.hits for result in outcome.results)
    raise typer.Exit(1 if nothing else outcome.report.exit_code)


main = command(_main)
