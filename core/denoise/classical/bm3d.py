"""BM3D: block matching and collaborative filtering, from the optional package ``bm3d`` (non-commercial licence).

Dabov et al. 2007, doi:10.1109/TIP.2007.901238; Mäkinen et al. 2020, doi:10.1109/TIP.2020.3014721 (the package).
Rule: methods/filter2noise.md, section 6: sigma_psd = 1.5 estimates; the estimate is [ours], for correlated noise.
"""

from __future__ import annotations

from functools import partial
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from ...memory import check_memory
from ..base import FitOptions, Progress
from .slices import ClassicalFilter, noise_level

if TYPE_CHECKING:
    from torch import Tensor

SIGMA_FACTOR = 1.5
PIXEL_BYTES = 640
"""Bytes per pixel that the package takes, measured: more than readers count on for the work on a slice."""


def _run(image: NDArray[np.float32], *, sigma_psd: float) -> NDArray[Any]:
    import bm3d

    height, width = image.shape
    check_memory("bm3d", image.size * PIXEL_BYTES, f"its work on {height} x {width} pixels takes")
    profile = bm3d.BM3DProfile()
    profile.num_threads = 1  # several threads add up in any order, and the same image would give other bytes
    result: NDArray[Any] = bm3d.bm3d(image.astype(np.float64), sigma_psd=sigma_psd, profile=profile)
    return result


def fit(image: Tensor, options: FitOptions, progress: Progress | None = None) -> ClassicalFilter:
    """Choose ``sigma_psd`` from the noise in ``image`` [H, W] (or ``options.sigma``, which is taken as it is).

    Raises
    ------
    ValueError
        If the image is empty, not two-dimensional or not finite, or ``options.sigma`` is negative.
    """
    noise = noise_level(image, options)
    sigma_psd = SIGMA_FACTOR * noise if options.sigma is None else noise
    return ClassicalFilter(
        partial(_run, sigma_psd=sigma_psd) if noise > 0 else None, {"noise_std": noise, "sigma_psd": sigma_psd}
    )
