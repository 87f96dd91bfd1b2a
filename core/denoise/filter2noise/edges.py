"""The edge term of Filter2Noise's loss: a difference of two wide Gaussians, 7x7.

Specification: methods/filter2noise.md, section 3.5, steps 20 and 21. The kernel is symmetric, so the gradient of the
convolution is the same convolution of the gradient; PyTorch's general one took a third of a training step on the CPU.
"""

from __future__ import annotations

import functools
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from ...choose import Formulation, Phase


@functools.lru_cache(maxsize=8)
def edge_kernel(dtype: torch.dtype = torch.float32, device: torch.device | None = None) -> Tensor:
    """Step 20. Difference of two wide Gaussians on 7x7 pixels, [1, 1, 7, 7]; sums to 0."""
    line = torch.arange(-3, 4, dtype=dtype, device=device)
    square = line[:, None] ** 2 + line**2  # [7, 7]
    narrow, wide = (torch.exp(-square / (2 * sigma**2)) for sigma in (9.0, 10.0))
    return (narrow / narrow.sum() - wide / wide.sum())[None, None]


def edge_strength(x: Tensor) -> Tensor:
    """Step 21's |K * x| for ``x`` [B, C, H, W], zero outside the image, every channel by itself."""
    out: Tensor = _SymmetricConvolution.apply(x)  # type: ignore[no-untyped-call]
    return out.abs()


class _SymmetricConvolution(torch.autograd.Function):
    """K * x, and K * gradient on the way back."""

    @staticmethod
    def forward(ctx: Any, x: Tensor) -> Tensor:
        return _convolve(x)

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> Tensor:  # type: ignore[override]
        return _convolve(grad)


def _convolve(x: Tensor) -> Tensor:
    """K * x for ``x`` [B, C, H, W]."""
    out: Tensor = CONVOLUTION(x, edge_kernel(x.dtype, x.device)[0, 0])
    return out


def _in_torch(x: Tensor, weights: Tensor) -> Tensor:
    channels = x.shape[1]
    return F.conv2d(x, weights.expand(channels, 1, 7, 7), padding=3, groups=channels)


def _refuses(x: Tensor, weights: Tensor) -> str | None:
    if x.device.type == "cpu" and x.dtype == torch.float32:
        return None
    return f"takes float32 images on the CPU, not {x.dtype} on {x.device}"


CONVOLUTION = Phase(
    "the edge kernel",
    (
        Formulation("symmetric, numba", "cpu", "attn.core.denoise.filter2noise.edges_cpu:convolve", _refuses),
        Formulation("convolution, torch", "torch", _in_torch),
    ),
)
"""``convolve(x [B, C, H, W], weights [7, 7])``, zero outside the image."""
