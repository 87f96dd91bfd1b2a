"""A small transformer that makes videos by flow matching, in tokens whose order is the caller's.

A token is a square of pixels of one frame. Noise becomes video along straight lines, z = t x + (1 - t) noise (flow
matching, arXiv 2210.02747); the network says what the clean video x is (arXiv 2511.13720), with the time as scales and
shifts of the layers (DiT, arXiv 2212.09748, one projection for all layers as in PixArt, arXiv 2310.00426). Places are
rotations of queries and keys along frames, rows and columns, so that any grid goes in.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import NamedTuple

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from .vit import Mlp

Attend = Callable[[int, Tensor, Tensor, Tensor], Tensor]
"""(number of the layer, q, k, v), each [B, H, T, D] -> [B, H, T, D]."""
NEAREST = 0.05
"""Least 1 - t that the way to the clean video is divided by."""
TIME_WAVES = 32
FOCUS, FOCUS_TOKENS = 0.5, 1152
"""See ``focus``."""
LONGEST = 64.0
"""Tokens of an axis after which the slowest rotation has not come round yet."""


@dataclass(frozen=True)
class VideoShape:
    """Sizes of a ``VideoFlow``.

    Parameters
    ----------
    width, layers, heads : int
        ``width / heads`` is even.
    patch : int
        Pixels of a token's side; a token is one frame long.
    channels : int
        Of a pixel.
    """

    width: int = 64
    layers: int = 6
    heads: int = 2
    patch: int = 4
    channels: int = 3

    def __post_init__(self) -> None:
        if self.width % (2 * self.heads):
            raise ValueError(f"width {self.width} must be a multiple of two times heads {self.heads}.")

    @property
    def token(self) -> int:
        """Numbers of a token."""
        return self.patch**2 * self.channels


def dense(layer: int, q: Tensor, k: Tensor, v: Tensor) -> Tensor:
    """``Attend`` of every layer by default: PyTorch's own."""
    return F.scaled_dot_product_attention(q, k, v)


def rotations(place: Tensor, dim: int) -> Tensor:
    """Angles of places, [T, dim / 2].

    Parameters
    ----------
    place : Tensor [T, 3]
        Frame, row, column of a token.
    dim : int
        Of a head. A quarter of its pairs turns with the frame, the rest with row and column in equal parts.
    """
    pairs = dim // 2
    frames = pairs // 4
    rows = (pairs - frames) // 2
    angles = []
    for axis, count in enumerate((frames, rows, pairs - frames - rows)):
        speed = LONGEST ** -(torch.arange(count, device=place.device) / max(1, count - 1))
        angles.append(place[:, axis, None] * speed)
    return torch.cat(angles, 1)


def turned(x: Tensor, cosine: Tensor, sine: Tensor) -> Tensor:
    """Pairs (first half, second half) of x [B, H, T, D] rotated by the angle of their token, cosine [T, D / 2]."""
    first, second = x.chunk(2, -1)
    return torch.cat([first * cosine - second * sine, first * sine + second * cosine], -1)


class Placed(NamedTuple):
    """Where tokens are: ``turn`` (cosine and sine of ``rotations``), ``touching`` int64 [6, T] (see ``touching``), and
    the factor of ``focus``."""

    turn: tuple[Tensor, Tensor]
    touching: Tensor
    focus: float


def focus(tokens: int) -> float:
    """What scores are multiplied by: among more keys a softmax of the same scores is flatter, and its mean of many
    tokens hides the few that belong together. 1 where the network was mostly trained; the form is that of arXiv
    2501.19399, the slope was found by eye and by the share of pixels that shapes cover (without it videos of 4096
    tokens were plain ground)."""
    return 1 + FOCUS * max(0.0, math.log(tokens / FOCUS_TOKENS))


def touching(place: Tensor) -> Tensor:
    """The numbers of the tokens before and behind each along frames, rows and columns, int64 [6, T]; at a wall its own.

    ``place`` [T, 3]: all of a grid, in any order.
    """
    at = place.long()
    size = at.amax(0) + 1
    number = torch.empty(int(size.prod()), dtype=torch.int64, device=at.device)
    weight = torch.stack([size[1] * size[2], size[2], torch.ones_like(size[0])])
    number[(at * weight).sum(1)] = torch.arange(len(at), device=at.device)
    found = []
    for axis in range(3):
        for step in (-1, 1):
            there = at.clone()
            there[:, axis] = (there[:, axis] + step).clamp_min(0).minimum(size[axis] - 1)
            found.append(number[(there * weight).sum(1)])
    return torch.stack(found)


def stencil(x: Tensor, weight: Tensor, touching: Tensor) -> Tensor:
    """x [B, T, C] plus itself and the six tokens that touch each, channel by channel, weight [7, C]."""
    out = x * (1 + weight[0])
    for one, number in zip(weight[1:], touching, strict=True):
        out = out + one * x.index_select(1, number)
    return out


class VideoLayer(nn.Module):
    """Attention and MLP, scaled, shifted and gated by the time."""

    def __init__(self, shape: VideoShape) -> None:
        super().__init__()
        self.heads, dim = shape.heads, shape.width // shape.heads
        self.qkv = nn.Linear(shape.width, 3 * shape.width, bias=False)
        self.q_norm, self.k_norm = nn.RMSNorm(dim), nn.RMSNorm(dim)
        self.proj = nn.Linear(shape.width, shape.width)
        self.mlp = Mlp(shape.width, 4 * shape.width)
        self.time = nn.Parameter(torch.zeros(6, shape.width))
        self.near = nn.Parameter(torch.zeros(7, shape.width))

    def forward(self, x: Tensor, time: Tensor, place: Placed, layer: int, attend: Attend) -> Tensor:
        """x [B, T, C], time [B, 6, C]."""
        x = stencil(x, self.near, place.touching)
        shift, scale, gate, shift2, scale2, gate2 = (time + self.time).unsqueeze(2).unbind(1)
        y = _modulated(x, shift, scale)
        q, k, v = self.qkv(y).unflatten(2, (3, self.heads, -1)).permute(2, 0, 3, 1, 4)
        q, k = turned(place.focus * self.q_norm(q), *place.turn), turned(self.k_norm(k), *place.turn)
        x = x + gate * self.proj(attend(layer, q, k, v).transpose(1, 2).flatten(2))
        out: Tensor = x + gate2 * self.mlp(_modulated(x, shift2, scale2))
        return out


def _modulated(x: Tensor, shift: Tensor, scale: Tensor) -> Tensor:
    return torch.addcmul(shift, F.layer_norm(x, x.shape[-1:]), 1 + scale)


class VideoFlow(nn.Module):
    """The clean video of a noisy one.

    Parameters
    ----------
    shape : VideoShape
    """

    def __init__(self, shape: VideoShape) -> None:
        super().__init__()
        self.shape = shape
        width = shape.width
        self.embed = nn.Linear(shape.token, width)
        waves, told = nn.Linear(2 * TIME_WAVES, width), nn.Linear(width, 8 * width)
        self.time = nn.Sequential(waves, nn.SiLU(), told)
        self.layers = nn.ModuleList(VideoLayer(shape) for _ in range(shape.layers))
        self.head = nn.Linear(width, shape.token)
        nn.init.normal_(told.weight, 0, 0.02)
        nn.init.zeros_(told.bias)
        nn.init.zeros_(self.head.weight)
        nn.init.zeros_(self.head.bias)
        for layer in self.layers:
            assert isinstance(layer, VideoLayer)
            with torch.no_grad():  # gates begin at a tenth
                layer.time[2].fill_(0.1)
                layer.time[5].fill_(0.1)

    def forward(self, noisy: Tensor, place: Tensor, time: Tensor, attend: Attend = dense) -> Tensor:
        """What the clean tokens are.

        Parameters
        ----------
        noisy : Tensor [B, T, P * P * channels]
            Pixels in [-1, 1], t of them and 1 - t of noise.
        place : Tensor [T, 3]
            Frame, row and column of each token, in any order.
        time : Tensor [B]
            t: 0 is noise, 1 the video.
        attend : callable
            ``Attend``.
        """
        wave = torch.exp(torch.linspace(0, math.log(1000.0), TIME_WAVES, device=time.device))
        phase = time[:, None] * wave
        told = self.time(torch.cat([phase.cos(), phase.sin()], 1)).unflatten(1, (8, -1))
        angle = rotations(place, self.shape.width // self.shape.heads)
        placed = Placed((angle.cos().to(noisy.dtype), angle.sin().to(noisy.dtype)), touching(place), focus(len(place)))
        x = self.embed(noisy)
        for number, layer in enumerate(self.layers):
            x = layer(x, told[:, :6], placed, number, attend)
        shift, scale = told[:, 6:].unsqueeze(2).unbind(1)
        out: Tensor = self.head(_modulated(x, shift, scale))
        return out
