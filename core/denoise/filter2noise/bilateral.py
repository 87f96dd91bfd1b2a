"""Filter2Noise's bilateral filter: one set of widths per patch, differentiable, never a k²·H·W tensor on the fast path.

Specification: methods/filter2noise.md, section 3.4, steps 12-15; the gradients are those of section 7. Widths stay one
triple per patch ([B, 3, h, w]) instead of one per pixel, so the k² spatial weights are computed once per patch.
"""

from __future__ import annotations

import math
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

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
    backend : {"auto", "reference", "numba", "triton"}
        ``auto``: Triton on CUDA, numba for float32 grey images on the CPU, else the reference.

    Returns
    -------
    Tensor, shape and dtype of ``image``. A weighted mean: never outside the range of its neighbourhood.

    Raises
    ------
    ValueError
        If ``patch_sigma`` does not fit ``image``, if the radius is not smaller than both sides of the image, or if the
        backend is unknown or cannot take these tensors.

    References
    ----------
    methods/filter2noise.md, section 3.4, steps 12-15; arXiv 2504.13519.
    """
    batch, channels, height, width = image.shape
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
    if backend == "auto":
        backend = _choose(image)
    if backend == "reference":
        return reference(image, patch_sigma, patch_size, radius)
    if backend == "triton":
        from attn.kernels.bilateral import bilateral_filter as triton_bilateral

        out: Tensor = triton_bilateral(image, patch_sigma, patch_size, radius)
        return out
    if backend == "numba":
        if image.device.type != "cpu" or image.dtype != torch.float32 or channels != 1:
            raise ValueError(
                f"the numba backend takes float32 CPU images [B, 1, H, W], got {image.dtype} {list(image.shape)}"
            )
        out = _FusedBilateral.apply(image, patch_sigma, patch_size, radius)  # type: ignore[no-untyped-call]
        return out
    raise ValueError(f"no bilateral backend {backend!r}; known: auto, reference, numba, triton")


def _choose(image: Tensor) -> str:
    """The fastest backend that can take ``image``."""
    if image.device.type == "cuda" and image.dtype == torch.float32:
        try:
            from attn.kernels import bilateral  # noqa: F401
        except ImportError:
            return "reference"
        return "triton"
    if image.device.type == "cpu" and image.dtype == torch.float32 and image.shape[1] == 1:
        try:
            from . import bilateral_cpu  # noqa: F401
        except ImportError:
            return "reference"
        return "numba"
    return "reference"


class _FusedBilateral(torch.autograd.Function):
    """Forward keeps y and the sum of weights; backward recomputes the weights from them."""

    @staticmethod
    def forward(ctx: Any, image: Tensor, patch_sigma: Tensor, patch_size: int, radius: int) -> Tensor:
        from . import bilateral_cpu as cpu

        padded = F.pad(image, (radius,) * 4, mode="reflect")[:, 0].contiguous()  # [B, H + 2r, W + 2r]
        sigma = patch_sigma.contiguous()
        out = torch.empty(image.shape, dtype=image.dtype)
        total = torch.empty(image.shape, dtype=image.dtype)
        cpu.forward(padded, sigma, patch_size, radius, out, total)
        ctx.save_for_backward(padded, sigma, out, total)
        ctx.patch_size, ctx.radius = patch_size, radius
        return out

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, Tensor, None, None]:  # type: ignore[override]
        from . import bilateral_cpu as cpu

        padded, sigma, out, total = ctx.saved_tensors
        grad_image = torch.empty(out.shape, dtype=out.dtype) if ctx.needs_input_grad[0] else None
        grad_sigma = torch.empty(sigma.shape, dtype=sigma.dtype)
        cpu.backward(padded, sigma, ctx.patch_size, ctx.radius, out, total, grad.contiguous(), grad_sigma, grad_image)
        return grad_image, grad_sigma, None, None
