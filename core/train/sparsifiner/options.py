"""What `attn train sparsifiner` can be told, as one frozen value, and the recipe's registry entry."""

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
    WeightDecay,
    check_warmup,
)
from ...options import Option, check
from ..vit.options import PlainOptions


@dataclass(frozen=True, slots=True)
class SparsifinerOptions:
    """Pictures, networks and stages of a run.

    Parameters
    ----------
    output : Path
        Folder of the run: ``model.safetensors``, ``model.md``, ``metrics.jsonl``, ``curve.png`` and the checkpoints
        from which the same call goes on; the earlier stages in ``plain/`` and ``reconstruction/``, the other two models
        in ``attention/`` and ``tokens/``.
    plain : PlainOptions
        Pictures, network, and the plain ViT.
    keys : float
        Share of the keys that each query attends to where attention alone is sparse. Its cost is what the other two
        models get: one drops patches only; the other attends to twice as many keys, and drops fewer patches.
    reduce_n, reduce_c : int
        Basis vectors of the predictors are the number of tokens divided by one, channels the head's by the other.
    reconstruction_steps : int
        Of stage 1: predictors alone.
    steps : int
        Of stage 2, of each model: all but the predictors.
    warmup : int
        Steps over which the rate rises, of each stage.
    learning_rate : float
        Of the plain ViT and the predictors; a quarter of it in stage 2.
    weight_decay : float
    evaluate_every : int
    training : TrainingOptions
    compute : Compute
    """

    output: OutputFolder
    plain: PlainOptions = field(default_factory=PlainOptions)
    keys: Annotated[
        float, Option("Share of the keys of each query, where attention alone is sparse.", metavar="SHARE", above=0.0,
                      most=0.5),
    ] = 0.25  # fmt: skip
    reduce_n: Annotated[int, Option("Tokens for each basis vector of a predictor.", metavar="N", least=1)] = 6
    reduce_c: Annotated[int, Option("Channels of a head for each of a predictor.", metavar="N", least=1)] = 2
    reconstruction_steps: Annotated[int, Option("Of stage 1: predictors alone.", metavar="N", least=2)] = 100
    steps: Annotated[int, Option("Of stage 2, for each of three models.", metavar="N", least=2, resumable=True)] = 60
    warmup: Annotated[int, Option("Steps of each stage in which the rate rises.", metavar="N", least=0)] = 20
    learning_rate: LearningRate = 2e-3
    weight_decay: WeightDecay = 0.05
    evaluate_every: EvaluateEvery = 50
    training: TrainingOptions = field(default_factory=TrainingOptions)
    compute: Compute = field(default_factory=Compute)

    def __post_init__(self) -> None:
        check(self)
        stages = {"{steps}": self.steps, "{plain_steps}": self.plain.plain_steps,
                  "{reconstruction_steps}": self.reconstruction_steps}  # fmt: skip
        check_warmup(self.warmup, stages)


RECIPE = Verb(
    options=SparsifinerOptions,
    run="attn.core.train.sparsifiner.run:train_sparsifiner",
    description="""Train a ViT that predicts which keys each query needs, and drops patches.

    A plain ViT comes first: it is the teacher, and what the others are compared to. Stage 1 teaches predictors its
    attention; stage 2 teaches its answers to three models of equal cost: sparse attention, dropped patches, and both,
    which is the one that is kept. Test pictures are counted and timed with patches really taken out.
    """,
    examples=(
        ("attn train sparsifiner -o run/", "Drawn shapes: a few minutes on one core."),
        ("attn train sparsifiner --data photos/ --image-size 128 -o run/", "A folder of class folders."),
        ("attn prune photo.jpg --model run/model.safetensors --method sparsifiner", "Use what was trained."),
    ),
    files=FILES,
    notes=NOTES,
)
