"""The Triton kernels of the block engine: a pattern as lists on the device, forward and backward over them."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import torch
from torch import Tensor

from ..equations import needs_triton, wants_gradient
from .forward import forward_where_not_finite
from .tiles import Pattern

if TYPE_CHECKING:
    from ....kernels.blocks import Runs


def refuses(q: Tensor, k: Tensor, v: Tensor, *_: object, **__: object) -> str | None:
    """Why the kernels do not take a call of attention over blocks."""
    reason = needs_triton(q)
    if reason is not None:
        return reason
    from ....kernels import blocks

    return blocks.refuses(q, k, v)


def refuses_backward(
    q: Tensor, k: Tensor, v: Tensor, out: Tensor, lse: Tensor, grad_out: Tensor, *_: object
) -> str | None:
    """As ``refuses``; and what is to be differentiated again is PyTorch's business."""
    if wants_gradient(q, k, v, grad_out):
        return "has no derivative of its gradient"
    return refuses(q, k, v)


def forward(q: Tensor, k: Tensor, v: Tensor, pattern: Pattern, scale: float) -> tuple[Tensor, Tensor]:
    """As ``forward.forward``, by ``attn.kernels.blocks``."""
    from ....kernels import blocks

    out, lse = blocks.forward(q, k, v, runs_of(pattern, q.device), scale)
    return forward_where_not_finite(out, lse, q, k, v, pattern, scale)


def backward(
    q: Tensor, k: Tensor, v: Tensor, out: Tensor, lse: Tensor, grad_out: Tensor, grad_lse: Tensor,
    pattern: Pattern, scale: float,
) -> tuple[Tensor, Tensor, Tensor]:  # fmt: skip
    """As ``backward.backward``, by ``attn.kernels.blocks``."""
    from ....kernels import blocks

    return blocks.backward(q, k, v, out, lse, grad_out, grad_lse, runs_of(pattern, q.device), scale)


def runs_of(pattern: Pattern, device: torch.device) -> Runs:
    """The lists of a pattern, on ``device``: those of a selection are there already, those of a rule are written down.

    A rule is the same for all heads.
    """
    from ....kernels.blocks import Runs

    lists = pattern.lists()
    if lists is None:
        spans = [pattern.spans(0, block) for block in range(-(-pattern.len_q // pattern.block_m))]
        indptr = torch.from_numpy(np.cumsum([0, *map(len, spans)]))
        runs = torch.from_numpy(np.concatenate([np.empty((0, 2), np.int64), *spans]))
    else:
        indptr, runs = lists
    return Runs(
        indptr.to(device, torch.int64), runs.to(device, torch.int32).contiguous(), pattern.block_m,
        shared=lists is None, causal=pattern.causal, window=pattern.window, num_sinks=pattern.num_sinks,
    )  # fmt: skip
