"""Debiasing as a modifier of any method that scores tokens by attention (methods/attention-debias.md, section 3.3)."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from ...errors import UsageError
from ..data.marks import check_unseen
from ..data.samples import QuestionSample
from ..engine.moment import Moment
from ..engine.prompts import Prompts
from .fitted import FittedTrend, read_trend
from .padding import THRESHOLD, padded_tokens
from .places import pictures_of, raster

GENERIC = 1.2
"""Strength of the trend where nothing was fitted (section 3.5)."""
PARTS = ("pd", "pas")
FILLS = ("fewer", "uniform")
_NATIVE = ("Qwen2VLForConditionalGeneration", "Qwen2_5_VLForConditionalGeneration")
"""Classes whose processors keep a picture's own proportions: nothing is ever padded."""
_FIRST = "debias.first"


def debias(score: Tensor, positions: Tensor, length: Tensor | float, sigma: float, valid: Tensor) -> Tensor:
    """Attention without its trend over positions, 0 where there is padding (section 12).

    Parameters
    ----------
    score : Tensor [n]
    positions : Tensor [n]
        Original raster index of each token in its picture.
    length : float or Tensor [n]
        L, the visual tokens of that picture.
    sigma : float
        Strength of the trend; 0: none.
    valid : Tensor of bool [n]
        What is no padding.

    Returns
    -------
    Tensor [n], float32
    """
    return score.float() * torch.exp(-sigma * positions / length) * valid


@dataclass(frozen=True)
class Debias:
    """A ``methods.base.Modifier``.

    Parameters
    ----------
    trend, padding : bool
        Its two parts: positional debiasing (pd), padding attention suppression (pas).
    sigma : float, optional
        Strength of the trend, instead of a fitted one.
    fitted : FittedTrend, optional
        By ``attn prune calibrate debias``. With neither, ``GENERIC``.
    pad_threshold : float
        A token shows padding where more of its patch than this does.
    every_stage : bool
        Act at all stages of a method, by the original raster index; default: at its first.
    fill : {"fewer", "uniform"}
        Where fewer tokens than the budget show no padding: keep so many only, or spend the rest of the budget on
        padding at about even distances.
    method : str
        Whose scores they are; empty: not known.
    """

    trend: bool = True
    padding: bool = True
    sigma: float | None = None
    fitted: FittedTrend | None = None
    pad_threshold: float = THRESHOLD
    every_stage: bool = False
    fill: str = "fewer"
    method: str = ""

    @classmethod
    def of(cls, method: str, parts: Sequence[str], settings: Mapping[str, Any]) -> Debias:
        """``METHOD+debias`` with the parts behind its colon (none: both) and the settings that its row names.

        Raises
        ------
        UsageError
            For another part or a value that cannot be, or ``InputError`` for a calibration that cannot be read.
        """
        for part in parts:
            if part not in PARTS:
                raise UsageError(f"+debias:{part}: debias has the parts pd (positions) and pas (padding).")
        values = dict(settings)
        calibration = values.pop("calibration", None)
        if calibration is not None and values.get("sigma") is not None:
            raise UsageError("sigma and calibration both say how strong the trend is: give one of them.")
        fitted = read_trend(calibration) if calibration is not None else None
        wanted = parts or PARTS
        made = cls(trend="pd" in wanted, padding="pas" in wanted, fitted=fitted, method=method, **values)
        if not made.trend and (fitted is not None or made.sigma is not None):
            raise UsageError("+debias:pas takes no trend out, so neither sigma nor calibration says anything.")
        if not 0 <= made.pad_threshold < 1:
            raise UsageError(f"pad_threshold: {made.pad_threshold} is no share from 0 and below 1.")
        if made.fill not in FILLS:
            raise UsageError(f"fill: {made.fill!r} is none of {', '.join(FILLS)}.")
        return made

    def __call__(self, moment: Moment, scores: list[Tensor]) -> list[Tensor]:
        """Scores that can be compared with each other; -inf (or, with ``fill``, below 0) where there is padding."""
        prompts = moment.prompts
        first = prompts.cache.setdefault(_FIRST, moment.layer)
        if moment.layer != first and not self.every_stage:
            return scores
        return [self._one(moment, sample, score) for sample, score in enumerate(scores)]

    def check_held_out(self, samples: Iterable[QuestionSample]) -> None:
        """Raises ``UsageError`` if a sample is one that the trend was fitted to."""
        if self.fitted is not None:
            check_unseen(samples, self.fitted.marks, "the trend was fitted to")

    def _one(self, moment: Moment, sample: int, score: Tensor) -> Tensor:
        numbers = moment.numbers[sample]
        if not len(numbers):
            return score
        valid = self._valid(moment.prompts, sample)[numbers] if self.padding else torch.ones_like(score).bool()
        if self.trend:
            score = self._flat(moment, sample, score, numbers)
        if valid.all():
            return score
        if self.fill == "uniform":
            return torch.where(valid, score, -1 - _spread(~valid).to(score.dtype))
        moment.prompts.note(f"debias: {int((~valid).sum())} of {len(valid)} visual tokens show padding; none is kept.")
        return score.masked_fill(~valid, -torch.inf)

    def _flat(self, moment: Moment, sample: int, score: Tensor, numbers: Tensor) -> Tensor:
        """The score without its trend."""
        prompts = moment.prompts
        index, length = raster(pictures_of(prompts, sample), numbers)
        everything = torch.ones_like(score).bool()
        if self.fitted is None:
            if self.sigma is None:
                prompts.note(
                    f"debias: nothing was fitted, so the trend has the generic strength {GENERIC}. "
                    "`attn prune calibrate debias` fits it to a model."
                )
            return debias(score, index, length, GENERIC if self.sigma is None else self.sigma, everything)
        lengths = sorted(set(length.int().tolist()))
        for text in self.fitted.differences(prompts.site, moment.layer, lengths, self.method):
            prompts.note(f"debias: {text}")
        if self.fitted.trend.cubic is None:
            return debias(score, index, length, self.fitted.trend.sigma, everything)
        flat: Tensor = score.float() / self.fitted.trend.shape(index / length)
        return flat

    def _valid(self, prompts: Prompts, sample: int) -> Tensor:
        """What is no padding of all visual tokens of a prompt, bool [V]."""
        visual = prompts.visual[sample]
        key = f"debias.valid.{sample}"
        if key not in prompts.cache:
            prompts.cache[key] = self._looked_up(prompts, sample, len(visual)).to(visual.device)
        valid: Tensor = prompts.cache[key]
        return valid

    def _looked_up(self, prompts: Prompts, sample: int, count: int) -> Tensor:
        none = torch.ones(count, dtype=torch.bool)
        pictures = prompts.pictures[sample] if prompts.pictures is not None else None
        if not pictures:
            if type(prompts.site.model).__name__ in _NATIVE:
                prompts.note("debias: no padding: the model takes pictures at their native resolution.")
                return none
            text = "where the visual tokens are in the picture is not known, so padding cannot be found"
            if not self.trend:
                raise UsageError(f"debias:pas: {text}. Give the pictures' geometry, or use debias:pd.")
            prompts.note(f"debias: {text}: only the trend over positions is taken out.")
            return none
        valid = padded_tokens(pictures, count) <= self.pad_threshold
        if valid.all():
            prompts.note("debias: no padding: every visual token shows the picture.")
        return valid


def _spread(wanted: Tensor) -> Tensor:
    """Rank, from 0, of each token that is wanted, so that the first of them always lie at about even distances.

    The places of a van der Corput sequence in base 2: of any n, the first half lies between the second half.
    """
    count = int(wanted.sum())
    bits = max(1, (count - 1).bit_length())
    order = [int(f"{number:0{bits}b}"[::-1], 2) for number in range(1 << bits)]
    ranks = torch.zeros(len(wanted), dtype=torch.int64)
    ranks[wanted.nonzero().flatten().cpu()] = torch.tensor(
        [rank for _, rank in sorted((place, rank) for rank, place in enumerate(p for p in order if p < count))]
    )
    return ranks.to(wanted.device)
