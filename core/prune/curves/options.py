"""What `attn prune --dataset` can be told."""

from __future__ import annotations

import math
from collections.abc import Collection
from dataclasses import dataclass, replace
from typing import Annotated

from ...options import Option, OptionError, check
from ..options import PruneOptions, check_read, checked_keep, parse_keep, parse_names

ORACLE, RANDOM = "oracle", "random"
QUESTION = "{question}"
"""Stands for a sample's question in a prompt."""
KEEPS = (0.75, 0.5, 0.35, 0.25, 0.1)
"""methods/prune-evaluation.md, section 4.3; everything (1) is always there."""


def parse_keeps(text: str) -> tuple[float, ...]:
    """``75%,0.5,25%`` as shares, the largest first. Raises ``ValueError`` for a number of tokens and for the rest."""
    keeps = []
    for part in text.split(","):
        keep = parse_keep(part)
        if not isinstance(keep, float):
            raise ValueError(f"{part.strip()!r} is a number of tokens; a set is scored at shares, such as 25%.")
        keeps.append(keep)
    return tuple(sorted(set(keeps), reverse=True))


@dataclass(frozen=True, slots=True)
class CurveOptions:
    """At which points methods are scored on a set of questions.

    Parameters
    ----------
    methods : tuple of str
        ``random`` and ``oracle`` are always added.
    keeps : tuple of float
        Mean shares of visual tokens over all decoder layers.
    limit : int or None
        Samples, drawn at random.
    draws : int
        Seeds of ``random``.
    batch_size : int
        Questions side by side, and the part of a set that a process does in one go and that is not done twice.
    """

    methods: Annotated[
        tuple[str, ...],
        Option(
            "Methods to score on a set, separated by commas; random and oracle are added.",
            metavar="NAMES", parse=parse_names, text="fastv,divprune",
        ),
    ] = ("fastv", "divprune")  # fmt: skip
    keeps: Annotated[
        tuple[float, ...],
        Option(
            "Shares of the visual tokens to keep, counted over all layers, separated by commas.",
            metavar="SHARES", parse=parse_keeps, text="75%,50%,35%,25%,10%",
        ),
    ] = KEEPS  # fmt: skip
    limit: Annotated[
        int | None, Option("Score so many samples, drawn at random.", metavar="N", least=1, shown="all")
    ] = None
    draws: Annotated[int, Option("Seeds of random.", metavar="N", least=1, most=100)] = 3
    batch_size: Annotated[int, Option("Questions asked side by side.", metavar="N", least=1, most=4096)] = 16

    def __post_init__(self) -> None:
        check(self)
        for keep in self.keeps:
            try:
                if not isinstance(keep, float) or not math.isfinite(keep):
                    raise ValueError(f"{keep!r} is no share.")
                checked_keep(keep, f"{keep:g}")
            except ValueError as error:
                raise OptionError(f"{{keeps}}: {error}") from None
        if not self.keeps:
            raise OptionError("{keeps}: name a share at least.")
        if not self.methods:
            raise OptionError("{methods}: name a method at least.")


FOR_PICTURES = ("method", "keep", "compare", "repeat", "save", "saved")
"""Options that say nothing of a set."""


def check_set(options: PruneOptions, curve: CurveOptions, given: Collection[str] = ()) -> PruneOptions:
    """The options with the methods that are scored in the place of those for pictures.

    Parameters
    ----------
    options : PruneOptions
    curve : CurveOptions
    given : collection of str
        Fields that were given whatever their value; others are taken for given where they differ from the default.

    Raises
    ------
    OptionError
        For what was given and is not read, and a prompt without a place for the question.
    """
    for name in FOR_PICTURES:
        if name in given or getattr(options, name) != getattr(PruneOptions(), name):
            more = {"method": " Use {methods}.", "compare": " Use {methods}.", "keep": " Use {keeps}."}.get(name, "")
            raise OptionError(f"{{{name}}} is for pictures, not for a {{dataset}}.{more}")
    if loose := options.settings.get(""):
        name = next(iter(loose))
        raise OptionError(f"{{settings}} {name}: which of {{methods}} is it of? Write METHOD.{name}=VALUE.")
    if options.prompt is not None and QUESTION not in options.prompt:
        raise OptionError(
            f"{{prompt}}: every sample of a {{dataset}} has a question of its own. Put {QUESTION} where it stands, as "
            f"in '{QUESTION} Answer in one word.', or leave {{prompt}} out."
        )
    first, *others = names_of(curve)
    scored = replace(options, method=first, compare=tuple(others))
    check_read(scored, given)
    return scored


def names_of(curve: CurveOptions) -> tuple[str, ...]:
    """The methods of a run, ``random`` and ``oracle`` behind the user's."""
    return tuple(dict.fromkeys((*curve.methods, RANDOM, ORACLE)))
