"""Filter2Noise: single-image CT denoising by an attention-guided bilateral filter, fitted on the image itself.

Paper: arXiv 2504.13519 (2025). Specification: methods/filter2noise.md; step numbers are its numbers. Steps 6-11 and 16
are in ``model.py``, 12-15 in ``bilateral.py``, 20-21 in ``edges.py``, 23-24 in ``schedule.py``.
Differs from the official code in step 2 (channels are downsampled one by one; the official kernels mix them, grey
images are not affected) and in taking any image size (reflected at the bottom and on the right, cropped afterwards).
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import torch
from torch import Tensor

from ...threads import kernels_own_the_threads
from ..base import FitOptions, Progress
from ..noise import noise_std
from .bilateral import bilateral_filter
from .edges import edge_kernel, edge_strength
from .fitted import Filter2NoiseFilter, check_image, pad_to_patches
from .model import Filter2Noise, SigmaPredictor
from .schedule import RECIPES, optimise

__all__ = [
    "Filter2Noise",
    "Filter2NoiseFilter",
    "SigmaPredictor",
    "bilateral_filter",
    "choose_edge_weight",
    "downsample_pair",
    "edge_kernel",
    "edge_strength",
    "fit",
    "load",
    "local_shuffle",
    "loss_terms",
    "objective",
]


def downsample_pair(x: Tensor) -> tuple[Tensor, Tensor]:
    """Step 1. Two half-size views of ``x`` [B, C, H, W] that share the signal but not the noise."""
    x = x[..., : x.shape[-2] // 2 * 2, : x.shape[-1] // 2 * 2]
    a, b = x[..., 0::2, 0::2], x[..., 0::2, 1::2]  # [B, C, H/2, W/2]
    c, d = x[..., 1::2, 0::2], x[..., 1::2, 1::2]
    return (b + c) / 2, (a + d) / 2


def local_shuffle(x: Tensor) -> Tensor:
    """Steps 3-5. In every 2x2 block of ``x`` [B, C, H, W] swap the two most similar pixels; H and W even."""
    batch, channels, height, width = x.shape
    if height % 2 or width % 2:
        raise ValueError(f"local_shuffle needs even sides, got {height} x {width}.")
    blocks = x.reshape(batch, channels, height // 2, 2, width // 2, 2).permute(0, 2, 4, 3, 5, 1)
    vectors = blocks.reshape(batch, height // 2, width // 2, 4, channels)
    distance = (vectors[..., :, None, :] - vectors[..., None, :, :]).square().sum(-1)  # [B, H/2, W/2, 4, 4]
    distance = distance.masked_fill(torch.eye(4, dtype=torch.bool, device=x.device), torch.inf)
    nearest = distance.flatten(-2).argmin(-1, keepdim=True)  # the first of equal pairs
    p, q = nearest // 4, nearest % 4
    order = torch.arange(4, device=x.device).expand(*nearest.shape[:-1], 4)
    order = order.scatter(-1, p, q).scatter(-1, q, p)
    swapped = vectors.gather(-2, order[..., None].expand_as(vectors))
    swapped = swapped.reshape(batch, height // 2, width // 2, 2, 2, channels)
    return swapped.permute(0, 5, 1, 3, 2, 4).reshape(x.shape)


def loss_terms(model: Callable[[Tensor], Tensor], x: Tensor) -> Callable[[], dict[str, Tensor]]:
    """Steps 17-21, prepared for one noisy image: all that does not depend on the parameters is computed once.

    Parameters
    ----------
    model : callable
        M, the whole pipeline.
    x : Tensor, shape (B, C, H, W)
        The noisy image; H / 2 and W / 2 are multiples of the patch size.

    Returns
    -------
    callable
        Gives ``resolution``, ``cross``, ``denoise`` and ``edge`` (not yet weighted) for the parameters as they are.
    """
    shuffled1, shuffled2 = (local_shuffle(n) for n in downsample_pair(x))
    edges = edge_strength(x)

    def terms() -> dict[str, Tensor]:
        d1, d2 = model(shuffled1), model(shuffled2)  # step 17
        full = model(x)  # step 18
        u1, u2 = downsample_pair(full)
        return {
            "resolution": (d1 - d2).abs().mean() / 3,  # step 19
            "cross": ((d1 - u1).abs().mean() + (d2 - u2).abs().mean()) / 3,
            "denoise": (u1 - u2).abs().mean() / 3,
            "edge": (edges - edge_strength(full)).abs().mean(),  # step 21
        }

    return terms


def objective(terms: dict[str, Tensor], edge_weight: float) -> Tensor:
    """Step 22. The weighted sum of ``loss_terms``."""
    return terms["resolution"] + terms["cross"] + terms["denoise"] + edge_weight * terms["edge"]


EDGE_WEIGHTS = (400.0, 200.0, 100.0, 50.0)
ENOUGH_REMOVED = 0.7
PROBE_SIDE = 128  # pixels; on the slices tried, probes of 128, 192 and 256 led to the same choice


def choose_edge_weight(image: Tensor, options: FitOptions) -> float:
    """Our addition (specification, section 8, "--lambda auto"): the largest lambda that lets the noise go.

    The published 400 suits strong noise. On cleaner or more correlated noise its edge term is smallest where nothing is
    filtered. Short fits on the middle of the image try 400, 200, 100; the first that removes at least 0.7 of the
    estimated noise is taken, else 50. Only the noisy image is looked at.

    Parameters
    ----------
    image : Tensor, shape (H, W), float32
    options : FitOptions

    Returns
    -------
    float
    """
    top, left = (max(0, (size - PROBE_SIDE) // 2) for size in image.shape)
    probe = image[top : top + PROBE_SIDE, left : left + PROBE_SIDE].contiguous()
    noise = noise_std(probe.cpu().numpy(), level=2)
    for weight in EDGE_WEIGHTS[:-1]:
        tried = fit(probe, replace(options, quality="fast", steps=None, learning_rate=None, edge_weight=weight))
        removed = float((tried(probe) - probe).square().mean().sqrt())
        if removed >= ENOUGH_REMOVED * noise:
            return weight
    return EDGE_WEIGHTS[-1]


load = Filter2NoiseFilter.load


def fit(image: Tensor, options: FitOptions, progress: Progress | None = None) -> Filter2NoiseFilter:
    """Fit the filter to one noisy image, from that image alone.

    Parameters
    ----------
    image : Tensor, shape (H, W), float32 or float64
        Intensities within [0, 1]; any size from 1 x 1. The fit runs on its device and in its dtype (float64 is slow).
    options : FitOptions
        ``quality`` chooses the recipe (``paper`` is the published one); ``steps``, ``learning_rate`` and
        ``edge_weight`` override it.
    progress : callable or None
        Called with (steps done, steps in all) after every step.

    Returns
    -------
    Filter2NoiseFilter

    Raises
    ------
    ValueError
        If the image is empty, not two-dimensional, or contains NaN or infinity.

    References
    ----------
    methods/filter2noise.md, sections 3 and 5; arXiv 2504.13519.
    """
    check_image(image)
    weight = options.edge_weight
    if weight is None:
        weight = EDGE_WEIGHTS[0] if options.quality == "paper" else choose_edge_weight(image, options)
    recipe = RECIPES[options.quality]
    if options.steps is not None:
        recipe = replace(recipe, steps=options.steps)
    if options.learning_rate is not None:
        recipe = replace(recipe, learning_rate=options.learning_rate)
    if image.min() == image.max():
        recipe = replace(recipe, steps=0)  # nothing to learn from, and the filter returns such an image unchanged
    model = Filter2Noise(options.stages, options.patch_size, seed=options.seed).to(image.device, image.dtype)
    padded = pad_to_patches(image, options.patch_size)
    with kernels_own_the_threads():
        terms = loss_terms(model, padded)
        losses = optimise(model, lambda: objective(terms(), weight), recipe, progress)
    options = replace(options, edge_weight=weight, steps=recipe.steps, learning_rate=recipe.learning_rate)
    return Filter2NoiseFilter(model, options, losses=losses)
