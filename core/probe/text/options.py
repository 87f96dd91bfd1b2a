"""What `attn probe text` can be told, and its registry entry."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Annotated, ClassVar, Literal

from ...bundles import Device, Inputs, Placement, Seed
from ...command import Verb
from ...options import Option, OptionError, check

GENERATED = "generated"
"""What users type for drawn texts (``generated.drawn_texts``) in the place of a file."""


def parse_models(text: str) -> tuple[str, ...]:
    """``run/vanilla,run/iat`` as names."""
    return tuple(dict.fromkeys(part.strip() for part in text.split(",") if part.strip()))


@dataclass(frozen=True, slots=True)
class LabelledSets(Inputs):
    """Texts with labels."""

    NOTHING: ClassVar[str] = f"Name texts behind the model: attn probe text MODEL TEXTS, or {GENERATED}."

    inputs: Annotated[
        tuple[str, ...],
        Option(
            "Texts with labels (CSV, TSV, JSONL, parquet), directories of them, - for a list on stdin; or "
            f"{GENERATED} alone: drawn texts, as attn train attention-at draws them.",
            metavar="TEXTS", positional=True,
        ),
    ] = ()  # fmt: skip
    output: Annotated[str | None, Option("Directory for the results.", short="-o", metavar="DIR")] = None

    def __post_init__(self) -> None:
        Inputs.__post_init__(self)
        if GENERATED in self.inputs and len(self.inputs) > 1:
            raise OptionError(f"{GENERATED}: drawn texts stand alone. Look at files in a run of their own.")


@dataclass(frozen=True, slots=True)
class TextOptions:
    """The model, texts, and what is shown.

    Parameters
    ----------
    model : str
        A file of `attn train attention-at`, or its folder.
    inputs : LabelledSets
    compare : tuple of str
        Further models of the same words.
    part : {"test", "all"}
        ``test``: the texts that the recipe holds out of such a file.
    text_column, label_column, query_column : str or None
    drawn : int
        Drawn texts.
    tolerance : float
        Total variation by which other attention may move an answer.
    show : int
        Texts whose words are shown.
    seed : int
        Of permutations and of random directions.
    device : str
    placement : Placement
    """

    model: Annotated[
        str,
        Option(
            "What attn train attention-at wrote: a folder or its model.safetensors.", metavar="MODEL", positional=True
        ),
    ]
    inputs: LabelledSets
    compare: Annotated[
        tuple[str, ...],
        Option(
            "Further models that know the same words, beside it: those of the same run, say.",
            metavar="MODEL[,MODEL]", parse=parse_models, shown="none",
        ),
    ] = ()  # fmt: skip
    part: Annotated[
        Literal["test", "all"],
        Option(
            "test: rows of the split test; without splits the fifth that attn train attention-at holds out. all: all.",
            metavar="test|all",
        ),
    ] = "test"  # fmt: skip
    text_column: Annotated[str | None, Option("Column with the text.", metavar="NAME", shown="text, ...")] = None
    label_column: Annotated[str | None, Option("Column with the label.", metavar="NAME", shown="label, ...")] = None
    query_column: Annotated[
        str | None, Option("Column with the second text of a pair.", metavar="NAME", shown="question, hypothesis, ...")
    ] = None
    drawn: Annotated[int, Option(f"Texts of {GENERATED}.", metavar="N", least=10)] = 1000
    tolerance: Annotated[
        float,
        Option("How far other attention may move an answer, total variation.", metavar="X", least=0.0, most=1.0),
    ] = 0.01
    show: Annotated[int, Option("Texts whose words are shown in the report.", metavar="N", least=0)] = 4
    seed: Seed = 0
    device: Device = "auto"
    placement: Placement = field(default_factory=Placement)

    def __post_init__(self) -> None:
        check(self)
        if GENERATED in self.inputs.inputs:
            for name in ("text_column", "label_column", "query_column"):
                if getattr(self, name) is not None:
                    raise OptionError(f"{{{name}}}: it is about a file of texts; {GENERATED} has no columns.")


KIND = Verb(
    options=TextOptions,
    run="attn.core.probe.text.run:run",
    description="""Show how far the attention of a text classifier can be believed.

    On texts with labels: how often it is right; whether its attention points to the words on which its answer hangs
    by the gradient (Pearson's and Kendall's correlation, text by text); how far the answer moves when attention is
    shuffled among the words; and what is left of its accuracy when scores are pushed in the worst or in a random
    direction. The same of an untrained network of equal size stands beside it. With --compare, several trainings beside
    each other, and how far apart their attention is.
    """,
    examples=(
        (f"attn probe text run/ {GENERATED}", "What attn train attention-at wrote, on drawn texts."),
        ("attn probe text run/ reviews.csv --report words.html", "Your own texts; words in colour in the report."),
        (
            "attn probe text run/ reviews.csv --compare run/vanilla,run/iat -o out/",
            "Three trainings of one run beside each other.",
        ),
    ),
    files=(
        ("NAME.text.png", "Correlations, permuted attention, accuracy under attack; written last."),
        (
            "NAME.text.npz",
            "attention, importance [models, texts, words], NaN behind the last word; pearson, kendall, permuted, "
            "adversarial_jsd [models, texts]; adversarial [models, texts, words]; attacked [models, worst "
            "and random, norms].",
        ),
        ("NAME.text.json", "How the figure was made and its tables, one row a text among them."),
    ),
    notes=(
        "pearson, kendall: between attention and the norm of the gradient of the prediction by each word's vector. "
        "Texts of one word, or whose attention is even, have none: they are counted (without_correlation).",
        "permuted: median total variation of the prediction over 100 permutations of attention. jsd: Jensen-Shannon "
        "divergence of two models' attention in nats, mean over texts; 0.693 is the most there can be.",
        "adversarial_jsd: jsd between a text's attention and the furthest one that was found at which the answer moves "
        "by no more than --tolerance (after arXiv 1902.10186; a search by gradients: there may be further ones). Near "
        "0.693 the answer says little about where attention lies.",
        "attacked: accuracy when scores are moved by 0.5 to 30 in norm, up the loss of the true label or at random.",
        "An untrained network's answer hardly moves either; a high correlation there says that the measure, not the "
        "model, makes it.",
        "What the model's vocabulary cannot read is left out and told, with reasons.",
    ),
    columns=("texts", "accuracy", "f1", "pearson", "kendall", "permuted", "adversarial_jsd"),
)
