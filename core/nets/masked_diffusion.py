"""A small masked diffusion language model: a bidirectional transformer that names what is masked.

Specification: methods/igpo.md, sections 5 and 10 (pre-LN blocks, learned positions, exact GELU, an untied head).
"""

from __future__ import annotations

from dataclasses import dataclass

from torch import Tensor, nn
from torch.nn import functional as F


@dataclass(frozen=True, slots=True)
class MaskedDiffusionShape:
    """Sizes of the network.

    Parameters
    ----------
    vocabulary, width, heads, layers, positions : int
    expansion : int
        Width of the MLP as a multiple of ``width``.
    """

    vocabulary: int
    width: int
    heads: int
    layers: int
    positions: int
    expansion: int = 4


class MaskedDiffusionTransformer(nn.Module):
    """Tokens to the logits of every position, each of which sees all others.

    Parameters
    ----------
    shape : MaskedDiffusionShape
    """

    def __init__(self, shape: MaskedDiffusionShape) -> None:
        super().__init__()
        self.shape = shape
        width, layers, hidden = shape.width, range(shape.layers), shape.expansion * shape.width
        self.emb, self.pos = nn.Embedding(shape.vocabulary, width), nn.Embedding(shape.positions, width)
        self.ln1, self.ln2 = (nn.ModuleList(nn.LayerNorm(width) for _ in layers) for _ in range(2))
        self.qkv = nn.ModuleList(nn.Linear(width, 3 * width) for _ in layers)
        self.o = nn.ModuleList(nn.Linear(width, width) for _ in layers)
        self.fc = nn.ModuleList(nn.Linear(width, hidden) for _ in layers)
        self.pr = nn.ModuleList(nn.Linear(hidden, width) for _ in layers)
        self.lnf, self.head = nn.LayerNorm(width), nn.Linear(width, shape.vocabulary)

    def forward(self, tokens: Tensor, positions: Tensor | None = None) -> Tensor:
        """Logits [B, K, vocabulary] at ``positions`` int64 [K] (default: all L) of ``tokens`` int64 [B, L]."""
        x = self.emb(tokens) + self.pos.weight[: tokens.shape[1]]
        for ln1, qkv, o, ln2, fc, pr in zip(self.ln1, self.qkv, self.o, self.ln2, self.fc, self.pr, strict=True):
            heads = (part.unflatten(-1, (self.shape.heads, -1)).transpose(1, 2) for part in qkv(ln1(x)).chunk(3, -1))
            x = x + o(F.scaled_dot_product_attention(*heads).transpose(1, 2).flatten(-2))
            x = x + pr(F.gelu(fc(ln2(x))))
        if positions is not None:
            x = x[:, positions]
        logits: Tensor = self.head(self.lnf(x))
        return logits
