"""What `attn train tnl` can be told, as one frozen value, and the recipe's registry entry."""

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
from ...sizes import parse_sizes

Kind = Literal["tnl", "softmax"]
KINDS: tuple[Kind, ...] = ("tnl", "softmax")
"""The first is the run's own."""


@dataclass(frozen=True, slots=True)
class TnlOptions:
    """The text, the two networks, how they are trained, and at which lengths they are measured.

    Parameters
    ----------
    output : Path
        Folder of the run: of TNL with the first seed; the other network is in ``softmax/``, further seeds in
        ``seed-N/``.
    data : tuple of str
        Files and folders of text; none: Python's documentation (``texts.python_documents``).
    vocabulary : int
        Tokens: bytes and the most frequent pairs of them; 257 are bytes alone and a mark between documents.
    length, batch : int
        Tokens of a training sequence, and sequences of a step.
    width, layers, heads : int
        Of both networks.
    decay : {"code", "paper", "none"}
        Of TNL; see ``lightning.slopes``.
    variant : {"tnl", "tnl_v2"}
        Of TNL; see ``attn.core.nets.tnl``.
    steps, warmup : int
        Of each network.
    learning_rate, softmax_rate : float
        Highest rates of TNL and of the softmax transformer.
    weight_decay : float
        Of matrices alone.
    seeds : int
        Further ones follow the seed of ``compute``: each has starts and batches of its own.
    lengths : tuple of int
        At which loss and speed are measured, beside ``length``.
    judged : int
        Tokens of an evaluation while a network learns.
    decoded : int
        Tokens that are decoded where that is timed.
    sample : int
        Tokens that both networks write in the report; 0: none.
    evaluate_every : int
    training : TrainingOptions
    compute : Compute
    """

    output: OutputFolder
    data: Annotated[
        tuple[str, ...],
        Option(
            "A text file, or a folder of them (.txt .md .rst); may be repeated. Each file is a document.",
            metavar="PATH", repeatable=True, shown="Python's documentation",
        ),
    ] = ()  # fmt: skip
    vocabulary: Annotated[
        int, Option("Tokens: bytes and pairs of them; 257: bytes alone.", metavar="N", least=257, most=65536)
    ] = 1024
    length: Annotated[int, Option("Tokens of a training sequence.", metavar="N", least=8, most=2**20)] = 512
    batch: Annotated[int, Option("Sequences per step.", metavar="N", least=1)] = 4
    width: Annotated[int, Option("Channels of a token.", metavar="C", least=8)] = 128
    layers: Annotated[int, Option("Layers of both networks.", metavar="N", least=1, most=256)] = 4
    heads: Annotated[int, Option("Heads of a layer.", metavar="N", least=1)] = 4
    decay: Annotated[
        Literal["code", "paper", "none"],
        Option("How fast TNL's heads forget: as in its code, its paper, or not.", metavar="code|paper|none"),
    ] = "code"
    variant: Annotated[
        Literal["tnl", "tnl_v2"], Option("TNL as released, or its newer example module.", metavar="tnl|tnl_v2")
    ] = "tnl"
    steps: Annotated[int, Option("Of each network.", metavar="N", least=2, resumable=True)] = 150
    warmup: Warmup = 15
    learning_rate: LearningRate = 6e-3
    softmax_rate: Annotated[
        float, Option("Highest rate of the softmax transformer.", metavar="X", above=0.0, below=1.0)
    ] = 1.2e-2
    weight_decay: WeightDecay = 0.1
    seeds: Annotated[
        int, Option("Seeds, counted from --seed: with several there is a spread.", metavar="N", least=1, resumable=True)
    ] = 1
    lengths: Annotated[
        tuple[int, ...],
        Option(
            "Lengths at which loss and speed are measured; k = 1024.",
            metavar="SIZES", parse=parse_sizes, text="512..16k", resumable=True,
        ),
    ] = (512, 1024, 2048, 4096, 8192, 16384)  # fmt: skip
    judged: Annotated[int, Option("Tokens of an evaluation in training.", metavar="N", least=8, resumable=True)] = 8192
    decoded: Annotated[int, Option("Tokens to time decoding with.", metavar="N", least=1, resumable=True)] = 32
    sample: Annotated[int, Option("Tokens to write as a sample.", metavar="N", least=0, resumable=True)] = 120
    evaluate_every: EvaluateEvery = 50
    training: TrainingOptions = field(default_factory=TrainingOptions)
    compute: Compute = field(default_factory=Compute)

    def __post_init__(self) -> None:
        check(self)
        if self.width % (2 * self.heads):
            raise OptionError(f"{{width}}: {self.width} must be a multiple of twice {{heads}} {self.heads}.")
        if self.judged < self.length:
            raise OptionError(f"{{judged}}: {self.judged} is less than a sequence; {{length}} is {self.length}.")
        if not self.lengths or self.lengths[0] < 8:
            raise OptionError("{lengths}: 8 tokens at least.")
        check_warmup(self.warmup, {"{steps}": self.steps})

    def rate(self, kind: Kind) -> float:
        """Highest learning rate of a network."""
        return self.softmax_rate if kind == "softmax" else self.learning_rate

    @property
    def measured(self) -> tuple[int, ...]:
        """``lengths``, and that of training."""
        return tuple(sorted({self.length, *self.lengths}))


RECIPE = Verb(
    options=TnlOptions,
    run="attn.core.train.tnl.run:train_tnl",
    description="""Train TransNormerLLM (lightning attention) beside a softmax transformer of as many parameters.

    Both are small language models and learn the same text from the same batches: TNL, whose attention is linear, with a
    decay for each head and a state that does not grow; and a transformer with RMSNorm, rotary positions and SwiGLU.
    Both are judged by bits per byte on documents that nobody trained on, at the length of training and beyond, and
    timed: a step of training, and decoding behind a context of each length. Without data the text is the documentation
    that Python ships: topics of pydoc, and docstrings of the standard library. The default takes a little over four
    minutes of one core.
    """,
    examples=(
        ("attn train tnl -o run/", "Both on Python's documentation, and their table."),
        ("attn train tnl -o run/ --seeds 3", "Go on with two more seeds, for a spread."),
        ("attn train tnl -o own/ --data notes/ --data book.txt --steps 1000", "Your own texts."),
    ),
    files=(
        *FILES,
        ("OUT/softmax/, OUT/seed-N/", "The runs of the other network, and of further seeds, with model files."),
    ),
    notes=(
        *NOTES,
        "Documents that are held out are the same whatever the seed; their paragraphs that are in training documents, "
        "too, are not judged. Python's documentation depends on its version; the report has the sha256 of the text.",
        "Speeds are tokens per second of processor time on a CPU, of all threads together, and of time on a GPU. "
        "Compare the two networks of one run.",
    ),
    columns=("tnl_bits", "softmax_bits", "train_ratio", "decode_ratio"),
)
