"""The sweep of lightning attention on a GPU, by ``attn.kernels.lightning``."""

from __future__ import annotations

from torch import Tensor

from ..equations import all_finite, needs_triton
from .sweep import sweep as plain


def refuses(q: Tensor, k: Tensor, v: Tensor, *_: object, **__: object) -> str | None:
    """Why the kernels do not take a sweep, or a call of the operator."""
    reason = needs_triton(q)
    if reason is not None:
        return reason
    if not q.dtype == k.dtype == v.dtype:
        return f"takes tensors of one dtype, not of {q.dtype}, {k.dtype} and {v.dtype}"
    from ....kernels import lightning

    return lightning.refuses(q, v)


def sweep(
    q: Tensor, k: Tensor, v: Tensor, slope: Tensor, state: Tensor, block: int, *, reverse: bool = False
) -> tuple[Tensor, Tensor]:
    """As ``sweep.sweep``; chunks have the kernels' own size.

    q [B, Hq, L, D], k and v [B, Hkv, group, L, D or Dv], slope [Hq], state [B, Hq, D, Dv].
    """
    from ....kernels import lightning

    out, last = lightning.sweep(q, k.flatten(1, 2), v.flatten(1, 2), slope, state, reverse=reverse)
    if not all_finite(out):  # a token that another one does not see times 0 may be why: row by row in PyTorch
        out, last = plain(q, k, v, slope, state, block, reverse=reverse)
    return out, last
