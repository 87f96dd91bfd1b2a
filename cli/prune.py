"""`attn prune`: parse, call core, show."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated, Any, ClassVar

from attn.core.bundles import Inputs, Placement, Reporting
from attn.core.options import Option
from attn.core.prune.options import PruneOptions, check_read

from .build import command
from .verbs import verbs as verbs_of

VERBS = {"calibrate": ("attn.cli.calibrate", "Fit what a pruning method learns, on data of its own.")}
EXAMPLES = {
    "": (
        ('attn prune photo.jpg --prompt "what colour is the bus" --model llava/', "A quarter of the visual tokens."),
        (
            'attn prune photos/ -o out/ --prompt "what is this" --model llava/ --keep 144 --report pruned.html',
            "A folder of photos, 144 tokens each, and one page with all overlays.",
        ),
    ),
    "calibrate": (("attn prune calibrate --list", "The methods that learn something beforehand."),),
}
NOTES = ()
FILES = (
    ("NAME.kept.png", "The picture with what was dropped dimmed, and the boxes of the tokens outlined; written last."),
)


@dataclass(frozen=True, slots=True)
class Pictures(Inputs):
    """What is looked at."""

    NOTHING: ClassVar[str] = "Name pictures, directories, - for a list on stdin, or example:photo."

    inputs: Annotated[
        tuple[str, ...],
        Option(
            "Pictures, directories, - for a list of paths on stdin, or example:NAME. A file called calibrate is "
            "./calibrate.",
            metavar="INPUT", positional=True,
        ),
    ] = ()  # fmt: skip


def verbs() -> dict[str, Any]:
    """Pages of the verbs that say themselves what is on them, by the words behind ``attn prune``."""
    return {f"calibrate {name}": row for name, row in verbs_of("prune calibrate").items()}


def _main(
    inputs: Pictures, reporting: Reporting, options: PruneOptions, placement: Placement, given: frozenset[str]
) -> None:
    """Find out which visual tokens a model can do without, on your own pictures.

    Asks a vision-language model about every picture twice, with all its visual tokens and with those that the method
    keeps, and tells what is lost and won: the answer before and after, tokens, counted operations, memory of the
    cache, seconds. Writes the picture with the tokens that were kept.
    """
    from .show import run_files

    check_read(options, given)
    run_files("attn.core.prune.run:run", inputs, options, placement, reporting)


main = command(_main, methods="prune")
