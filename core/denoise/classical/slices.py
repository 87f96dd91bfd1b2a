"""What the methods without training share: checks on the way in, tensors to arrays and back."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from ..base import FitOptions
from ..noise import noise_std

if TYPE_CHECKING:
    from torch import Tensor

MIN_SIDE = 16
"""Smaller images are mirrored up to this side, filtered and cropped: BM3D kills the process (segmentation fault) at
8x8, non-local means gives NaN on a single row, the wavelet transform warns."""

Run = Callable[[NDArray[np.float32]], NDArray[Any]]


def as_image(image: Tensor) -> NDArray[np.float32]:
    """[H, W] tensor on any device -> array, once it is something that can be denoised."""
    from ..filter2noise.fitted import check_image

    check_image(image)
    values: NDArray[np.float32] = image.detach().cpu().float().numpy()
    return values


def noise_level(image: Tensor, options: FitOptions) -> float:
    """The noise that a parameter rule starts from: what the user says, else the estimate for correlated noise."""
    values = as_image(image)
    if options.sigma is None:
        return noise_std(values, level=2)
    if not (options.sigma >= 0 and math.isfinite(options.sigma)):
        raise ValueError(f"sigma must be finite and not negative, got {options.sigma}")
    return options.sigma


@dataclass(frozen=True, slots=True)
class ClassicalFilter:
    """A library's denoiser with its parameters chosen; see `attn.core.denoise.base.Filter`.

    ``run`` None leaves images as they are: without noise there is nothing to remove, and most rules divide by it.
    """

    run: Run | None
    settings: Mapping[str, float]
    parameters: int = field(default=0, init=False)
    steps: int = field(default=0, init=False)

    def __call__(self, image: Tensor) -> Tensor:
        """Denoise ``image`` [H, W]; same shape, dtype and device. Raises ``ValueError`` as fitting does."""
        import torch

        values = as_image(image)
        if self.run is None:
            return image.clone()
        height, width = values.shape
        pad = ((0, max(MIN_SIDE - height, 0)), (0, max(MIN_SIDE - width, 0)))
        filtered = self.run(np.pad(values, pad, mode="symmetric") if pad != ((0, 0), (0, 0)) else values)
        result = np.ascontiguousarray(filtered[:height, :width], dtype=np.float32)
        return torch.from_numpy(result).to(dtype=image.dtype, device=image.device)
