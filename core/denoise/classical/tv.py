"""Total variation: scikit-image's Chambolle solver, with its weight chosen from the noise.

Chambolle, JMIV 2004, doi:10.1023/B:JMIV.0000011325.36760.1e.
Rule [ours]: weight = 0.7 estimates for correlated noise (methods/filter2noise.md, section 6, has the finest band's
estimate, which CT noise hardly reaches). On simulated doses of 1/4 and 1/20 of nine CT slices: 0.5 and 1.9 dB more.
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

WEIGHT_FACTOR = 0.7


def _run(image: NDArray[np.float32], *, weight: float) -> NDArray[Any]:
    from skimage.restoration import denoise_tv_chambolle

    result: NDArray[Any] = denoise_tv_chambolle(image, weight=weight)  # type: ignore[no-untyped-call]
    return result


def fit(image: Tensor, options: FitOptions, progress: Progress | None = None) -> ClassicalFilter:
    """Choose the weight from the noise in ``image`` [H, W] (or ``options.sigma``).

    Raises
    ------
    ValueError
        If the image is empty, not two-dimensional or not finite, or ``options.sigma`` is negative.
    """
    noise = noise_level(image, options)
    settings = {"noise_std": noise, "weight": WEIGHT_FACTOR * noise}
    return ClassicalFilter(partial(_run, weight=WEIGHT_FACTOR * noise) if noise > 0 else None, settings)
