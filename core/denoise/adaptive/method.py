"""``fit`` of the method adaptive: the noise of one slice, and the mixture of filters that suits it. Nothing is trained.

Our own method, unpublished: methods/adaptive-denoise.md. Section 2 B is in ``noise_model.py``, 2 A and 2 C are in
``mixture.py`` and ``bilateral.py``, section 6 in ``volume.py``; the fitted filter is in ``fitted.py``.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from ...threads import kernels_own_the_threads
from ..base import FitOptions, Progress
from ..classical.slices import as_image
from .fitted import AdaptiveFilter, digest
from .mixture import PRESETS, denoise_slice, drawn_by
from .noise_model import estimate
from .padding import filled

if TYPE_CHECKING:
    from torch import Tensor

__all__ = ["AdaptiveFilter", "fit", "load"]

STEPS = 4
"""That ``progress`` is told of: the noise, the filters, what they pass of it, the mixture."""

load = AdaptiveFilter.load


def fit(
    image: Tensor,
    options: FitOptions,
    progress: Progress | None = None,
    *,
    valid: NDArray[np.bool_] | None = None,
    aspect: float = 1.0,
) -> AdaptiveFilter:
    """Estimate the noise of one image, and mix the filters for it.

    Parameters
    ----------
    image : Tensor, shape (H, W), float32
        Intensities in [0, 1]; any size from 1 x 1. Pixels at 0 or 1 count as clipped.
    options : FitOptions
        ``preset`` and ``seed`` matter.
    progress : callable or None
        Called with (steps done, steps in all).
    valid : ndarray of bool, shape (H, W), or None
        False where pixels are padding: the noise is not measured there, and the filters see the nearest valid pixel.
    aspect : float
        Height of a pixel over its width.

    Returns
    -------
    AdaptiveFilter
        Holds the result for ``image`` itself.

    Raises
    ------
    ValueError
        If the image is empty, not two-dimensional, or contains NaN or infinity.

    References
    ----------
    methods/adaptive-denoise.md, section 2.
    """
    x, preset = np.ascontiguousarray(filled(as_image(image), valid)), PRESETS[options.preset]
    told = progress or (lambda done, total: None)
    with kernels_own_the_threads():
        model = estimate(x, valid, aspect=aspect)
        told(1, STEPS)
        result, weights = denoise_slice(x, model, preset, drawn_by(options.seed), lambda done, _: told(done + 1, STEPS))
    shares = tuple(float(share) for share in weights.mean((1, 2), dtype=np.float64))
    return AdaptiveFilter(model, preset, options.seed, digest(x, valid), shares, weights, result)
