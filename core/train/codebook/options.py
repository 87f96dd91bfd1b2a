"""What `attn train codebook` can be told, as one frozen value, and the recipe's registry entry."""

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
    Warmup,
    WeightDecay,
    check_warmup,
)
from ...options import Option, OptionError, check


@dataclass(frozen=True, slots=True)
class CodebookOptions:
    """The world, the agents, and the length of a run.

    Parameters
    ----------
    output : Path
        Folder of the run: of the agent with the codebook; those without a bottleneck and with a plain one are in
        ``none/`` and ``linear/``, and what adapted to other colours in ``adapted/`` of each.
    environment : str
        Of BabyAI, with missions that name things by colour and type.
    encoder : str
        Of views, frozen: ``random``, or a vision transformer by name or folder.
    demonstrations : int
        Episodes of the planner to learn from.
    judged : int
        Episodes of each test; an evaluation plays half as many.
    codes, code_dim, dropout, index, kind, topk
        See ``TaskCodebook``. ``code_dim`` is the width of the plain bottleneck, too.
    hidden, compressed : int
        See ``AgentShape``.
    steps, warmup, batch : int
        Of each agent.
    adapt : int
        Steps in which each agent adapts to other colours, its bottleneck, memory and head frozen; 0: none.
    learning_rate, weight_decay : float
    evaluate_every : int
    training : TrainingOptions
    compute : Compute
    """

    output: OutputFolder
    environment: Annotated[str, Option("Of BabyAI; its planner is what is imitated.", metavar="NAME")] = (
        "BabyAI-GoToLocalS6N3-v0"
    )
    encoder: Annotated[
        str, Option("Frozen, of views: random, or a vision transformer such as shapes-vit.", metavar="NAME")
    ] = "random"
    demonstrations: Annotated[int, Option("Episodes of the planner to learn from.", metavar="N", least=1)] = 4000
    judged: Annotated[int, Option("Episodes of each test.", metavar="N", least=2, resumable=True)] = 300
    codes: Annotated[int, Option("Codes of the codebook.", metavar="K", least=2)] = 256
    code_dim: Annotated[int, Option("Numbers of a code, and of the plain bottleneck.", metavar="N", least=1)] = 10
    dropout: Annotated[float, Option("Of the codes' probabilities.", metavar="X", least=0.0, below=1.0)] = 0.1
    index: Annotated[
        Literal["softmax", "topk_softmax", "gumbel_softmax"],
        Option("How codes are mixed: all, the likeliest, or one.", metavar="softmax|topk_softmax|gumbel_softmax"),
    ] = "softmax"
    kind: Annotated[
        Literal["learned", "random", "binary"],
        Option("Codes; random and binary ones stay as they begin.", metavar="learned|random|binary"),
    ] = "learned"
    topk: Annotated[int, Option("Codes that topk_softmax mixes.", metavar="N", least=1)] = 16
    hidden: Annotated[int, Option("Width of the GRU; the paper's is 512.", metavar="N", least=1)] = 128
    compressed: Annotated[int, Option("Channels of a cell; the paper's are 32.", metavar="N", least=1)] = 16
    steps: Annotated[int, Option("Of each of the three agents.", metavar="N", least=2, resumable=True)] = 900
    warmup: Warmup = 30
    batch: Annotated[int, Option("Episodes per step.", metavar="N", least=1)] = 32
    adapt: Annotated[
        int, Option("Steps of each agent to adapt to other colours; 0: none.", metavar="N", least=0, resumable=True)
    ] = 150
    learning_rate: LearningRate = 1e-3
    weight_decay: WeightDecay = 0.01
    evaluate_every: EvaluateEvery = 150
    training: TrainingOptions = field(default_factory=TrainingOptions)
    compute: Compute = field(default_factory=Compute)

    def __post_init__(self) -> None:
        check(self)
        if self.index == "topk_softmax" and self.topk > self.codes:
            raise OptionError(f"{{topk}}: {self.topk} is more than the {self.codes} {{codes}}.")
        check_warmup(self.warmup, {"{steps}": self.steps})


RECIPE = Verb(
    options=CodebookOptions,
    run="attn.core.train.codebook.run:train_codebook",
    description="""Train agents that look for objects, with a codebook as bottleneck, a plain one, and none.

    A world of minigrid draws rooms and asks for a thing; its own planner shows how; three agents that differ in their
    bottleneck alone learn to do the same from what they see. Each is tested in rooms it was never in, on things it was
    never asked for, and with the world drawn in other colours, before and after all but bottleneck, memory and head
    adapts to them. The default takes about four minutes on one core.
    """,
    examples=(
        ("attn train codebook -o run/", "All three, and their table."),
        ("attn train codebook -o put/ --environment BabyAI-PutNextLocalS5N3-v0", "Pick up a thing, put it by another."),
        ("attn train codebook -o vit/ --encoder shapes-vit", "Views read by the vision transformer that ships."),
        ("attn train codebook -o paper/ --hidden 512 --compressed 32", "The paper's widths."),
    ),
    files=(
        *FILES,
        ("OUT/none/, OUT/linear/", "The runs of the other two agents, with a model file each."),
        ("OUT/adapted/, OUT/none/adapted/, OUT/linear/adapted/", "The runs that adapted to other colours."),
    ),
    notes=(
        "Columns of the table: success: episodes whose goal was reached within the environment's limit; spl: success "
        "weighted by l / max(l, p), cells that the planner and the agent walked; sel: the same with actions; targets: "
        "success on things never asked for in training; colours: success where the world is drawn as its "
        "negative; adapted: the same after --adapt steps; half: the first evaluation of training at which half of "
        "the episodes succeeded, in steps.",
        "No seed and no layout of a room (grid, place and direction of the agent, by hash) is in training and in a "
        "test; the report says how many of each were compared.",
        "An episode of a GoTo environment ends where the agent stands before its thing, and goes on where it stands "
        "before another: success is not all, look at spl. The row random says what chance gives.",
        "Reinforcement learning (PPO), which the paper trains with, is not done.",
        *NOTES,
    ),
    columns=("codebook_success", "none_success", "linear_success", "random_success"),
)
