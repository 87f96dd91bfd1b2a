"""What `attn train flux-router` can be told, as one frozen value, and the recipe's registry entry."""

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


def parse_targets(text: str) -> tuple[float, ...]:
    """``0.25,0.5`` as shares, each once. Raises ``ValueError`` for what is no share."""
    shares = tuple(dict.fromkeys(float(part) for part in text.split(",")))
    if wrong := [share for share in shares if not 0 <= share <= 1]:
        raise ValueError(f"{wrong[0]} is no share of the layers: from 0 to 1.")
    return shares


@dataclass(frozen=True, slots=True)
class RouterOptions:
    """The small model, its prompts, the routers, and the length of a run.

    Parameters
    ----------
    output : Path
        Folder of the run and of the first target's routers; the others are in ``target-SHARE/``, the model in ``lm/``.
    targets : tuple of float
        Shares of sparse layers that needle prompts are to have; continuations always 1 (section 3.6).
    pairs, gap, questions : int
        Of a needle prompt: see ``tasks.draw_prompts``.
    width, depth, heads : int
        Of the small model.
    sink, local, block_size : int, tokens
        Of a sparse layer.
    pool_size : int, tokens
        The routers read the first and the last that many.
    lm_steps : int
        Of the small model, before; it is frozen then.
    steps, warmup, batch : int
        Of the routers of each target; ``batch`` prompts of either kind.
    learning_rate, multiplier_rate : float
        Of routers and of the penalty's multipliers, which climb. The method has 5e-4 and 1e-3 for 300 steps of 48 long
        sequences.
    weight_decay : float
        Of the routers; multipliers have none (section 9.7).
    judged : int
        Prompts of either kind in the final test; a quarter in evaluations.
    evaluate_every : int
    training : TrainingOptions
    compute : Compute
    """

    output: OutputFolder
    targets: Annotated[
        tuple[float, ...],
        Option("Shares of sparse layers on needle prompts; the first is the run's.", metavar="S[,...]",
               parse=parse_targets, text="0.5,0.25,0.75"),
    ] = (0.5, 0.25, 0.75)  # fmt: skip
    pairs: Annotated[int, Option("Keys with values in a needle prompt.", metavar="N", least=2, most=32)] = 8
    gap: Annotated[int, Option("Words between them and the questions.", metavar="N", least=0, most=2048)] = 24
    questions: Annotated[int, Option("Of a prompt.", metavar="N", least=1, most=64)] = 8
    width: Annotated[int, Option("Channels of the small model.", metavar="C", least=16)] = 64
    depth: Annotated[int, Option("Layers of the small model.", metavar="N", least=1, most=64)] = 4
    heads: Annotated[int, Option("Heads of the small model.", metavar="N", least=1)] = 2
    sink: Annotated[int, Option("First tokens that a sparse layer sees.", metavar="N", least=0)] = 4
    local: Annotated[int, Option("Latest tokens that it sees.", metavar="N", least=1)] = 16
    block_size: Annotated[int, Option("Both are rounded up to blocks.", metavar="N", least=1)] = 4
    pool_size: Annotated[int, Option("First and last tokens a router reads.", metavar="N", least=1)] = 100
    lm_steps: Annotated[int, Option("Of the small model, before.", metavar="N", least=2, resumable=True)] = 1000
    steps: Annotated[int, Option("Of the routers of each target.", metavar="N", least=2, resumable=True)] = 200
    warmup: Warmup = 20
    batch: Annotated[int, Option("Prompts of either kind per step.", metavar="N", least=1)] = 8
    learning_rate: LearningRate = 5e-3
    multiplier_rate: Annotated[
        float, Option("Of the penalty's multipliers.", metavar="X", above=0.0, below=1.0)
    ] = 0.02  # fmt: skip
    weight_decay: WeightDecay = 0.01
    judged: Annotated[int, Option("Prompts of either kind in the test.", metavar="N", least=4, resumable=True)] = 128
    evaluate_every: EvaluateEvery = 50
    training: TrainingOptions = field(default_factory=TrainingOptions)
    compute: Compute = field(default_factory=Compute)

    def __post_init__(self) -> None:
        check(self)
        if self.width % (2 * self.heads):
            raise OptionError(f"{{width}}: {self.width} must be a multiple of twice {{heads}} ({self.heads}).")
        check_warmup(self.warmup, {"{steps}": self.steps, "{lm_steps}": self.lm_steps})


RECIPE = Verb(
    options=RouterOptions,
    run="attn.core.train.flux_router.run:train_flux_router",
    description="""Train routers that send whole layers of a frozen language model to full or to sparse attention.

    A small language model first learns two kinds of prompt: needles, whose answers stand far back, and continuations,
    whose answers stand near. It is frozen, and a router per layer learns which layers a prompt needs whole, for every
    target share of sparse layers. The table has accuracy against the share of sparse layers beside static choices of
    equal share: random layers, the first, the last; and a map says which layer went where on which kind of prompt.
    """,
    examples=(
        ("attn train flux-router -o run/", "A small model, three targets, their table and map."),
        ("attn train flux-router -o run/ --targets 0.75 --seed 1", "One target, another seed."),
    ),
    files=(
        ("OUT/lm/", "The frozen model: a folder that transformers loads, and its run."),
        *FILES,
        ("OUT/target-SHARE/", "The runs of the other targets."),
    ),
    notes=(
        *NOTES,
        "OUT/model.safetensors holds routers alone. In Python, read_routers(FILE) and routed(model, routers, "
        "routers.shape) of attn.core.train.flux_router.routing apply them to the model in OUT/lm: each prompt is "
        "routed at prefill, and decoding keeps to it. Prompts have no padding.",
    ),
    columns=("needle", "continuation", "sparse_needle", "sparse_continuation"),
)
