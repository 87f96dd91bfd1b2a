"""What a method sees of an image transformer and says to it, and what happened while it ran."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

import torch
from torch import Tensor


@dataclass(frozen=True, slots=True)
class PatchScores:
    """What a method sees in front of a block.

    Parameters
    ----------
    alive : Tensor of bool [B, n]
        Patches that are there; the others are padding.
    patches : int
        Of each picture, before anything was dropped.
    first : int
        Number of the first picture of the batch since the block was entered.
    row : Tensor [B, H, n], optional
        Attention of the class token to the patches in the block in front, after the softmax over all tokens.
    context : Tensor [B, H, n, d], optional
        What each head of that block gave the patches, before the output projection.
    """

    alive: Tensor
    patches: int
    first: int
    row: Tensor | None = None
    context: Tensor | None = None


@dataclass(frozen=True, slots=True)
class DropStage:
    """In front of block ``layer`` the patches go on of which ``choose`` says True, [B, n].

    ``attention``: it looks at the block in front (``PatchScores.row`` and ``context``).
    """

    layer: int
    choose: Callable[[PatchScores], Tensor]
    attention: bool = True


@dataclass(frozen=True, slots=True)
class MergeStages:
    """Tokens merged between attention and MLP of blocks.

    Parameters
    ----------
    schedule : callable (patches) -> sequence of int
        How many pairs are merged in each block.
    owners : callable (metric [B, N, d], pairs, prefix) -> Tensor of int64 [B, N]
        Which of the N - pairs new tokens each token goes into; those in front stay where they are.
    """

    schedule: Callable[[int], Sequence[int]]
    owners: Callable[[Tensor, int, int], Tensor]


@dataclass(slots=True)
class ImagePass:
    """One batch through the model.

    Parameters
    ----------
    patches : int
        Of each picture, before anything was dropped.
    prefix : int
        Tokens in front of them.
    attended, going_on : list of Tensor of int64 [B]
        Of each block, the patches of each picture in its attention and in its MLP.
    owner : Tensor of int64 [B, patches]
        What became of each patch: its token at the end, counted behind the prefix; -1: dropped.
    owners : dict, block -> Tensor
        The same, behind what happened at that block.
    multiply_adds : Tensor [B]
        Counted from the tokens.
    """

    patches: int
    prefix: int
    attended: list[Tensor] = field(default_factory=list)
    going_on: list[Tensor] = field(default_factory=list)
    owner: Tensor = field(default_factory=lambda: torch.empty(0))
    owners: dict[int, Tensor] = field(default_factory=dict)
    multiply_adds: Tensor = field(default_factory=lambda: torch.empty(0))

    def kept(self, sample: int = 0) -> Tensor:
        """Numbers of the patches that are not dropped, ascending."""
        return (self.owner[sample] >= 0).nonzero().flatten()

    def retention(self, first: int) -> Tensor:
        """Mean share of the patches in the attention of the blocks from ``first`` on, [B]."""
        return torch.stack(self.attended[first:]).double().mean(0) / self.patches

    @property
    def first(self) -> int:
        """The first block whose attention sees fewer patches; the number of blocks where none does."""
        fewer = [i for i, counts in enumerate(self.attended) if int(counts.min()) < self.patches]
        return fewer[0] if fewer else len(self.attended)


@dataclass(slots=True)
class ImageTrace:
    """All that happened inside a ``pruned_images`` block: one ``ImagePass`` for each call of the model."""

    passes: list[ImagePass] = field(default_factory=list)
    pictures: int = 0

    @property
    def last(self) -> ImagePass:
        return self.passes[-1]
