"""Poolings by cross-attention: a learned query over the tokens.

Specification: methods/efficient-probing.md, section 3.5 (``aim``, ``siglip``, ``cae``, ``coca``).
"""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from .contract import Pooling, TokenShape, WideMlp, fitting_heads, joined, split, weights


class AimPooling(Pooling):
    """AIM: batch norm over all tokens, one query that is used as it is, W_K and W_V, no output projection."""

    paper_heads = 16

    def __init__(self, shape: TokenShape) -> None:
        super().__init__(shape)
        self.heads = fitting_heads(shape.width, self.paper_heads)
        self.cls_token = nn.Parameter(0.02 * torch.randn(1, 1, shape.width))
        self.k = nn.Linear(shape.width, shape.width, bias=False)
        self.v = nn.Linear(shape.width, shape.width, bias=False)
        self.bn = nn.BatchNorm1d(shape.width, eps=1e-6, affine=False)

    def _normed(self, x: Tensor) -> Tensor:
        """Over the B N tokens of the batch."""
        out: Tensor = self.bn(x.flatten(0, 1)).view_as(x)
        return out

    def _query(self, x: Tensor) -> Tensor:
        return split(self.cls_token.expand(len(x), -1, -1), self.heads)

    def forward(self, x: Tensor) -> Tensor:
        x = self._normed(x)
        k, v = (split(project(x), self.heads) for project in (self.k, self.v))
        return joined(F.scaled_dot_product_attention(self._query(x), k, v)).mean(1)

    def maps(self, x: Tensor) -> Tensor:
        return weights(self._query(x), split(self.k(self._normed(x)), self.heads)).mean(2)


class SiglipPooling(Pooling):
    """SigLIP's attention pooling: a latent query, then y = x + MLP(x) without a norm."""

    paper_heads = 8

    def __init__(self, shape: TokenShape) -> None:
        super().__init__(shape)
        width = shape.width
        self.heads = fitting_heads(width, self.paper_heads)
        self.latent = nn.Parameter(torch.empty(1, 1, width))
        self.q, self.kv, self.proj = nn.Linear(width, width), nn.Linear(width, 2 * width), nn.Linear(width, width)
        self.mlp = WideMlp(width)
        for weight in (self.latent, self.q.weight, self.kv.weight):
            nn.init.trunc_normal_(weight, std=width**-0.5)

    def _query(self, x: Tensor) -> Tensor:
        return split(self.q(self.latent.expand(len(x), -1, -1)), self.heads)

    def forward(self, x: Tensor) -> Tensor:
        k, v = (split(part, self.heads) for part in self.kv(x).chunk(2, -1))
        out = self.proj(joined(F.scaled_dot_product_attention(self._query(x), k, v))[:, 0])
        pooled: Tensor = out + self.mlp(out)
        return pooled

    def maps(self, x: Tensor) -> Tensor:
        return weights(self._query(x), split(self.kv(x).chunk(2, -1)[0], self.heads))[:, :, 0]


class PlainCrossAttention(nn.Module):
    """Projections without biases but for the last: what ``CaePooling`` calls ``cross_attn``."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.q, self.k, self.v = (nn.Linear(width, width, bias=False) for _ in range(3))
        self.proj = nn.Linear(width, width)


class CaePooling(Pooling):
    """CAE: a query that starts at zero; queries, keys and values are normalised by three norms; no residual."""

    paper_heads = 8

    def __init__(self, shape: TokenShape) -> None:
        super().__init__(shape)
        self.heads = fitting_heads(shape.width, self.paper_heads)
        self.query_token = nn.Parameter(torch.zeros(1, 1, shape.width))
        self.norm1_q, self.norm1_k, self.norm1_v = (nn.LayerNorm(shape.width) for _ in range(3))
        self.norm2_cross = nn.LayerNorm(shape.width)  # unused, as in the official code: its parameters are counted
        self.cross_attn = PlainCrossAttention(shape.width)

    def _query_and_keys(self, x: Tensor) -> tuple[Tensor, Tensor]:
        query = self.cross_attn.q(self.norm1_q(self.query_token)).expand(len(x), -1, -1)
        return split(query, self.heads), split(self.cross_attn.k(self.norm1_k(x)), self.heads)

    def forward(self, x: Tensor) -> Tensor:
        v = split(self.cross_attn.v(self.norm1_v(x)), self.heads)
        out: Tensor = self.cross_attn.proj(joined(F.scaled_dot_product_attention(*self._query_and_keys(x), v)))[:, 0]
        return out

    def maps(self, x: Tensor) -> Tensor:
        return weights(*self._query_and_keys(x))[:, :, 0]


class ScaleNorm(nn.Module):
    """Layer norm with a learned scale and no learned offset."""

    beta: Tensor

    def __init__(self, width: int) -> None:
        super().__init__()
        self.gamma = nn.Parameter(torch.ones(width))
        self.register_buffer("beta", torch.zeros(width))

    def forward(self, x: Tensor) -> Tensor:
        return F.layer_norm(x, x.shape[-1:], self.gamma, self.beta)


class CocaPooling(Pooling):
    """CoCa: 8 heads of 64 channels that share keys and values; of 196 queries the first is what is used."""

    heads = 8

    def __init__(self, shape: TokenShape) -> None:
        super().__init__(shape)
        inner = 64 * self.heads
        self.img_queries = nn.Parameter(torch.randn(196, shape.width))
        self.norm = ScaleNorm(shape.width)
        self.to_q = nn.Linear(shape.width, inner, bias=False)
        self.to_kv = nn.Linear(shape.width, 2 * 64, bias=False)
        self.to_out = nn.Linear(inner, shape.width, bias=False)

    def _query(self, x: Tensor) -> Tensor:
        query: Tensor = self.to_q(self.norm(self.img_queries[:1]))
        return query.view(1, self.heads, 64).expand(len(x), -1, -1)

    def forward(self, x: Tensor) -> Tensor:
        k, v = self.to_kv(x).chunk(2, -1)
        # the heads of the one query are so many queries of the one head of keys
        out: Tensor = self.to_out(F.scaled_dot_product_attention(self._query(x), k, v).flatten(1))
        return out

    def maps(self, x: Tensor) -> Tensor:
        return weights(self._query(x), self.to_kv(x).chunk(2, -1)[0])
