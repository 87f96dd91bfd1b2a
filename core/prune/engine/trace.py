"""What happened while tokens were taken out."""

from __future__ import annotations

import math
from dataclasses import dataclass, field

from torch import Tensor

from .moment import TokenChoice
from .prompts import OfferedAnswer


@dataclass(slots=True)
class Prefill:
    """One call with visual tokens in it.

    Parameters
    ----------
    before : tuple of int
        Visual tokens of each prompt.
    length : int
        Of the prompts, padding included.
    choices : dict, layer -> list of TokenChoice
        What was kept in front of that layer, for each prompt.
    visual : list of tuple of int
        Of each decoder layer, the visual tokens of each prompt that it saw.
    tokens : list of tuple of int
        The same of all tokens that are no padding.
    notes : list of str
        What the user must know of what the method did, or could not do: warnings of a report.
    slots : Tensor of int64 [B, n], optional
        Of each row of the logits, its place in the prompt; -1 for padding.
    merged : dict, prompt -> set of int
        Visual tokens that got other features than their own.
    offers : list of OfferedAnswer
        Of each prompt, where a method makes any; else empty.
    """

    before: tuple[int, ...]
    length: int
    choices: dict[int, list[TokenChoice]] = field(default_factory=dict)
    visual: list[tuple[int, ...]] = field(default_factory=list)
    tokens: list[tuple[int, ...]] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)
    slots: Tensor | None = None
    merged: dict[int, set[int]] = field(default_factory=dict)
    offers: list[OfferedAnswer] = field(default_factory=list)

    def kept(self, sample: int = 0) -> Tensor | None:
        """Numbers of the tokens that the last layer saw; None where nothing was chosen."""
        return self.choices[max(self.choices)][sample].keep.sort().values if self.choices else None

    def whole(self, sample: int = 0) -> int:
        """Tokens of a prompt before any was taken out, padding left out."""
        return self.tokens[0][sample] + self.before[sample] - self.visual[0][sample]

    def retention(self, sample: int = 0) -> float:
        """Mean over the layers of the share of visual tokens; NaN for a prompt without any.

        Source: methods/prune-evaluation.md, section 6.
        """
        if not self.before[sample]:
            return math.nan
        return sum(layer[sample] for layer in self.visual) / (len(self.visual) * self.before[sample])


@dataclass(slots=True)
class PruneTrace:
    """All that a ``prune`` block did: one ``Prefill`` for each call with visual tokens."""

    prefills: list[Prefill] = field(default_factory=list)

    @property
    def last(self) -> Prefill:
        return self.prefills[-1]

    @property
    def notes(self) -> tuple[str, ...]:
        """Those of all calls, each once."""
        return tuple(dict.fromkeys(note for prefill in self.prefills for note in prefill.notes))
