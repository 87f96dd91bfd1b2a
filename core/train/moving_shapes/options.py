"""What `attn train moving-shapes` can be told, as one frozen value, and the recipe's registry entry."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Annotated

from ...bundles import Compute
from ...command import Verb
from ...fit.options import (
    FILES,
    NOTES,
    EvaluateEvery,
    LearningRate,
    OutputFolder,
    TrainingOptions,
    Warmup,
    WeightDecay,
    check_warmup,
)
from ...options import Option, OptionError, check


@dataclass(frozen=True, slots=True)
class MovingShapesOptions:
    """Size of the model, length of its three stages, and what it is measured with.

    Parameters
    ----------
    output : Path
        Folder of the run, and afterwards of the model.
    width, layers, heads : int
        Of the transformer.
    steps, medium_steps, large_steps : int
        At grids of about 256 tokens, then 1024, then 4096.
    warmup : int
    batch : int
        Videos per step at 256 tokens; a quarter at 1024, one at 4096.
    learning_rate : float
        Of AdamW; Muon fits the matrices inside the layers with eight times as much.
    weight_decay : float
    judged : int
        Videos of 4096 tokens in an evaluation, and eight times as many of 256.
    evaluate_every : int
    training : TrainingOptions
    compute : Compute
    """

    output: OutputFolder
    width: Annotated[int, Option("Channels of a token.", metavar="C", least=16)] = 64
    layers: Annotated[int, Option("Layers of the transformer.", metavar="N", least=1)] = 6
    heads: Annotated[int, Option("Heads of a layer.", metavar="N", least=1)] = 2
    steps: Annotated[int, Option("At grids of 256 tokens.", metavar="N", least=1, resumable=True)] = 1800
    medium_steps: Annotated[int, Option("Then, at 1024 tokens.", metavar="N", least=0, resumable=True)] = 1000
    large_steps: Annotated[int, Option("In the end, at 4096 tokens.", metavar="N", least=0, resumable=True)] = 80
    warmup: Warmup = 60
    batch: Annotated[
        int, Option("Videos per step at 256 tokens; a quarter at 1024, one at 4096.", metavar="N", least=1)
    ] = 8
    learning_rate: LearningRate = 2e-3
    weight_decay: WeightDecay = 0.01
    judged: Annotated[int, Option("Videos of 4096 tokens in an evaluation.", metavar="N", least=1, resumable=True)] = 2
    evaluate_every: EvaluateEvery = 200
    training: TrainingOptions = field(default_factory=TrainingOptions)
    compute: Compute = field(default_factory=Compute)

    def __post_init__(self) -> None:
        check(self)
        if self.width % (4 * self.heads):
            raise OptionError(f"{{width}}: {self.width} must be a multiple of four times {{heads}} ({self.heads}).")
        check_warmup(self.warmup, {"{steps}": self.steps})

    @property
    def total(self) -> int:
        """Steps of all stages."""
        return self.steps + self.medium_steps + self.large_steps


RECIPE = Verb(
    options=MovingShapesOptions,
    run="attn.core.train.moving_shapes.run:train_moving_shapes",
    description="""Train a small video model on drawn shapes that move.

    A transformer of flow matching makes videos from noise: shapes in eight colours that move, bounce off the walls and
    hide each other. Nothing is read: every step draws videos of its own. In the end the same noise becomes a video
    with dense, plain block-sparse and rectified attention, and with the latter behind a few dense layers and steps:
    the table says how far each is from the dense one. The model that ships was made so, in about
    twelve minutes of CPU time.
    """,
    examples=(
        ("attn train moving-shapes -o run/", "How the model that ships was made; the same call resumes a killed run."),
        ("attn train moving-shapes -o run/ --steps 300 --medium-steps 60 --large-steps 12", "A first look: minutes."),
    ),
    files=(
        ("OUT/model.safetensors, OUT/config.json", "The model, float16."),
        ("OUT/videos.png", "Frames of one video by each kind of attention."),
        ("OUT/model.md", "The model card."),
        *FILES[1:],
    ),
    notes=NOTES,
)
