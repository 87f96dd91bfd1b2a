"""How verbs that find entries show their hits."""

from __future__ import annotations

import os
import sys
from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any

from attn.core.bundles import Reporting
from attn.core.retrieve.options.find import Hits

from ..say import say, say_bytes

if TYPE_CHECKING:
    from attn.core.retrieve.verbs.found import Found


def hit_row(result: Any, rank: int, hit: Any) -> dict[str, Any]:
    """A hit as a line of the table."""
    from attn.core.retrieve.verbs.sheet import columns

    return {"query": result.query, "rank": rank, "score": hit.score, **columns(hit)}


def show_hits(
    outcome: Found, hits: Hits, reporting: Reporting, row: Callable[[Any, int, Any], Mapping[str, Any]]
) -> bool:
    """Write and print what was found; true where the table, or the JSON document, was printed.

    ``row`` makes a line of the table of a result, a rank and a hit.
    """
    from attn.core.retrieve.score.results import apart, render, write_results
    from attn.core.retrieve.verbs.sheet import write_sheet

    from ..show import ROWS_SHOWN, save_report, show

    for item in outcome.report.items:
        if item.error:
            say(f"attn: {item.input}: {item.error}", err=True)
    for warning in outcome.warnings:
        say(f"attn: warning: {warning}", err=True)
    if hits.sheet is not None:
        write_sheet(hits.sheet, outcome)
    results = list(apart(outcome.results)) if hits.form == "trec" else outcome.results
    if hits.output is not None:
        write_results(hits.output, results, hits.form)
    if hits.form == "table" or reporting.as_json or hits.output is not None:
        rows = [row(result, rank, hit) for result in outcome.results for rank, hit in enumerate(result.ranked, 1)]
        show(outcome.report, reporting, rows=rows[:ROWS_SHOWN])
        if len(rows) > ROWS_SHOWN and not reporting.as_json and not reporting.quiet:
            say(f"the first {ROWS_SHOWN} of {len(rows)} are shown; --format jsonl and --report have all")
        return True
    if reporting.report_file is not None:
        save_report(outcome.report, reporting.report_file, verbose=reporting.verbose)
    if sys.stdout.isatty():  # somebody looks at it: ids and texts must not steer the terminal
        for piece in [*render(results, hits.form)]:
            say(os.fsdecode(piece).removesuffix("\n").removesuffix("\0"), lines=True)
        return False
    for piece in [*render(results, hits.form)]:  # all, or nothing where one of them cannot be written
        say_bytes(piece)
    return False
