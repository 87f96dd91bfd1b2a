"""What every recipe can be told, each stated once, and what its man page says of every run."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Literal

from ..options import Option, OptionError, check

OutputFolder = Annotated[Path, Option("Folder of the run and its model.", short="-o", metavar="DIR", resumable=True)]
LearningRate = Annotated[float, Option("Highest rate of AdamW.", metavar="X", above=0.0, below=1.0)]
WeightDecay = Annotated[float, Option(metavar="X", least=0.0)]
Warmup = Annotated[int, Option("Steps in which the rate rises.", metavar="N", least=0)]
EvaluateEvery = Annotated[
    int, Option("Steps between evaluations and checkpoints.", metavar="N", least=1, resumable=True)
]
ConfigFile = Annotated[
    Path | None,
    Option("Options as TOML, such as steps = 500; what is typed wins.", metavar="FILE", resumable=True),
]


@dataclass(frozen=True, slots=True)
class TrainingOptions:
    """How a recipe's steps are computed.

    Parameters
    ----------
    amp : {"off", "bf16", "fp16"}
        Mixed precision of the loss; evaluations are in float32 whatever it is.
    accumulate : int
        Batches of a step; see ``loop.Plan``.
    restart : bool
        Begin anew where the folder holds a run.
    config : Path or None
        Where the command line read options from; for the report.
    """

    amp: Annotated[
        Literal["off", "bf16", "fp16"],
        Option("Mixed precision; fp16 scales its gradients.", metavar="off|bf16|fp16"),
    ] = "off"
    accumulate: Annotated[
        int,
        Option("Batches per step, gradients averaged; batch norm and losses see one.", metavar="N", least=1),
    ] = 1
    restart: Annotated[bool, Option("Begin anew where the folder holds a run.", resumable=True)] = False
    config: ConfigFile = None

    def __post_init__(self) -> None:
        check(self)


def check_warmup(warmup: int, stages: Mapping[str, int]) -> None:
    """Raise ``OptionError`` where a stage, by what it is called in messages, ends within its warm-up."""
    for name, steps in stages.items():
        if steps <= warmup:
            raise OptionError(f"{{warmup}}: {warmup} steps leave nothing of {name} ({steps}).")


FILES = (
    ("OUT/model.safetensors, OUT/model.md", "The best averaged weights, and what they are: the model card."),
    ("OUT/metrics.jsonl, OUT/curve.png", "One JSON line per evaluation, and a picture of loss and score."),
    ("OUT/checkpoint.pt, OUT/best.pt", "What a resumed run goes on from."),
)
NOTES = (
    "A run that is killed goes on from its last evaluation, as if it had not been killed; --steps may then differ.",
)
