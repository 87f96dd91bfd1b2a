"""Layers of FSG-Net for prediction: batch norms folded into convolutions, and no large map that is not needed.

Specification: methods/fsg-net.md, sections 3.1, 3.3 and 7; step numbers are its numbers. ``fast.py`` composes them.
"""

from __future__ import annotations

import copy

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.nn.utils.fusion import fuse_conv_bn_eval

from .guided import resize_like
from .layers import ConvBlock, Gate, MConv, ResConv

STRIP_BYTES = 4 << 20
"""Hidden maps of a block are made in strips of about this size, which bounds memory; 1 to 8 MB are equally fast."""


def as_rows(x: Tensor) -> Tensor:
    """[B, C, H, W] -> [B * H, C, 1, W], a view if ``x`` is channels last.

    torch gives pointwise convolutions of a batch of 16 or more to oneDNN, and smaller ones, on one thread, to a matrix
    product that takes longer at widths of 8 to 64. To a pointwise convolution, rows are as good as images.
    """
    return x.transpose(1, 2).flatten(0, 1).unsqueeze(2)


def from_rows(rows: Tensor, batch: int) -> Tensor:
    """Undo ``as_rows``."""
    return rows.reshape(batch, -1, rows.shape[1], rows.shape[3]).transpose(1, 2)


def pointwise(conv: nn.Module, x: Tensor) -> Tensor:
    """``conv(x)`` for a 1x1 convolution, or for a chain of them with pointwise functions."""
    return from_rows(conv(as_rows(x)), x.shape[0])


def accurate(dtype: torch.dtype) -> torch.dtype:
    """What is computed in where ``dtype`` is too coarse."""
    return torch.promote_types(dtype, torch.float32)


class FastConvBlock(nn.Module):
    """Step 2 with its batch norm in the depthwise convolution and gamma in the last one."""

    def __init__(self, block: ConvBlock, strip_bytes: int = STRIP_BYTES) -> None:
        super().__init__()
        self.strip_bytes = strip_bytes
        self.dwconv = fuse_conv_bn_eval(block.dwconv, block.norm)
        self.conv1, self.conv2 = block.conv1, copy.deepcopy(block.conv2)
        assert self.conv2.bias is not None
        with torch.no_grad():
            self.conv2.weight.mul_(block.gamma[:, None, None, None])
            self.conv2.bias.mul_(block.gamma)

    @torch.no_grad()
    def forward(self, x: Tensor) -> Tensor:
        rows, out = as_rows(x), as_rows(self.dwconv(x))
        at_once = max(1, self.strip_bytes // (self.conv1.out_channels * x.shape[3] * x.element_size()))
        for part, residual in zip(torch.split(out, at_once), torch.split(rows, at_once), strict=True):
            torch.add(residual, self.conv2(F.relu_(self.conv1(part))), out=part)
        return from_rows(out, x.shape[0])


class FastResConv(nn.Module):
    """Step 6 with its first batch norm as scale and shift, and the others folded."""

    def __init__(self, block: ResConv) -> None:
        super().__init__()
        norm, _, inner, second, _, self.outer = block.conv_block
        assert isinstance(norm, nn.BatchNorm2d)
        assert norm.running_var is not None
        assert norm.running_mean is not None
        self.inner, self.skip = fused(inner, second), fused(*block.conv_skip)
        scale = norm.weight / (norm.running_var + norm.eps).sqrt()
        self.scale = nn.Parameter(scale.detach()[:, None, None])
        self.shift = nn.Parameter((norm.bias - norm.running_mean * scale).detach()[:, None, None])

    def forward(self, x: Tensor) -> Tensor:
        skip: Tensor = self.skip(x)
        out = F.relu_(self.inner(F.relu_(torch.addcmul(self.shift, x, self.scale))))
        return skip.add_(self.outer(out))


class Merge(nn.Module):
    """Steps 19, 21 and 23 without the concatenation: a pointwise convolution of each part, added."""

    def __init__(self, merge: MConv, fine: int) -> None:
        super().__init__()
        conv = convolution(merge)
        self.fine = nn.Conv2d(fine, conv.out_channels, 1, bias=False)
        self.coarse = nn.Conv2d(conv.in_channels - fine, conv.out_channels, 1)
        self.fine.weight, self.coarse.weight = (nn.Parameter(w.clone()) for w in conv.weight.tensor_split((fine,), 1))
        self.coarse.bias = conv.bias

    def forward(self, fine: Tensor, coarse: Tensor) -> Tensor:
        low = pointwise(self.coarse, coarse)
        return F.relu_(pointwise(self.fine, fine).add_(resize_like(low, fine)))


def gate_map(gate: Gate, x: Tensor, g: Tensor) -> Tensor:
    """Step 5 in place; ``x`` and ``g`` have one size here."""
    return pointwise(gate.psi, F.relu_(pointwise(gate.theta, x).add_(pointwise(gate.phi, g))))


def fused(conv: nn.Module, norm: nn.Module) -> nn.Conv2d:
    assert isinstance(conv, nn.Conv2d)
    assert isinstance(norm, nn.BatchNorm2d)
    return fuse_conv_bn_eval(conv, norm)


def convolution(block: nn.Module) -> nn.Conv2d:
    assert isinstance(block, MConv)
    conv = block.conv[0]
    assert isinstance(conv, nn.Conv2d)
    return conv
