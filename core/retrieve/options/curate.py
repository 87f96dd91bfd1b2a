"""What `attn retrieve curate` reads, which crops it keeps, and how they are described."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated, ClassVar

from ...bundles import Inputs, Seed
from ...options import Option, OptionError, check
from .encoder import ModelOptions

DESCRIBE = "Describe the person in the picture in one sentence: hair, clothes, shoes, and what is carried."


def number_or_off(text: str) -> float | None:
    """A number; None for ``off``. Raises ``ValueError`` for anything else."""
    if text.strip().lower() == "off":
        return None
    try:
        return float(text)
    except ValueError:
        raise ValueError(f"{text!r} is neither a number nor off.") from None


def parse_aspect(text: str) -> tuple[float, float] | None:
    """``2-4`` as (2.0, 4.0); None for ``off``. Raises ``ValueError`` for anything else."""
    if text.strip().lower() == "off":
        return None
    try:
        low, high = (float(part) for part in text.split("-"))
    except ValueError:
        raise ValueError(f"{text!r} is no range of height over width, as 2-4.") from None
    return low, high


@dataclass(frozen=True, slots=True)
class CuratedPhotos(Inputs):
    """What is curated, and where the pairs go."""

    NOTHING: ClassVar[str] = "Name photos of persons, folders of them, or - for paths on stdin."

    inputs: Annotated[
        tuple[str, ...],
        Option("Photos, folders of photos, or - for a list of paths on stdin.", metavar="PHOTOS", positional=True),
    ]
    output: Annotated[str, Option("Folder of the captions and of what was decided.", short="-o", metavar="OUT")]


@dataclass(frozen=True, slots=True)
class CurateOptions:
    """Which crops are kept, and how they are described.

    Parameters
    ----------
    captioner : str, optional
        A vision-language model (what ``load_model`` takes), or ``MODULE:FUNCTION``; None: crops are filtered only.
    boxes : Path, optional
        JSONL {image, box: [x, y, w, h], score?, keypoints?, id?}: persons in the photos. None: each photo is one crop.
    min_side, aspect, min_score : float, (float, float), float
        None switches a filter off, here and below. The paper's: shorter side in pixels above 90, height over width from
        2 to 4, score of the box above 0.85.
    blur : float
        Greatest blur in [0, 1] (``verdicts.blur_of``).
    near : float
        Least cosine of two near-duplicates (``verdicts.duplicates``).
    fill : {"model", "words"}
        Who fills templates: the captioner with the crop in view, as in the paper; or the words of its description.
    captions_each : int
        Captions of a crop.
    clusters, random_each : int
        Of templates; random ones kept of each beside the central one. None: a sixth of the templates, at most 166.
    templates : Path, optional
        One template a line, in the place of those that are made.
    prompt, max_new_tokens
        For a model.
    seed : int
    encoder : ModelOptions
        Embeds the templates.
    """

    captioner: Annotated[
        str | None,
        Option(
            "A vision-language model (folder, name or id), or your function, which takes a picture and a template.",
            short="-c", metavar="DIR|MODULE:FUNCTION", shown="none: filter only",
        ),
    ] = None  # fmt: skip
    boxes: Annotated[
        Path | None,
        Option(
            "JSONL {image, box: [x, y, w, h], score, keypoints, id}: persons in the photos.", metavar="FILE",
            shown="each photo is a crop",
        ),
    ] = None  # fmt: skip
    min_side: Annotated[float, Option("Shorter side of a crop in pixels: above.", metavar="PX", least=0)] = 90.0
    aspect: Annotated[
        tuple[float, float] | None,
        Option("Height over width of a crop.", metavar="LOW-HIGH|off", parse=parse_aspect, text="2-4"),
    ] = (2.0, 4.0)
    min_score: Annotated[float, Option("Score of a box, where it has one: above.", metavar="X", most=1)] = 0.85
    blur: Annotated[
        float | None,
        Option("Greatest blur, 0 sharp to 1.", metavar="X|off", parse=number_or_off, text="0.6"),
    ] = 0.6  # fmt: skip
    near: Annotated[
        float | None,
        Option("Least cosine of near-duplicates.", metavar="T|off", parse=number_or_off, text="0.98"),
    ] = 0.98  # fmt: skip
    fill: Annotated[
        str,
        Option(
            "Who fills templates: the captioner looking at the crop, or words of its description.",
            metavar="model|words", choices=("model", "words"),
        ),
    ] = "model"  # fmt: skip
    captions_each: Annotated[int, Option("Captions of a crop.", metavar="N", least=1, most=100)] = 2
    clusters: Annotated[
        int | None,
        Option("Of templates.", metavar="N", least=1, shown="a sixth of the templates, at most 166"),
    ] = None  # fmt: skip
    random_each: Annotated[
        int, Option("Random templates of a cluster beside its central one.", metavar="N", least=0)
    ] = 5
    templates: Annotated[
        Path | None,
        Option("One template a line, as in OUT/templates.txt.", metavar="FILE", shown="made of the descriptions"),
    ] = None  # fmt: skip
    prompt: Annotated[
        str,
        Option(
            "What a model is asked for a description.",
            metavar="TEXT",
            shown="a sentence on hair, clothes, shoes, things carried",
        ),
    ] = DESCRIBE
    max_new_tokens: Annotated[int, Option("Length of an answer, at most.", metavar="N", least=1, most=4096)] = 96
    seed: Seed = 77
    encoder: ModelOptions = field(default_factory=ModelOptions)

    def __post_init__(self) -> None:
        check(self)
        if self.aspect is not None and not 0 <= self.aspect[0] <= self.aspect[1] < float("inf"):
            raise OptionError("{aspect}: that is no range of height over width; write it as 2-4, or off.")
        for name in ("blur", "near"):
            if (limit := getattr(self, name)) is not None and not 0 < limit <= 1:
                raise OptionError(f"{{{name}}}: {limit:g} must be above 0 and at most 1, or off.")
        if not self.prompt.strip():
            raise OptionError("{prompt}: it is empty. Leave it out for the one that is built in.")
