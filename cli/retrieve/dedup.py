"""`attn retrieve dedup`: parse, call core, show."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import typer

from attn.core.bundles import Reporting
from attn.core.retrieve.options.find import DedupOptions, Groups
from attn.core.retrieve.options.index import Index

from ..build import command
from ..say import say
from .call import arguments


def _main(index: Index, reporting: Reporting, options: DedupOptions, hits: Groups) -> None:
    """Group near duplicates by the vectors of the index; no model is loaded and no file is removed.

    Entries are taken in the order of their ids. One joins the first kept entry whose cosine with it is at least the
    threshold, or else is kept: every extra copy is like the one that is kept, and chains of likeness do not merge what
    is unlike. The comparison is exact.

    Formats: jsonl and tsv have a query for each group, the kept entry, and its extra copies as hits; paths0 has the
    paths of the extra copies only, for xargs -0; files that are gone or changed since they were indexed are left out
    of it, and said. Exit code 0 with duplicates and without.
    """
    from attn.core.retrieve.verbs.dedup import dedup
    from attn.core.retrieve.verbs.sheet import columns

    from .hits import show_hits

    def row(result: Any, rank: int, hit: Any) -> dict[str, Any]:
        return {"kept": result.query, "score": hit.score, **columns(hit, "duplicate")}

    options = replace(options, present=hits.form == "paths0")
    from ..show import watching

    with watching(reporting) as watch:
        duplicates = dedup(index.index, options, watcher=watch, arguments=arguments("dedup", index, options, hits))
    shown = show_hits(duplicates, hits, reporting, row)
    if shown and not reporting.as_json and not reporting.quiet:
        counts = duplicates.report.items[0].metrics
        say(f"{counts['duplicates']} of {counts['entries']} entries are extra copies, in {counts['groups']} groups")
    raise typer.Exit(duplicates.report.exit_code)


main = command(_main)
