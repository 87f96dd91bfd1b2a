"""Rectified SpaAttn: its parameters."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor

from .order import Video

Gapr = Literal["on", "off", "all"]


@dataclass(frozen=True, slots=True, eq=False)
class Settings:
    """What is kept of a video, and how the rest is made up for.

    Parameters
    ----------
    drop_rate : float
        Share of the video key blocks that a query block may drop, 0.75 to 0.9 for the published models. Larger is
        faster.
    tau_p : float
        Blocks are kept, beyond that, until they hold this share of the estimated attention. On structureless input
        the estimate is uniform, and this keeps the share ``tau_p`` of all blocks; 0 makes ``drop_rate`` alone decide.
    block_size : int
        Tokens of a query and of a key block, 32 to 128.
    first_frame_blocks : int
        The first so many query blocks see the first so many key blocks (Wan: the blocks of one latent frame).
    gapr : {"on", "off", "all"}
        Gain-aware rectification. "on": dropped blocks are restored by pooled values where the gain exceeds the error.
        "off": all of them are, without the test. "all": none is, which is plain block-sparse attention.
    order : str
        "gilbert", "raster" or "tile:4x4x8": how tokens are put into blocks. Needs ``video``.
    video : (int, int, int), optional
        Frames, rows, columns of the token grid, row-major. A block then also keeps the blocks that it touches. None:
        tokens are taken as they are, and a block keeps itself.
    text_len : int
        Text tokens behind the video, padding included (256 for HunyuanVideo). They attend to everything.
    text_valid : int, optional
        How many of them are valid; default all. The others are seen by nobody.
    neighbours : Tensor bool [nv, nv], optional
        Blocks to keep at any rate, instead of those that touch.

    Raises
    ------
    ValueError
        If a parameter is out of range.
    """

    drop_rate: float = 0.9
    tau_p: float = 0.3
    block_size: int = 128
    first_frame_blocks: int = 0
    gapr: Gapr = "on"
    order: str = "gilbert"
    video: Video | None = None
    text_len: int = 0
    text_valid: int | None = None
    neighbours: Tensor | None = None

    def __post_init__(self) -> None:
        if not 0 <= self.drop_rate < 1:
            raise ValueError(
                f"drop_rate is {self.drop_rate}: the share of key blocks to drop is in [0, 1); 0.75 to 0.9 is usual."
            )
        if not 0 <= self.tau_p <= 1:
            raise ValueError(f"tau_p is {self.tau_p}: the mass to keep is in [0, 1]; 0.3 is usual.")
        if self.block_size < 1:
            raise ValueError(f"block_size is {self.block_size}: use 128, or 32 to 128.")
        if self.first_frame_blocks < 0:
            raise ValueError(f"first_frame_blocks is {self.first_frame_blocks}: it must not be negative.")
        if self.gapr not in ("on", "off", "all"):
            raise ValueError(f"gapr is on, off or all, not {self.gapr!r}.")
        if self.text_valid is not None and not 0 <= self.text_valid <= self.text_len:
            raise ValueError(f"text_valid is {self.text_valid}: it must be between 0 and text_len = {self.text_len}.")

    @property
    def valid_text(self) -> int:
        """Text tokens that are seen."""
        return self.text_len if self.text_valid is None else self.text_valid

    def check_length(self, len_k: int) -> None:
        """Raise ``ValueError`` for what does not fit ``len_k`` tokens."""
        if not len_k:
            raise ValueError("there are no tokens: q, k and v have length 0.")
        text, size = self.text_len, self.block_size
        if text and not 0 < text < len_k:
            raise ValueError(f"text_len is {text} of {len_k} tokens: it must leave video tokens, and not be negative.")
        len_video = len_k - text
        if text and len_video % size:
            raise ValueError(f"{len_video} tokens before the text are no multiple of block_size = {size}: pad them.")
        if self.video is not None and math.prod(self.video) != len_video:
            raise ValueError(f"video {self.video} has {math.prod(self.video)} tokens, k has {len_video} without text.")
        num, given = -(-len_video // size), self.neighbours
        if given is not None and (given.dtype != torch.bool or given.shape != (num, num)):
            raise ValueError(f"neighbours must be bool [{num}, {num}], got {given.dtype} {list(given.shape)}.")
