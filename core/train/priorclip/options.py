"""What `attn train priorclip` can be told, as one frozen value, and the recipe's registry entry."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Annotated, Literal

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
from ...options import Option, OptionError, check

if TYPE_CHECKING:
    from ...retrieve.priorclip.model import PriorCLIPArchitecture

SYNTHETIC = "synthetic"
PICTURES = {"train": 1600, "val": 160, "test": 240}
"""Synthetic pictures by split."""


@dataclass(frozen=True, slots=True)
class PriorCLIPOptions:
    """Data, model, stages and losses of a run.

    Parameters
    ----------
    output : Path
        Folder of the run: ``model.safetensors``, ``model.md``, ``metrics.jsonl``, ``curve.png`` and the checkpoints
        from which the same call goes on; the earlier stages in ``instruction/`` and ``coarse/``, with ``compare`` the
        plain model in ``baseline/``.
    data : str
        A JSON file (see ``retrieve.priorclip.data``), or ``"synthetic"``: scenes drawn from the seed.
    gate, instruction, image_size, patch, width, layers, heads
        See ``PriorCLIPArchitecture``.
    steps : int
        Of stages 1 and 2 together.
    coarse_steps : int
        Of these, stage 1 (captions of the scene only); 0: none.
    instruction_steps : int
        Of stage 0, the instruction network; they come on top of ``steps``.
    warmup : int
        Steps over which the rate rises, in each stage.
    batch : int
        Pairs per step.
    learning_rate, weight_decay : float
        Of AdamW.
    center_factor : float
        Weight of the affiliation loss; 0: none.
    affiliation_targets : {"diagonal", "class"}
        See ``losses.affiliation``.
    augment : {"auto", "crop", "none"}
        ``crop``: random crops and mirror images; ``auto``: that for files, none for synthetic scenes, whose captions
        name left and right.
    compare : bool
        Train the plain model too (no instruction, no stage 1, no affiliation loss; same steps) and report both.
    evaluate_every : int
    training : TrainingOptions
    compute : Compute
    """

    output: OutputFolder
    data: Annotated[
        str,
        Option("Captions with splits, pictures beside it or in images/; or synthetic.", metavar="JSON", resumable=True),
    ] = SYNTHETIC
    gate: Annotated[
        str,
        Option(
            "How belief weighs patches: rank, released, weighted, none.", metavar="NAME",
            choices=("rank", "released", "weighted", "none"),
        ),
    ] = "rank"  # fmt: skip
    instruction: Annotated[bool, Option("Off: plain CLIP, without the scene classifier.")] = True
    image_size: Annotated[int, Option("Side of a picture.", metavar="PX", least=8)] = 64
    patch: Annotated[int, Option("Side of a patch.", metavar="PX", least=1)] = 16
    width: Annotated[int, Option("Of both towers.", metavar="C", least=8)] = 64
    layers: Annotated[int, Option("Of both towers.", metavar="N", least=1)] = 2
    heads: Annotated[int, Option(metavar="N", least=1)] = 4
    steps: Annotated[int, Option("Of stages 1 and 2 together.", metavar="N", least=2, resumable=True)] = 300
    coarse_steps: Annotated[int, Option("Of these, stage 1: captions of the scene only.", metavar="N", least=0)] = 100
    instruction_steps: Annotated[int, Option("Stage 0, the scene classifier; on top.", metavar="N", least=1)] = 100
    warmup: Annotated[int, Option("Steps of each stage in which the rate rises.", metavar="N", least=0)] = 30
    batch: Annotated[int, Option("Pairs per step.", metavar="N", least=2)] = 64
    learning_rate: LearningRate = 2e-3
    weight_decay: WeightDecay = 0.05
    center_factor: Annotated[float, Option("Weight of the affiliation loss; 0: none.", metavar="X", least=0.0)] = 1.0
    affiliation_targets: Annotated[
        Literal["diagonal", "class"],
        Option("diagonal: as published; class: floor 0.", metavar="diagonal|class"),
    ] = "diagonal"
    augment: Annotated[
        str,
        Option(
            "crop: crops and mirror images; auto: for files.", metavar="auto|crop|none",
            choices=("auto", "crop", "none"),
        ),
    ] = "auto"  # fmt: skip
    compare: Annotated[bool, Option("Train plain CLIP for as many steps too, and report both.", resumable=True)] = False
    evaluate_every: EvaluateEvery = 100
    training: TrainingOptions = field(default_factory=TrainingOptions)
    compute: Compute = field(default_factory=Compute)

    def __post_init__(self) -> None:
        check(self)
        if self.image_size % self.patch:
            raise OptionError(f"{{image_size}}: {self.image_size} px must be a multiple of {{patch}} {self.patch}.")
        if self.width % self.heads:
            raise OptionError(f"{{width}}: {self.width} must be a multiple of {{heads}} {self.heads}.")
        fine = self.steps - self.coarse_steps
        stages = {"{steps} less {coarse_steps}": fine}
        if self.coarse_steps:
            stages = {"{coarse_steps}": self.coarse_steps, **stages}
        if self.instruction:
            stages["{instruction_steps}"] = self.instruction_steps
        check_warmup(self.warmup, stages)

    def architecture(self) -> PriorCLIPArchitecture:
        """The model's."""
        from ...retrieve.priorclip.model import PriorCLIPArchitecture

        return PriorCLIPArchitecture(
            image_size=self.image_size, patch_size=self.patch, width=self.width, layers=self.layers,
            num_heads=self.heads, out=self.width, gate=self.gate, instruction=self.instruction,  # type: ignore[arg-type]
        )  # fmt: skip


RECIPE = Verb(
    options=PriorCLIPOptions,
    run="attn.core.train.priorclip.run:train_priorclip",
    description="""Train retrieval of pictures from above by sentence, guided by a scene classifier.

    File names begin with the scene, as harbour_12.png. Three stages: the scene classifier, captions of the scene only,
    the captions themselves. Pictures of the split val choose the best weights, those of test are reported.
    """,
    examples=(
        ("attn train priorclip -o run/", "Drawn scenes from above."),
        ("attn retrieve index tiles/ -o i --model run/model.safetensors", "Use what was trained."),
    ),
    files=FILES,
    notes=NOTES,
)
