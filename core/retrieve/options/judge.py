"""What is scored on a data set with judgements, and how."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated

from ...bundles import Seed, Threads
from ...options import Option, OptionError, check
from .encoder import ModelOptions

GRID = (1.0, 0.95, 0.9, 0.85, 0.8, 0.75, 0.7, 0.6, 0.5)
HOTTEST = 100.0
"""Temperatures are below it: there all attention is the same."""
Split = Annotated[str | None, Option("Part to read.", metavar="NAME", shown="test, or the only one")]
KeepIdentical = Annotated[
    bool,
    Option("Rank a document with the id of the query, too; else it is left out, as in BEIR, unless judged relevant."),
]


def parse_temperatures(text: str) -> tuple[float, ...]:
    """``1,0.9,0.8`` as numbers. Raises ``ValueError`` for anything else."""
    try:
        return tuple(dict.fromkeys(float(part) for part in text.split(",")))
    except ValueError:
        raise ValueError(f"{text!r} is no list of numbers, as 1,0.9,0.8.") from None


def parse_names(text: str) -> tuple[str, ...]:
    """``map,hit@1`` as names."""
    return tuple(dict.fromkeys(name.strip() for name in text.split(",")))


def check_temperatures(name: str, values: tuple[float, ...]) -> None:
    """Raise ``OptionError``, naming the field, where one of several temperatures divides nothing."""
    if wrong := [value for value in values if not 0 < value < HOTTEST]:
        raise OptionError(f"{{{name}}}: {wrong[0]:g} must be above 0; 1 is the model as it is.")


@dataclass(frozen=True, slots=True)
class DataSet:
    """A data set with judgements; see ``data.formats.read_dataset``."""

    data: Annotated[
        Path,
        Option(
            "A BEIR or MTEB folder, or a .json or .jsonl file of images with captions (or a folder that holds one).",
            metavar="DATA", positional=True,
        ),
    ]  # fmt: skip


@dataclass(frozen=True, slots=True)
class EvalOptions:
    """What is scored, and how.

    Parameters
    ----------
    encoder : ModelOptions
        See ``EncoderOptions``; its temperature does not count.
    temperatures : tuple of float
        A row each; differences are to the first.
    kind, split, images
        See ``read_dataset``.
    metrics : tuple of str
        Of ``metrics.evaluate``; empty: the usual ones of the data set's kind.
    run : Path or None
        Where the first temperature's rankings go, as a TREC run.
    diagnose : bool
        How embeddings crowd together as texts grow longer.
    keep_identical : bool
        Rank documents that have the id of the query, too; see ``Rankings``.
    answerable : bool
        Leave out queries whose judgements are all 0 or below; trec_eval counts them as 0.
    threads : int, optional
    """

    encoder: ModelOptions = field(default_factory=ModelOptions)
    temperatures: Annotated[
        tuple[float, ...],
        Option(
            "Of the attention (TempScale); a row for each.",
            name="--temperature", short="-T", metavar="T[,T...]", parse=parse_temperatures, text="1",
        ),
    ] = (1.0,)  # fmt: skip
    kind: Annotated[str | None, Option("Format of the data.", metavar="NAME", shown="by content")] = None
    split: Split = None
    images: Annotated[Path | None, Option("Folder that image paths are relative to.", metavar="DIR")] = None
    metrics: Annotated[
        tuple[str, ...],
        Option("As ndcg@10,recall@100,map,mrr@10,hit@1,minp.", metavar="NAMES", parse=parse_names, shown="by data"),
    ] = ()
    run: Annotated[Path | None, Option("Write the rankings as a TREC run.", metavar="FILE")] = None
    diagnose: Annotated[bool, Option("Do embeddings crowd together as texts grow longer?")] = False
    keep_identical: KeepIdentical = False
    answerable: Annotated[
        bool, Option("Leave out queries without a relevant document; trec_eval counts them as 0.")
    ] = False
    threads: Threads = None

    def __post_init__(self) -> None:
        from ...io.atomic import place_fault

        check(self)
        check_temperatures("temperatures", self.temperatures)
        if self.run is not None and (fault := place_fault(self.run)):
            raise OptionError(f"{{run}} {self.run}: {fault}.")


@dataclass(frozen=True, slots=True)
class TuneOptions:
    """How a temperature is chosen.

    Parameters
    ----------
    encoder : ModelOptions
        See ``EncoderOptions``; its temperature does not count.
    grid : tuple of float
        Temperatures to try; 1 is always among them.
    metric : str
        What is to be largest, of ``metrics.evaluate``.
    split, keep_identical
        See ``EvalOptions``.
    seed : int
        Of the split into halves and of the bootstrap.
    threads : int, optional
    """

    encoder: ModelOptions = field(default_factory=ModelOptions)
    grid: Annotated[
        tuple[float, ...],
        Option(
            "Temperatures to try; 1 is always among them.",
            metavar="T,T,...", parse=parse_temperatures, text=",".join(f"{value:g}" for value in GRID),
        ),
    ] = GRID  # fmt: skip
    metric: Annotated[str, Option("What is to be largest.", metavar="NAME")] = "ndcg@10"
    split: Split = None
    keep_identical: KeepIdentical = False
    seed: Seed = 77
    threads: Threads = None

    def __post_init__(self) -> None:
        check(self)
        check_temperatures("grid", self.grid)
