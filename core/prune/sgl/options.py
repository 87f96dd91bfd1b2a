"""What `attn prune calibrate sgl` can be told, and its registry entry."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated, Literal

from ...command import Verb
from ...options import Option, OptionError, check
from ..calibration import CalibrationOptions
from ..options import GUIDES, Budget, checked_keep, parse_keep


@dataclass(frozen=True, slots=True)
class ExitOptions:
    """Two models, and how often the larger one is to be asked.

    Parameters
    ----------
    common : CalibrationOptions
        Its model is the large one.
    guide : str or None
        See ``attn.core.models.load``; None: that of ``GUIDES``.
    share : float
        Of the samples for which the large model is asked.
    keep : float or int
        Visual tokens that the large model sees behind its first layers.
    f_layer, rows
        See ``pruner.SGL``.
    max_new_tokens : int
    agreement : bool
        Compare the attention of single layers with that of the whole large model, too.
    """

    common: CalibrationOptions
    guide: Annotated[
        str | None,
        Option(
            "Smaller model of the same family: a folder, or an id that is here.",
            metavar="DIR|ID", shown="shapes-guide for the model shapes",
        ),
    ] = None  # fmt: skip
    share: Annotated[
        float, Option("Share of the questions for which the large model is asked.", metavar="X", least=0, most=1)
    ] = 0.3
    keep: Annotated[
        Budget,
        Option(
            "What the large model sees of the visual tokens behind its first layers.",
            short="-k", metavar="0.25|25%|144", parse=parse_keep, text="40%",
        ),
    ] = 0.4  # fmt: skip
    f_layer: Annotated[
        float, Option("Share of the large model's layers that see all of them.", metavar="X", least=0, below=1)
    ] = 0.4
    rows: Annotated[
        Literal["paper", "code"],
        Option("Text behind the picture asks; code: the last visual token, too.", metavar="paper|code"),
    ] = "paper"
    max_new_tokens: Annotated[int, Option("Length of an answer, at most.", metavar="N", least=1, most=4096)] = 10
    agreement: Annotated[
        bool,
        Option("Tell how well the guide, and single layers, agree with the attention of the whole large model."),
    ] = False  # fmt: skip

    @property
    def small(self) -> str:
        """The guide."""
        return self.guide or GUIDES[self.common.choice.model]

    def __post_init__(self) -> None:
        check(self)
        if self.guide is None and self.common.choice.model not in GUIDES:
            raise OptionError("{guide}: name a smaller model of the same family.")
        try:
            checked_keep(self.keep, str(self.keep))
        except ValueError as error:
            raise OptionError(f"{{keep}}: {error}") from None


CALIBRATION = Verb(
    options=ExitOptions,
    run="attn.core.prune.sgl.calibrate:calibrate_sgl",
    description="""Find from which decision on a guide's own answer is safe enough to spare the large model.

    Asks both models all questions. A guide's decision is the mean of how sure it was and of the probability of its
    answer when it sees 5 % of the visual tokens; the threshold is where the large model is asked for the wanted share.
    """,
    examples=(
        (
            "attn prune calibrate sgl shapes:7x200 -o exit.json --model llava-13b/ --guide llava-7b/ --share 0.3",
            "The large model for three questions of ten.",
        ),
        (
            "attn prune photo.jpg --method sgl --model llava-13b/ --guide llava-7b/ --early-exit exit.json",
            "Take the small model's answer where it is safe.",
        ),
    ),
    files=(("FILE", "The threshold, the share that it reached, both models, marks of the samples; JSON."),),
    notes=(
        "The report has the curve of accuracy against the share of calls of the large model, for every threshold. "
        "Without answers in the data it is the agreement with the large model. Samples that a threshold was found on "
        "must not be evaluated on: the file holds a mark of each, and --dataset refuses them.",
    ),
    columns=("threshold", "large_calls", "accuracy", "accuracy_guide", "accuracy_large", "samples"),
)
