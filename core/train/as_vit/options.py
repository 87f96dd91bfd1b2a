"""What `attn train as-vit` can be told, as one frozen value, and the recipe's registry entry."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Annotated, Literal

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
class AsViTOptions:
    """Pictures, networks and budget of a run.

    Parameters
    ----------
    output : Path
        Folder of the run: ``model.safetensors``, ``model.md``, ``metrics.jsonl``, ``curve.png`` and the checkpoints
        from which the same call goes on; the plain ViT in ``plain/``.
    plain : PlainOptions
        Pictures, network, and the plain ViT.
    budget : float
        Share of the plain ViT's multiply-adds that a picture costs on average.
    start : {"quantiles", "paper"}
        Thresholds begin where the plain ViT meets the budget, or at 0.001, 0.002, 0.003, times 196 and divided by the
        number of patches.
    steps : int
        Of thresholds and weights together, behind the plain ViT.
    warmup : int
        Steps over which the rate rises, of each of the two.
    learning_rate : float
        Of the plain ViT; a quarter of it behind.
    weight_decay : float
        Thresholds have none.
    evaluate_every : int
    training : TrainingOptions
    compute : Compute
    """

    output: OutputFolder
    plain: PlainOptions = field(default_factory=PlainOptions)
    budget: Annotated[
        float, Option("Share of the plain ViT's multiply-adds.", metavar="SHARE", above=0.0, below=1.0)
    ] = 0.65
    start: Annotated[
        Literal["quantiles", "paper"],
        Option("Thresholds begin where the plain ViT meets the budget, or low.", metavar="quantiles|paper"),
    ] = "quantiles"
    steps: Annotated[int, Option("Of thresholds and weights together.", metavar="N", least=2, resumable=True)] = 300
    warmup: Annotated[int, Option("Steps of each stage in which the rate rises.", metavar="N", least=0)] = 20
    learning_rate: LearningRate = 2e-3
    weight_decay: WeightDecay = 0.05
    evaluate_every: EvaluateEvery = 100
    training: TrainingOptions = field(default_factory=TrainingOptions)
    compute: Compute = field(default_factory=Compute)

    def __post_init__(self) -> None:
        check(self)
        check_warmup(self.warmup, {"{steps}": self.steps, "{plain_steps}": self.plain.plain_steps})


RECIPE = Verb(
    options=AsViTOptions,
    run="attn.core.train.as_vit.run:train_as_vit",
    description="""Train a ViT that drops patches by learned thresholds, to a budget of multiply-adds.

    A plain ViT comes first: it is the teacher, and what the pruned one is compared to. Then weights and thresholds
    learn together, with dropped patches masked. In the end one factor on all thresholds, found on training pictures,
    meets the budget. Test pictures are counted and timed with the patches really taken out.
    """,
    examples=(
        ("attn train as-vit -o run/", "Drawn shapes: a few minutes on one core."),
        ("attn train as-vit --data photos/ --image-size 128 --budget 0.7 -o run/", "A folder of class folders."),
        ("attn prune photo.jpg --model run/model.safetensors --method as-vit", "Use what was trained."),
    ),
    files=FILES,
    notes=NOTES,
)
