"""`attn retrieve index`: parse, call core, show."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from attn.core.bundles import Placement, Reporting
from attn.core.retrieve.options.index import Galleries, IndexOptions

from ..build import command
from ..say import say

if TYPE_CHECKING:
    from attn.core.report.model import Item, Report


def _main(gallery: Galleries, reporting: Reporting, options: IndexOptions, placement: Placement) -> None:
    """Embed a gallery of images or texts into an index.

    The same command again embeds only what is new or has changed, and forgets what is gone: what an argument that was
    read whole does not hold any more. What cannot be read now keeps its entries, and the exit code is 1; so does an
    argument that holds nothing at all (a disk that is not mounted). Entries of galleries that are not named stay;
    --prune forgets them. A run that was killed goes on where it was, and forgets nothing.

    The index remembers the model, its weights and the temperature, the galleries, and the absolute path of each file
    and where that is from the index: hits are found from any folder, and after both moved together.
    """
    from ..show import run_files

    def removed(report: Report) -> None:
        """Also with --quiet: nothing goes without a word."""
        if count := next((item.metrics.get("removed") for item in report.items), None):
            some = ", ".join(report.items[0].details["removed"][:3])
            more = ", ..." if count > 3 else ""
            say(f"attn: {gallery.output}: {count} removed, gone from the gallery: {some}{more}", err=True)

    run_files("attn.core.retrieve.verbs.index:index", gallery, options, placement, reporting, row=_row, before=removed)


main = command(_main)


def _row(item: Item) -> dict[str, Any]:
    return {"input": item.input, "status": item.status, **item.metrics, "error": item.error, "seconds": item.seconds}
