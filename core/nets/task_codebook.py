"""Task-conditioned codebook: a bottleneck that turns what an agent sees into a convex mix of a few learned codes.

Paper: "Selective Visual Representations Improve Convergence and Generalization for Embodied AI", ICLR 2024,
arXiv 2311.04193. Specification: methods/embodied-codebook.md, sections 3.1 to 3.3; step numbers are its numbers.
"""

from __future__ import annotations

import math
from typing import Literal, NamedTuple

import torch
from torch import Tensor, nn
from torch.nn import functional as F

Index = Literal["softmax", "topk_softmax", "gumbel_softmax"]
Kind = Literal["learned", "random", "binary"]


class Filtered(NamedTuple):
    """What a codebook makes of embeddings of any leading shape.

    Parameters
    ----------
    embedding : Tensor [..., in_dim]
        What goes on, of the same width as what came.
    probs : Tensor of float32 [..., codes]
        The whole softmax, before dropout and before the largest are chosen: what diagnostics read.
    code : Tensor [..., code_dim]
        The mix of codes.
    """

    embedding: Tensor
    probs: Tensor
    code: Tensor


class TaskCodebook(nn.Module):
    """Section 3.2: index, mix, widen again. No skip connection; a convex mix in evaluation alone.

    Parameters
    ----------
    in_dim : int
        Width of what is filtered, and of what comes out.
    codes, code_dim : int
        K codes of D_c numbers.
    dropout : float
        Share of probabilities set to zero while training; the rest is divided by what is left of 1, not to sum 1.
    index : {"softmax", "topk_softmax", "gumbel_softmax"}
        ``topk_softmax`` mixes the ``topk`` largest, which then do not sum to 1. ``gumbel_softmax`` takes one code:
        drawn while training (straight-through, no dropout), the most likely in evaluation, where the official code
        still draws.
    kind : {"learned", "random", "binary"}
        ``random`` codes stay as they began; of ``binary`` ones the signs of the start count. Neither has a gradient.
    topk : int
    tau : float
        Temperature of ``gumbel_softmax``.
    renorm : bool
        Divide what is mixed by its sum; ours.

    Raises
    ------
    ValueError
        If a size is not positive, ``topk`` is more than the codes, or ``dropout`` is not in [0, 1).
    """

    def __init__(
        self, in_dim: int, codes: int = 256, code_dim: int = 10, dropout: float = 0.1, index: Index = "softmax",
        kind: Kind = "learned", topk: int = 16, tau: float = 1.0, renorm: bool = False,
    ) -> None:  # fmt: skip
        super().__init__()
        if min(in_dim, codes, code_dim, topk) < 1 or not 0 <= dropout < 1 or tau <= 0:
            raise ValueError("widths, codes and topk must be 1 or more, dropout in [0, 1), tau above 0")
        if index == "topk_softmax" and topk > codes:
            raise ValueError(f"topk {topk} is more than the {codes} codes")
        self.index, self.kind, self.topk, self.tau = index, kind, topk, tau
        self.dropout, self.renorm = dropout, renorm
        self.indexer = nn.Linear(in_dim, codes)
        self.codes = nn.Parameter(torch.randn(codes, code_dim), requires_grad=kind == "learned")
        self.widen = nn.Linear(code_dim, in_dim)

    def table(self) -> Tensor:
        """The codes that are mixed [K, D_c]."""
        if self.kind == "binary":
            return torch.where(self.codes > 0, 1.0, -1.0).to(self.codes.dtype)
        return self.codes

    def scores(self, embedding: Tensor) -> Tensor:
        """Step 1, float32 logits [..., K]: the negative parts of the embedding are not seen."""
        logits: Tensor = self.indexer(F.relu(embedding))
        return logits.to(torch.promote_types(logits.dtype, torch.float32))

    def mixed(self, probs: Tensor, keep: Tensor | None = None) -> Tensor:
        """Step 3 and the choice of the largest: weights of the codes [..., K].

        Parameters
        ----------
        probs : Tensor [..., K]
        keep : Tensor of bool [..., K], optional
            The probabilities that dropout leaves, instead of drawn ones.
        """
        if keep is not None:
            probs = probs * keep / (1 - self.dropout)
        elif self.training:
            probs = F.dropout(probs, self.dropout)
        if self.index == "topk_softmax":
            value, place = probs.topk(self.topk)
            probs = torch.zeros_like(probs).scatter(-1, place, value)
        if self.renorm:  # where dropout left nothing, nothing is mixed
            probs = probs / probs.sum(-1, keepdim=True).clamp_min(torch.finfo(probs.dtype).tiny)
        return probs

    def one_code(self, scores: Tensor) -> Tensor:
        """``gumbel_softmax``: weights of one code each [..., K]."""
        if self.training:
            return F.gumbel_softmax(scores, self.tau, hard=True)
        return F.one_hot(scores.argmax(-1), scores.shape[-1]).to(scores.dtype)

    def filtered(self, embedding: Tensor, keep: Tensor | None = None) -> Filtered:
        """Steps 1 to 5 of embeddings [..., in_dim]; ``keep`` as in ``mixed``."""
        scores = self.scores(embedding)  # [..., K]
        probs = scores.softmax(-1)
        weights = self.one_code(scores) if self.index == "gumbel_softmax" else self.mixed(probs, keep)
        code = weights.to(self.codes.dtype) @ self.table()  # [..., D_c]
        return Filtered(self.widen(code), probs, code)

    def forward(self, embedding: Tensor) -> Tensor:
        """Embeddings [..., in_dim] to filtered ones of the same shape."""
        return self.filtered(embedding).embedding

    def decoded(self) -> Tensor:
        """What each code alone becomes [K, in_dim]: a query into the space of embeddings (section 3.4)."""
        wide: Tensor = self.widen(self.table())
        return wide


class GoalEncoder(nn.Module):
    """Section 3.1, steps 2 to 4: a frozen model's feature map, narrowed and joined with the goal.

    Parameters
    ----------
    channels : int
        Of the feature map.
    goal : Module
        Goals, as they come, to vectors [..., goal_dim]: an embedding of their numbers, or of their words.
    goal_dim : int
    compressor, combiner : (int, int)
        Channels of the two 1 x 1 convolutions of each.
    """

    def __init__(
        self, channels: int, goal: nn.Module, goal_dim: int = 32, compressor: tuple[int, int] = (128, 32),
        combiner: tuple[int, int] = (128, 32),
    ) -> None:  # fmt: skip
        super().__init__()
        self.goal = goal
        first, second = compressor
        self.compressor = nn.Sequential(
            nn.Conv2d(channels, first, 1), nn.ReLU(), nn.Conv2d(first, second, 1), nn.ReLU()
        )
        first, last = combiner
        self.combiner = nn.Sequential(nn.Conv2d(second + goal_dim, first, 1), nn.ReLU(), nn.Conv2d(first, last, 1))

    def forward(self, features: Tensor, goal: Tensor) -> Tensor:
        """Features [..., c, h, w] and goals int64 [...], or [..., words], to embeddings [..., last * h * w], flattened
        channel first."""
        lead, (height, width) = features.shape[:-3], features.shape[-2:]
        count = math.prod(lead)
        seen = self.compressor(features.reshape(count, *features.shape[-3:]))
        wanted = self.goal(goal.reshape(count, *goal.shape[len(lead) :]))[..., None, None].expand(-1, -1, height, width)
        joined: Tensor = self.combiner(torch.cat([seen, wanted], 1))
        return joined.reshape(*lead, -1)


def action_index(previous: Tensor, mask: Tensor) -> Tensor:
    """Section 3.1, step 5: 0 where an episode begins (``mask`` 0 at the same step), else the action before plus 1."""
    return torch.where(mask > 0, previous + 1, torch.zeros_like(previous))
