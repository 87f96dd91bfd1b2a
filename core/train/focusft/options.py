"""What `attn train focusft` can be told, as one frozen value, and the recipe's registry entry."""

from __future__ import annotations

import re
import typing
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated, Literal

from ...bundles import Compute
from ...command import Verb
from ...fit.options import FILES, NOTES, EvaluateEvery, OutputFolder, TrainingOptions, Warmup, WeightDecay, check_warmup
from ...options import Option, OptionError, check

Mode = Literal["focusft", "sft", "bidir", "fast"]
MODES: tuple[Mode, ...] = typing.get_args(Mode)
"""Bilevel fine-tuning; plain; with context read in both directions; with fast weights, but causal."""
BOTH_WAYS, ADAPTS = frozenset({"focusft", "bidir"}), frozenset({"focusft", "fast"})
DrawnTask = Literal["lookup", "common-words"]
KEYS = 160
"""Words that can be keys, or be counted."""
COMMON = 3
"""Words that are the most common."""
TIMES = (1, 2, 4)
"""Lengths of the final test over the greatest of training."""
QUESTIONS = 8
"""Of a lookup."""
OWN_RATE, SMALL_RATE = 1e-5, 1e-3


def parse_modes(text: str) -> tuple[Mode, ...]:
    """``focusft,sft`` as names, each once. Raises ``ValueError`` for anything else."""
    names = tuple(dict.fromkeys(part.strip() for part in text.split(",")))
    if wrong := [name for name in names if name not in MODES]:
        raise ValueError(f"{wrong[0]!r} is none of {', '.join(MODES)}.")
    return typing.cast("tuple[Mode, ...]", names)


def parse_fast_layers(text: str) -> float | tuple[int, ...]:
    """``0.35`` as a share of the upper layers, ``18-27`` or ``3,5`` as numbers. Raises ``ValueError`` otherwise."""
    if "." in text:
        share = float(text)
        if not 0 < share <= 1:
            raise ValueError(f"{text} is no share of the layers: above 0.0, at most 1.0.")
        return share
    layers: list[int] = []
    for part in text.split(","):
        match = re.fullmatch(r"\s*(\d{1,4})(?:-(\d{1,4}))?\s*", part)
        if not match or int(match[2] or match[1]) < int(match[1]):
            raise ValueError(f"{text!r} is neither a share, as 0.35, nor a list of layers, as 18-27 or 3,5.")
        layers += range(int(match[1]), int(match[2] or match[1]) + 1)
    return tuple(sorted(set(layers)))


def parse_names(text: str) -> tuple[str, ...]:
    """``a,b`` as names. Raises ``ValueError`` for an empty one."""
    names = tuple(dict.fromkeys(part.strip() for part in text.split(",")))
    if not all(names):
        raise ValueError(f"{text!r} has an empty name.")
    return names


@dataclass(frozen=True, slots=True)
class FocusOptions:
    """The model, what it is tuned on, and how.

    Parameters
    ----------
    output : Path
        Folder of the run and of the first mode's model; the other modes are in folders of their names.
    model : str or None
        Causal language model to tune; None: a small one that is trained on short contexts first, in ``base/``.
    data : Path or None
        Conversations, JSONL or parquet, with ``model``.
    task : {"lookup", "common-words"}
        What the small model learns.
    modes : tuple of str
        Tuned from the same start, with equal updates and tokens.
    inner_steps, inner_rate, inner_clip, sync_inner, rank, alpha, fast_layers, targets
        Of the fast weights; see ``fast.FastWeights``.
    max_length : int
        Tokens of a conversation.
    truncate : {"right", "left", "error"}
        What happens to longer ones.
    held_out : float
        Share of the conversations that is held out; one at least.
    pairs : int
        Greatest context of training, of the drawn task; tested are this, twice and four times as many.
    width, depth, heads : int
        Of the small model.
    base_steps : int
        Of the small model, on contexts of up to an eighth of ``pairs``.
    steps, warmup, batch : int
        Of each mode.
    learning_rate : float or None
        Highest rate of AdamW; None: 1e-5 for a model of the user's, 1e-3 for the small one.
    weight_decay : float
    judged : int
        Sequences of a final test at each length; a quarter of them in evaluations.
    evaluate_every : int
    training : TrainingOptions
    compute : Compute
    """

    output: OutputFolder
    model: Annotated[
        str | None,
        Option(
            "Causal language model to tune: a folder or an id.", metavar="DIR_OR_ID", shown="a small one of its own"
        ),
    ] = None
    data: Annotated[Path | None, Option("Conversations for --model: JSONL or parquet.", metavar="FILE")] = None
    task: Annotated[DrawnTask, Option("What the small model learns.", metavar="lookup|common-words")] = "lookup"
    modes: Annotated[
        tuple[Mode, ...],
        Option("What is trained; the first is the run's model.", metavar="A[,B...]", parse=parse_modes,
               text=",".join(MODES)),
    ] = MODES  # fmt: skip
    inner_steps: Annotated[int, Option("Of the fast weights, on each batch.", metavar="K", least=1, most=8)] = 2
    inner_rate: Annotated[float, Option("Of their gradient descent.", metavar="X", above=0.0)] = 1.0
    inner_clip: Annotated[float, Option("Largest norm of a gradient; 0: no limit.", metavar="X", least=0.0)] = 1.0
    sync_inner: Annotated[bool, Option("Clip the norm of all fast weights together, not of each.")] = False
    rank: Annotated[int, Option("Of the fast weights.", metavar="R", least=1)] = 32
    alpha: Annotated[float, Option("They act with alpha / rank.", metavar="X", above=0.0)] = 64.0
    fast_layers: Annotated[
        float | tuple[int, ...],
        Option("Upper share of the layers, or their numbers.", metavar="SHARE|LIST", parse=parse_fast_layers,
               text="0.35"),
    ] = 0.35  # fmt: skip
    targets: Annotated[
        tuple[str, ...],
        Option("Linear layers with fast weights.", metavar="NAME[,...]", parse=parse_names,
               text="gate_proj,up_proj,down_proj"),
    ] = ("gate_proj", "up_proj", "down_proj")  # fmt: skip
    max_length: Annotated[int, Option("Tokens of a conversation.", metavar="N", least=2)] = 4096
    truncate: Annotated[
        Literal["right", "left", "error"], Option("Where longer ones are cut.", metavar="right|left|error")
    ] = "right"
    held_out: Annotated[float, Option("Share of conversations held out.", metavar="SHARE", above=0.0, below=1.0)] = 0.1
    pairs: Annotated[int, Option("Longest context of a drawn task.", metavar="N", least=16, most=KEYS // 4)] = 32
    width: Annotated[int, Option("Channels of the small model.", metavar="C", least=16)] = 64
    depth: Annotated[int, Option("Layers of the small model.", metavar="N", least=1)] = 2
    heads: Annotated[int, Option("Heads of the small model.", metavar="N", least=1)] = 2
    base_steps: Annotated[int, Option("Of the small model, before.", metavar="N", least=2, resumable=True)] = 4000
    steps: Annotated[int, Option("Of each mode.", metavar="N", least=2, resumable=True)] = 300
    warmup: Warmup = 30
    batch: Annotated[int, Option("Conversations per batch.", metavar="N", least=1)] = 8
    learning_rate: Annotated[
        float | None,
        Option("Highest rate of AdamW.", metavar="X", above=0.0, below=1.0, shown="1e-5; 1e-3 for the small model"),
    ] = None
    weight_decay: WeightDecay = 0.01
    judged: Annotated[int, Option("Sequences of the test, each length.", metavar="N", least=4, resumable=True)] = 128
    evaluate_every: EvaluateEvery = 100
    training: TrainingOptions = field(default_factory=TrainingOptions)
    compute: Compute = field(default_factory=Compute)

    def __post_init__(self) -> None:
        check(self)
        if (self.model is None) != (self.data is None):
            one, other = ("model", "data") if self.data is None else ("data", "model")
            raise OptionError(f"{{{one}}} is tuned together with {{{other}}}. Give both, or neither.")
        if self.width % (2 * self.heads):
            raise OptionError(f"{{width}}: {self.width} must be a multiple of twice {{heads}} ({self.heads}).")
        stages = {"{steps}": self.steps} | ({} if self.model else {"{base_steps}": self.base_steps})
        check_warmup(self.warmup, stages)

    @property
    def rate(self) -> float:
        """Highest rate of AdamW."""
        own = OWN_RATE if self.model else SMALL_RATE
        return own if self.learning_rate is None else self.learning_rate


RECIPE = Verb(
    options=FocusOptions,
    run="attn.core.train.focusft.run:train_focusft",
    description="""Fine-tune a language model on long contexts so that it uses all of them (FocuSFT).

    On every batch, throw-away fast weights in the upper layers are adapted for a few steps; the model then learns with
    them switched on, and its context is read in both directions. Beside it, from the same start and with equal updates
    and tokens: plain fine-tuning (sft), the mask alone (bidir) and the fast weights alone (fast). With --model and
    --data a model of yours is tuned on your conversations; with nothing, a small one learns to look up keys in contexts
    that grow, and is tested at one, two and four times the length it was trained at. The default takes minutes.
    """,
    examples=(
        ("attn train focusft -o run/", "A small model, all four modes, and their table."),
        ("attn train focusft -o run/ --task common-words --seed 1", "The aggregation task, another seed."),
        (
            "attn train focusft -o run/ --model smollm2/ --data chats.jsonl --modes focusft,sft --batch 1",
            "A model of yours, beside plain fine-tuning.",
        ),
        ("attn probe dilution run/ chats.jsonl --compare smollm2/", "Where it looks, and where it looked before."),
    ),
    files=(
        ("OUT/config.json, OUT/tokenizer.json, ...", "With the weights, a folder that transformers loads."),
        *FILES,
        ("OUT/sft/, OUT/bidir/, OUT/fast/, OUT/base/", "The runs of the other modes, and of the small model before."),
    ),
    notes=(
        *NOTES,
        "Conversations are a column messages of [{role, content}], with optional columns tools and enable_thinking for "
        "the model's chat template. What assistants say is learnt; conversations in which nothing is left to learn are "
        "left out and counted.",
        "Equal updates are not equal time: a step with fast weights takes about twice as long. The table has seconds.",
        "Text is written causally although the context was trained in both directions. Losses and accuracies are told "
        "under both masks (turns: context in both directions), and of fast weights also with them adapted on what was "
        "held out, answers included, which is optimistic: the main number is causal and without them.",
    ),
    columns=("accuracy_4x", "sink", "engagement", "held_out_loss"),
)
