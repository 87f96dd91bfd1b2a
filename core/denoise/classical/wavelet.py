"""Wavelet shrinkage: scikit-image's BayesShrink.

Chang, Yu and Vetterli 2000, doi:10.1109/83.862633.
Rule: methods/filter2noise.md, section 6, "Peers": BayesShrink as it comes.
"""

from __future__ import annotations

from functools import partial
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from ..base import FitOptions, Progress
from .slices import ClassicalFilter, noise_level

if TYPE_CHECKING:
    from torch import Tensor


def _run(image: NDArray[np.float32], *, sigma: float | None) -> NDArray[Any]:
    from skimage.restoration import denoise_wavelet

    result: NDArray[Any] = denoise_wavelet(image, sigma=sigma, method="BayesShrink", mode="soft")
    return result


def fit(image: Tensor, options: FitOptions, progress: Progress | None = None) -> ClassicalFilter:
    """Nothing is chosen unless ``options.sigma`` is given: BayesShrink estimates the noise in its own wavelet (db1).

    Raises
    ------
    ValueError
        If the image is empty, not two-dimensional or not finite, or ``options.sigma`` is negative.
    """
    noise = noise_level(image, options)
    return ClassicalFilter(partial(_run, sigma=options.sigma) if noise > 0 else None, {"noise_std": noise})
