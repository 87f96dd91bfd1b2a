"""Layers of FSG-Net: convolutions with their norms, DropBlock, spatial attention, the attention gate.

Paper: arXiv 2501.18921 (2025). Specification: methods/fsg-net.md, section 3.1; step numbers are its numbers.
Parameter names are those of the official code.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from .guided import resize_like


class MConv(nn.Module):
    """Step 1. Convolution, batch norm, ReLU: [B, a, H, W] -> [B, b, H, W]."""

    def __init__(self, dim: int, dim_out: int, kernel: int) -> None:
        super().__init__()
        self.conv = nn.Sequential(
            nn.Conv2d(dim, dim_out, kernel, padding=kernel // 2), nn.BatchNorm2d(dim_out), nn.ReLU(inplace=True)
        )

    def forward(self, x: Tensor) -> Tensor:
        out: Tensor = self.conv(x)
        return out


class DropBlock(nn.Module):
    """Step 3. While training, zero whole blocks of ``size`` pixels and scale the rest by one factor for the batch.

    The rate uses the width alone and ``1 - prob``, as in the official code (equal to the paper's at 0.5).
    """

    def __init__(self, size: int = 7, prob: float = 0.5) -> None:
        super().__init__()
        self.size, self.prob = size, prob

    def rate(self, width: int) -> float:
        """Probability that a pixel is the centre of a dropped block."""
        return (1 - self.prob) / self.size**2 * width**2 / (width - self.size + 1) ** 2

    def forward(self, x: Tensor) -> Tensor:
        if not self.training or min(x.shape[-2:]) < self.size:
            return x
        inner = (*x.shape[:2], x.shape[2] - self.size + 1, x.shape[3] - self.size + 1)
        return drop(x, torch.bernoulli(torch.full(inner, self.rate(x.shape[3]), device=x.device)), self.size)


def drop(x: Tensor, centres: Tensor, size: int) -> Tensor:
    """The drawn blocks of step 3: ``centres`` [B, C, H - size + 1, W - size + 1] of zeros and ones."""
    half = size // 2
    keep = 1 - F.max_pool2d(F.pad(centres, (half,) * 4), size, stride=1, padding=half)  # [B, C, H, W]
    out: Tensor = keep.to(x.dtype) * x * (keep.numel() / keep.sum())
    return out


class ConvBlock(nn.Module):
    """Step 2. Depthwise convolution and a wide pointwise pair, scaled by ``gamma`` and added: shape kept."""

    def __init__(self, dim: int, kernel: int, *, drop_block: bool) -> None:
        super().__init__()
        self.dwconv = nn.Conv2d(dim, dim, kernel, padding=kernel // 2, groups=dim)
        self.norm = nn.BatchNorm2d(dim)
        self.conv1 = nn.Conv2d(dim, 4 * dim, 1)
        self.conv2 = nn.Conv2d(4 * dim, dim, 1)
        self.gamma = nn.Parameter(torch.full((dim,), 1e-6))
        self.drop: nn.Module = DropBlock() if drop_block else nn.Identity()

    def forward(self, x: Tensor) -> Tensor:
        out = F.relu(self.conv1(self.norm(self.dwconv(x))))  # [B, 4C, H, W]
        out = self.conv2(out) * self.gamma[:, None, None]
        kept: Tensor = self.drop(out)
        return x + kept


class SpatialAttention(nn.Module):
    """Step 4. Weigh the pixels by a map from the channels' mean and maximum: shape kept."""

    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv2d(2, 1, 7, padding=3)

    def forward(self, x: Tensor) -> Tensor:
        pooled = torch.cat([x.mean(1, keepdim=True), x.amax(1, keepdim=True)], 1)  # [B, 2, H, W]
        out: Tensor = torch.sigmoid(self.conv(pooled)) * x
        return out


class Gate(nn.Module):
    """Step 5. Where ``x`` and ``g`` agree: two maps of [B, C, ...] -> one of [B, 1, H, W] at the size of ``x``."""

    def __init__(self, dim: int) -> None:
        super().__init__()
        self.theta = nn.Sequential(nn.Conv2d(dim, dim, 1), nn.BatchNorm2d(dim))
        self.phi = nn.Sequential(nn.Conv2d(dim, dim, 1), nn.BatchNorm2d(dim))
        self.psi = nn.Sequential(nn.Conv2d(dim, 1, 1), nn.BatchNorm2d(1), nn.Sigmoid())

    def forward(self, x: Tensor, g: Tensor) -> Tensor:
        theta = self.theta(x)
        phi = resize_like(self.phi(g), theta)
        out: Tensor = self.psi(F.relu(theta + phi))
        return out


class ResConv(nn.Module):
    """Step 6. Two pre-activated convolutions and a convolved skip: [B, a, H, W] -> [B, b, H, W]."""

    def __init__(self, dim: int, dim_out: int) -> None:
        super().__init__()
        self.conv_block = nn.Sequential(
            nn.BatchNorm2d(dim), nn.ReLU(), nn.Conv2d(dim, dim_out, 3, padding=1),
            nn.BatchNorm2d(dim_out), nn.ReLU(inplace=True), nn.Conv2d(dim_out, dim_out, 3, padding=1),
        )  # fmt: skip
        self.conv_skip = nn.Sequential(nn.Conv2d(dim, dim_out, 3, padding=1), nn.BatchNorm2d(dim_out))

    def forward(self, x: Tensor) -> Tensor:
        out: Tensor = self.conv_block(x) + self.conv_skip(x)
        return out
