"""What `attn train attention-at` can be told, as one frozen value, and the recipe's registry entry."""

from __future__ import annotations

import typing
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated, Literal

from ...bundles import Compute
from ...command import Verb
from ...errors import did_you_mean
from ...fit.options import FILES, NOTES, LearningRate, OutputFolder, TrainingOptions, WeightDecay
from ...options import Option, OptionError, check

Training = Literal["vanilla", "rp", "at", "iat", "vat", "word-at", "word-iat"]
TRAININGS: tuple[str, ...] = typing.get_args(Training)
Reading = Literal["difference", "word", "row", "official"]


def parse_beside(text: str) -> tuple[str, ...]:
    """``vanilla,iat`` as names; ``all``, or ``none``. Raises ``ValueError`` for a name that is none."""
    if text == "none":
        return ()
    names = TRAININGS if text == "all" else tuple(part.strip() for part in text.split(",") if part.strip())
    for name in names:
        if name not in TRAININGS:
            hint = did_you_mean(name, TRAININGS) or f"There are {', '.join(TRAININGS)}."
            raise ValueError(f"no training named {name!r}. {hint}")
    return tuple(dict.fromkeys(names))


def parse_epsilons(text: str) -> tuple[float, ...]:
    """``0.1,1,30`` as numbers, or ``none``. Raises ``ValueError`` for anything else."""
    if text == "none":
        return ()
    try:
        return tuple(sorted({float(part) for part in text.split(",")}))
    except ValueError:
        raise ValueError(f"{text!r} is no list of numbers, as 0.1,1,30.") from None


@dataclass(frozen=True, slots=True)
class TextSet:
    """Which texts, and how they become numbers.

    Parameters
    ----------
    data : Path or None
        None: texts that are drawn (``attn.core.probe.text.generated``).
    test_data : Path or None
        Texts of the test, where they are in a file of their own.
    text_column, label_column, query_column : str or None
        None: the first usual name that is there.
    pair : bool
        A second text says what to look for in the first.
    positive : str or None
        Of two labels, the one whose F1 is told; None: the second.
    answers_in_text : bool
        Labels are words, and only those in the text can be its answer.
    tokens : {"whitespace", "words"}
    shortest, longest : int
        Known words of a text.
    least_count : int
        How often a word must occur in the training texts to be known.
    drawn : int
        Texts to train on, where they are drawn.
    """

    data: Annotated[
        Path | None,
        Option(
            "Texts with labels: CSV, TSV, JSONL, parquet, or a folder that datasets saved; a column split may say "
            "train, val and test.",
            metavar="FILE", shown="drawn texts",
        ),
    ] = None  # fmt: skip
    test_data: Annotated[Path | None, Option("Texts of the test, in a file of their own.", metavar="FILE")] = None
    text_column: Annotated[str | None, Option("Column with the text.", metavar="NAME", shown="text, ...")] = None
    label_column: Annotated[str | None, Option("Column with the label.", metavar="NAME", shown="label, ...")] = None
    query_column: Annotated[
        str | None, Option("Column with the second text of a pair.", metavar="NAME", shown="question, hypothesis, ...")
    ] = None
    pair: Annotated[bool, Option("A second text says what to look for: a question, a hypothesis.", name="--pair")] = (
        False
    )
    positive: Annotated[
        str | None, Option("Of two labels, the one whose F1 is told.", metavar="LABEL", shown="the second")
    ] = None
    answers_in_text: Annotated[bool, Option("Labels are words, and only those in the text can be its answer.")] = False
    tokens: Annotated[
        Literal["whitespace", "words"],
        Option("Words between blanks, or with punctuation marks as words.", metavar="whitespace|words"),
    ] = "whitespace"
    shortest: Annotated[int, Option("Fewest known words of a text.", metavar="N", least=1)] = 1
    longest: Annotated[int, Option("Most known words of a text; longer ones are left out.", metavar="N", least=1)] = 512
    least_count: Annotated[
        int, Option("Occurrences in the training texts that make a word known.", metavar="N", least=1)
    ] = 1
    drawn: Annotated[int, Option("Drawn texts to train on.", metavar="N", least=30)] = 1000

    def __post_init__(self) -> None:
        check(self)
        if self.shortest > self.longest:
            raise OptionError(f"{{shortest}}: {self.shortest} is more than {{longest}} {self.longest}.")
        if self.data is None:
            for name in ("test_data", "text_column", "label_column", "query_column", "positive"):
                if getattr(self, name) is not None:
                    raise OptionError(f"{{{name}}}: it is about a file of texts. Name one with {{data}}.")
        for name in ("query_column", "answers_in_text"):
            if getattr(self, name) and not self.pair:
                raise OptionError(f"{{{name}}}: it is about pairs. Give {{pair}}, too.")


@dataclass(frozen=True, slots=True)
class AttentionAtOptions:
    """The texts, the network, how it is trained, and what is trained beside it.

    Parameters
    ----------
    output : Path
        Folder of the run; what is trained beside it is in folders of its own there.
    texts : TextSet
    method : {"vanilla", "rp", "at", "iat", "vat", "word-at", "word-iat"}
        Of the run's own network.
    beside : tuple of str
        Methods of the others.
    sweep : tuple of float
        Further values of ``epsilon`` that the run's own method is trained with.
    iat_mode : {"difference", "word", "row", "official"} or None
        See ``attn.core.nets.attentive.perturbation.attention_iat``; None: "difference".
    released : bool
        ``iat_mode="official"``.
    epsilon, adversarial_weight : float
        Norm of a perturbation per sentence, and weight of the loss under it.
    epsilon_per_sqrt_len : bool
        The norm is ``epsilon`` times the square root of the number of words.
    embedding, hidden : int
    scoring : {"additive", "dot"}
    epochs, batch : int
    learning_rate, weight_decay : float
        Of Adam with AMSGrad; word vectors are fitted by plain Adam.
    training : TrainingOptions
    compute : Compute
    """

    output: OutputFolder
    texts: TextSet = field(default_factory=TextSet)
    method: Annotated[Training, Option("How the run's own network is trained.", metavar="|".join(TRAININGS))] = "at"
    beside: Annotated[
        tuple[str, ...],
        Option(
            "What is trained beside it, from the same start with the same batches: names, all or none.",
            metavar="NAME[,...]|all|none", parse=parse_beside, text="all",
        ),
    ] = TRAININGS  # fmt: skip
    sweep: Annotated[
        tuple[float, ...],
        Option(
            "Further values of epsilon to train the own method with.",
            metavar="X[,X...]|none", parse=parse_epsilons, text="none",
        ),
    ] = ()  # fmt: skip
    iat_mode: Annotated[
        Reading | None,
        Option(
            "Reading of iAT; row equals AT, official is what the release computes (minus AT).",
            metavar="difference|word|row|official", shown="difference",
        ),
    ] = None  # fmt: skip
    released: Annotated[bool, Option("iAT as the release computes it: the same as --iat-mode official.")] = False
    epsilon: Annotated[float, Option("Norm of a perturbation, per sentence.", metavar="X", above=0.0, most=1e4)] = 5.0
    epsilon_per_sqrt_len: Annotated[
        bool, Option("The norm is that times the square root of the words of a sentence.")
    ] = False
    adversarial_weight: Annotated[
        float, Option("Weight of the loss under the perturbation.", name="--lambda", metavar="X", least=0.0)
    ] = 1.0
    embedding: Annotated[int, Option("Channels of a word vector.", metavar="N", least=1, most=4096)] = 300
    hidden: Annotated[int, Option("Channels of the LSTM, each direction.", metavar="N", least=1, most=4096)] = 128
    scoring: Annotated[Literal["additive", "dot"], Option("How words are scored.", metavar="additive|dot")] = "additive"
    epochs: Annotated[int, Option("Passes over the training texts.", metavar="N", least=1, resumable=True)] = 8
    batch: Annotated[int, Option("Texts per step, of like length.", metavar="N", least=1)] = 32
    learning_rate: LearningRate = 1e-3
    weight_decay: WeightDecay = 1e-5
    training: TrainingOptions = field(default_factory=TrainingOptions)
    compute: Compute = field(default_factory=Compute)

    def __post_init__(self) -> None:
        check(self)
        if self.released and self.iat_mode not in (None, "official"):
            raise OptionError(f"{{released}}: {{iat_mode}} {self.iat_mode} says otherwise. Give one of the two.")
        for epsilon in self.sweep:
            if not 0 < epsilon <= 1e4:
                raise OptionError(f"{{sweep}}: {epsilon:g} is no norm of a perturbation. It is above 0, at most 10000.")

    @property
    def reading(self) -> Reading:
        """Of iAT."""
        return "official" if self.released else self.iat_mode or "difference"


RECIPE = Verb(
    options=AttentionAtOptions,
    run="attn.core.train.attention_at.run:train_attention_at",
    description="""Train a text classifier with attention whose scores are perturbed for the worst, beside its peers.

    A BiLSTM reads a text, attention weighs its words, and one layer answers; of pairs, a question or a hypothesis says
    what to look for. At every step the scores before the softmax are moved where the loss grows fastest (Attention AT),
    and the loss there joins the clean one. The same network is trained in other ways from the same start with the same
    batches, and all are tested: F1, how well attention agrees with gradients, what permuted and adversarial attention
    does. Without data it draws texts; the default takes about three minutes on one core.
    """,
    examples=(
        ("attn train attention-at -o run/", "All seven on drawn texts, and their table."),
        (
            "attn train attention-at --data reviews.csv --tokens words --beside vanilla,iat -o run/",
            "Your own texts, in columns text and label.",
        ),
        ("attn train attention-at --pair --beside vanilla -o pairs/", "Drawn stories with questions."),
        ("attn train attention-at --beside none --sweep 0.1,1,15,30 -o sweep/", "How much epsilon matters."),
    ),
    files=(*FILES, ("OUT/NAME/", "The run of each other network, with a model file of its own.")),
    notes=(
        *NOTES,
        "rp: a random direction instead of the worst; vat: the direction that changes the prediction most, without the "
        "label; word-at, word-iat: the normalised word vectors are moved, not the scores, word-iat towards their 15 "
        "nearest words alone.",
        "iAT in the paper's reading, its differences normalised per word, equals AT (--iat-mode row). The release "
        "computes minus AT (--released), which lowers the loss. difference, the default, moves the scores most that "
        "stand apart from the others.",
        "Without a column split a fifth of each label is held out for the test and a tenth for the choice of the best "
        "epoch: always the same texts, whatever the seed, and attn probe text looks at that fifth.",
    ),
    columns=("f1", "auc", "accuracy", "macro_f1", "pearson", "kendall"),
)
