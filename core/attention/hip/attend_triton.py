"""HiP: attention over the chosen keys on a GPU, by ``attn.kernels.hip``. Specification: methods/hip.md, 3.3."""

from __future__ import annotations

from typing import Any

from torch import Tensor

from ..equations import again_where_not_finite, needs_triton, wants_gradient
from .attend import attend as plain
from .selection import HipSelection
from .settings import Settings, positive_scale


def refuses(q: Tensor, k: Tensor, v: Tensor, selection: HipSelection | None = None, **_: Any) -> str | None:
    """Why the kernel does not take a call."""
    if wants_gradient(q, k, v):
        return "has no gradients"
    reason = needs_triton(q)
    if reason is not None:
        return reason
    if not q.dtype == k.dtype == v.dtype:
        return f"takes tensors of one dtype, not of {q.dtype}, {k.dtype} and {v.dtype}"
    if selection is not None and selection.layout.settings.sliding_window < selection.layout.block_m:
        return "takes windows of a query block at least: a query before the window sees its own key beside the rest"
    from ....kernels import hip

    return hip.refuses(q, v)


def attend(
    q: Tensor, k: Tensor, v: Tensor, selection: HipSelection, *, causal: bool, scale: float | None = None,
    settings: Settings,
) -> Tensor:  # fmt: skip
    """As ``attend.attend``, without gradients."""
    from ....kernels import hip

    layout, own = selection.layout, selection.layout.settings
    out = hip.attend(
        q, k, v, selection.starts, selection.count, positive_scale(q, scale), own.sink, own.sliding_window, own.span,
        layout.block_m, layout.num_dense,
    )  # fmt: skip
    return again_where_not_finite(out, lambda: plain(q, k, v, selection, causal=causal, scale=scale, settings=settings))
