"""What `attn probe classify` can be told, and its entry in the registry."""

from __future__ import annotations

import re
from dataclasses import dataclass, field, fields
from pathlib import Path
from typing import Annotated, Literal

from ...bundles import Compute
from ...command import Verb
from ...errors import did_you_mean
from ...nets.poolings import POOLINGS
from ...options import Option, OptionError, check

PROBES = ("knn", "linear", *[name for name in POOLINGS if name != "ep"], "ep")
"""What ``all`` means; each pooling but gap also as NAME_all, which reads the class token, too."""
DEFAULT = ("knn", "linear", "gap", "ep")
WITHOUT_ALL = ("knn", "linear", "gap", "cbam")


def parse_probes(text: str) -> tuple[str, ...]:
    """``knn,ep,ep_all``; ``all``. Raises ``ValueError`` for a name that is none."""
    names: list[str] = []
    for name in filter(None, (part.strip() for part in text.split(","))):
        names += PROBES if name == "all" else [name]
    return checked_probes(tuple(dict.fromkeys(names)))


def checked_probes(names: tuple[str, ...]) -> tuple[str, ...]:
    """The names. Raises ``ValueError`` for one that is none."""
    known = [*PROBES, *[f"{name}_all" for name in PROBES if name not in WITHOUT_ALL]]
    for name in names:
        if name not in known:
            hint = did_you_mean(name, known) or f"There are all, {', '.join(PROBES)}, and NAME_all."
            raise ValueError(f"no probe named {name!r}. {hint}")
    if not names:
        raise ValueError("name a probe at least.")
    return names


def parse_shots(text: str) -> tuple[int, ...]:
    """``1,5,10``. Raises ``ValueError``."""
    try:
        shots = tuple(sorted({int(part) for part in text.split(",") if part.strip()}))
    except ValueError:
        raise ValueError(f"{text!r} are no numbers of pictures. Write 1,5,10.") from None
    if not shots or shots[0] < 1:
        raise ValueError(f"{text!r}: a shot is one picture of each class at least.")
    return shots


def parse_layers(text: str) -> str:
    """``last``, ``all`` or numbers. Raises ``ValueError``."""
    if text in ("last", "all") or re.fullmatch(r"-?\d+(,-?\d+)*", text):
        return text
    raise ValueError(f"{text!r} names no layers. Write last, all, or numbers such as 5,8,11 (-2: the last but one).")


@dataclass(frozen=True, slots=True)
class ClassifyOptions:
    """Pictures, encoder, probes, and how they are trained and judged.

    Parameters
    ----------
    data : str
        See ``data.read_classes`` and ``saved``.
    output : Path or None
        Folder of the run; None: beside the data, ``NAME.classify``.
    model : str
        See ``attn.core.models.load``.
    label : str or None
        Column of a list or table.
    limit : int or None
    poolings : tuple of str
        Probes of the ladder.
    queries, d_out : int
        Of ``ep``: M, and C / C'.
    layer : str
    final_norm : bool
    shots : tuple of int
    seeds : int
        Runs of every probe: start, order of pictures, draw of a few.
    epochs, warmup, batch, optimizer, learning_rate, weight_decay
        See ``training.HeadRecipe``; None: by the optimizer.
    test_share, val_share : float
    trust : bool
        The ladder again on the encoder with randomised weights, and shuffled labels.
    maps : int
        Test pictures on which the queries are drawn.
    head : Path or None
        A head of an earlier run: its maps are drawn on all pictures, nothing is trained.
    feature_dtype : {"float16", "float32"}
    """

    data: Annotated[
        str,
        Option(
            "A folder with a folder for each class, one with labels.csv or metadata.jsonl, such a list, parquet, saved "
            "features (.npz, .safetensors), or shapesxN: drawn.",
            metavar="DATA", positional=True,
        ),
    ]  # fmt: skip
    output: Annotated[
        Path | None, Option("Folder of the run.", short="-o", metavar="DIR", shown="NAME.classify beside DATA")
    ] = None
    model: Annotated[
        str,
        Option(
            "Encoder: shapes-vit (of drawn shapes), vit (ViT-S/14 of attn[vit]), a folder of transformers, timm or "
            "open_clip, or a Hugging Face id that is on this machine.",
            metavar="NAME",
        ),
    ] = "shapes-vit"  # fmt: skip
    label: Annotated[str | None, Option("Column with the classes.", metavar="NAME", shown="label or class")] = None
    limit: Annotated[int | None, Option("Use N pictures, drawn at random.", metavar="N", least=2, shown="all")] = None
    poolings: Annotated[
        tuple[str, ...],
        Option(
            "Probes, separated by commas: knn, linear (class token), gap, ep, or another pooling; NAME_all reads the "
            "class token, too; all.",
            metavar="NAMES", parse=parse_probes, text="knn,linear,gap,ep",
        ),
    ] = DEFAULT  # fmt: skip
    queries: Annotated[int, Option("Of ep.", metavar="M", least=1, most=256)] = 32
    d_out: Annotated[int, Option("Factor by which ep narrows its output.", metavar="N", least=1, most=8)] = 1
    layer: Annotated[
        str,
        Option("Blocks whose output is read: last, all, or numbers from 0.", metavar="LAYERS", parse=parse_layers,
               text="last"),
    ] = "last"  # fmt: skip
    final_norm: Annotated[bool, Option("Put the encoder's last norm behind the block.")] = False
    shots: Annotated[
        tuple[int, ...],
        Option("Also learn from so few pictures of each class.", metavar="N,N", parse=parse_shots, shown="none"),
    ] = ()
    seeds: Annotated[int, Option("Runs of every probe.", metavar="N", least=1, most=100)] = 3
    epochs: Annotated[int, Option("Of every head.", metavar="N", least=1)] = 90
    warmup: Annotated[int, Option("Epochs in which the rate rises.", metavar="N", least=0)] = 10
    batch: Annotated[
        int | None, Option("Pictures per step.", metavar="N", least=2, shown="16; 4096 for lars and sgd")
    ] = None
    optimizer: Annotated[
        Literal["auto", "lars", "adamw", "sgd"],
        Option("auto: lars where an epoch has ten steps of 4096 pictures, else adamw.", metavar="NAME"),
    ] = "auto"
    learning_rate: Annotated[
        float | None,
        Option("For 256 pictures; of adamw as it is.", metavar="RATE", above=0.0, shown="0.1; 0.003 for adamw"),
    ] = None
    weight_decay: Annotated[float, Option(metavar="DECAY", least=0.0)] = 0.0
    test_share: Annotated[float, Option("Of each class, to test.", metavar="SHARE", above=0.0, below=1.0)] = 0.3
    val_share: Annotated[
        float, Option("Of the rest of each class, to choose the epoch.", metavar="SHARE", above=0.0, below=1.0)
    ] = 0.2
    trust: Annotated[bool, Option("Check with randomised weights and shuffled labels.")] = True
    maps: Annotated[
        int, Option("Test pictures on which queries are drawn; 0: none.", metavar="N", least=0, most=64)
    ] = 6
    head: Annotated[
        Path | None, Option("Draw the queries of a saved head on all pictures; train nothing.", metavar="FILE")
    ] = None
    feature_dtype: Annotated[
        Literal["float16", "float32"], Option("Of the features on disk.", metavar="float16|float32")
    ] = "float16"
    allow_download: Annotated[bool, Option("Ask the Hugging Face hub for an id that is not here.")] = False
    overwrite: Annotated[
        bool, Option("Do a run again whose result is there already; features are kept.", resumable=True, common=True)
    ] = False
    compute: Compute = field(default_factory=Compute)

    def __post_init__(self) -> None:
        check(self)
        try:
            checked_probes(self.poolings)
        except ValueError as error:
            raise OptionError(f"{{poolings}}: {error}") from None
        if self.warmup >= self.epochs:
            raise OptionError(f"{{warmup}}: {self.warmup} epochs leave nothing of {{epochs}} {self.epochs}.")


FOR_TRAINING = (
    "label", "limit", "poolings", "queries", "d_out", "layer", "final_norm", "shots", "seeds", "epochs", "warmup",
    "batch", "optimizer", "learning_rate", "weight_decay", "test_share", "val_share", "trust", "maps", "feature_dtype",
)  # fmt: skip
"""Options that a saved head leaves nothing to decide for."""
OF_ENCODERS = ("model", "label", "limit", "layer", "final_norm", "feature_dtype", "maps")
"""Options that saved features leave nothing to decide for."""


def refuse(options: ClassifyOptions, names: tuple[str, ...], why: str) -> None:
    """Raise ``OptionError`` for the first of the options ``names`` that is not as by default: it would not be read."""
    default = {field.name: field.default for field in fields(ClassifyOptions)}
    for name in names:
        if getattr(options, name) != default[name]:
            raise OptionError(f"{{{name}}} {why}. Leave it out.")


KIND = Verb(
    options=ClassifyOptions,
    run="attn.core.probe.classify.run:run",
    description="""Measure what a frozen encoder knows of your classes: a ladder of probes on the same features.

    k-NN, a linear probe on the class token (linear) or on the mean patch (gap), efficient probing (ep: learned queries)
    and 13 other poolings, each with accuracy, interval, trainable parameters, multiply-adds and milliseconds, and maps
    of where the queries look. Features are read once and kept.
    """,
    examples=(
        ("attn probe classify shapesx600", "Drawn pictures, and the small encoder that comes with attn."),
        (
            "attn probe classify photos/ --model vit --label coarse_label -o out/ --report probe.html",
            "Your photos, with labels.csv.",
        ),
        ("attn probe classify photos/ --model vit-base/ --layer all --shots 1,5,10", "Every block, and few pictures."),
        ("attn probe classify tokens.npz --poolings all", "Features of your own, all probes."),
        (
            "attn probe classify other/ --head out/heads/ep.safetensors",
            "The queries of a saved head on other pictures.",
        ),
    ),
    files=(
        ("DIR/NAME.classify.png", "The ladder, probe by probe; .npz and .json beside it are what it is of."),
        ("DIR/NAME.queries.png", "Where groups of queries look, on test pictures; with .npz and .json."),
        ("DIR/heads/PROBE.safetensors", "The best epoch of the first seed, float16; --head draws with it."),
        ("DIR/features/", "Tokens by model and pictures; may be removed, and are made again."),
    ),
    notes=(
        "The test part is counted once. The epoch is chosen on a validation part, and named; with --shots the last "
        "epoch counts. Intervals are 95 % percentiles of the bootstrap over seeds and test pictures together.",
        "Features are cached, without augmentation, so numbers are not those of the paper's protocol. The default "
        "optimizer is the paper's, LARS, only where a set is large enough for its schedule.",
        "Multiply-adds are those of a head's matrix products and convolutions for one picture; milliseconds are of the "
        "head alone, beside what else the machine does.",
        "A map shows what the head's queries weigh. It is not an explanation of the encoder.",
    ),
    columns=("accuracy", "chance", "pictures", "classes"),
)
