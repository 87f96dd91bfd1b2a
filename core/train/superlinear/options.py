"""What `attn train superlinear` can be told, as one frozen value, and the recipe's registry entry."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
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

KEYS = 512
"""Different keys of the task."""
TIMES = (1, 2, 4)
"""Lengths of the final test over that of training."""
HEAD = 64
"""Channels of a head."""


@dataclass(frozen=True, slots=True)
class SuperlinearOptions:
    """The task, the network, and the length of a run.

    Parameters
    ----------
    output : Path
        Folder of the run: of the network with superlinear attention; the other three are in ``frozen/``, ``window/``
        and ``dense/``.
    length : int
        Tokens of a training sequence. Tested are this, twice and four times as many.
    every : int
        Tokens for each definition of a key, and for each question.
    width : int
        Channels of a token, in heads of 64.
    num_spans, sw_index : int
        Of superlinear attention; see its operator. The gate of a single span has no gradient: two at least.
    memory : float
        Share that a search key keeps of what it summarises, per token ("ema:MEMORY" of the operator).
    weights : Path or None
        Model file that all four networks start from, for example to go on at another length.
    steps, warmup, batch : int
        Of each network.
    learning_rate : float
        Of AdamW; the projections of the attention are fitted by Muon with ten times as much.
    weight_decay : float
    judged : int
        Questions of an evaluation, about; the final test asks four times as many at each length.
    evaluate_every : int
    training : TrainingOptions
    compute : Compute
    """

    output: OutputFolder
    length: Annotated[int, Option("Tokens of a training sequence.", metavar="N", least=64, most=2**20)] = 512
    every: Annotated[int, Option("Tokens for each definition, and each question.", metavar="N", least=4)] = 32
    width: Annotated[int, Option("Channels of a token, in heads of 64.", metavar="C", least=HEAD)] = 128
    num_spans: Annotated[int, Option("Spans of each query.", metavar="N", least=2, most=8)] = 3
    sw_index: Annotated[int, Option("Window index: (N + 1)^2 - 1 keys.", metavar="N", least=0, most=64)] = 3
    memory: Annotated[
        float, Option("What a search key keeps of those before it, per token.", metavar="SHARE", least=0.0, below=1.0)
    ] = 0.96
    weights: Annotated[Path | None, Option("Start from a model file.", metavar="FILE")] = None
    steps: Annotated[int, Option("Of each of the four networks.", metavar="N", least=2, resumable=True)] = 800
    warmup: Warmup = 30
    batch: Annotated[int, Option("Sequences per step, drawn anew for each.", metavar="N", least=1)] = 8
    learning_rate: LearningRate = 3e-3
    weight_decay: WeightDecay = 0.01
    judged: Annotated[int, Option("Questions of an evaluation.", metavar="N", least=1, resumable=True)] = 500
    evaluate_every: EvaluateEvery = 100
    training: TrainingOptions = field(default_factory=TrainingOptions)
    compute: Compute = field(default_factory=Compute)

    def __post_init__(self) -> None:
        check(self)
        if self.length % 2:
            raise OptionError(f"{{length}}: {self.length} must be even: definitions and questions are two tokens.")
        if self.length < 2 * self.every:
            raise OptionError(f"{{every}}: {self.every} leaves less than two definitions in {{length}} {self.length}.")
        longest = TIMES[-1] * self.length
        if longest // self.every > KEYS:
            raise OptionError(
                f"{{every}}: {self.every} asks for {longest // self.every} keys in the test's {longest} tokens; there "
                f"are {KEYS}. Give {-(-longest // KEYS)} or more."
            )
        if self.width % HEAD:
            raise OptionError(f"{{width}}: {self.width} must be a multiple of {HEAD}.")
        check_warmup(self.warmup, {"{steps}": self.steps})


RECIPE = Verb(
    options=SuperlinearOptions,
    run="attn.core.train.superlinear.run:train_superlinear",
    description="""Train superlinear attention to route, on key-value lookup, beside what it is compared to.

    Keys are given values among fillers, and asked for later, however far back. The same network learns it four times
    from the same start, with equal updates and tokens: with superlinear attention, whose gates train where it looks;
    with frozen routing, its search left as it began; with a sliding window of as many keys, those of the search
    counted; and with dense attention. Each is tested at one, two and four times the length it was trained at. The
    default takes about eight minutes on one core.
    """,
    examples=(
        ("attn train superlinear -o run/", "All four, and their table."),
        ("attn train superlinear -o seed1/ --seed 1", "Another seed: other starts and other sequences."),
        ("attn train superlinear -o long/ --length 2048 --weights run/model.safetensors", "Go on at a greater length."),
    ),
    files=(*FILES, ("OUT/frozen/, OUT/window/, OUT/dense/", "The runs of the other three networks.")),
    notes=NOTES,
    columns=("superlinear_4x", "frozen_4x", "window_4x", "dense_4x"),
)
