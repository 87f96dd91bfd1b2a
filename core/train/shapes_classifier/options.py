"""What `attn train shapes-classifier` can be told, as one frozen value, and the recipe's registry entry."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Annotated, Literal

from ...bundles import Compute
from ...command import Verb
from ...fit.options import FILES, NOTES, EvaluateEvery, LearningRate, OutputFolder, TrainingOptions, Warmup, WeightDecay
from ...options import Option, OptionError, check


@dataclass(frozen=True, slots=True)
class ShapesClassifierOptions:
    """Network and length of a run.

    Parameters
    ----------
    output : Path
        Folder of the run, and afterwards of the model.
    net : {"cnn", "vit"}
        A VGG of a few convolutions, or a ViT of 8 x 8 patches.
    width : int
        Channels of a token, or of the last convolutions.
    layers : int or None
        Blocks of the ViT, with four heads each, or convolutions, each of which halves the picture; None: 6, or 4.
    steps, warmup, batch : int
    learning_rate : float
        Of AdamW; of a ViT, Muon fits the matrices inside the blocks with ten times as much.
    weight_decay : float
    judged : int
        Pictures of an evaluation; the final one takes twice as many, of another seed.
    evaluate_every : int
    training : TrainingOptions
    compute : Compute
    """

    output: OutputFolder
    net: Annotated[Literal["cnn", "vit"], Option("A small VGG or a small ViT.", metavar="cnn|vit")] = "vit"
    width: Annotated[int, Option("Channels of a token, or of the last convolutions.", metavar="C", least=8)] = 64
    layers: Annotated[
        int | None,
        Option("Blocks, or convolutions.", metavar="N", least=1, most=6, shown="6 blocks, 4 convolutions"),
    ] = None
    steps: Annotated[int, Option(metavar="N", least=2, resumable=True)] = 2500
    warmup: Warmup = 100
    batch: Annotated[int, Option("Pictures per step, drawn anew for each.", metavar="N", least=2)] = 32
    learning_rate: LearningRate = 2e-3
    weight_decay: WeightDecay = 0.02
    judged: Annotated[int, Option("Pictures of an evaluation.", metavar="N", least=1, resumable=True)] = 1000
    evaluate_every: EvaluateEvery = 100
    training: TrainingOptions = field(default_factory=TrainingOptions)
    compute: Compute = field(default_factory=Compute)

    def __post_init__(self) -> None:
        check(self)
        if self.width % 8:
            raise OptionError(f"{{width}}: {self.width} must be a multiple of 8.")
        if self.steps <= self.warmup:
            raise OptionError(f"{{warmup}}: {self.warmup} steps leave nothing of {{steps}} {self.steps}.")

    @property
    def depth(self) -> int:
        """Blocks or convolutions."""
        return self.layers or {"vit": 6, "cnn": 4}[self.net]


RECIPE = Verb(
    options=ShapesClassifierOptions,
    run="attn.core.train.shapes_classifier.run:train_shapes_classifier",
    description="""Train a small image classifier on drawn pictures.

    A picture of 64 px shows a large shape in one of eight colours among smaller shapes, strokes and digits, on a
    background; its class is shape and colour of the large one, such as "red ring". Nothing is read: every step draws
    pictures of its own. The models that ship as `shapes-vit` and `shapes-cnn` are of this kind.
    """,
    examples=(
        ("attn train shapes-classifier --net vit -o run/", "The ViT that ships: minutes on one core."),
        ("attn train shapes-classifier --net cnn --steps 2000 -o run/", "The CNN that ships."),
        ("attn probe relevance photo.jpg --model run/", "Look into what was trained."),
    ),
    files=(
        (
            "OUT/model.safetensors, OUT/config.json, OUT/preprocessor_config.json",
            "The model as a folder; the ViT's is one of transformers (ViTForImageClassification).",
        ),
        *FILES,
    ),
    notes=NOTES,
)
