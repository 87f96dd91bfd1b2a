"""Videos as tokens along a Gilbert curve, and back."""

from __future__ import annotations

from functools import lru_cache

import numpy as np
import torch
from torch import Tensor

from ...attention.rectified.order import Video, token_order


class TokenGrid:
    """The tokens of a video.

    Parameters
    ----------
    video : (int, int, int)
        Frames, rows and columns of tokens.
    patch : int
        Pixels of a token's side.

    Attributes
    ----------
    order : Tensor of int64 [T]
        Row-major number of each token: along a generalised Hilbert curve, so that a run of tokens is a compact piece
        of frames, rows and columns (methods/rectified-spaattn.md, section 3.1).
    place : Tensor of float32 [T, 3]
        Frame, row and column of each.
    """

    def __init__(self, video: Video, patch: int) -> None:
        self.video, self.patch = video, patch
        self.order = token_order("gilbert", video)
        place = np.indices(video).reshape(3, -1).T
        self.place = torch.from_numpy(place[self.order.numpy()].astype(np.float32))

    @staticmethod
    @lru_cache(maxsize=32)
    def of(video: Video, patch: int) -> TokenGrid:
        """The grid, made once."""
        return TokenGrid(video, patch)

    @property
    def pixels(self) -> Video:
        """Frames, rows and columns of pixels."""
        return self.video[0], self.video[1] * self.patch, self.video[2] * self.patch

    def tokens(self, video: Tensor) -> Tensor:
        """Pixels [B, frames, rows, columns, C] -> tokens [B, T, P * P * C]."""
        batch, frames, _, _, channels = video.shape
        _, rows, columns = self.video
        cut = video.view(batch, frames, rows, self.patch, columns, self.patch, channels)
        return cut.permute(0, 1, 2, 4, 3, 5, 6).flatten(1, 3).flatten(2)[:, self.order.to(video.device)]

    def videos(self, tokens: Tensor) -> Tensor:
        """Tokens [B, T, P * P * C] -> pixels [B, frames, rows, columns, C]."""
        frames, rows, columns = self.video
        raster = tokens[:, self.order.argsort().to(tokens.device)]
        cut = raster.view(len(tokens), frames, rows, columns, self.patch, self.patch, -1)
        return cut.permute(0, 1, 2, 4, 3, 5, 6).flatten(4, 5).flatten(2, 3)
