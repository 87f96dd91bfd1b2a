"""Lightning attention, block form and its gradient: methods/lightning.md, sections 3.2 and 3.3.

One sweep over the sequence computes everything. Forward it is the operator; its gradients are three sweeps of the same
kind (o is linear in each of q, k, v): dq from the left with v and k exchanged, dk and dv from the right.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from ...choose import Formulation, Phase
from ...first_order import first_order_only
from . import sweep_triton
from .sweep import decayed, sweep

BLOCK = (
    128  # tokens; fp32, D = 128, 32k tokens, CPU time: 64: 74 ms, 128: 87 ms, 256: 104 ms; a scan twice as long for 64
)
_PAST = 4096  # tokens at a time where only the state is wanted


SWEEP = Phase(
    "lightning attention",
    (
        Formulation(
            "chunks in parallel, Triton",
            "triton",
            "attn.core.attention.lightning.sweep_triton:sweep",
            sweep_triton.refuses,
        ),
        Formulation("band by band, torch", "torch", sweep),
    ),
)
"""``sweep(q, k, v, slope, state, block, reverse=False) -> out, last``, forward and for every gradient."""


class _LinearAttention(torch.autograd.Function):
    """The sweep with its gradient; keeps nothing but its inputs."""

    @staticmethod
    def forward(
        ctx: Any, q: Tensor, k: Tensor, v: Tensor, slope: Tensor, state: Tensor, block: int, backend: str
    ) -> tuple[Tensor, Tensor]:
        ctx.save_for_backward(q, k, v, slope, state)
        ctx.block, ctx.backend = block, backend
        result: tuple[Tensor, Tensor] = SWEEP(q, k, v, slope, state, block, backend=backend)
        return result

    @staticmethod
    @first_order_only
    def backward(ctx: Any, grad: Tensor, grad_last: Tensor) -> tuple[Tensor | None, ...]:
        q, k, v, slope, state = ctx.saved_tensors
        heads = k.shape[1:3]  # [Hkv, group]

        def grouped(x: Tensor) -> Tensor:
            return x.reshape(x.shape[0], *heads, *x.shape[2:])

        def swept(*inputs: Tensor, reverse: bool = False) -> tuple[Tensor, Tensor]:
            result: tuple[Tensor, Tensor] = SWEEP(*inputs, ctx.block, reverse=reverse, backend=ctx.backend)
            return result

        keys, values = k.flatten(1, 2), v.flatten(1, 2)
        grad_q = grad_k = grad_v = grad_state = None
        if ctx.needs_input_grad[0]:
            grad_q = swept(grad, v, k, slope, state.mT)[0]
        if ctx.needs_input_grad[1]:
            grad_k = swept(values, grouped(grad), grouped(q), slope, grad_last.mT, reverse=True)[0]
            grad_k = grouped(grad_k)
        if ctx.needs_input_grad[2] or ctx.needs_input_grad[4]:
            grad_v, grad_state = swept(keys, grouped(q), grouped(grad), slope, grad_last, reverse=True)
            grad_v = grouped(grad_v)
        return grad_q, grad_k, grad_v, None, grad_state, None, None


def _grouped(x: Tensor, num_heads: int) -> Tensor:
    """[B, Hkv, L, D] -> [B, Hkv, group, L, D], a view."""
    return x.unsqueeze(2).expand(-1, -1, num_heads // x.shape[1], -1, -1)


def linear_attention(
    q: Tensor, k: Tensor, v: Tensor, slope: Tensor, state: Tensor, block: int, backend: str = "auto"
) -> tuple[Tensor, Tensor]:
    """out [B, Hq, L, Dv] and the last state [B, Hq, D, Dv], differentiable in q, k, v and state; checked arguments."""
    heads = q.shape[1]
    result: tuple[Tensor, Tensor] = _LinearAttention.apply(  # type: ignore[no-untyped-call]
        q, _grouped(k, heads), _grouped(v, heads), slope, state, block, backend
    )
    return result


def final_state(k: Tensor, v: Tensor, slope: Tensor, state: Tensor) -> Tensor:
    """The state after keys k [B, Hkv, L, D] and values v [B, Hkv, L, Dv], from ``state`` [B, Hq, D, Dv] before them."""
    heads, length = slope.shape[0], k.shape[2]
    rate = slope[:, None, None]
    for start in range(0, length, _PAST):
        stop = min(start + _PAST, length)
        keys, values = (_grouped(x[:, :, start:stop], heads).flatten(1, 2).to(state.dtype) for x in (k, v))
        left = torch.arange(stop - start - 1, -1, -1, device=k.device)[:, None]  # tokens up to the end of this piece
        added = (keys * torch.exp(-rate * left)).mT @ values
        state = decayed(state, rate, stop - start) + added
    return state
