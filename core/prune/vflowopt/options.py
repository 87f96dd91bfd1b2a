"""What `attn prune calibrate vflowopt` can be told, and its registry entry."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated

from ...command import Verb
from ...options import Option, OptionError, check
from ..calibration import CalibrationOptions
from ..options import Budget, parse_keep


@dataclass(frozen=True, slots=True)
class FlowOptions:
    """For which budget settings are searched, and how long.

    Parameters
    ----------
    common : CalibrationOptions
    keep : float
        Mean share of the visual tokens over all decoder layers.
    iterations : int
        Settings that are tried.
    initial : int
        Of these, those that are spread over the box before the search learns from them.
    """

    common: CalibrationOptions
    keep: Annotated[
        Budget,
        Option(
            "What is left of the visual tokens, mean over the layers: a share.",
            short="-k", metavar="0.25|25%", parse=parse_keep, text="25%",
        ),
    ] = 0.25  # fmt: skip
    iterations: Annotated[int, Option("Settings that are tried.", metavar="N", least=1, most=10_000)] = 50
    initial: Annotated[
        int, Option("Of these, the first N are spread evenly over the box.", metavar="N", least=2, most=10_000)
    ] = 12

    def __post_init__(self) -> None:
        check(self)
        if not isinstance(self.keep, float) or not 0 < self.keep < 1:
            raise OptionError(f"{{keep}}: {self.keep} is no share above 0 and below 1: a strategy is for a share.")
        if self.initial > self.iterations:
            raise OptionError(f"{{initial}}: {self.initial} are more than {{iterations}}, {self.iterations}.")


CALIBRATION = Verb(
    options=FlowOptions,
    run="attn.core.prune.vflowopt.calibrate:calibrate_vflowopt",
    description="""Search settings of vflowopt for a model and a budget.

    Tries settings by Bayesian optimisation and keeps those with which the state of the last token of the prompt stays
    nearest to where it is with all visual tokens. No answers are needed; about 30 questions do.
    """,
    examples=(
        ("attn prune calibrate vflowopt shapes:7x30 -o strategy.json", "Drawn scenes with seed 7, 25 % of the tokens."),
        (
            "attn prune calibrate vflowopt questions.jsonl --samples 30 --keep 10% --model llava/ -o ten.json",
            "Thirty of your own questions; answers are not looked at.",
        ),
        ("attn prune photo.jpg --method vflowopt --calibration strategy.json", "Use what was found."),
    ),
    files=(
        ("FILE", "The settings, the budget, the model's fingerprint and marks of the samples; JSON."),
        ("NAME.search.jsonl", "Every setting that was tried and its value; a search that was stopped goes on from it."),
    ),
    notes=(
        "A strategy is for one model and one budget; another share is refused. Samples that it was found on must not "
        "be evaluated on: the file holds a mark of each.",
        "t is searched up to 50, but not beyond what any patch of the samples receives; the side of a cell from 3 to "
        "24 of 27 tokens, scaled to the grid of the model. The first two settings are plain ones, t = 0 and t = 1.",
    ),
    columns=("cosine", "cosine_plain", "samples"),
)  # fmt: skip
