"""`attn retrieve index`: parse, call core, show."""

from __future__ import annotations

from attn.core.bundles import Placement, Reporting
from attn.core.retrieve.options.index import Galleries, IndexOptions

from ..build import command


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

    run_files("attn.core.retrieve.verbs.index:index", gallery, options, placement, reporting)


main = command(_main)
