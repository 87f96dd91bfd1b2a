"""Poolings that are blocks of a transformer.

Specification: methods/efficient-probing.md, section 3.5 (``clip``, ``cait``, ``dinovit``, ``jepa``).
"""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from .contract import Pooling, TokenShape, WideMlp, fitting_heads, joined, split, weights


class ClipPooling(Pooling):
    """CLIP's attention pooling: the mean of LN(X) is put in front, positions are added, and that token attends."""

    paper_heads = 4

    def __init__(self, shape: TokenShape) -> None:
        super().__init__(shape)
        width = shape.width
        self.heads = fitting_heads(width, self.paper_heads)
        self.norm = nn.LayerNorm(width, eps=1e-6)
        self.pos_embed = nn.Parameter(torch.empty(shape.tokens + 1, width))
        self.qkv, self.proj = nn.Linear(width, 3 * width), nn.Linear(width, width)
        for weight in (self.pos_embed, self.qkv.weight):
            nn.init.trunc_normal_(weight, std=width**-0.5)
        nn.init.zeros_(self.qkv.bias)

    def _attending(self, x: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Query of the first token alone, since no other is used; keys, values."""
        x = self.norm(x)
        x = torch.cat([x.mean(1, keepdim=True), x], 1) + self.pos_embed
        (q_weight, *kv_weights), (q_bias, *kv_biases) = self.qkv.weight.chunk(3), self.qkv.bias.chunk(3)
        q = F.linear(x[:, :1], q_weight, q_bias)
        k, v = F.linear(x, torch.cat(kv_weights), torch.cat(kv_biases)).chunk(2, -1)
        return split(q, self.heads), split(k, self.heads), split(v, self.heads)

    def forward(self, x: Tensor) -> Tensor:
        out: Tensor = self.proj(joined(F.scaled_dot_product_attention(*self._attending(x))))[:, 0]
        return out

    def maps(self, x: Tensor) -> Tensor:
        """What lies on the token of the mean is not shown."""
        q, k, _ = self._attending(x)
        return weights(q, k)[:, :, 0, 1:]


class ClassTokenAttention(nn.Module):
    """The class token attends to itself and to the patches."""

    def __init__(self, width: int, heads: int) -> None:
        super().__init__()
        self.heads = heads
        self.q, self.k, self.v, self.proj = (nn.Linear(width, width) for _ in range(4))

    def query_and_keys(self, u: Tensor) -> tuple[Tensor, Tensor]:
        return split(self.q(u[:, :1]), self.heads), split(self.k(u), self.heads)

    def forward(self, u: Tensor) -> Tensor:
        """[B, 1 + N, C], the class token first, to [B, 1, C]."""
        v = split(self.v(u), self.heads)
        out: Tensor = self.proj(joined(F.scaled_dot_product_attention(*self.query_and_keys(u), v)))
        return out


class ClassAttentionBlock(nn.Module):
    """cls += g1 CA(LN([cls; X])); cls += g2 MLP(LN(cls)), with LayerScale g from 1e-5."""

    def __init__(self, width: int, heads: int) -> None:
        super().__init__()
        self.gamma_1, self.gamma_2 = (nn.Parameter(torch.full((width,), 1e-5)) for _ in range(2))
        # eps as the golden vectors have it; section 3.5 says 1e-5
        self.norm1, self.attn = nn.LayerNorm(width, eps=1e-6), ClassTokenAttention(width, heads)
        self.norm2, self.mlp = nn.LayerNorm(width, eps=1e-6), WideMlp(width)

    def forward(self, cls: Tensor, x: Tensor) -> Tensor:
        cls = cls + self.gamma_1 * self.attn(self.norm1(torch.cat([cls, x], 1)))
        out: Tensor = cls + self.gamma_2 * self.mlp(self.norm2(cls))
        return out


class CaitPooling(Pooling):
    """CaiT: one block of class attention, and a last norm."""

    paper_heads = 4

    def __init__(self, shape: TokenShape) -> None:
        super().__init__(shape)
        self.heads = fitting_heads(shape.width, self.paper_heads)
        self.cls_token = nn.Parameter(torch.empty(1, 1, shape.width))
        nn.init.trunc_normal_(self.cls_token, std=0.02)
        self.blocks_token_only = nn.ModuleList([ClassAttentionBlock(shape.width, self.heads)])
        self.norm = nn.LayerNorm(shape.width)

    def forward(self, x: Tensor) -> Tensor:
        cls = self.cls_token.expand(len(x), -1, -1)
        out: Tensor = self.norm(self.blocks_token_only[0](cls, x)[:, 0])
        return out

    def maps(self, x: Tensor) -> Tensor:
        """What lies on the class token is not shown."""
        block = self.blocks_token_only[0]
        assert isinstance(block, ClassAttentionBlock)
        u = block.norm1(torch.cat([self.cls_token.expand(len(x), -1, -1), x], 1))
        return weights(*block.attn.query_and_keys(u))[:, :, 0, 1:]


class JoinedSelfAttention(nn.Module):
    """One matrix for queries, keys and values, without a bias; the output projection has one."""

    def __init__(self, width: int, heads: int) -> None:
        super().__init__()
        self.heads = heads
        self.qkv, self.proj = nn.Linear(width, 3 * width, bias=False), nn.Linear(width, width)

    def forward(self, x: Tensor) -> Tensor:
        q, k, v = (split(part, self.heads) for part in self.qkv(x).chunk(3, -1))
        out: Tensor = self.proj(joined(F.scaled_dot_product_attention(q, k, v)))
        return out


class PlainBlock(nn.Module):
    """A pre-norm transformer block."""

    def __init__(self, width: int, heads: int) -> None:
        super().__init__()
        self.norm1, self.attn = nn.LayerNorm(width), JoinedSelfAttention(width, heads)
        self.norm2, self.mlp = nn.LayerNorm(width), WideMlp(width)

    def forward(self, x: Tensor) -> Tensor:
        x = x + self.attn(self.norm1(x))
        out: Tensor = x + self.mlp(self.norm2(x))
        return out


class BlockPooling(Pooling):
    """One more block of the encoder's kind, then the mean of the tokens."""

    paper_heads = 8

    def __init__(self, shape: TokenShape) -> None:
        super().__init__(shape)
        self.heads = fitting_heads(shape.width, self.paper_heads)
        self.dino_block = PlainBlock(shape.width, self.heads)

    def forward(self, x: Tensor) -> Tensor:
        out: Tensor = self.dino_block(x).mean(1)
        return out


class QueryAttention(nn.Module):
    """Cross-attention with biases everywhere."""

    def __init__(self, width: int, heads: int) -> None:
        super().__init__()
        self.heads = heads
        self.q, self.kv, self.proj = nn.Linear(width, width), nn.Linear(width, 2 * width), nn.Linear(width, width)

    def query_and_keys(self, query: Tensor, x: Tensor) -> tuple[Tensor, Tensor]:
        return split(self.q(query), self.heads), split(self.kv(x).chunk(2, -1)[0], self.heads)

    def forward(self, query: Tensor, x: Tensor) -> Tensor:
        k, v = (split(part, self.heads) for part in self.kv(x).chunk(2, -1))
        out: Tensor = self.proj(joined(F.scaled_dot_product_attention(split(self.q(query), self.heads), k, v)))
        return out


class QueryBlock(nn.Module):
    """q + XAttn(q, LN(X)), the query not normalised; then + MLP(LN(q))."""

    def __init__(self, width: int, heads: int) -> None:
        super().__init__()
        self.norm1, self.xattn = nn.LayerNorm(width), QueryAttention(width, heads)
        self.norm2, self.mlp = nn.LayerNorm(width), WideMlp(width)

    def forward(self, query: Tensor, x: Tensor) -> Tensor:
        query = query + self.xattn(query, self.norm1(x))
        out: Tensor = query + self.mlp(self.norm2(query))
        return out


class JepaPooling(Pooling):
    """V-JEPA's attentive probe: one query, one block."""

    paper_heads = 16

    def __init__(self, shape: TokenShape) -> None:
        super().__init__(shape)
        self.heads = fitting_heads(shape.width, self.paper_heads)
        self.query_tokens = nn.Parameter(torch.empty(1, 1, shape.width))
        nn.init.trunc_normal_(self.query_tokens, std=0.02)
        self.cross_attention_block = QueryBlock(shape.width, self.heads)
        block = self.cross_attention_block
        with torch.no_grad():
            for weight in (block.xattn.proj.weight, block.mlp.fc2.weight):
                weight.div_(2**0.5)

    def forward(self, x: Tensor) -> Tensor:
        out: Tensor = self.cross_attention_block(self.query_tokens.expand(len(x), -1, -1), x)[:, 0]
        return out

    def maps(self, x: Tensor) -> Tensor:
        block = self.cross_attention_block
        query = self.query_tokens.expand(len(x), -1, -1)
        return weights(*block.xattn.query_and_keys(query, block.norm1(x)))[:, :, 0]
