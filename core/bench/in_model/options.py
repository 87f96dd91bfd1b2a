"""What `attn bench --model` is asked to do, beside the options of every benchmark that count here, too."""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

from ...options import Option, OptionError, check

COUNT = frozenset(
    {
        "operators", "lengths", "settings", "keys", "budget", "plot", "device", "dtype", "seed", "threads",
        "model", "text", "dense_layers", "depths", "tokens", "allow_download",
    }
)  # fmt: skip
"""Options of `attn bench` that count inside a model; its sizes, its cache and its attention are its own."""
LENGTHS = (1024, 2048, 4096)
BUDGET = 540.0  # s
MOST_DEPTHS = 20


def parse_layers(text: str) -> tuple[int, ...]:
    """``0,1,28-29`` as (0, 1, 28, 29). Raises ``ValueError`` for anything else."""
    layers: set[int] = set()
    for part in text.split(","):
        match = re.fullmatch(r"(\d{1,6})(?:-(\d{1,6}))?", part.strip())
        if not match or int(match[2] or match[1]) < int(match[1]):
            raise ValueError(f"{text!r} is no list of layers. Use 0,1 or 0,1,28-29.")
        layers.update(range(int(match[1]), int(match[2] or match[1]) + 1))
    return tuple(sorted(layers))


def parse_depths(text: str) -> tuple[float, ...]:
    """``0,50,100`` as (0.0, 50.0, 100.0); ``none``: no needles. Raises ``ValueError`` for anything else."""
    if text == "none":
        return ()
    try:
        depths = tuple(sorted({float(part) for part in text.split(",")}))
    except ValueError:
        depths = (-1.0,)
    if not all(0 <= depth <= 100 for depth in depths) or len(depths) > MOST_DEPTHS:
        raise ValueError(f"{text!r} is no list of at most {MOST_DEPTHS} depths in per cent, as 0,50,100, nor none.")
    return depths


@dataclass(frozen=True, slots=True)
class InModel:
    """The model, the text, and what is measured.

    Parameters
    ----------
    model : str or None
        Folder of a causal language model of transformers, or a Hugging Face id; None: no model, operators by
        themselves.
    text : Path or None
        What it reads: UTF-8, as long as the longest length needs.
    dense_layers : tuple of int
        Layers that keep dense attention, counted from 0.
    depths : tuple of float
        Where in the text the needles are hidden, in per cent of its length; none: no needles.
    tokens : int
        Decoded greedily behind the text, at least 2.
    allow_download : bool
    """

    model: Annotated[
        str | None,
        Option(
            "Measure the operators inside this language model: a folder, or a Hugging Face id on this machine.",
            metavar="DIR_OR_ID",
        ),
    ] = None  # fmt: skip
    text: Annotated[Path | None, Option("What the model reads, UTF-8.", metavar="FILE")] = None
    dense_layers: Annotated[
        tuple[int, ...],
        Option("Layers of --model left dense, as 0,1,28-29.", metavar="LIST", parse=parse_layers, shown="none"),
    ] = ()
    depths: Annotated[
        tuple[float, ...],
        Option(
            "Where in the text --model looks for a needle, in per cent; or none.",
            metavar="LIST", parse=parse_depths, text="0,25,50,75,100",
        ),
    ] = (0.0, 25.0, 50.0, 75.0, 100.0)  # fmt: skip
    tokens: Annotated[int, Option("Tokens --model writes at each length.", metavar="N", least=2, most=4096)] = 32
    allow_download: Annotated[bool, Option("Ask the Hugging Face hub for an id that is not here.")] = False

    def __post_init__(self) -> None:
        check(self)
        if (self.model is None) != (self.text is None):
            one, other = ("model", "text") if self.text is None else ("text", "model")
            raise OptionError(f"{{{one}}} is read together with {{{other}}}. Give both, or neither.")
