"""What `attn probe saliency` can be told, and its registry entry."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Annotated, ClassVar, Literal

from ...bundles import Device, Placement, Seed
from ...command import Verb
from ...options import Option, OptionError, check
from ...prune.carve.settings import parse_layers
from ...prune.options import parse_names
from ..inputs import DrawnInputs

READ_BY = {
    "sgrs": ("released", "tries", "temperature"),
    "locore": ("beta", "window", "mode", "locore_layers", "locore_first"),
}
"""Mitigation -> options that it alone reads."""


def parse_mitigations(text: str) -> tuple[str, ...]:
    """``sgrs,locore`` as names. Raises ``ValueError`` for others."""
    names = parse_names(text)
    if other := [name for name in names if name not in READ_BY]:
        raise ValueError(f"{other[0]!r} is no mitigation. Name sgrs, locore, or both as sgrs,locore.")
    return names


@dataclass(frozen=True, slots=True)
class PicturesOrTexts(DrawnInputs):
    """Pictures, drawn ones, or texts for a model of text; none where the prompt alone is the text."""

    inputs: Annotated[
        tuple[str, ...],
        Option(
            "Pictures, or .txt and .md files for a model of text; directories, - for a list of paths on stdin, "
            "example:NAME. Or shapes[:TASK][:SEED]xN alone: drawn scenes with questions whose answers are known.",
            metavar="INPUT", positional=True,
        ),
    ] = ()  # fmt: skip
    NOTHING: ClassVar[str] = "Name pictures, directories, - for a list on stdin, example:photo, or shapes:existsx100."

    def __post_init__(self) -> None:
        if self.inputs:  # without, a prompt is the text of a model of text
            DrawnInputs.__post_init__(self)
        else:
            check(self)


@dataclass(frozen=True, slots=True)
class SaliencyOptions:
    """What is asked, of which model, how its tokens are scored, and what is tried against low scores.

    Parameters
    ----------
    inputs : PicturesOrTexts
    model : str
        See ``attn.core.models.load``.
    prompt : str or None
    answer : str or None
        A text to look at, in the place of the model's own.
    template : bool
        Of models of text.
    mitigate : tuple of {"sgrs", "locore"}
    released : bool
        SGRS with the score that the released code computes.
    layers : tuple of int
        Empty: 6 to 8 of 32, at the same shares of another depth.
    norm, signed
        See ``matrices``.
    candidates, tries, alpha, history, temperature
        See ``sgrs.Sgrs``.
    beta, window, mode, locore_layers
        See ``locore.Locore``.
    locore_first : bool
        See ``decode.Decoding``.
    max_new_tokens : int
    trust : bool
    allow_download : bool
    device, dtype : str
    seed : int
    placement : Placement
    """

    inputs: PicturesOrTexts
    model: Annotated[
        str,
        Option(
            "shapes, which comes with attn; a folder of transformers with a vision-language model (LLaVA, LLaVA-NeXT, "
            "Qwen2-VL, Qwen2.5-VL, SmolVLM, Idefics3, InternVL) or a causal language model (Llama, Mistral, Qwen2, "
            "Qwen3, SmolLM3, Gemma3); or a Hugging Face id that is on this machine.",
            metavar="NAME|DIR|ID",
        ),
    ] = "shapes"  # fmt: skip
    prompt: Annotated[
        str | None,
        Option("What is asked about every picture; of a model of text what follows each file, or stands alone.",
               metavar="TEXT"),
    ] = None  # fmt: skip
    answer: Annotated[
        str | None, Option("Look at this answer.", metavar="TEXT", shown="the model's own, the most probable tokens")
    ] = None
    template: Annotated[bool, Option("Put a text into the chat template of a model of text, where it has one.")] = True
    mitigate: Annotated[
        tuple[str, ...],
        Option(
            "Decode again with sgrs (candidates of low saliency are drawn again), locore (attention to the last output "
            "tokens is raised), or both: sgrs,locore.",
            metavar="NAMES", parse=parse_mitigations,
        ),
    ] = ()  # fmt: skip
    released: Annotated[
        bool, Option("sgrs as the released code does it, whose score is 0 for every candidate: plain top-K sampling.")
    ] = False
    layers: Annotated[
        tuple[int, ...],
        Option(
            "Layers whose saliency makes the score, such as 6-8.",
            metavar="N-M|N,N,...", parse=parse_layers, shown="6-8 of 32, scaled to the depth",
        ),
    ] = ()  # fmt: skip
    norm: Annotated[
        Literal["row", "matrix", "none"],
        Option(
            "Saliency over the norm of its row (the code), of its whole matrix (the paper's equation: a whole backward "
            "pass for each token), or as it is.",
            metavar="row|matrix|none",
        ),
    ] = "row"
    signed: Annotated[bool, Option("Keep the sign: positive where attention speaks for the token.")] = False
    candidates: Annotated[
        int, Option("Most probable tokens that are scored, and drawn from by sgrs.", name="--top-k", metavar="K",
                    least=1, most=50)
    ] = 5  # fmt: skip
    tries: Annotated[int, Option("Draws of sgrs, at most, and at most K.", metavar="R", least=1, most=50)] = 3
    alpha: Annotated[
        float, Option("Share of the mean score before that a token must reach.", metavar="X", least=0.0, most=1.0)
    ] = 0.6
    history: Annotated[int, Option("Tokens before that the mean is taken of.", metavar="W", least=1)] = 5
    temperature: Annotated[float, Option("Of the draws of sgrs.", metavar="T", above=0.0, most=100.0)] = 1.0
    beta: Annotated[
        float, Option("Gain of locore, less 1: 0.15 for LLaVA-1.5, 0.2 for Qwen2-VL.", metavar="X", least=0.0, most=1.0)
    ] = 0.15
    window: Annotated[
        int, Option("Output tokens before the newest that locore raises; the paper gives none.", metavar="N", least=1)
    ] = 10
    mode: Annotated[
        Literal["renorm", "post", "pre"],
        Option("Where locore's gain acts: attention that sums to 1 again, attention alone, logits.",
               name="--locore-mode", metavar="renorm|post|pre"),
    ] = "renorm"  # fmt: skip
    locore_layers: Annotated[
        tuple[int, ...],
        Option("Layers that locore acts in.", metavar="N-M|N,N,...", parse=parse_layers, shown="all"),
    ] = ()
    locore_first: Annotated[
        bool, Option("locore acts on the first token of the answer, too; as published from the second on.")
    ] = False
    max_new_tokens: Annotated[int, Option("Length of an answer, at most.", metavar="N", least=1, most=4096)] = 64
    trust: Annotated[
        bool, Option("Hold the map against eight models with randomised weights: nine times the work.")
    ] = True
    allow_download: Annotated[bool, Option("Ask the Hugging Face hub for an id that is not here.")] = False
    device: Device = "auto"
    dtype: Annotated[
        str, Option("float32 (fp32), bfloat16 (bf16), float16 or float64.", metavar="DTYPE", common=True)
    ] = "float32"
    seed: Seed = 77
    placement: Placement = field(default_factory=Placement)

    def __post_init__(self) -> None:
        check(self)
        for name, value in (("prompt", self.prompt), ("answer", self.answer)):
            if value is not None and not value.strip():
                raise OptionError(f"{{{name}}}: it is empty. Give a text.")
            if value is not None and self.inputs.scenes:
                raise OptionError(f"{{{name}}}: {self.inputs.scenes} has questions and answers of its own.")
        if not self.inputs.inputs and self.prompt is None:
            raise OptionError(f"nothing to look at. {PicturesOrTexts.NOTHING} Or give a model of text a {{prompt}}.")
        self._check_mitigations()

    def _check_mitigations(self) -> None:
        """Refuse what nothing would read."""
        for mitigation, names in READ_BY.items():
            for name in names if mitigation not in self.mitigate else ():
                if getattr(self, name) != type(self).__dataclass_fields__[name].default:
                    raise OptionError(f"{{{name}}} works with {{mitigate}} {mitigation} only.")
        if self.mitigate and self.norm == "matrix":
            raise OptionError("{norm} matrix: a whole pass for each candidate is for looking, not for {mitigate}.")
        if "sgrs" in self.mitigate and self.signed:
            raise OptionError("{signed}: sgrs is defined by the absolute saliency. Leave one of them out.")


KIND = Verb(
    options=SaliencyOptions,
    run="attn.core.probe.saliency.run:run",
    description="""See what each token of an answer stands on: output so far, picture, prompt, system text.

    Attention times the gradient of a token's loss, in the row that predicts it. Tokens that stand on less of what was
    said before them than the tokens before did are flagged: the paper takes them for hallucinations, and on drawn
    scenes, whose answers are known, it is measured whether they are. --mitigate decodes again, and shows the
    difference.
    """,
    examples=(
        ('attn probe saliency photo.jpg --prompt "what is on the table" --model llava/', "Writes photo.saliency.png."),
        (
            'attn probe saliency photo.jpg --prompt "describe the picture" --model llava/ --mitigate sgrs,locore',
            "Decodes again with both mitigations.",
        ),
        ("attn probe saliency shapes:exists:5x300 -o out/", "Does low saliency predict a wrong answer?"),
        ("attn probe saliency notes.txt --model smollm2/ --no-trust", "What a model of text goes on with."),
    ),
    files=(
        (
            "NAME.saliency.png",
            "Score token by token with its threshold, shares, map of tokens, and picture; written last.",
        ),
        (
            "NAME.saliency.npz",
            "Arrays: score, threshold, probability [tokens]; shares and attention_shares [tokens, layers, 4] (system, "
            "image, prompt, output); map and attention [tokens, keys]; image [visual tokens]; picture.",
        ),
        ("NAME.saliency.json", "How the figure was made, and its tables: attn probe redraw makes it again."),
        ("prompt.saliency.png", "Of a prompt without a file."),
        ("shapes.saliency.png", "Of drawn scenes: rate of wrong answers by quartile of the score."),
    ),
    notes=(
        "The score of a token is the mean saliency of the keys behind the image, prompt text among them, in the row of "
        "the token before it. The released code reads the row of the token itself, which its loss does not reach: its "
        "score is 0 for every candidate, its threshold 0, and its sgrs plain top-K sampling. --released does that.",
        "A prompt is read once; each token then takes one forward pass of one token and a backward pass of it for each "
        "candidate, over the cache of keys and values. No map of all tokens by all tokens is made.",
        "A model answers with no more tokens than its own settings allow: shapes with one. As published, sgrs has no "
        "threshold for the first token, and locore acts from the second on.",
        "Language models run scaled_dot_product_attention meanwhile, whatever they were loaded with, and the rows that "
        "are looked at are computed in float32 at least.",
    ),
    columns=("tokens", "score", "flagged", "on_output", "on_image", "on_prompt", "on_system"),
)
