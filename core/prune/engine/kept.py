"""Which rows of the prompts are left, and the masks that follow from it (methods/pruning-peers.md, section 8.2)."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from .moment import TokenChoice
from .prompts import Prompts


@dataclass(frozen=True, slots=True)
class KeptRows:
    """Rows of a batch of prompts; shorter prompts are filled up on the left with rows that nothing looks at.

    Parameters
    ----------
    slots : Tensor of int64 [B, n]
        Of each row, its place in the prompt.
    alive : Tensor of bool [B, n]
        What is no filling.
    counts : tuple of int
        Rows of each prompt that are alive.
    numbers : tuple of Tensor of int64
        The visual tokens of each prompt that are there.
    """

    slots: Tensor
    alive: Tensor
    counts: tuple[int, ...]
    numbers: tuple[Tensor, ...]

    @property
    def length(self) -> int:
        return self.slots.shape[1]

    @property
    def padded(self) -> bool:
        return min(self.counts) < self.length

    @property
    def visual(self) -> tuple[int, ...]:
        """Visual tokens of each prompt that are there."""
        return tuple(len(numbers) for numbers in self.numbers)

    def after(self, prompts: Prompts, choices: Sequence[TokenChoice]) -> tuple[KeptRows, Tensor | None]:
        """The rows that are left after a choice, and where they were among these, [B, m]; None where none went."""
        numbers = tuple(choice.keep for choice in choices)
        lost = [len(old) - len(new) for old, new in zip(self.numbers, numbers, strict=True)]
        if not any(lost):
            return self, None
        stays = torch.ones_like(prompts.valid)  # [B, N]
        for sample, new in enumerate(numbers):
            stays[sample, prompts.visual[sample]] = False
            stays[sample, prompts.visual[sample][new]] = True
        kept = self.alive & stays.gather(1, self.slots)
        counts = tuple(count - gone for count, gone in zip(self.counts, lost, strict=True))
        index = kept.byte().argsort(dim=1, stable=True)[:, self.length - max(counts) :]  # what stays is last, in order
        for sample, new in enumerate(numbers):
            if (new.diff() < 0).any():  # an order of the method's own
                slots = prompts.visual[sample][new]
                index[sample, torch.isin(self.slots[sample, index[sample]], slots)] = self._rows(prompts)[sample, slots]
        rows = KeptRows(self.slots.gather(1, index), kept.gather(1, index), counts, numbers)
        return rows, index

    def places(self, prompts: Prompts) -> tuple[Tensor, ...]:
        """Where each prompt's visual tokens are among the rows."""
        where = self._rows(prompts)
        return tuple(where[b, prompts.visual[b][numbers]] for b, numbers in enumerate(self.numbers))

    def _rows(self, prompts: Prompts) -> Tensor:
        """Of each place in the prompts the row, [B, N]; of one that is gone, nothing that means anything."""
        steps = torch.arange(self.length, device=self.slots.device).expand_as(self.slots)
        return torch.zeros_like(prompts.input_ids).scatter_(1, self.slots, steps)

    def behind(self, done: int) -> Tensor:
        """Position without gaps of the row that comes ``done`` rows behind the prompts, [B, 1]."""
        return torch.tensor(self.counts, device=self.slots.device)[:, None] + done

    def renumbered(self) -> Tensor:
        """Positions from 0 without gaps, [B, n]."""
        return (self.alive.cumsum(1) - 1).clamp(min=0)

    def mask(self, eager: bool, dtype: torch.dtype) -> Tensor | None:
        """What each row sees, [B, 1, n, n], as a decoder layer takes it. None: all in front of it."""
        if not (eager or self.padded):
            return None
        steps = torch.arange(self.length, device=self.slots.device)
        itself = steps == steps[:, None]  # rows of the filling: without any key they would be NaN
        seen = (steps <= steps[:, None]) & self.alive[:, None] | itself
        return _given(seen[:, None], eager, dtype)

    def mask_of_step(self, tail: Tensor, eager: bool, dtype: torch.dtype) -> Tensor | None:
        """What a row behind the prompts sees of them and of ``tail``, the rows since then [B, t]: [B, 1, 1, n + t]."""
        seen = torch.cat([self.alive, tail], 1)[:, None, None]
        return _given(seen, eager, dtype)


def whole(prompts: Prompts) -> KeptRows:
    """All rows of the prompts."""
    steps = torch.arange(prompts.input_ids.shape[1], device=prompts.input_ids.device).expand_as(prompts.input_ids)
    numbers = tuple(torch.arange(count, device=steps.device) for count in prompts.counts)
    return KeptRows(steps, prompts.valid, tuple(prompts.valid.sum(1).tolist()), numbers)


def _given(seen: Tensor, eager: bool, dtype: torch.dtype) -> Tensor:
    """A mask as eager attention adds it, or as SDPA takes it."""
    if not eager:
        return seen
    return torch.zeros_like(seen, dtype=dtype).masked_fill_(~seen, torch.finfo(dtype).min)


def rows_at(values: Tensor, index: Tensor) -> Tensor:
    """Rows of [B or 1, n, d] by [B, m]: [B, m, d]."""
    values = values.expand(len(index), *values.shape[1:])
    return values.gather(1, index[..., None].expand(-1, -1, values.shape[2]))


def ids_at(ids: Tensor, index: Tensor) -> Tensor:
    """Position ids [..., B or 1, n] of rows [B, m]: [..., B, m]."""
    ids = ids.expand(*ids.shape[:-2], len(index), ids.shape[-1])
    return ids.gather(-1, index.expand(*ids.shape[:-2], *index.shape))
