"""What every pooling is: a module that makes one vector of the tokens of a picture, and shows where it looks."""

from __future__ import annotations

from abc import ABC, abstractmethod
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from . import POOLINGS


@dataclass(frozen=True, slots=True)
class TokenShape:
    """What a pooling is made for.

    Parameters
    ----------
    width : int
        C, channels of a token.
    tokens : int
        N, tokens of a picture.
    grid : (h, w) or None
        Rows and columns of the tokens; None: they are no grid (a class token is among them).
    queries, d_out : int
        M and C / C' of ``ep``.
    """

    width: int
    tokens: int
    grid: tuple[int, int] | None = None
    queries: int = 32
    d_out: int = 1


class Pooling(nn.Module, ABC):
    """Tokens [B, N, C] to one vector each, [B, out_width].

    Attributes
    ----------
    out_width : int
        C' of ``ep``, C of all others.
    heads : int
        Of its attention; 0 where it has none.
    paper_heads : int
        How many the paper has; fewer are taken where they do not divide the width. 0: any number will do.
    """

    heads = 0
    paper_heads = 0

    def __init__(self, shape: TokenShape) -> None:
        super().__init__()
        self.out_width = shape.width

    @abstractmethod
    def forward(self, x: Tensor) -> Tensor:
        """Tokens [B, N, C] to [B, out_width]."""

    def maps(self, x: Tensor) -> Tensor | None:
        """How much each query or head takes of each token, [B, M, N]; None where the pooling has no such thing."""
        return None


def pooling_of(name: str, shape: TokenShape) -> Pooling:
    """A pooling with new weights, of torch's own generator. Raises ``ValueError`` where it cannot be of that shape."""
    made: Pooling = POOLINGS[name].load()(shape)
    return made


def fitting_heads(width: int, wanted: int) -> int:
    """The largest number of heads up to ``wanted`` that divides ``width``: reports say which it was."""
    return next(heads for heads in range(min(wanted, width), 0, -1) if width % heads == 0)


def split(x: Tensor, heads: int) -> Tensor:
    """[B, L, H d] to [B, H, L, d]."""
    return x.view(*x.shape[:-1], heads, -1).transpose(1, 2)


def joined(x: Tensor) -> Tensor:
    """[B, H, L, d] to [B, L, H d]."""
    return x.transpose(1, 2).flatten(2)


def weights(q: Tensor, k: Tensor) -> Tensor:
    """softmax over tokens of q kᵀ / sqrt(d): [B, H, Lq, d] and [B, H, N, d] to [B, H, Lq, N]."""
    return torch.softmax(q @ k.mT * q.shape[-1] ** -0.5, -1)


class WideMlp(nn.Module):
    """C -> 4 C -> C with GELU."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.fc1, self.fc2 = nn.Linear(width, 4 * width), nn.Linear(4 * width, width)

    def forward(self, x: Tensor) -> Tensor:
        out: Tensor = self.fc2(F.gelu(self.fc1(x)))
        return out
