"""``fit`` of the method adaptive: the noise of one slice, and the mixture of filters that suits it.

Specification: methods/adaptive-denoise.md.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import numpy as np

from ..base import FitOptions, Progress
from ..classical.slices import as_image
from .mixture import PRESETS, Preset, denoise_slice
from .noise_model import NoiseModel, estimate

if TYPE_CHECKING:
    from torch import Tensor


@dataclass(frozen=True, slots=True)
class AdaptiveFilter:
    """The noise of one slice; see `attn.core.denoise.base.Filter`."""

    model: NoiseModel
    preset: Preset
    seed: int
    parameters: int = field(default=0, init=False)
    steps: int = field(default=0, init=False)

    @property
    def settings(self) -> Mapping[str, float]:
        return {
            "noise_std": float(np.sqrt(np.mean(self.model.level**2))),
            "gamma": self.preset.gamma,
            "keep": self.preset.keep,
        }

    def __call__(self, image: Tensor) -> Tensor:
        """Denoise ``image`` [H, W]; same shape, dtype and device."""
        import torch

        result, _ = denoise_slice(np.ascontiguousarray(as_image(image)), self.model, self.preset, self.seed)
        return torch.from_numpy(np.asarray(result, np.float32)).to(dtype=image.dtype, device=image.device)


def fit(
    image: Tensor, options: FitOptions, progress: Progress | None = None, *, valid: Any = None, aspect: float = 1.0
) -> AdaptiveFilter:
    """Estimate the noise of ``image`` [H, W] in [0, 1]; ``valid`` [H, W] is False where pixels are padding."""
    return AdaptiveFilter(estimate(as_image(image), valid), PRESETS["default"], options.seed)
