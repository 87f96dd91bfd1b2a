"""What can be said to CARVE (methods/carve.md, section 4), as options of whatever command takes it in."""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Annotated, Literal

from ...options import Option, check

GENERAL = "Write a general description of the image."
SUFFIX = " Answer the question using a single word or phrase."
Steps = Literal["all", "first", "last"]
Rank = Literal["attention", "size", "remove-small"]
Regions = Literal["code", "cap"]
Fill = Literal["black", "mean", "none"]
LAM = 1e-8


def parse_layers(text: str) -> tuple[int, ...]:
    """``20-25`` or ``20,22,25`` as numbers. Raises ``ValueError``."""
    numbers: list[int] = []
    for part in text.split(","):
        match = re.fullmatch(r"\s*(\d{1,4})(?:\s*-\s*(\d{1,4}))?\s*", part)
        if match is None or int(match[2] or match[1]) < int(match[1]):
            raise ValueError(f"{text!r} names no layers. Use 20-25, or 20,22,25.")
        numbers += range(int(match[1]), int(match[2] or match[1]) + 1)
    return tuple(dict.fromkeys(numbers))


@dataclass(frozen=True)
class CarveSettings:
    """The settings.

    Parameters
    ----------
    layers : tuple of int
        Of the language model, whose ratios are added; empty: 20 to 25, or from 0.7 to 0.9 of another depth.
    steps : {"all", "first", "last"}
        Tokens of the answer that count: all, later ones more (the code); or one alone (``last``: the paper's best).
    lam : float
        Above 0; larger damps tokens that get hardly any attention in general.
    share : float
        Of the pixels above the threshold, p.
    regions : int
        K of them are kept at least (``count="code"``), or at most (``count="cap"``).
    rank : {"attention", "size", "remove-small"}
        Regions with the largest sum of the map, the largest area; or all but small ones.
    count : {"code", "cap"}
    clip : float, optional
        Percentile above which ratios are cut, such as 99.5.
    fill : {"black", "mean", "none"}
        What is beside the mask: black, the picture's mean colour, or what is there (the box alone is cut out).
    enlarge : float, optional
        Times the crop is enlarged at most, such as 8.
    final : {"both", "refined"}
        Last asked about the picture and the crop (the code), or the crop alone (the paper).
    general, suffix : str, optional
        The instruction that singles nothing out, and what is said behind it and behind the question. None: those of
        the paper.
    max_new_tokens : int
        Of each answer.
    """

    layers: Annotated[
        tuple[int, ...],
        Option(
            "Decoder layers whose ratios are added, such as 20-25.",
            metavar="A-B", parse=parse_layers, shown="20-25, or 0.7 to 0.9 of another depth",
        ),
    ] = ()  # fmt: skip
    steps: Annotated[
        Steps, Option("Tokens of the answer that count: all, later ones more; or one.", metavar="all|first|last")
    ] = "all"
    lam: Annotated[float, Option("Damps tokens that get hardly any attention in general.", metavar="X", above=0)] = LAM
    share: Annotated[float, Option("Of the pixels, above the threshold.", metavar="P", above=0, most=1)] = 0.2
    regions: Annotated[int, Option("Regions that are kept, at least or at most.", metavar="K", least=1)] = 3
    rank: Annotated[
        Rank,
        Option(
            "Which regions: with the most of the map, the largest, or all but small ones.",
            metavar="attention|size|remove-small",
        ),
    ] = "attention"  # fmt: skip
    count: Annotated[
        Regions, Option("K regions at least, as in the code, or at most, as in the paper.", metavar="code|cap")
    ] = "code"
    clip: Annotated[
        float | None,
        Option("Percentile above which ratios are cut, such as 99.5.", metavar="P", above=0, most=100, shown="none"),
    ] = None
    fill: Annotated[
        Fill, Option("Beside the mask: black, the mean colour, or what is there.", metavar="black|mean|none")
    ] = "black"
    enlarge: Annotated[
        float | None, Option("Times the crop is enlarged at most.", metavar="X", least=1, shown="no limit")
    ] = None
    final: Annotated[
        Literal["both", "refined"],
        Option("Asked again about the picture and the crop, or about the crop alone.", metavar="both|refined"),
    ] = "both"
    general: Annotated[
        str | None,
        Option("The instruction that singles nothing out.", metavar="TEXT", shown=GENERAL.rstrip(".")),
    ] = None
    suffix: Annotated[
        str | None,
        Option("Said behind it and behind the question.", metavar="TEXT", shown="that of the paper"),
    ] = None
    max_new_tokens: Annotated[int, Option("Length of an answer, at most.", metavar="N", least=1, most=4096)] = 32

    def __post_init__(self) -> None:
        check(self)
