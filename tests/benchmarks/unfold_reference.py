"""Filter2Noise in plain PyTorch, as one would write it from the paper: unfold for the filter, N x N score matrices.

The reference that the benchmarks compare with, for time, memory and values. It shares parameters with ours through the
state dict and follows methods/filter2noise.md step by step; nothing of ``attn`` is used.
"""

from __future__ import annotations

import math

import torch
import torch.nn.functional as F
from torch import Tensor, nn


class Predictor(nn.Module):
    """Steps 6-10: sigmas of every pixel, [B, H, W, 3]."""

    def __init__(self, patch_size: int = 8) -> None:
        super().__init__()
        self.patch_size = patch_size
        self.query, self.key, self.value = (nn.Linear(patch_size**2, 8) for _ in range(3))
        self.sigma_query, self.sigma_key, self.sigma_value = (nn.Linear(8, 8) for _ in range(3))
        self.norm, self.sigma_proj = nn.LayerNorm(8), nn.Linear(8, 3)

    def forward(self, image: Tensor) -> Tensor:
        batch, _, height, width = image.shape
        tokens = F.unfold(image, self.patch_size, stride=self.patch_size).mT  # [B, N, ps²]
        scores = self.query(tokens) @ self.key(tokens).mT / math.sqrt(8)  # [B, N, N]
        features = scores.softmax(-1) @ self.value(tokens)
        scores = self.sigma_query(features) @ self.sigma_key(features).mT / math.sqrt(8)
        mixed = scores.softmax(-1) @ self.sigma_value(features)
        sigma = F.softplus(self.sigma_proj(self.norm(mixed))).clamp(max=6.0) + 1e-6  # [B, N, 3]
        grid = sigma.mT.reshape(batch, 3, height // self.patch_size, width // self.patch_size)
        return F.interpolate(grid, scale_factor=self.patch_size, mode="nearest").permute(0, 2, 3, 1)


def bilateral(image: Tensor, sigma: Tensor) -> Tensor:
    """Steps 12-15 with every neighbourhood materialised."""
    batch, channels, height, width = image.shape
    radius = math.ceil(sigma[..., :2].max().item())
    side = 2 * radius + 1
    padded = F.pad(image, (radius,) * 4, mode="reflect")
    patches = F.unfold(padded, side).reshape(batch, channels, side * side, height, width)
    offsets = torch.arange(-radius, radius + 1, dtype=image.dtype)
    dy, dx = (t.reshape(1, -1, 1, 1) for t in torch.meshgrid(offsets, offsets, indexing="ij"))
    sigma_x, sigma_y, sigma_r = (sigma[..., c][:, None] for c in range(3))  # [B, 1, H, W]
    spatial = torch.exp(-(dx**2 / (2 * sigma_x**2) + dy**2 / (2 * sigma_y**2)))  # [B, k², H, W]
    squared = (patches - image[:, :, None]).square().sum(1)
    weights = spatial * torch.exp(-squared / (2 * sigma_r**2))
    return (weights[:, None] * patches).sum(2) / (weights.sum(1, keepdim=True) + 1e-8)


class Stage(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.sigma_predictor = Predictor()

    def forward(self, image: Tensor) -> Tensor:
        return bilateral(image, self.sigma_predictor(image))


class UnfoldFilter2Noise(nn.Module):
    """Step 16, two stages."""

    def __init__(self, stages: int = 2) -> None:
        super().__init__()
        self.stages = nn.ModuleList(Stage() for _ in range(stages))

    def forward(self, image: Tensor) -> Tensor:
        for stage in self.stages:
            image = stage(image)
        return image


def downsample(x: Tensor) -> tuple[Tensor, Tensor]:
    kernels = torch.tensor([[[[0.0, 0.5], [0.5, 0.0]]], [[[0.5, 0.0], [0.0, 0.5]]]], dtype=x.dtype)
    both = F.conv2d(x, kernels, stride=2)
    return both[:, :1], both[:, 1:]


def shuffle(x: Tensor) -> Tensor:
    height, width = x.shape[-2:]
    blocks = F.unfold(x, 2, stride=2).mT  # [B, H/2 * W/2, 4]
    distance = (blocks[..., :, None] - blocks[..., None, :]) ** 2
    distance = distance + torch.diag(torch.full((4,), math.inf, dtype=x.dtype)).nan_to_num(nan=0.0, posinf=math.inf)
    index = distance.flatten(-2).argmin(-1, keepdim=True)
    p, q = index // 4, index % 4
    swapped = blocks.scatter(-1, p, blocks.gather(-1, q)).scatter(-1, q, blocks.gather(-1, p))
    return F.fold(swapped.mT, (height, width), 2, stride=2)


def edges(x: Tensor) -> Tensor:
    line = torch.arange(-3.0, 4.0, dtype=x.dtype)
    square = line[:, None] ** 2 + line**2
    narrow, wide = torch.exp(-square / 162), torch.exp(-square / 200)
    return F.conv2d(x, (narrow / narrow.sum() - wide / wide.sum())[None, None], padding=3).abs()


def loss(model: nn.Module, x: Tensor, edge_weight: float = 400.0) -> Tensor:
    """Steps 17-22."""
    n1, n2 = downsample(x)
    d1, d2 = model(shuffle(n1)), model(shuffle(n2))
    full = model(x)
    u1, u2 = downsample(full)
    cross = ((d1 - u1).abs().mean() + (d2 - u2).abs().mean()) / 3
    return (
        (d1 - d2).abs().mean() / 3
        + cross
        + (u1 - u2).abs().mean() / 3
        + edge_weight * (edges(x) - edges(full)).abs().mean()
    )
