"""What `attn prune calibrate debias` can be told, and its registry entry."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated, Literal

from ...command import Verb
from ...options import Option, OptionError, check
from ..calibration import CalibrationOptions
from ..named import split


@dataclass(frozen=True, slots=True)
class DebiasOptions:
    """Whose attention is looked at, and what is fitted to it.

    Parameters
    ----------
    common : CalibrationOptions
    method : str
        Whose scores are averaged: a method that looks at attention.
    layer : int or None
        See ``PruneOptions``.
    fit : {"linear", "log", "cubic"}
        See ``trend.fit_trend``.
    """

    common: CalibrationOptions
    method: Annotated[
        str, Option("Whose scores are averaged: a method that looks at attention.", short="-m", metavar="NAME")
    ] = "fastv"
    layer: Annotated[
        int | None,
        Option("Decoder layer in front of which it chooses.", metavar="N", least=0, shown="the method's own"),
    ] = None
    fit: Annotated[
        Literal["linear", "log", "cubic"],
        Option(
            "linear: an exponential, by least squares; log: a line through the logarithms; cubic: a polynomial.",
            metavar="linear|log|cubic",
        ),
    ] = "linear"  # fmt: skip

    def __post_init__(self) -> None:
        check(self)
        if split(self.method)[1]:
            raise OptionError(f"{{method}}: {self.method}: name the method alone, without what stands behind +.")


CALIBRATION = Verb(
    options=DebiasOptions,
    run="attn.core.prune.debias.calibrate:calibrate_debias",
    description="""Fit the trend of a model's attention over the positions of visual tokens.

    Asks the model all questions with all of its visual tokens, averages the scores by which a method would choose, and
    fits an exponential of the position to them. Its strength is sigma: 0 is no trend, above 0 later tokens win.
    """,
    examples=(
        ("attn prune calibrate debias shapes:7x200 -o trend.json --model llava/", "Drawn scenes with seed 7."),
        ("attn prune photo.jpg --method fastv+debias --calibration trend.json", "Use what was fitted."),
    ),
    files=(
        (
            "FILE",
            "The trend with model, layer, method, numbers of tokens and samples, residual, marks of the samples; JSON.",
        ),
    ),
    notes=(
        "The scores are those of one layer of one model: for another, or another method, fit again. Samples that a "
        "trend was fitted to must not be evaluated on: the file holds a mark of each, and --dataset refuses them. "
        "Fewer than 50 pictures give a warning.",
    ),
    columns=("sigma", "residual", "visual_tokens", "samples"),
)
