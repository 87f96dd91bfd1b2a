"""Filter2Noise's bilateral filter: one set of widths per patch, differentiable, never a k²·H·W tensor on the fast path.

Specification: methods/filter2noise.md, section 3.4, steps 12-15; the gradients are those of section 7. Widths stay one
triple per patch ([B, 3, h, w]) instead of one per pixel, so the k² spatial weights are computed once per patch.
"""

from __future__ import annotations

import importlib.util
import math
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from ...choose import Formulation, Phase

_EPS = 1e-8  # step 15; the sum of weights is at least 1, so float32 does not notice it


def radius_of(patch_sigma: Tensor) -> int:
    """Step 12. r = ceil(largest σx or σy of the whole batch), from ``patch_sigma`` [B, 3, h, w]; 0 when it is empty."""
    return math.ceil(patch_sigma.detach()[:, :2].max().item()) if patch_sigma.numel() else 0


def to_pixels(patch_sigma: Tensor, patch_size: int) -> Tensor:
    """Step 10. Every pixel takes its patch's widths: [B, 3, h, w] -> [B, 3, h * patch_size, w * patch_size]."""
    return patch_sigma.repeat_interleave(patch_size, -2).repeat_interleave(patch_size, -1)


def reference(image: Tensor, patch_sigma: Tensor, patch_size: int, radius: int) -> Tensor:
    """Steps 13-15 as printed, one neighbour at a time; any dtype and number of channels. In float64 it is the truth."""
    height, width = image.shape[-2:]
    sigma_x, sigma_y, sigma_r = torch.split(to_pixels(patch_sigma, patch_size), 1, 1)  # [B, 1, H, W] each
    padded = F.pad(image, (radius,) * 4, mode="reflect")
    numerator, denominator = torch.zeros_like(image), torch.zeros_like(sigma_x)
    for dy in range(-radius, radius + 1):
        for dx in range(-radius, radius + 1):
            neighbour = padded[..., radius + dy : radius + dy + height, radius + dx : radius + dx + width]
            spatial = dx * dx / (2 * sigma_x**2) + dy * dy / (2 * sigma_y**2)
            distance = (image - neighbour).square().sum(1, keepdim=True) / (2 * sigma_r**2)
            weight = torch.exp(-(spatial + distance))  # [B, 1, H, W]
            numerator = numerator + weight * neighbour
            denominator = denominator + weight
    return numerator / (denominator + _EPS)


def bilateral_filter(
    image: Tensor, patch_sigma: Tensor, *, patch_size: int, radius: int | None = None, backend: str = "auto"
) -> Tensor:
    """Smooth an image with a bilateral filter whose widths vary from patch to patch.

    Parameters
    ----------
    image : Tensor, shape (B, C, H, W), float32 or float64
        Intensities, normally windowed to [0, 1]. Weights are shared by all channels.
    patch_sigma : Tensor, shape (B, 3, H / patch_size, W / patch_size), dtype and device of ``image``
        σx (along columns) and σy (along rows) in pixels, σr in units of ``image``; positive. Larger smooths more.
    patch_size : int
        Side of a patch in pixels; 1 for widths per pixel.
    radius : int or None
        Neighbours up to this far in each direction; None takes the smallest integer that is no less than any σx, σy.
    backend : {"auto", "reference", "cpu", "triton"}
        ``auto``: Triton on CUDA, numba for float32 grey images on the CPU, else the reference.

    Returns
    -------
    Tensor, shape and dtype of ``image``. A weighted mean: never outside the range of its neighbourhood.

    Raises
    ------
    ValueError
        If ``patch_sigma`` does not fit ``image``, if the radius is not smaller than both sides of the image, or if the
        backend is unknown or cannot take these tensors; the message says why.

    References
    ----------
    methods/filter2noise.md, section 3.4, steps 12-15; arXiv 2504.13519.
    """
    batch, _, height, width = image.shape
    if (
        patch_sigma.shape != (batch, 3, height // patch_size, width // patch_size)
        or height % patch_size
        or width % patch_size
    ):
        raise ValueError(
            f"patch_sigma {list(patch_sigma.shape)} does not fit image {list(image.shape)}, patches of {patch_size}: "
            f"it must be [B, 3, H / {patch_size}, W / {patch_size}]."
        )
    if radius is None:
        radius = radius_of(patch_sigma)
    if radius >= min(height, width):
        raise ValueError(f"radius {radius} must be smaller than both sides of the image, {height} x {width}.")
    out: Tensor = FILTER(image, patch_sigma, patch_size, radius, backend=backend)
    return out


def _refuses_triton(image: Tensor, *_: Any) -> str | None:
    if image.device.type != "cuda" or image.dtype != torch.float32:
        return f"takes float32 images on CUDA, not {image.dtype} on {image.device}"
    return None if importlib.util.find_spec("triton") else "needs the package triton"


def _refuses_numba(image: Tensor, *_: Any) -> str | None:
    if image.device.type == "cpu" and image.dtype == torch.float32 and image.shape[1] == 1:
        return None
    return f"takes float32 CPU images [B, 1, H, W], not {image.dtype} {list(image.shape)} on {image.device}"


FILTER = Phase(
    "the bilateral filter",
    (
        Formulation("patches, Triton", "triton", "attn.kernels.bilateral:bilateral_filter", _refuses_triton),
        Formulation("patches, numba", "cpu", "attn.core.denoise.filter2noise.bilateral_cpu:smooth", _refuses_numba),
        Formulation("one neighbour at a time", "reference", reference),
    ),
)
"""``filter(image, patch_sigma, patch_size, radius) -> image``: differentiable in the first two."""
