"""Features of what an agent sees, by a frozen encoder, each view read once."""

from __future__ import annotations

from typing import Protocol

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F

from ...models.load import load_model
from ...options import OptionError
from ..classify.features import block_count, last_norm, tokens_of
from .world import TILE, Picture, World

RANDOM = "random"
CHANNELS = 64
"""Of the random encoder."""
BATCH = 64
"""Pictures at once."""


class ViewEncoder(Protocol):
    """Pictures [n, 3, 56, 56] in [0, 1] to features [n, c, h, w]; ``fingerprint`` names its weights."""

    fingerprint: str

    def __call__(self, pictures: Tensor) -> Tensor: ...


class RandomTiles:
    """One convolution of random weights over each cell, and a ReLU: 64 features of each of the 7 x 7 cells.

    The weights are those of one seed, whatever the seed of the run: an encoder that is frozen is the same for all.
    """

    fingerprint = f"random {CHANNELS} of {TILE} x {TILE}, 1"

    def __init__(self, device: torch.device) -> None:
        draw = torch.Generator().manual_seed(1)
        self.weight = torch.randn(CHANNELS, 3, TILE, TILE, generator=draw).mul_((3 * TILE**2) ** -0.5).to(device)
        self.bias = torch.randn(CHANNELS, generator=draw).mul_(0.3).to(device)

    def __call__(self, pictures: Tensor) -> Tensor:
        centred = 4 * pictures - 0.5  # most of a view is black or dark grey
        return F.relu(F.conv2d(centred, self.weight, self.bias, stride=TILE))


class VisionTokens:
    """Patches of the last layer of a vision transformer, behind its last norm.

    Raises
    ------
    UsageError
        If there is no such model, or the places of its tokens are not known.
    """

    def __init__(self, name: str, device: torch.device) -> None:
        loaded = load_model(name, "vision", device=device)
        if loaded.processor.images is None:
            raise OptionError(f"{{encoder}}: {name} says nothing of how pictures are prepared. Name another.")
        self.model, self.images, self.fingerprint = loaded.model, loaded.processor.images, loaded.fingerprint
        self.layer = block_count(self.model) - 1
        self.norm = last_norm(self.model)

    def __call__(self, pictures: Tensor) -> Tensor:
        prepared = [self.images.prepared(one.numpy()) for one in pictures.cpu()]
        found, _, (height, width) = tokens_of(self.model, prepared, [self.layer], self.norm)
        patches = found[self.layer].mT  # [n, c, h * w]
        return patches.reshape(*patches.shape[:2], height, width)


def encoder_of(name: str, device: torch.device) -> ViewEncoder:
    """``random``, or a vision transformer by name or folder. Raises ``UsageError``, see ``VisionTokens``."""
    return RandomTiles(device) if name == RANDOM else VisionTokens(name, device)


def recoloured(picture: Picture) -> Picture:
    """The view as its negative: red shows as cyan, a black floor as white."""
    return np.ascontiguousarray(1 - picture)


class ViewFeatures:
    """Features by view, in float16.

    Parameters
    ----------
    encoder : ViewEncoder
    device : torch.device
    other_colours : bool
        Views are ``recoloured``.
    """

    def __init__(self, encoder: ViewEncoder, device: torch.device, *, other_colours: bool = False) -> None:
        self.encoder, self.device, self.other_colours = encoder, device, other_colours
        self._rows: dict[bytes, int] = {}
        self._waiting: list[Picture] = []
        self._table = torch.empty(0)
        self._read_rows = 0

    def __len__(self) -> int:
        return len(self._rows)

    @property
    def shape(self) -> tuple[int, int, int]:
        """Channels, rows and columns of a view's features."""
        channels, height, width = self.encoder(torch.zeros(1, 3, 7 * TILE, 7 * TILE, device=self.device)).shape[1:]
        return channels, height, width

    def row(self, world: World) -> int:
        """The number of what is seen now, for ``features``."""
        seen = world.seen()
        if (row := self._rows.get(seen)) is None:
            row = self._rows[seen] = len(self._rows)
            self._waiting.append(self._picture(world))
            if len(self._waiting) == BATCH:
                self._read()
        return row

    def _picture(self, world: World) -> Picture:
        return recoloured(world.picture()) if self.other_colours else world.picture()

    @torch.inference_mode()
    def _read(self) -> None:
        """Features of the pictures that wait, behind those that are there; the table doubles where it is full."""
        found = self.encoder(torch.from_numpy(np.stack(self._waiting)).to(self.device)).half()
        first, self._read_rows = self._read_rows, self._read_rows + len(found)
        if self._read_rows > len(self._table):
            grown = torch.empty(2 * self._read_rows, *found.shape[1:], dtype=torch.float16, device=self.device)
            grown[:first] = self._table[:first] if first else grown[:0]
            self._table = grown
        self._table[first : self._read_rows] = found
        self._waiting.clear()

    def features(self, rows: Tensor) -> Tensor:
        """Features of views, float32 [..., c, h, w], by their numbers, int64 [...]."""
        if self._waiting:
            self._read()
        return self._table[rows.to(self.device)].float()
