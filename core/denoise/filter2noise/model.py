"""Filter2Noise's network: from an image to the widths of its bilateral filters, stage after stage.

Specification: methods/filter2noise.md, section 3.3 (steps 6-11) and step 16. Parameter names are those of the official
code, so that its checkpoints load; its lazily created layers are created at once here.
"""

from __future__ import annotations

import math

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ...errors import AttnError
from .attention import WIDTH, attention
from .bilateral import bilateral_filter

SIGMA_CAP, SIGMA_FLOOR = 6.0, 1e-6


def tokens(image: Tensor, patch_size: int) -> Tensor:
    """Step 6. Patches in row-major order, each flattened as (C, ps, ps): [B, C, H, W] -> [B, N, C * ps²]."""
    batch, channels, height, width = image.shape
    patches = image.reshape(batch, channels, height // patch_size, patch_size, width // patch_size, patch_size)
    return patches.permute(0, 2, 4, 1, 3, 5).reshape(batch, -1, channels * patch_size**2)


def bounded_softplus(z: Tensor) -> Tensor:
    """Step 9's activation: min(softplus(z), 6) + 1e-6."""
    return F.softplus(z).clamp(max=SIGMA_CAP) + SIGMA_FLOOR


def together(x: Tensor, *layers: nn.Linear) -> tuple[Tensor, ...]:
    """Several linear layers of the same input as one product, which reads ``x`` [B, N, C] once."""
    weight, bias = torch.cat([layer.weight for layer in layers]), torch.cat([layer.bias for layer in layers])
    return F.linear(x, weight, bias).chunk(len(layers), dim=-1)


class SigmaPredictor(nn.Module):
    """Steps 6-9: σx, σy, σr for every patch from two attentions over all patches.

    Parameters
    ----------
    patch_size : int
        Side of a patch in pixels.
    channels : int
        Channels of the image.
    """

    def __init__(self, patch_size: int = 8, channels: int = 1) -> None:
        super().__init__()
        self.patch_size = patch_size
        width = channels * patch_size**2

        with torch.random.fork_rng(devices=[]):  # values come from ``initialise``; global randomness stays untouched
            self.query, self.key, self.value = (nn.Linear(width, WIDTH) for _ in range(3))
            self.sigma_query, self.sigma_key, self.sigma_value = (nn.Linear(WIDTH, WIDTH) for _ in range(3))
            self.norm = nn.LayerNorm(WIDTH)
            self.sigma_proj = nn.Linear(WIDTH, 3)

    def forward(self, image: Tensor) -> Tensor:
        """``image`` [B, C, H, W], sides multiples of the patch size -> widths [B, 3, H / ps, W / ps]."""
        grid = image.shape[-2] // self.patch_size, image.shape[-1] // self.patch_size
        t = tokens(image, self.patch_size)
        features = attention(*together(t, self.query, self.key, self.value))  # step 7, [B, N, 8]
        mixed = attention(*together(features, self.sigma_query, self.sigma_key, self.sigma_value))  # step 8
        sigma = bounded_softplus(self.sigma_proj(self.norm(mixed)))  # step 9, [B, N, 3]
        return sigma.mT.reshape(-1, 3, *grid)


class Stage(nn.Module):
    """One predictor and its filter."""

    def __init__(self, patch_size: int, channels: int) -> None:
        super().__init__()
        self.sigma_predictor = SigmaPredictor(patch_size, channels)

    def forward(self, image: Tensor) -> tuple[Tensor, Tensor]:
        """The filtered image [B, C, H, W] and the widths [B, 3, h, w] it was filtered with."""
        sigma = self.sigma_predictor(image)
        if not sigma.isfinite().all():
            raise AttnError("the filter's widths are no finite numbers: its weights are damaged, or its fit diverged")
        return bilateral_filter(image, sigma, patch_size=self.sigma_predictor.patch_size), sigma


class Filter2Noise(nn.Module):
    """Step 16: filters in sequence; each predicts its widths from what the one before it gives.

    Parameters
    ----------
    stages : int
        Number of filters.
    patch_size : int
        Side in pixels of the patches that share one set of widths.
    channels : int
        Channels of the image.
    seed : int
        Seed of the random start (step 11).

    References
    ----------
    methods/filter2noise.md, section 3; arXiv 2504.13519.
    """

    def __init__(self, stages: int = 2, patch_size: int = 8, channels: int = 1, *, seed: int = 77) -> None:
        super().__init__()
        if stages < 1 or patch_size < 1:
            raise ValueError(f"stages and patch_size must be at least 1, got {stages} and {patch_size}.")
        self.patch_size = patch_size
        self.stages = nn.ModuleList(Stage(patch_size, channels) for _ in range(stages))
        self.initialise(torch.Generator().manual_seed(seed))

    def predictors(self) -> list[SigmaPredictor]:
        """The sigma predictor of each stage."""
        return [stage.sigma_predictor for stage in self.stages]  # type: ignore[misc]

    @torch.no_grad()
    def initialise(self, generator: torch.Generator) -> None:
        """Step 11, PyTorch's default start, drawn in the order in which the official code creates the layers."""
        names = ("query", "key", "value", "sigma_query", "sigma_key", "sigma_value", "sigma_proj")
        for predictor in self.predictors():
            for name in names:
                layer = getattr(predictor, name)
                bound = 1 / math.sqrt(layer.in_features)
                layer.weight.uniform_(-bound, bound, generator=generator)
                layer.bias.uniform_(-bound, bound, generator=generator)

    def forward(self, image: Tensor) -> Tensor:
        """Filter ``image`` [B, C, H, W], float32 or float64, sides multiples of the patch size."""
        return self.with_maps(image)[0]

    def with_maps(self, image: Tensor) -> tuple[Tensor, list[Tensor]]:
        """The filtered image and each stage's widths [B, 3, h, w] as predicted."""
        maps = []
        for stage in self.stages:
            image, sigma = stage(image)
            maps.append(sigma)
        return image, maps
