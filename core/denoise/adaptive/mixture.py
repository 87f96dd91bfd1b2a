"""Six bilateral filters, their estimated risk, and the mixture of them that it asks for.

Specification: methods/adaptive-denoise.md, sections 2 A and 2 C.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import groupby
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy.ndimage import gaussian_filter

from ..base import PresetName, Progress, Region
from .bilateral import patch_bilaterals
from .noise_model import NoiseModel
from .smooth import gaussian_mean

Array = NDArray[Any]


@dataclass(frozen=True, slots=True)
class FilterHead:
    """One filter of the mixture.

    Parameters
    ----------
    guide : float
        Pixels: the Gaussian in front of the guide; 0 for none.
    patch : int
        Patches of 2 patch + 1 pixels a side are compared.
    kappa : float
        Range width in noise levels.
    sigma : float
        Spatial width in pixels; infinite for a flat window.
    """

    guide: float
    patch: int
    kappa: float
    sigma: float

    @property
    def bias(self) -> float:
        """A noisy guide's patches differ by noise alone; that share passes freely."""
        return 0.0 if self.guide else 1.0

    @property
    def radius(self) -> int:
        return min(6, math.ceil(3 * self.sigma)) if math.isfinite(self.sigma) else 6


HEADS = (
    FilterHead(0.7, 1, 0.5, 1.0),
    FilterHead(0.7, 1, 1.0, 1.0),
    FilterHead(0.0, 1, 0.7, 3.0),
    FilterHead(0.0, 1, 1.4, 3.0),
    FilterHead(0.0, 2, 1.4, math.inf),
    FilterHead(0.0, 2, 2.0, math.inf),
)
EPSILON = 0.05
REACH = 16.0
"""Pixels over which the risk of a place is averaged."""
WHOLE = 0.5
"""Share of the whole slice's mean in the risk of a place."""
TEMPERATURE = 0.1


@dataclass(frozen=True, slots=True)
class Preset:
    """How the risk is read.

    Parameters
    ----------
    gamma : float
        Factor on the noise that the filters pass: the model misses some near edges, where they pass most.
    keep : float
        Share of the noisy slice that stays in.
    """

    gamma: float
    keep: float


PRESETS: dict[PresetName, Preset] = {"default": Preset(1.4, 0.05), "full-dose": Preset(1.1, 0.1)}


def filtered(x: Array, level: Array, strength: Any = 1.0) -> Array:
    """[6, H, W]: the slice ``x`` [H, W] behind every head; ``strength`` (number or [H, W]) scales the range widths."""
    planes = []
    # heads that differ in kappa alone stand side by side and share their distances
    for (gaussian, patch, sigma), group in groupby(HEADS, lambda head: (head.guide, head.patch, head.sigma)):
        heads = list(group)
        guide = gaussian_filter(x, gaussian) if gaussian else x
        planes.append(
            patch_bilaterals(
                x, guide, strength * level, [head.kappa for head in heads], spatial_sigma=sigma,
                radius=heads[0].radius, patch=patch, bias=heads[0].bias,
            )
        )  # fmt: skip
    return np.concatenate(planes)


def passed_noise(x: Array, level: Array, planes: Array, noise: Array) -> Array:
    """[6, H, W]: noise times what each head passes of it, by a small step along the synthetic ``noise`` [H, W]."""
    return np.asarray(noise * (filtered(x + np.float32(EPSILON) * noise, level) - planes) / EPSILON)


def weigh(x: Array, level: Array, planes: Array, passed: Array, gamma: float) -> Array:
    """Weights [K, H, W] of the candidates ``planes`` by Stein's risk; ``passed``: the noise that they let pass."""
    risk = gaussian_mean((planes - x) ** 2 + 2 * gamma * passed, REACH) / gaussian_mean(level**2, REACH)
    risk = (1 - WHOLE) * risk + WHOLE * risk.mean((1, 2), keepdims=True)
    weights = np.exp(-(risk - risk.min(0)) / TEMPERATURE)
    return np.asarray(weights / weights.sum(0))


def mix(x: Array, planes: Array, weights: Array, keep: Any) -> Array:
    """The result [H, W]; ``keep`` (number or [H, W]) is the share of ``x`` in it."""
    rest, keep = np.asarray(1 - keep, np.float32), np.asarray(keep, np.float32)
    return np.asarray(rest * (weights * planes).sum(0) + keep * x)


def strength_map(shape: tuple[int, ...], strength: float, regions: Sequence[Region]) -> NDArray[np.float32]:
    """Factor on the range widths of every pixel [H, W]: the regions' own inside them, a later one's where they meet."""
    factors = np.full(shape, strength, np.float32)
    for region in regions:
        factors[region.y0 : region.y1, region.x0 : region.x1] = region.strength
    return factors


def kept(keep: float, strength: Any) -> Any:
    """Share of the noisy slice that stays in at a ``strength`` (number or [H, W]); everything at strength 0.

    Ours: inversely proportional to the strength, so that one above 1 adds no noise, and one near 0 gives the slice back
    although the filters, however narrow, still average equal neighbours.
    """
    return np.minimum(1.0, keep / np.maximum(np.asarray(strength, np.float64), 1e-9))


def widths(level: Array, weights: Array) -> tuple[Array, Array]:
    """Maps [H, W] of the mixture's range width (units of ``level``) and spatial width (pixels)."""
    kappa = np.array([head.kappa for head in HEADS])
    # a flat window of radius r has the variance r^2 / 3 along each axis
    sigma = np.array([head.sigma if math.isfinite(head.sigma) else head.radius / math.sqrt(3) for head in HEADS])
    return np.tensordot(kappa, weights, 1) * level, np.tensordot(sigma, weights, 1)


def drawn_by(seed: int) -> int:
    """Seed of the synthetic noise for the option ``seed``, whose default, 77, draws what the reference draws with 0."""
    return (seed - 77) % 2**32


def denoise_slice(
    x: Array, model: NoiseModel, preset: Preset, seed: int = 0, progress: Progress | None = None
) -> tuple[Array, Array]:
    """Result [H, W] and weights [6, H, W] of one slice in [0, 1], given its noise; ``progress`` is told of 3 steps."""
    told = progress or (lambda done, total: None)
    planes = filtered(x, model.level)
    told(1, 3)
    passed = passed_noise(x, model.level, planes, model.sample(np.random.default_rng(seed)))
    told(2, 3)
    weights = weigh(x, model.level, planes, passed, preset.gamma)
    result = mix(x, planes, weights, preset.keep)
    told(3, 3)
    return result, weights
