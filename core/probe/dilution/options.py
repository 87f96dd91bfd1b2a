"""What `attn probe dilution` can be told, and its registry entry."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Annotated, ClassVar, Literal

from ...bundles import Device, Inputs, Placement
from ...command import Verb
from ...options import Option, check

SUFFIXES = (".txt", ".md", ".jsonl")


@dataclass(frozen=True, slots=True)
class LongTexts(Inputs):
    """What a language model reads."""

    NOTHING: ClassVar[str] = "Name texts behind the model: attn probe dilution MODEL TEXT."

    inputs: Annotated[
        tuple[str, ...],
        Option(
            "Texts (.txt, .md: the last token looks), conversations (.jsonl: the tokens of the assistant look), "
            "directories, or - for a list on stdin.",
            metavar="TEXT", positional=True,
        ),
    ] = ()  # fmt: skip
    output: Annotated[str | None, Option("Directory for the results.", short="-o", metavar="DIR")] = None


@dataclass(frozen=True, slots=True)
class DilutionOptions:
    """The model, texts, and what is measured.

    Parameters
    ----------
    model : str
        A folder or an id of a causal language model.
    inputs : LongTexts
    compare : str or None
        Another model, the state before, of the same layers.
    sinks : int
        First tokens that count as the sink.
    mask : {"causal", "turns"}
        How the model reads: as usual, or its context in both directions (``models.turns``).
    max_tokens : int
        Longer texts are cut, at the end that is furthest from what looks.
    allow_download : bool
    device : str
    placement : Placement
    """

    model: Annotated[str, Option("A causal language model: a folder or an id.", metavar="MODEL", positional=True)]
    inputs: LongTexts
    compare: Annotated[str | None, Option("The model before, drawn beside it: a folder or an id.", metavar="MODEL")] = (
        None
    )
    sinks: Annotated[int, Option("First tokens that count as the sink.", metavar="N", least=1)] = 1
    mask: Annotated[
        Literal["causal", "turns"],
        Option("turns: context is read in both directions, as focusft trains.", metavar="causal|turns"),
    ] = "causal"
    max_tokens: Annotated[int, Option("Longer texts lose their beginning.", metavar="N", least=2)] = 8192
    allow_download: Annotated[bool, Option("Ask the Hugging Face hub for an id that is not here.")] = False
    device: Device = "auto"
    placement: Placement = field(default_factory=Placement)

    def __post_init__(self) -> None:
        check(self)


KIND = Verb(
    options=DilutionOptions,
    run="attn.core.probe.dilution.run:run",
    description="""Show where a language model's attention goes in long contexts: sinks, positions, content.

    Of the tokens that answer, and of a plain text's last: how much of their attention lies on the first token (the
    sink), how much on the rest of the context (engagement), how deep in it, and how evenly, by layer and head. With
    --compare, beside another state of the model, for example before it was tuned by attn train focusft.
    """,
    examples=(
        ("attn probe dilution smollm2/ notes.txt -o out/", "Writes out/notes.dilution.png, .npz, .json."),
        ("attn probe dilution run/ chats.jsonl --compare smollm2/ -o out/", "After tuning, and before."),
        ("attn probe dilution smollm2/ notes.txt --sinks 4 --report sinks.html", "The first four tokens as the sink."),
    ),
    files=(
        ("NAME.dilution.png", "Sink and engagement of every head, and both by depth; written last."),
        (
            "NAME.dilution.npz",
            "sink, engagement, entropy [layers, heads] and depth [layers, heads, 10]; with --compare the same before.",
        ),
        ("NAME.dilution.json", "How the figure was made and its tables: attn probe redraw makes it again."),
    ),
    notes=(
        "sink: attention on the first --sinks tokens. engagement: attention on the context behind them, up to the "
        "first token of an answer, or to the end of a plain text. entropy: of a row, over the logarithm of the number "
        "of keys it sees; 1 is even. depth: attention on each tenth of the context. All are means over the tokens that "
        "look; the names are those of FocuSFT (arXiv 2605.09932), whose exact definitions could not be read.",
        "Nothing is kept but these sums: no matrix of tokens by tokens is made, with --mask turns one for all layers.",
        "A layer with a sliding window does not see the first token of a long text: its sink is zero for that reason.",
        "Attention says where a head reads, not what it takes from there.",
    ),
    columns=("tokens", "sink", "engagement", "sink_ratio", "entropy"),
)
