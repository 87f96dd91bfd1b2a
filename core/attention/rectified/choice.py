"""Rectified SpaAttn: what the selection and the whole operator return."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from ..blocks.selection import BlockSelection
from .blocks import Blocks


@dataclass(frozen=True)
class Choice:
    """What ``select`` found. ``useful``, ``executed``, ``searched`` and ``mask`` as in ``contract.Selection``.

    Parameters
    ----------
    blocks : Blocks
        Probabilities and masks of the video query blocks, in the order of attention.
    lists : BlockSelection
        The kept blocks: video queries against video and valid text keys.
    order : Tensor int64 [Tv] or None
        Token numbers in the order of attention; None: as given.
    block_size, len_video, len_text, valid_text : int
        Tokens of a block, of the video, of the text tail, and how many of the latter are valid.
    """

    blocks: Blocks
    lists: BlockSelection
    order: Tensor | None
    block_size: int
    len_video: int
    len_text: int
    valid_text: int

    @property
    def _text_pairs(self) -> int:
        lists = self.lists
        return lists.batch * lists.num_heads * self.len_text * lists.len_k

    @property
    def useful(self) -> int:
        """Pairs attended to; text queries see every valid key."""
        return self.lists.useful + self._text_pairs

    @property
    def executed(self) -> int:
        """Pairs whose score is computed."""
        return self.lists.executed + self._text_pairs

    @property
    def searched(self) -> int:
        """Pooled scores: the estimate, against text keys too, and two products of the gain test."""
        return self.lists.searched

    def mask(self, rows: Tensor) -> Tensor:
        """bool [B, Hq, R, Lk]: what the queries ``rows`` (int64 [R], as given, not as ordered) attend to."""
        lists, video = self.lists, self.len_video
        rank = torch.arange(video, device=rows.device) if self.order is None else self.order.argsort()
        kept = lists.mask(rank[rows.clamp_max(video - 1)])  # [B, Hq, R, Tv + valid]
        kept = torch.cat([kept[..., :video][..., rank], kept[..., video:]], -1) | (rows >= video)[:, None]
        return torch.nn.functional.pad(kept, (0, self.len_text - self.valid_text))


@dataclass(frozen=True)
class Rectified:
    """What ``rectify`` returns; blocks and their tensors are in the order of attention, tokens as they were given.

    Parameters
    ----------
    out : Tensor [B, Hq, T, Dv]
    sparse : Tensor [B, Hq, T, Dv]
        O_s: block-sparse attention before it is rectified.
    blocks : Blocks
        ``prob``, ``keep`` (C), ``no_gain``, ``restored`` (not E).
    factor : Tensor [B, Hq, nv]
        R: share of the sparse output in ``out``.
    compensation : Tensor [B, Hq, nv, Dv]
        What pooled values add.
    """

    out: Tensor
    sparse: Tensor
    blocks: Blocks
    factor: Tensor
    compensation: Tensor
