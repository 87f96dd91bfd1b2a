"""TSA: background features are tied to texts that say what is not there. methods/astigmatism.md, section 3.6."""

from __future__ import annotations

from typing import Literal

import torch
from torch import Tensor, nn
from torch.nn import functional as F

Denominator = Literal["all", "row", "symmetric"]


class TextAlignment(nn.Module):
    """Learned projections of background features and of texts into one space.

    Parameters
    ----------
    visual, text, shared : int
        Widths.
    """

    def __init__(self, visual: int, text: int, shared: int) -> None:
        super().__init__()
        self.visual = nn.Linear(visual, shared)
        self.text = nn.Linear(text, shared)

    def forward(self, visual: Tensor, text: Tensor) -> Tensor:
        """Cosines [K, K] of texts [K, Dt] with background features [n, Dv], recycled where there are fewer."""
        rows = visual[torch.arange(len(text), device=visual.device) % len(visual)]
        return F.normalize(self.visual(rows), dim=1) @ F.normalize(self.text(text), dim=1).T


def contrast(similarity: Tensor, *, temperature: float = 0.07, denominator: Denominator = "all") -> Tensor:
    """Contrastive loss of step 19.

    Parameters
    ----------
    similarity : Tensor [K, K]
        Pairs are on the diagonal.
    temperature : float
    denominator : {"all", "row", "symmetric"}
        Over which pairs the exponentials are summed: all, as the paper is noted to have it, whose least value depends
        on K; those of a row (InfoNCE); or the mean of that over rows and over columns.
    """
    logits = similarity / temperature
    if denominator == "all":
        return logits.flatten().logsumexp(0) - logits.diagonal().mean()
    rows = (logits.logsumexp(1) - logits.diagonal()).mean()
    if denominator == "row":
        return rows
    if denominator == "symmetric":
        return (rows + (logits.logsumexp(0) - logits.diagonal()).mean()) / 2
    raise ValueError(f"no denominator named {denominator!r}: all, row or symmetric")
