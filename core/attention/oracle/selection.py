"""The oracle's selection: a cut per query, and the walk over chunks of scores that finds and uses it."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from ...threads import kernels_own_the_threads, run
from ..equations import accumulator, positions
from ..tokens.top_k import top_k_positions

_SCORES = 1 << 21  # of a chunk of query rows: 8 MiB in float32


def mask_of_keys(chosen: Tensor, len_k: int) -> Tensor:
    """Positions [..., k], -1 for none -> bool [..., len_k]."""
    mask = torch.zeros(*chosen.shape[:-1], len_k + 1, dtype=torch.bool, device=chosen.device)
    return mask.scatter_(-1, chosen.long() % (len_k + 1), True)[..., :len_k]  # -1 becomes the column cut off


@dataclass(frozen=True)
class OracleSelection:
    """Where each query's scores are cut: chosen is what is above ``cut`` and the first ``ties`` keys equal to it.

    ``cut`` [B, Hq, Lq] in the dtype of the scores, ``ties`` int64 [B, Hq, Lq]: some bytes a query instead of top_k
    positions. ``q`` and ``k`` are kept to name the positions when asked.
    """

    q: Tensor
    k: Tensor
    cut: Tensor
    ties: Tensor
    top_k: int
    causal: bool
    scale: float

    @classmethod
    def empty(cls, q: Tensor, k: Tensor, *, top_k: int, causal: bool, scale: float | None) -> OracleSelection:
        """With ``cut`` and ``ties`` still to be written."""
        cut = q.new_empty(q.shape[:3], dtype=accumulator(q.dtype))
        ties = torch.empty(q.shape[:3], dtype=torch.int64, device=q.device)
        return cls(q, k, cut, ties, top_k, causal, q.shape[-1] ** -0.5 if scale is None else scale)

    @property
    def useful(self) -> int:
        """Query-key pairs attended to."""
        seen = _seen(self.q, self.k, self.causal)
        return self.q.shape[0] * self.q.shape[1] * int(seen.clamp(max=self.top_k).sum())

    @property
    def searched(self) -> int:
        """Every visible pair."""
        return self.q.shape[0] * self.q.shape[1] * int(_seen(self.q, self.k, self.causal).sum())

    @property
    def executed(self) -> int:
        """Every visible pair again: ``attend`` computes the scores once more and weighs the chosen ones."""
        return self.searched

    def mask(self, rows: Tensor) -> Tensor:
        """bool [B, Hq, R, Lk]."""
        accum, (batch, heads), len_k = accumulator(self.q.dtype), self.q.shape[:2], self.k.shape[2]
        keep = torch.empty(batch, heads, rows.numel(), len_k, dtype=torch.bool, device=rows.device)
        hidden = torch.arange(len_k, device=rows.device) >= _seen(self.q, self.k, self.causal)[rows, None]
        for b in range(batch):
            for h in range(heads):
                key = self.k[b, h // (heads // self.k.shape[1])].to(accum)
                scores = (self.q[b, h, rows].to(accum) * self.scale) @ key.mT  # [R, Lk]
                keep[b, h] = mask_of_keys(top_k_positions(scores.masked_fill_(hidden, -torch.inf), self.top_k), len_k)
        return keep


def _seen(q: Tensor, k: Tensor, causal: bool) -> Tensor:
    """How many keys, from the first, each query sees: int64 [Lq]."""
    at = positions(q.shape[2], k.shape[2], q.device) + 1
    return at if causal else torch.full_like(at, k.shape[2])


Visit = Callable[[int, int, slice, Tensor, Tensor], None]


def each_chunk(q: Tensor, k: Tensor, *, causal: bool, scale: float, visit: Visit) -> None:
    """Call ``visit(batch, head, rows, scores, seen)`` for chunks of query rows, without gradients.

    ``scores`` [rows, n] are those of the keys that the chunk's last row sees, ``seen`` int64 [rows] says how many of
    them each row sees. On the CPU chunks go to all threads; they, and therefore the bits, are the same at every call.
    """
    batch, heads, len_q, _ = q.shape
    accum, all_seen = accumulator(q.dtype), _seen(q, k, causal)
    size = max(1, min(128, _SCORES // max(1, k.shape[2])))

    def chunk(b: int, h: int, key: Tensor, start: int) -> None:
        with torch.no_grad():  # counts per thread
            rows = slice(start, start + size)
            seen = all_seen[rows]
            visit(b, h, rows, (q[b, h, rows].to(accum) * scale) @ key[: int(seen[-1])].mT, seen)

    def on_a_thread(*where: Any) -> None:
        torch.set_num_threads(1)  # also counts per thread; undone for the caller by kernels_own_the_threads
        chunk(*where)

    for b in range(batch):
        for h in range(heads):
            key = k[b, h // (heads // k.shape[1])].to(accum)
            chunks = [(b, h, key, start) for start in reversed(range(0, len_q, size))]
            if q.device.type == "cpu":
                with kernels_own_the_threads():
                    run(on_a_thread, chunks)
            else:
                for where in chunks:
                    chunk(*where)
