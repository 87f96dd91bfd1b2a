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

SYNTHETIC, OPEN = "synthetic", "synthetic-open"
PICTURES = {"train": 1600, "val": 160, "test": 240}
"""Synthetic pictures by split."""
OPEN_PICTURES = PICTURES | {"coarse": 3200, "unseen": 240}
SAME = "same"
"""As coarse data: the training pictures themselves, with captions of their scene."""
COARSE_STEPS = {"priorclip": 100, "pir": 0}
OWN = {"priorclip": ("gate",), "pir": ("filter_size", "instru_num", "cycle_num", "dropout")}
"""Options of one variant; all are about how the instruction is used."""


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
        A JSON file (see ``retrieve.priorclip.data``), ``"synthetic"``: scenes drawn from the seed, or
        ``"synthetic-open"``: those of ``retrieve.priorclip.open_domain``.
    variant, gate, filter_size, instru_num, cycle_num, dropout, instruction, image_size, patch, width, layers, heads
        See ``PriorCLIPArchitecture``; None: its default.
    steps : int
        Of stages 1 and 2 together.
    coarse_steps : int or None
        Of these, stage 1; 0: none. None: 100, of PIR, which is trained on one set, 0.
    coarse_data : str or None
        What stage 1 is trained on: a JSON file, or ``"same"``: the training pictures, with captions that name their
        scene. None: that, or what ``synthetic-open`` draws for it.
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
        Option(
            "Captions with splits, pictures beside it or in images/; or synthetic; or synthetic-open: tests scenes and "
            "words that the captions trained on lack.",
            metavar="JSON", resumable=True,
        ),
    ] = SYNTHETIC  # fmt: skip
    variant: Annotated[
        Literal["priorclip", "pir"],
        Option("pir: the earlier model, for one data set, with attention encoders.", metavar="priorclip|pir"),
    ] = "priorclip"
    gate: Annotated[
        str | None,
        Option(
            "How belief weighs patches (priorclip): rank, released, weighted, none.", metavar="NAME", shown="rank",
            choices=("rank", "released", "weighted", "none"),
        ),
    ] = None  # fmt: skip
    filter_size: Annotated[
        int | None,
        Option("Tokens that belief keeps (pir).", metavar="K", least=1, shown="four fifths of them"),
    ] = None
    instru_num: Annotated[int | None, Option("Rounds of the image encoder (pir).", metavar="N", least=1, shown="2")] = (
        None
    )
    cycle_num: Annotated[
        int | None, Option("Rounds of the text encoder (pir); 0: none.", metavar="N", least=0, shown="3")
    ] = None
    dropout: Annotated[
        float | None, Option("Of the encoders (pir).", metavar="SHARE", least=0.0, below=1.0, shown="0.2")
    ] = None
    instruction: Annotated[
        bool, Option("Off: without the scene classifier, plain CLIP, or the two trunks of pir alone.")
    ] = True
    image_size: Annotated[int, Option("Side of a picture.", metavar="PX", least=8)] = 64
    patch: Annotated[int, Option("Side of a patch.", metavar="PX", least=1)] = 16
    width: Annotated[int, Option("Of both towers.", metavar="C", least=8)] = 64
    layers: Annotated[int, Option("Of both towers.", metavar="N", least=1)] = 2
    heads: Annotated[int, Option(metavar="N", least=1)] = 4
    steps: Annotated[int, Option("Of stages 1 and 2 together.", metavar="N", least=2, resumable=True)] = 300
    coarse_steps: Annotated[
        int | None, Option("Of these, stage 1: coarse captions.", metavar="N", least=0, shown="100; of pir 0")
    ] = None
    coarse_data: Annotated[
        str | None,
        Option(
            "Pairs of stage 1: captions as of the data option, or same: those pictures, captions of their scene only.",
            metavar="JSON|same", shown="same; of synthetic-open drawn pairs of all scenes", resumable=True,
        ),
    ] = None  # fmt: skip
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
        other = "pir" if self.variant == "priorclip" else "priorclip"
        for name in (*OWN[other], *(() if self.instruction else OWN[self.variant])):
            if getattr(self, name) is not None:
                whose = f"an option of {{variant}} {other}" if name in OWN[other] else "nothing without {instruction}"
                raise OptionError(f"{{{name}}}: {whose}.")
        tokens = 1 + (self.image_size // self.patch) ** 2
        if self.filter_size is not None and self.filter_size > tokens:
            raise OptionError(f"{{filter_size}}: {self.filter_size} of {tokens} tokens.")
        if self.coarse_data is not None and not self.stage1:
            raise OptionError("{coarse_data}: nothing is trained on it, {coarse_steps} is 0.")
        fine = self.steps - self.stage1
        stages = {"{steps} less {coarse_steps}": fine}
        if self.stage1:
            stages = {"{coarse_steps}": self.stage1, **stages}
        if self.instruction:
            stages["{instruction_steps}"] = self.instruction_steps
        check_warmup(self.warmup, stages)

    @property
    def stage1(self) -> int:
        """Steps of stage 1."""
        return COARSE_STEPS[self.variant] if self.coarse_steps is None else self.coarse_steps

    def architecture(self) -> PriorCLIPArchitecture:
        """The model's."""
        from ...retrieve.priorclip.model import PriorCLIPArchitecture

        tokens = 1 + (self.image_size // self.patch) ** 2
        sizes = {"filter_size": max(1, round(0.8 * tokens))}  # 40 of 50, as published
        own = {name: value for name in OWN[self.variant] if (value := getattr(self, name)) is not None}
        return PriorCLIPArchitecture(
            image_size=self.image_size, patch_size=self.patch, width=self.width, layers=self.layers,
            num_heads=self.heads, out=self.width, instruction=self.instruction, variant=self.variant,
            **(sizes | own),
        )  # fmt: skip


RECIPE = Verb(
    options=PriorCLIPOptions,
    run="attn.core.train.priorclip.run:train_priorclip",
    description="""Train retrieval of pictures from above by sentence, guided by a scene classifier.

    File names begin with the scene, as harbour_12.png. Three stages: the scene classifier, coarse captions (of the
    scene only, or of pictures of their own), the captions themselves. Pictures of the split val choose the best
    weights, those of test are reported. `--variant pir` is the earlier model of the same authors: two trunks, then
    attention guided by the scene over the patches that matter, and over the words; it has no stage of coarse captions.
    """,
    examples=(
        ("attn train priorclip -o run/", "Drawn scenes from above."),
        (
            "attn train priorclip --variant pir --learning-rate 0.001 -o run/ --compare",
            "PIR beside its two trunks alone.",
        ),
        ("attn train priorclip --data synthetic-open -o run/", "Tested also on scenes and words of stage 1 alone."),
        ("attn retrieve index tiles/ -o i --model run/model.safetensors", "Use what was trained."),
    ),
    files=FILES,
    notes=NOTES,
)
