"""The sweep of lightning attention in plain PyTorch, bands of blocks at a time: methods/lightning.md, section 3.2."""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor

from ..equations import accumulator, weighted_sum
from ..products import bf16_is_native

_BAND = 16  # blocks (over heads and sequence) at a time: tables of 1 MB each stay in the caches; 64 is 5 to 15 % slower


class _Decay(NamedTuple):
    """Powers of lam for blocks of m tokens; only non-positive exponents appear, so nothing overflows."""

    within: Tensor  # [H, 1, m, m]: lam^(a-c) for c <= a
    before: Tensor  # [H, 1, m, 1]: lam^(a+1), from the state before the block to its row a
    after: Tensor  # [H, 1, m, 1]: lam^(m-1-a), from row a to the state after the block
    step: Tensor  # [H, 1, 1]: lam^m - 1

    def reverse(self) -> _Decay:
        """The same for a sweep from the right."""
        return _Decay(self.within.mT, self.after, self.before, self.step)


def _decay(slope: Tensor, length: int, dtype: torch.dtype) -> _Decay:
    """Tables for ``slope`` [H] in the dtype of the products; ``step`` stays in that of the state."""
    rate = slope[:, None, None]
    a = torch.arange(length, device=slope.device)
    distance = a[:, None] - a
    within = torch.exp(-rate * distance.clamp(min=0)) * (distance >= 0)  # [H, m, m]
    before, after = torch.exp(-rate * (a[:, None] + 1)), torch.exp(-rate * (length - 1 - a[:, None]))  # [H, m, 1]
    within, before, after = (x[:, None].to(dtype) for x in (within, before, after))
    return _Decay(within, before, after, torch.expm1(-rate * length))


def decayed(state: Tensor, rate: Tensor, steps: int) -> Tensor:
    """``state`` after ``steps`` tokens that add nothing, lam^steps times itself; ``rate`` [..., 1, 1] per head.

    As S + (lam^n - 1) S: rounding lam^n itself would bend a slow decay, by 1e-3 after 4096 single steps.
    """
    return torch.addcmul(state, state, torch.expm1(-rate * steps))


def _blocks(x: Tensor, start: int, stop: int, block: int, dtype: torch.dtype) -> Tensor:
    """Tokens start..stop-1 of ``x`` [..., L, D] as [H * G, block, D]; a view where strides allow it."""
    return x[..., start:stop, :].to(dtype).reshape(-1, block, x.shape[-1])


def _band(q: Tensor, k: Tensor, v: Tensor, decay: _Decay, state: Tensor, *, reverse: bool) -> tuple[Tensor, Tensor]:
    """G blocks of each head: q, k, v [H * G, m, D or Dv] -> out of that shape, and the state [H, D, Dv] after them."""
    heads, dim, value_dim = state.shape
    count, block = q.shape[0] // heads, q.shape[1]

    def scaled(x: Tensor, factor: Tensor) -> Tensor:
        return (x.view(heads, count, *x.shape[1:]) * factor).view(x.shape)

    # increments of the state by block, turned into the states before each block in place
    added = torch.bmm(scaled(k, decay.after).mT, v).view(heads, count, dim, value_dim)
    states = state.new_empty(heads, count, dim, value_dim)
    for i in reversed(range(count)) if reverse else range(count):
        states[:, i] = state
        state = torch.addcmul(state, state, decay.step).add_(added[:, i])  # as ``decayed``
    scores = torch.bmm(q, k.mT)  # [H * G, m, m]
    scores.view(heads, count, block, block).mul_(decay.within)
    out = torch.bmm(scores, v)
    out.baddbmm_(scaled(q, decay.before), states.view(-1, dim, value_dim).to(out.dtype))
    if not out.isfinite().all():  # a token that another one does not see times 0 may be why
        a = torch.arange(block, device=q.device)
        seen = a[:, None] <= a if reverse else a[:, None] >= a
        out = weighted_sum(scores.masked_fill(~seen, 0.0), v, seen)
        out.baddbmm_(scaled(q, decay.before), states.view(-1, dim, value_dim).to(out.dtype))
    return out, state


def sweep(
    q: Tensor, k: Tensor, v: Tensor, slope: Tensor, state: Tensor, block: int, *, reverse: bool = False
) -> tuple[Tensor, Tensor]:
    """Section 3.2 for a batch.

    q [B, Hq, L, D], k and v [B, Hkv, group, L, D or Dv], slope [Hq], state [B, Hq, D, Dv] -> out [B, Hq, L, Dv] in q's
    dtype and the state after the last token. ``reverse``: from the last token to the first, the state coming from the
    right; a token's own key counts either way, and the state's power of lam is one lower for each token.
    """
    batch, heads, length, _ = q.shape
    # A native bfloat16 product rounds as the eager formula does, an emulated one takes twenty times as long as one of
    # float32; float16 has no range for the state.
    fast = q.dtype == torch.bfloat16 and (q.device.type != "cpu" or bf16_is_native())
    dtype = q.dtype if fast else accumulator(q.dtype)
    out = q.new_empty(batch, heads, length, v.shape[-1])
    block = min(block, max(length, 1))
    width = block * max(1, _BAND // heads)
    full = length // block * block
    parts = [(start, min(start + width, full), block) for start in range(0, full, width)]
    if full < length:
        parts.append((full, length, length - full))
    tables = {size: _decay(slope, size, dtype) for size in {part[2] for part in parts}}
    if reverse:
        parts.reverse()
        tables = {size: table.reverse() for size, table in tables.items()}
    last = torch.empty_like(state)
    for b in range(batch):
        current = state[b]
        for start, stop, size in parts:
            q_tile, k_tile, v_tile = (_blocks(x[b], start, stop, size, dtype) for x in (q, k, v))
            part, current = _band(q_tile, k_tile, v_tile, tables[size], current, reverse=reverse)
            out[b, :, start:stop] = part.view(heads, stop - start, -1)
        last[b] = current
    return out, last
