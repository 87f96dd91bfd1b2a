"""What `attn probe collapse` can be told, and its registry entry."""

from __future__ import annotations

from dataclasses import dataclass, field
from itertools import pairwise
from typing import Annotated, ClassVar

from ...bundles import Inputs, Placement, Seed
from ...command import Verb
from ...options import Option, OptionError, check
from ...retrieve.options.encoder import ModelOptions
from ...retrieve.options.judge import check_temperatures, parse_temperatures

LENGTHS = (32, 64, 128, 256, 512)


def parse_buckets(text: str) -> int | tuple[int, ...]:
    """``5``, or edges ``0,64,128``. Raises ``ValueError`` for anything else."""
    try:
        numbers = tuple(int(part) for part in text.split(","))
    except ValueError:
        raise ValueError(f"{text!r} is neither a number of buckets nor a list of edges, as 0,64,128.") from None
    return numbers if len(numbers) > 1 else numbers[0]


def parse_lengths(text: str) -> tuple[int, ...]:
    """``32,64,128`` as rising numbers; ``none``: no test. Raises ``ValueError`` for anything else."""
    if text == "none":
        return ()
    try:
        return tuple(sorted({int(part) for part in text.split(",")}))
    except ValueError:
        raise ValueError(f"{text!r} is no list of lengths in tokens, as 32,64,128, nor none.") from None


@dataclass(frozen=True, slots=True)
class Texts(Inputs):
    """Texts, all of them one collection."""

    NOTHING: ClassVar[str] = "Name folders, .jsonl, .tsv or .parquet files, texts, or - for a list on stdin."

    inputs: Annotated[
        tuple[str, ...],
        Option(
            "Folders of .txt and .md files, .jsonl, .tsv or .parquet files, BEIR folders, or - for a list of paths on "
            "stdin; together they are one collection.",
            metavar="TEXTS", positional=True,
        ),
    ] = ()  # fmt: skip
    output: Annotated[str | None, Option("Directory for the results.", short="-o", metavar="DIR", shown=".")] = None


@dataclass(frozen=True, slots=True)
class CollapseOptions:
    """Which texts, which encoder at which temperatures, and what is measured.

    Parameters
    ----------
    texts : Texts
    encoder : ModelOptions
        Its temperature does not count.
    temperatures : tuple of float
        All is measured at each; the figure sets them side by side.
    buckets : int or tuple of int
        Of equal count, or edges in tokens.
    sample : int
        Texts that are drawn from a larger collection.
    measured : int
        Texts per bucket whose layers are measured.
    lengths : tuple of int
        Of the documents of the pass key test, in tokens; none: no test.
    rounds : int
        Of the pass key test.
    seed : int
        Of the texts that are measured, the pass keys, and the weights of the untrained twins.
    placement : Placement
        A worker takes a temperature.
    """

    texts: Texts
    encoder: ModelOptions = field(default_factory=ModelOptions)
    temperatures: Annotated[
        tuple[float, ...],
        Option(
            "Of the attention (TempScale); all is measured at each.",
            name="--temperature", short="-T", metavar="T[,T...]", parse=parse_temperatures, text="1,0.8",
        ),
    ] = (1.0, 0.8)  # fmt: skip
    buckets: Annotated[
        int | tuple[int, ...],
        Option("Buckets of length: how many, or their edges.", metavar="N|N,N,...", parse=parse_buckets, text="5"),
    ] = 5  # fmt: skip
    sample: Annotated[int, Option("Texts drawn from the collection at most.", metavar="N", least=4)] = 500
    measured: Annotated[int, Option("Texts per bucket whose layers are measured.", metavar="N", least=1)] = 10
    lengths: Annotated[
        tuple[int, ...],
        Option(
            "Lengths of the documents of the pass key test in tokens, or none.",
            metavar="N,N,...|none", parse=parse_lengths, text="32,64,128,256,512",
        ),
    ] = LENGTHS  # fmt: skip
    rounds: Annotated[int, Option("Rounds of the pass key test, 8 documents of each length.", metavar="N", least=1)] = 5
    seed: Seed = 0
    placement: Placement = field(default_factory=Placement)

    def __post_init__(self) -> None:
        from .passkey import EACH, NAMES, SHORTEST

        check(self)
        check_temperatures("temperatures", self.temperatures)
        edges = self.buckets if isinstance(self.buckets, tuple) else ()
        if (isinstance(self.buckets, int) and self.buckets < 1) or any(low >= high for low, high in pairwise(edges)):
            raise OptionError("{buckets}: a number from 1, or rising edges.")
        if self.lengths and self.lengths[0] < SHORTEST:
            raise OptionError(f"{{lengths}}: {self.lengths[0]} tokens leave no room for a pass key; {SHORTEST} do.")
        if len(self.lengths) * EACH > len(NAMES):
            raise OptionError(f"{{lengths}}: {len(NAMES) // EACH} at most.")


KIND = Verb(
    options=CollapseOptions,
    run="attn.core.probe.collapse.run:run",
    description="""See whether the vectors of texts crowd together as texts grow longer, and what a temperature does.

    Measures, by length of your own texts: how similar two texts are, how near to the mean of all, how much of the
    hidden states' energy is no mean (high-frequency ratio) layer by layer, and how far attention can stretch
    differences (sigma). The pass key test hides a sentence in filler of 32 to 512 tokens and asks for it.
    """,
    examples=(
        ("attn probe collapse notes/ -o out/", "A folder of texts; MiniLM (attn[minilm]) at temperatures 1 and 0.8."),
        (
            "attn probe collapse corpus.jsonl --model encoder/ --temperature 1,0.9,0.7 --report collapse.html",
            "Your own encoder, three temperatures, one page.",
        ),
        (
            "attn probe collapse cranfield/ --max-tokens 512 --buckets 0,64,128,256,512 -o out/",
            "Buckets of your own; texts read to their 512th token.",
        ),
    ),
    files=(
        ("DIR/collapse-T1.json, …", "What was measured at that temperature; a later run reads it again."),
        ("DIR/collapse.png, collapse.npz, collapse.json", "The figure, what it is made of, and its facts."),
    ),
    notes=(
        "Texts that are longer than the model reads are cut there; the tables count them. MiniLM reads 256 tokens "
        "unless --max-tokens 512 is given; beyond 256 it was not trained.",
        "A red line of randomised weights does not mean that nothing crowds together: it says that an untrained "
        "encoder crowds texts in the same order, so that this is of architecture and texts, not of what was learned.",
        "Sigma grows with length on real models, whatever a theory of random attention says: read it beside the "
        "similarities.",
        "In the pass key test 8 documents of every length in each round have names and keys of their own. Found is "
        "what ranks first among those of its length; among all lengths one sees whether shorter texts win.",
    ),
    columns=("temperature", "pair_similarity", "slope", "gap", "found", "found_among_all"),
)
