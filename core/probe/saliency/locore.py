"""LocoRE: the row of the next token attends more to the few output tokens just before it.

Specification: methods/lvlms-saliency.md, section 3.4. The paper has no code, and says two things of where the gain
acts; the window is nowhere given.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor

LocoreMode = Literal["renorm", "post", "pre"]


@dataclass(frozen=True, slots=True)
class Locore:
    """How much, how far back, and where the gain acts.

    Parameters
    ----------
    beta : float
        Gain is 1 + beta.
    window : int
        Keys j with P - j <= window are in it.
    mode : {"renorm", "post", "pre"}
        On the attention, whose rows sum to 1 again; on the attention alone; on the logits.
    layers : tuple of int
        Empty: all.
    """

    beta: float = 0.15
    window: int = 10
    mode: LocoreMode = "renorm"
    layers: tuple[int, ...] = ()

    def gain(self, position: int, start: int) -> Tensor:
        """Of keys 0 to ``position``, the newest token, [P + 1] float64.

        Parameters
        ----------
        position : int
            P.
        start : int
            First key behind the image. P itself is outside J_P = [start, P), as in the paper.
        """
        keys = torch.arange(position + 1)
        inside = (keys >= start) & (keys < position) & (position - keys <= self.window)
        return torch.where(inside, 1 + self.beta, 1.0).double()

    def attention(self, scores: Tensor, gain: Tensor) -> Tensor:
        """Logits [..., P + 1], masked and scaled, as the attention that multiplies the values."""
        gain = gain.to(scores)
        if self.mode == "renorm":  # the same as A * g over its sum; fuses into any kernel as a bias
            return (scores + gain.log()).softmax(-1)
        if self.mode == "post":
            return scores.softmax(-1) * gain
        return (scores * gain).softmax(-1)
