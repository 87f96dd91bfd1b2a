"""Poolings in which a small network scores tokens, and those that weigh channels and places by convolutions.

Specification: methods/efficient-probing.md, section 3.5 (``abmilp``, ``cbam``, ``dolg``).
"""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from .blocks import JoinedSelfAttention
from .contract import Pooling, TokenShape


class AbmilpPooling(Pooling):
    """ABMILP, depth 2: one-head self-attention, then a softmax over tokens of Linear(Tanh(Linear(x)))."""

    heads = 1

    def __init__(self, shape: TokenShape) -> None:
        super().__init__(shape)
        self.self_attn = JoinedSelfAttention(shape.width, 1)
        self.attention_predictor = nn.Sequential(
            nn.Linear(shape.width, shape.width), nn.Tanh(), nn.Linear(shape.width, 1)
        )

    def forward(self, x: Tensor) -> Tensor:
        x = self.self_attn(x)
        return (torch.softmax(self.attention_predictor(x), 1).mT @ x)[:, 0]

    def maps(self, x: Tensor) -> Tensor:
        return torch.softmax(self.attention_predictor(self.self_attn(x)), 1).mT


class ChannelGate(nn.Module):
    """sigmoid(MLP(mean over places) + MLP(maximum over places))."""

    def __init__(self, width: int) -> None:
        super().__init__()
        inner = max(1, width // 16)
        self.fc1 = nn.Conv2d(width, inner, 1, bias=False)
        self.fc2 = nn.Conv2d(inner, width, 1, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        mean, most = (self.fc2(F.relu(self.fc1(of))) for of in (x.mean((2, 3), True), x.amax((2, 3), True)))
        return x * torch.sigmoid(mean + most)


class NormedConvolution(nn.Module):
    """Convolution and batch norm: what ``PlaceGate`` calls ``conv``."""

    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv2d(2, 1, 7, padding=3, bias=False)
        self.bn = nn.BatchNorm2d(1)

    def forward(self, x: Tensor) -> Tensor:
        out: Tensor = self.bn(self.conv(x))
        return out


class PlaceGate(nn.Module):
    """sigmoid(BN(conv 7 x 7 of mean and maximum over channels))."""

    def __init__(self) -> None:
        super().__init__()
        self.conv = NormedConvolution()

    def gate(self, x: Tensor) -> Tensor:
        return torch.sigmoid(self.conv(torch.cat([x.mean(1, True), x.amax(1, True)], 1)))

    def forward(self, x: Tensor) -> Tensor:
        return x * self.gate(x)


class CbamPooling(Pooling):
    """CBAM: channel gate, place gate, residual, ReLU, mean.

    Raises
    ------
    ValueError
        If the tokens are no square grid.
    """

    def __init__(self, shape: TokenShape) -> None:
        super().__init__(shape)
        if shape.grid is None or shape.grid[0] != shape.grid[1]:
            found = "no grid" if shape.grid is None else f"a grid of {shape.grid[0]} x {shape.grid[1]}"
            raise ValueError(f"cbam needs patches in a square grid; these tokens are {found}")
        self.grid = shape.grid
        self.channel, self.spatial = ChannelGate(shape.width), PlaceGate()

    def _plane(self, x: Tensor) -> Tensor:
        return x.mT.reshape(len(x), -1, *self.grid)

    def forward(self, x: Tensor) -> Tensor:
        plane = self._plane(x)
        return F.relu(self.spatial(self.channel(plane)) + plane).mean((2, 3))

    def maps(self, x: Tensor) -> Tensor:
        """The gate over places; its values are between 0 and 1, and do not sum to 1."""
        return self.spatial.gate(self.channel(self._plane(x))).flatten(2)


class DolgPooling(Pooling):
    """DOLG's attention (DELF): directions of tokens, weighted by softplus scores that are not normalised."""

    heads = 1

    def __init__(self, shape: TokenShape) -> None:
        super().__init__(shape)
        self.conv1 = nn.Conv2d(shape.width, shape.width, 1)
        self.bn = nn.BatchNorm2d(shape.width)
        self.conv2 = nn.Conv2d(shape.width, 1, 1)

    def _scored(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """Features [B, C, N, 1] and scores [B, 1, N, 1]: 1 x 1 convolutions ask for no grid."""
        normed = self.bn(self.conv1(x.mT[..., None]))
        return F.normalize(normed, dim=1), F.softplus(self.conv2(F.relu(normed)))

    def forward(self, x: Tensor) -> Tensor:
        features, scores = self._scored(x)
        return (features * scores).mean((2, 3))

    def maps(self, x: Tensor) -> Tensor:
        """The scores; they do not sum to 1."""
        return self._scored(x)[1][..., 0]
