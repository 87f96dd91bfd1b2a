"""How noisy an image is, judged from the image alone.

Specification: methods/filter2noise.md, section 6 (the estimator that the peers' parameter rules use).
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

NORMAL_QUARTILE = 0.6744897501960817  # median of |z| for a standard normal z: turns the MAD into a standard deviation


def noise_std(image: NDArray[Any], valid: NDArray[np.bool_] | None = None) -> float:
    """Standard deviation of white noise in an image: the median of |finest diagonal wavelet coefficients| / 0.6745.

    Equal to scikit-image's ``estimate_sigma`` on an image without mask. CT noise is spatially correlated and has less
    power in this band than its variance suggests, so that for CT the figure is a lower bound on the noise
    (0.0149 against a true 0.0178 on the specification's slice).

    Parameters
    ----------
    image : ndarray, shape (H, W), any real dtype
        Finite where valid.
    valid : ndarray of bool, shape (H, W), optional
        False marks pixel padding. Coefficients that a padding pixel reaches are left out.

    Returns
    -------
    float, in the unit of ``image``. 0 where there is nothing to judge by (constant or empty image).

    Raises
    ------
    ValueError
        If the shapes do not fit.

    Notes
    -----
    Coefficients within rounding of zero are left out: they come from clipped or filled flat regions, not from noise.
    scikit-image leaves out exact zeros only, and so takes the rounding errors of a flat region that is not 0 for noise.

    References
    ----------
    Donoho and Johnstone 1994, doi:10.1093/biomet/81.3.425.
    """
    import pywt

    if image.ndim != 2:
        raise ValueError(f"expected an image [H, W], got shape {image.shape}")
    if valid is not None and valid.shape != image.shape:
        raise ValueError(f"the image is {image.shape}, its mask of valid pixels {valid.shape}: both must be the same")
    if not image.size:
        return 0.0
    values = image.astype(np.float32 if image.dtype == np.float32 else np.float64)  # always a copy
    if valid is not None:
        values[~valid] = np.nan  # reaches every coefficient that the pixel has a part in
    high = pywt.dwt(values, "db2", axis=0)[1]
    detail = np.abs(pywt.dwt(high, "db2", axis=1)[1])  # [H/2+1, W/2+1]
    peak = np.max(np.abs(values), initial=0, where=np.isfinite(values))
    detail = detail[detail > np.finfo(values.dtype).eps * peak]  # neither flat regions nor NaN
    return float(np.median(detail) / NORMAL_QUARTILE) if detail.size else 0.0
