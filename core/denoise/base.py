"""What every denoiser shares: the options that reach it and the shape of what fitting returns.

A method's ``home`` is ``fit(image, options, progress=None) -> Filter``. Fitting looks at the noisy image alone (it
trains, or chooses parameters from the estimated noise); the filter can then be applied to that image and to others.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal, Protocol

if TYPE_CHECKING:
    from torch import Tensor

Quality = Literal["fast", "balanced", "paper"]
Progress = Callable[[int, int], None]
"""Called with (steps done, steps in all)."""


@dataclass(frozen=True, slots=True)
class Region:
    """A rectangle of pixels and the factor on the range sigma in it: columns x0..x1-1, rows y0..y1-1."""

    x0: int
    y0: int
    x1: int
    y1: int
    strength: float


@dataclass(frozen=True, slots=True)
class FitOptions:
    """Everything that fitting may depend on. ``None`` means the method's own default (or what ``quality`` says).

    Parameters
    ----------
    quality : {"fast", "balanced", "paper"}
        How long a trained method trains. ``paper`` is the published recipe.
    steps : int or None
        Optimisation steps; overrides ``quality``.
    stages : int
        Filters in sequence (filter2noise).
    patch_size : int
        Side in pixels of the patches that share one set of sigmas (filter2noise).
    edge_weight : float or None
        Lambda, the weight of the edge term; higher keeps more edges and more noise (filter2noise). None: the published
        400 for ``quality="paper"``, otherwise chosen from the noisy image, which is our addition.
    learning_rate : float or None
    sigma : float or None
        Noise standard deviation in units of the image ([0, 1]); estimated from the image when None.
    seed : int
        Seed of everything random.
    """

    quality: Quality = "balanced"
    steps: int | None = None
    stages: int = 2
    patch_size: int = 8
    edge_weight: float | None = None
    learning_rate: float | None = None
    sigma: float | None = None
    seed: int = 77


class Filter(Protocol):
    """A fitted denoiser.

    Attributes
    ----------
    parameters : int
        Numbers that were learned (0 for classical methods).
    steps : int
        Optimisation steps that were run (0 for classical methods).
    settings : mapping of str to float
        Chosen parameters under stable lower-case names, for the report.
    """

    parameters: int
    steps: int

    @property
    def settings(self) -> Mapping[str, float]: ...

    def __call__(self, image: Tensor) -> Tensor:
        """Denoise ``image`` [H, W], float32, normally within [0, 1]; same shape, dtype and device."""
        ...
