"""What `attn probe contrast` can be told, and its registry entry."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Annotated

from ...bundles import Device, Placement
from ...command import Verb
from ...options import Option, OptionError, check
from ...prune.carve.settings import CarveSettings
from ...prune.options import ModelChoice
from ..inputs import DrawnInputs


@dataclass(frozen=True, slots=True)
class LookedAt(DrawnInputs):
    """Pictures, or drawn scenes with questions."""

    inputs: Annotated[
        tuple[str, ...],
        Option(
            "Pictures, directories, - for a list of paths on stdin, or example:NAME. Or shapes[:TASK][:SEED]xN alone: "
            "drawn scenes with questions of their own, as many of each density of texture.",
            metavar="INPUT", positional=True,
        ),
    ] = ()  # fmt: skip


@dataclass(frozen=True, slots=True)
class ContrastOptions:
    """What is asked about which pictures, and how what is looked at is found.

    Parameters
    ----------
    inputs : LookedAt
    choice : ModelChoice
    prompt : str or None
        The question about every picture; drawn scenes have their own.
    carve : CarveSettings
    trust : bool
        Of pictures; drawn scenes are judged by where their objects are.
    device : str
    placement : Placement
    """

    inputs: LookedAt
    choice: ModelChoice = field(default_factory=ModelChoice)
    prompt: Annotated[str | None, Option("What is asked about every picture.", metavar="TEXT")] = None
    carve: CarveSettings = field(default_factory=CarveSettings)
    trust: Annotated[
        bool, Option("Hold the map against eight models with randomised weights: nine times the work.")
    ] = True
    device: Device = "auto"
    placement: Placement = field(default_factory=Placement)

    def __post_init__(self) -> None:
        check(self)
        drawn = self.inputs.scenes
        if drawn and self.prompt is not None:
            raise OptionError(f"{{prompt}}: {drawn} has questions of its own.")
        if not drawn and not (self.prompt or "").strip():
            raise OptionError("{prompt}: what is asked about the pictures must be given.")


KIND = Verb(
    options=ContrastOptions,
    run="attn.core.probe.contrast.run:run",
    description="""See what a question makes a model look at, beside what it looks at anyway.

    Divides a vision-language model's attention for your question by its attention for an instruction that singles
    nothing out (CARVE), cuts out where the ratio is high, and asks again about that, magnified. Writes both answers,
    the map, the mask, the crop, and how spread out the attention of each layer is.
    """,
    examples=(
        ('attn probe contrast photo.jpg --prompt "what is on the sign" --model llava/', "Writes photo.contrast.png."),
        (
            'attn probe contrast photos/ -o out/ --prompt "what colour is the bus" --steps last --final refined',
            "As in the paper: the last token of the answer, and the crop alone.",
        ),
        (
            "attn probe contrast shapes:colour:5x300 -o out/",
            "Entropy and accuracy by density of texture, drawn scenes.",
        ),
    ),
    files=(
        ("NAME.contrast.png", "Picture, ratio map, mask and box, crop, entropy layer by layer; written last."),
        ("NAME.crop.png", "What the model was shown the second time."),
        (
            "NAME.contrast.npz",
            "Arrays: ratio [tokens], map and mask [h, w], box (x0, y0, x1, y1), entropy and entropy_raw [layers], task "
            "and general (attention of every step and layer, [steps, layers, tokens]), and picture and crop, shrunk "
            "for the figure.",
        ),
        ("NAME.contrast.json", "How the figure was made, and its tables: attn probe redraw makes it again."),
        ("shapes.contrast.png", "Of drawn scenes: entropy and accuracy over the density of texture."),
    ),
    notes=(
        "Entropy is that of the attention of the answer's last token to the picture: as it is (entropy_raw), and made "
        "to sum to 1 first, in nats. Texture is the share of Canny edge pixels, colours the entropy of the hues.",
        "Where the question draws no more attention to one place than the instruction does, nothing is cut out and the "
        "model is not asked again; a warning says so.",
        "A model of few words, such as the embedded one, is asked 'what is there' instead of the paper's instruction.",
    ),
    columns=("entropy", "texture", "colours", "mask_share", "answers_equal"),
)
