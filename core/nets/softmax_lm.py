"""A plain transformer language model with softmax attention: what TNL is compared with.

RMSNorm with gains (arXiv 1910.07467), rotary positions (arXiv 2104.09864), SwiGLU (arXiv 2002.05202), no biases, the
head not tied to the embedding: the layers of Llama (arXiv 2302.13971), whose weights fit it one by one. The form of
the call is ``tnl.TNL``'s.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from ..attention.dense import sdpa
from ..attention.equations import accumulator


class KeyValues(NamedTuple):
    """What one layer remembers: ``k`` and ``v`` [B, H, C, d] with room for C tokens, of which ``length`` are seen.

    A continuation writes behind ``length``: of two continuations of one state the second overwrites the first.
    """

    k: Tensor
    v: Tensor
    length: int

    @property
    def nbytes(self) -> int:
        """Of the tokens seen."""
        return 2 * self.k[:, :, : self.length].numel() * self.k.element_size()

    def append(self, k: Tensor, v: Tensor) -> KeyValues:
        """With the keys and values of further tokens; room is doubled where there is none."""
        end = self.length + k.shape[2]
        parts = self.k, self.v
        if end > self.k.shape[2]:
            parts = tuple(x.new_empty(*x.shape[:2], 2 * end, x.shape[3]) for x in (k, v))  # type: ignore[assignment]
            for new, old in zip(parts, (self.k, self.v), strict=True):
                new[:, :, : self.length] = old[:, :, : self.length]
        for kept, more in zip(parts, (k, v), strict=True):
            kept[:, :, self.length : end] = more
        return KeyValues(*parts, end)


def rotary(x: Tensor, start: int, theta: float) -> Tensor:
    """Rotary positions, channel c with c + d/2, of x [B, H, L, d] whose first token is at ``start``; angles float32."""
    half = x.shape[-1] // 2
    wide = accumulator(x.dtype)
    rate = theta ** (-torch.arange(half, device=x.device, dtype=wide) / half)
    angle = torch.arange(start, start + x.shape[2], device=x.device, dtype=wide)[:, None] * rate  # [L, d/2]
    cos, sin = angle.cos().to(x.dtype), angle.sin().to(x.dtype)
    a, b = x[..., :half], x[..., half:]
    return torch.cat([a * cos - b * sin, b * cos + a * sin], dim=-1)


class SoftmaxBlock(nn.Module):
    """x <- x + attention(norm(x)); x <- x + SwiGLU(norm(x)). Arguments as ``SoftmaxLM``'s."""

    def __init__(self, dim: int, num_heads: int, hidden_dim: int, rope_theta: float = 1e4) -> None:
        super().__init__()
        if dim % (2 * num_heads):
            raise ValueError(f"{num_heads} heads of an even width do not make {dim}; choose a multiple of twice that.")
        self.num_heads, self.rope_theta = num_heads, rope_theta
        self.attention_norm, self.mlp_norm = nn.RMSNorm(dim, eps=1e-6), nn.RMSNorm(dim, eps=1e-6)
        self.qkv, self.out = nn.Linear(dim, 3 * dim, bias=False), nn.Linear(dim, dim, bias=False)
        self.gate, self.up = nn.Linear(dim, hidden_dim, bias=False), nn.Linear(dim, hidden_dim, bias=False)
        self.down = nn.Linear(hidden_dim, dim, bias=False)

    def forward(self, x: Tensor, *, state: KeyValues | None = None) -> tuple[Tensor, KeyValues]:
        """x [B, L, dim] -> x [B, L, dim] and the keys and values up to its last token."""
        heads = self.qkv(self.attention_norm(x)).unflatten(-1, (3, self.num_heads, -1))  # [B, L, 3, H, d]
        q, k, v = heads.permute(2, 0, 3, 1, 4)
        seen = 0 if state is None else state.length
        q, k = rotary(q, seen, self.rope_theta), rotary(k, seen, self.rope_theta)
        state = KeyValues(k, v, x.shape[1]) if state is None else state.append(k, v)
        out = sdpa(q, state.k[:, :, : state.length], state.v[:, :, : state.length], causal=True)
        x = x + self.out(out.transpose(1, 2).flatten(2))
        normed = self.mlp_norm(x)
        return x + self.down(F.silu(self.gate(normed)) * self.up(normed)), state


class SoftmaxLM(nn.Module):
    """Tokens int64 [B, L] -> logits [B, L, vocabulary] and the keys and values of each layer.

    Parameters
    ----------
    vocab_size, dim, num_layers, num_heads : int
        ``dim`` is a multiple of twice ``num_heads``.
    hidden_dim : int
        Channels inside each SwiGLU.
    rope_theta : float
        Base of the rotation of positions.

    Examples
    --------
    >>> import torch
    >>> model = SoftmaxLM(50, 32, 2, 4, hidden_dim=88)
    >>> logits, states = model(torch.randint(50, (1, 10)))
    >>> more, states = model(torch.randint(50, (1, 1)), states=states)
    >>> more.shape, states[0].length
    (torch.Size([1, 1, 50]), 11)
    """

    def __init__(
        self, vocab_size: int, dim: int, num_layers: int, num_heads: int, *, hidden_dim: int, rope_theta: float = 1e4
    ) -> None:
        super().__init__()
        self.embedding = nn.Embedding(vocab_size, dim)
        self.blocks = nn.ModuleList(SoftmaxBlock(dim, num_heads, hidden_dim, rope_theta) for _ in range(num_layers))
        self.norm = nn.RMSNorm(dim, eps=1e-6)
        self.head = nn.Linear(dim, vocab_size, bias=False)
        self.reset_parameters()

    @torch.no_grad()
    def reset_parameters(self) -> None:
        """Outputs of unit size; what is added to the residual stream smaller, by how much is added."""
        for name, parameter in self.named_parameters():
            if parameter.ndim == 2:
                std = 1.0 if name == "embedding.weight" else parameter.shape[1] ** -0.5
                deep = name.endswith(("out.weight", "down.weight"))
                parameter.normal_(0, std / (2 * len(self.blocks)) ** 0.5 if deep else std)

    def forward(self, tokens: Tensor, *, states: list[KeyValues] | None = None) -> tuple[Tensor, list[KeyValues]]:
        """``states``: of the tokens before, to go on decoding."""
        x, last = self.embedding(tokens), []
        for i, block in enumerate(self.blocks):
            x, state = block(x, state=None if states is None else states[i])
            last.append(state)
        return self.head(self.norm(x)), last
