"""Filter2Noise's attention on the CPU: keys and values moved to mean 0, then the cheaper of two ways.

Specification: methods/filter2noise.md, section 3.3, steps 7 and 8. A fused kernel runs over the keys with everything
else in registers. A softmax does not change when all keys move by one vector, so keys are centred first: the logits
shrink by orders of magnitude for the nearly equal patches of a CT image. |q| max|k - mean| then bounds them tightly
enough to skip the search for each row's maximum, and where the bound is tiny a power series replaces the N^2
exponentials.
"""

from __future__ import annotations

import math
from typing import Any

import torch
from torch import Tensor

from . import attention_cpu as cpu
from .attention_series import LARGEST, attention_series

_LOG2_E = math.log2(math.e)
_BOUND = 30.0  # e^(-2 * 30) is still a normal float32, so the bound may replace the exact row maximum


def centred(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
    """As ``attention`` for q, k, v [B, N, 8]; moving keys and values to mean 0 changes nothing but the rounding."""
    q = q * q.shape[-1] ** -0.5
    k = k - k.detach().mean(1, keepdim=True)
    middle = v.detach().mean(1, keepdim=True)
    v = v - middle
    with torch.no_grad():
        longest = k.norm(dim=-1).amax(-1, keepdim=True)  # [B, 1]
        spread = (q - q.mean(1, keepdim=True)).norm(dim=-1).amax(-1, keepdim=True) * longest
        largest = spread.max().item() if spread.numel() else 0.0
        bound = q.norm(dim=-1) * longest  # [B, N], no logit is larger (Cauchy-Schwarz)
    for degree, limit in LARGEST.items():
        if largest <= limit:
            return attention_series(q, k, v, degree) + middle
    if bound.max().item() > _BOUND:
        bound = _row_maximum(q, k)
    out: Tensor = _FusedAttention.apply(q, k, v, bound)  # type: ignore[no-untyped-call]
    return out + middle


class _FusedAttention(torch.autograd.Function):
    """softmax(q k^T) v, logits at most ``bound`` [B, N]. Backward recomputes the probabilities from the rows' sums."""

    @staticmethod
    def forward(ctx: Any, q: Tensor, k: Tensor, v: Tensor, bound: Tensor) -> Tensor:
        q_t, k_t, v_t = (t.mT.contiguous() for t in (q * _LOG2_E, k, v))  # [B, 8, N]
        out_t, lse = torch.empty_like(v_t), torch.empty_like(bound)
        cpu.forward(*(t.numpy() for t in (q_t, k_t, v_t, bound * _LOG2_E, out_t, lse)))
        ctx.save_for_backward(q_t, k_t, v_t, out_t, lse)
        return out_t.mT

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, Tensor, Tensor, None]:  # type: ignore[override]
        q_t, k_t, v_t, out_t, lse = ctx.saved_tensors
        grad_t = grad.mT.contiguous()
        delta = (grad_t * out_t).sum(1)  # [B, N]
        grads = [torch.empty_like(q_t) for _ in range(3)]
        cpu.backward(*(t.detach().numpy() for t in (q_t, k_t, v_t, grad_t, lse, delta, *grads)))
        return grads[0].mT, grads[1].mT / _LOG2_E, grads[2].mT, None  # the keys met queries with log2 e in them


def _row_maximum(q: Tensor, k: Tensor) -> Tensor:
    """Exact largest logit of each row [B, N], 256 rows at a time; only needed when logits are large."""
    return torch.cat([(rows @ k.mT).amax(-1) for rows in torch.split(q, 256, 1)], 1)
