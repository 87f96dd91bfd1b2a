"""Image patches, their normalisation, whitening and principal components.

Specification: methods/filter-design.md, section 3.4, steps 7-9.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor

CONTRAST = 10 / 255**2
"""Variance added to a patch's own, in units of images in [0, 1] (Coates 2012: 10 for 8-bit values)."""


def patches(
    images: Tensor, size: int | tuple[int, int], *, stride: int = 2, limit: int = 100_000,
    generator: torch.Generator | None = None,
) -> Tensor:  # fmt: skip
    """Step 7: all windows at a stride, each flattened in the order (C, y, x).

    Parameters
    ----------
    images : Tensor, shape (N, C, H, W)
    size : int or (int, int)
        Height and width of the windows.
    stride : int
    limit : int
        With more windows than this, one at random from each of ``limit`` equal stretches of them.
    generator : Generator, optional

    Returns
    -------
    Tensor, shape (P, C * height * width), float64

    Raises
    ------
    ValueError
        If the images are not (N, C, H, W), smaller than a window, or not finite.
    """
    high, wide = (size, size) if isinstance(size, int) else size
    if images.dim() != 4 or not images.numel():
        raise ValueError(f"images of shape {tuple(images.shape)}: [N, C, H, W] is needed, none of them 0.")
    if min(high, wide, stride, limit) < 1 or images.shape[2] < high or images.shape[3] < wide:
        raise ValueError(f"no {high} x {wide} patch fits into images of {images.shape[2]} x {images.shape[3]}.")
    if not images.isfinite().all():
        raise ValueError("images hold NaN or infinity: leave those out.")
    windows = images.unfold(2, high, stride).unfold(3, wide, stride).permute(0, 2, 3, 1, 4, 5)  # [N, h, w, C, k, k]
    n, h, w = windows.shape[:3]
    total = n * h * w
    if total <= limit:
        return windows.reshape(total, -1).double()
    draws = torch.rand(limit, dtype=torch.float64, generator=generator, device=generator.device if generator else "cpu")
    place = ((torch.arange(limit, device=draws.device) + draws) * (total / limit)).long().clamp_max(total - 1)
    place = place.to(images.device)
    return windows[place // (h * w), place // w % h, place % w].flatten(1).double()


def normalise(x: Tensor) -> Tensor:
    """Step 7: subtract each patch's mean, divide by sqrt(variance + ``CONTRAST``) (biased); [P, D] -> [P, D]."""
    return (x - x.mean(1, keepdim=True)) / (x.var(1, correction=0, keepdim=True) + CONTRAST).sqrt()


class Whitening(NamedTuple):
    """Y = (X - mean) @ matrix."""

    mean: Tensor
    """[D]"""
    matrix: Tensor
    """[D, D], symmetric"""

    def __call__(self, x: Tensor) -> Tensor:
        return (x - self.mean) @ self.matrix


def _eigen(x: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Mean [D], rising eigenvalues [D] and eigenvectors (columns) [D, D] of the biased covariance of [P, D]."""
    mean = x.mean(0)
    values, vectors = torch.linalg.eigh((x - mean).T @ (x - mean) / len(x))
    return mean, values.clamp_min(0), vectors  # a covariance has none below 0 but for rounding


def zca(x: Tensor, eps: float = 0.1) -> Whitening:
    """Step 8: whitening that changes the patches [P, D] least; larger ``eps`` leaves weak components smaller."""
    mean, values, vectors = _eigen(x)
    return Whitening(mean, (vectors / (values + eps).sqrt()) @ vectors.T)


def pca(x: Tensor) -> tuple[Tensor, Tensor]:
    """Step 9: components by falling eigenvalue as rows [D, D], largest-magnitude entry positive; eigenvalues [D]."""
    _, values, vectors = _eigen(x)
    rows = vectors.flip(1).T
    largest = rows.gather(1, rows.abs().argmax(1, keepdim=True))
    return rows * largest.sign(), values.flip(0)
