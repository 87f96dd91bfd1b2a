"""What `attn train pattern-atlas` can be told, and the recipe's registry entry."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Annotated

from ...bundles import Compute
from ...command import Verb
from ...fit.options import FILES, NOTES, LearningRate, OutputFolder, TrainingOptions
from ...options import Option, check

DRAWN = "shapesx60"


@dataclass(frozen=True, slots=True)
class PatternAtlasOptions:
    """Pictures, the model whose attention is coded, and the autoencoder.

    Parameters
    ----------
    output : Path
        Folder of the run.
    data : str
        A picture, a folder of pictures, or ``shapes[:SEED]xN``: drawn ones.
    model : str
        See ``attn.core.models.load``.
    samples : int
        Patterns at most; one for every head of every picture.
    code, epochs, batch, learning_rate
        Of the autoencoder.
    training : TrainingOptions
    compute : Compute
    """

    output: OutputFolder
    data: Annotated[
        str,
        Option("Folder of pictures, a picture, or shapes[:SEED]xN: drawn ones.", metavar="DATA", resumable=True),
    ] = DRAWN
    model: Annotated[
        str,
        Option("Vision transformer whose attention is coded, as attn probe vit takes it.", metavar="NAME"),
    ] = "shapes-vit"
    samples: Annotated[int, Option("Patterns at most.", metavar="N", least=20, most=1_000_000)] = 100_000
    code: Annotated[int, Option("Numbers of a code.", metavar="N", least=2, most=64)] = 16
    epochs: Annotated[int, Option("Times that every pattern is seen.", metavar="N", least=1)] = 30
    batch: Annotated[int, Option("Patterns per step.", metavar="N", least=1)] = 128
    learning_rate: LearningRate = 1e-3
    training: TrainingOptions = field(default_factory=TrainingOptions)
    compute: Compute = field(default_factory=Compute)

    def __post_init__(self) -> None:
        check(self)


RECIPE = Verb(
    options=PatternAtlasOptions,
    run="attn.core.train.pattern_atlas.run:train_pattern_atlas",
    description="""Train the autoencoder that lays out attention patterns, for attn probe vit --atlas.

    A pattern is what one head does on one picture, pooled to 8 x 8 blocks of queries and keys and log-scaled. The
    autoencoder keeps 16 numbers of its 4096; what it loses on patterns that it did not learn from is reported, before
    and after.
    """,
    examples=(
        ("attn train pattern-atlas -o atlas/", "Of shapes-vit, on 60 drawn pictures."),
        (
            "attn train pattern-atlas --data photos/ --model vit -o atlas/",
            "Of ViT-S/14; then attn probe vit photos/ --model vit --atlas atlas/model.safetensors.",
        ),
    ),
    files=FILES,
    notes=(
        *NOTES,
        "A tenth of the patterns is held out. The rate falls as a cosine; the last weights are kept, not an average.",
        "An atlas fits models whose patterns have as many numbers: those of a grid of 8 x 8 patches or more.",
    ),
    columns=("error", "error_before", "explained"),
)
