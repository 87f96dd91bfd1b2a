"""The lightning indexer of DeepSeek Sparse Attention: who computes the index queries, keys and weights, and the score.

Specification: methods/hisa.md, sections 3.1, 3.2 and 3.5; step numbers are those of 3.1. DeepSeek-V3.2-Exp (2025).
"""

from __future__ import annotations

from typing import Literal, NamedTuple

import torch
from torch import Tensor, nn

from ..equations import accumulator

Quant = Literal["none", "fp8", "fp8-ue8m0"]
QUANTS = ("none", "fp8", "fp8-ue8m0")
FP8_MAX = 448.0  # largest finite e4m3 value; a cast of anything above gives NaN


class IndexOperands(NamedTuple):
    """What the score needs per token: queries [T, H, d], one shared key [T, d], head weights [T, H], may be < 0."""

    q: Tensor
    k: Tensor
    weights: Tensor


def quantise_fp8(x: Tensor, *, ue8m0: bool = False, smallest: float = 1e-4 / FP8_MAX) -> tuple[Tensor, Tensor]:
    """Step 4. Round to e4m3 with one scale for each 128 channels.

    Parameters
    ----------
    x : Tensor [..., d]
    ue8m0 : bool
        Round the scale up to a power of two.
    smallest : float
        Lower bound of the scale.

    Returns
    -------
    values : Tensor [..., d], dtype of ``x``
        Exactly representable in e4m3; ``values * scale`` approximates ``x``.
    scale : Tensor [..., d], dtype of ``x``
    """
    scale = torch.empty_like(x)
    for start in range(0, x.shape[-1], 128):
        part = x[..., start : start + 128]
        amax = part.abs().amax(-1, keepdim=True)
        scale[..., start : start + 128] = (amax / FP8_MAX).clamp_min(smallest)
    if ue8m0:
        scale = torch.exp2(scale.log2().ceil())
    values = (x / scale).clamp(-FP8_MAX, FP8_MAX)
    return values.to(torch.float32).to(torch.float8_e4m3fn).to(x.dtype), scale


def fake_quantise(x: Tensor, quant: Quant) -> Tensor:
    """``x`` as the score sees it after quantisation: unchanged for "none"; shape and dtype of ``x``."""
    if quant not in QUANTS:
        raise ValueError(f"quant is one of {', '.join(QUANTS)}, not {quant!r}.")
    if quant == "none":
        return x
    values, scale = quantise_fp8(x, ue8m0=quant == "fp8-ue8m0")
    return values * scale


def rotate(x: Tensor, cos: Tensor, sin: Tensor, *, interleaved: bool = False) -> Tensor:
    """Step 2. RoPE on the first d_r channels of ``x`` [..., d]; ``cos``, ``sin`` broadcast to [..., d_r].

    Half-split: channel i turns with i + d_r/2, and the two halves of cos and sin are equal. Interleaved: 2i with 2i + 1
    by the angle i; the wrong one silently spoils the selection over long ranges (specification, 9.1).
    """
    dim = cos.shape[-1]
    turned, kept = x[..., :dim], x[..., dim:]
    if interleaved:
        a, b = turned[..., 0::2], turned[..., 1::2]
        c, s = cos[..., : dim // 2], sin[..., : dim // 2]
        turned = torch.stack((a * c - b * s, b * c + a * s), -1).flatten(-2)
    else:
        a, b = turned.chunk(2, -1)
        turned = turned * cos + torch.cat((-b, a), -1) * sin
    return torch.cat((turned, kept), -1)


def hadamard(x: Tensor) -> Tensor:
    """Step 3. The orthogonal Walsh-Hadamard transform of the last axis, whose length is a power of two."""
    dim = x.shape[-1]
    if dim & (dim - 1):
        raise ValueError(f"The Hadamard rotation needs a power of two of channels, not {dim}. Pass hadamard=False.")
    out = x[..., None]  # [..., n, m]: n pairs left to combine, m channels done
    while out.shape[-2] > 1:
        a, b = out[..., 0::2, :], out[..., 1::2, :]
        out = torch.cat((a + b, a - b), -1)
    scaled: Tensor = out[..., 0, :] * dim**-0.5
    return scaled


class LightningIndexer(nn.Module):
    """Section 3.1: index queries, keys and weights from hidden states.

    Parameters
    ----------
    hidden, q_lora : int
        Widths of the hidden state and of the normalised query residual of latent attention.
    num_heads, head_dim : int
        H_I and d_I; 64 and 128 in DeepSeek-V3.2.
    interleaved : bool
        Layout of the rotation, see ``rotate``.
    rotate_hadamard : bool
        Spread outliers before the quantisation; without one the scores do not change.
    quant : {"none", "fp8", "fp8-ue8m0"}
        How queries and keys are rounded.

    References
    ----------
    methods/hisa.md, section 3.1.
    """

    def __init__(
        self,
        hidden: int,
        q_lora: int,
        *,
        num_heads: int = 64,
        head_dim: int = 128,
        interleaved: bool = False,
        rotate_hadamard: bool = False,
        quant: Quant = "none",
    ) -> None:
        super().__init__()
        self.num_heads, self.head_dim = num_heads, head_dim
        self.interleaved, self.rotate_hadamard, self.quant = interleaved, rotate_hadamard, quant
        self.wq_b = nn.Linear(q_lora, num_heads * head_dim, bias=False)
        self.wk = nn.Linear(hidden, head_dim, bias=False)
        self.k_norm = nn.LayerNorm(head_dim, eps=1e-6)
        self.weights_proj = nn.Linear(hidden, num_heads, bias=False)

    def forward(self, x: Tensor, q_resid: Tensor, cos: Tensor, sin: Tensor) -> IndexOperands:
        """Steps 1-5.

        Parameters
        ----------
        x, q_resid : Tensor [T, hidden], [T, q_lora]
        cos, sin : Tensor [T, d_r]
            Rotation of each position; d_r <= head_dim.

        Returns
        -------
        IndexOperands, whose weights carry H_I^-0.5 and d_I^-0.5.
        """
        q = self.wq_b(q_resid).view(-1, self.num_heads, self.head_dim)  # [T, H, d]
        k = self.k_norm(self.wk(x))  # [T, d]
        q = rotate(q, cos[:, None], sin[:, None], interleaved=self.interleaved)
        k = rotate(k, cos, sin, interleaved=self.interleaved)
        if self.rotate_hadamard:
            q, k = hadamard(q), hadamard(k)
        q, k = fake_quantise(q, self.quant), fake_quantise(k, self.quant)
        return IndexOperands(q, k, self.weights_proj(x) * (self.num_heads * self.head_dim) ** -0.5)


def index_scores(q: Tensor, k: Tensor, weights: Tensor) -> Tensor:
    """Section 3.2: sum_h w(t, h) max(0, q(t, h) . k(s)).

    Parameters
    ----------
    q : Tensor [..., M, H, d]
    k : Tensor [..., T, d]
    weights : Tensor [..., M, H]

    Returns
    -------
    Tensor [..., M, T], float32, or float64 when asked for.
    """
    dtype = accumulator(q.dtype)
    dots = q.to(dtype).flatten(-3, -2) @ k.to(dtype).mT  # [..., M * H, T]
    dots = dots.relu_().view(*dots.shape[:-2], *q.shape[-3:-1], dots.shape[-1])  # [..., M, H, T]
    scores: Tensor = (weights.to(dtype).unsqueeze(-2) @ dots).squeeze(-2)
    return scores


def head_weights(q: Tensor) -> Tensor:
    """Section 3.4: weights 1/H of index queries [..., H, d] without an index branch, in the dtype of their scores."""
    return q.new_full(q.shape[:-1], 1 / q.shape[-2], dtype=accumulator(q.dtype))


def index_iou(a: Tensor, b: Tensor) -> Tensor:
    """Section 3.5: |A and B| / |A or B| of two selections per query.

    Parameters
    ----------
    a, b : Tensor int [..., k]
        Distinct token indices; negative entries are none. The number of entries may differ.

    Returns
    -------
    Tensor float64 [...]; 1 where both are empty.
    """
    both = torch.cat((a, b), -1).sort(-1).values
    equal = ((both[..., 1:] == both[..., :-1]) & (both[..., 1:] >= 0)).sum(-1).double()
    either = (both >= 0).sum(-1) - equal
    return torch.where(either > 0, equal / either.clamp_min(1), 1.0)
