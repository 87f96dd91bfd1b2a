"""Poolings without learned queries: the mean of the tokens, or the mean token that asks.

Specification: methods/efficient-probing.md, section 3.5 (``gap``, ``simpool``, ``esimpool``).
"""

from __future__ import annotations

from torch import Tensor, nn
from torch.nn import functional as F

from .contract import Pooling, TokenShape, fitting_heads, joined, split, weights


class MeanPooling(Pooling):
    """The mean of the tokens; of a class token alone, that token."""

    def forward(self, x: Tensor) -> Tensor:
        return x.mean(1)


class SimPooling(Pooling):
    """SimPool: q = W_Q mean(X), K = W_K LN(X), V = LN(X); one head, no gamma, no biases."""

    heads = 1

    def __init__(self, shape: TokenShape) -> None:
        super().__init__(shape)
        self.norm_patches = nn.LayerNorm(shape.width, eps=1e-6)
        self.wq = nn.Linear(shape.width, shape.width, bias=False)
        self.wk = nn.Linear(shape.width, shape.width, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        normed = self.norm_patches(x)
        return F.scaled_dot_product_attention(self.wq(x.mean(1, keepdim=True)), self.wk(normed), normed)[:, 0]

    def maps(self, x: Tensor) -> Tensor:
        return weights(self.wq(x.mean(1, keepdim=True)), self.wk(self.norm_patches(x)))


class LeanSimPooling(Pooling):
    """SimPool without matrices: q = LN(mean(X)), K = LN(X), V = X; heads are groups of channels."""

    paper_heads = 12

    def __init__(self, shape: TokenShape) -> None:
        super().__init__(shape)
        self.heads = fitting_heads(shape.width, self.paper_heads)
        self.norm_patches = nn.LayerNorm(shape.width, eps=1e-6)

    def _asked(self, x: Tensor) -> tuple[Tensor, Tensor]:
        query = self.norm_patches(x.mean(1, keepdim=True))
        return split(query, self.heads), split(self.norm_patches(x), self.heads)

    def forward(self, x: Tensor) -> Tensor:
        return joined(F.scaled_dot_product_attention(*self._asked(x), split(x, self.heads)))[:, 0]

    def maps(self, x: Tensor) -> Tensor:
        return weights(*self._asked(x))[:, :, 0]
