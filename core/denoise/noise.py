"""How noisy an image is, judged from the image alone.

Specification: methods/filter2noise.md, section 6 (the estimator that the peers' parameter rules use).
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

NORMAL_QUARTILE = 0.6744897501960817  # median of |z| for a standard normal z: turns the MAD into a standard deviation


def noise_std(image: NDArray[Any], valid: NDArray[np.bool_] | None = None, *, level: int = 1) -> float:
    """Standard deviation of the noise in an image: the median of |diagonal wavelet coefficients| / 0.6745.

    With ``level`` 1 it equals scikit-image's ``estimate_sigma`` on an image without mask, and is right for white noise.
    CT noise is correlated over some pixels and has little power in this finest band, the less the smaller the pixels:
    the figure is 0.84 of the true noise on the specification's slice, and 0.07 to 0.5 of it on slices of eight scanners
    at a simulated twentieth of their dose. The next band (``level`` 2, ours) holds 0.99 and 0.6 to 1.4 of it.

    Parameters
    ----------
    image : ndarray, shape (H, W), any real dtype
        Finite where valid.
    valid : ndarray of bool, shape (H, W), optional
        False marks pixel padding. Coefficients that a padding pixel reaches are left out.
    level : int
        Which band: 1 is the finest, for noise that is independent from pixel to pixel; 2 is for correlated noise.

    Returns
    -------
    float, in the unit of ``image``. 0 where there is nothing to judge by (constant or empty image).

    Raises
    ------
    ValueError
        If the shapes do not fit or ``level`` is below 1.

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
    if level < 1:
        raise ValueError(f"level must be at least 1, got {level}")
    if not image.size:
        return 0.0
    dtype = np.float32 if image.dtype == np.float32 else np.float64
    values: NDArray[Any] = image.astype(dtype)  # always a copy
    if valid is not None:
        values[~valid] = np.nan  # reaches every coefficient that the pixel has a part in
    peak = np.max(np.abs(values), initial=0, where=np.isfinite(values))
    for _ in range(level - 1):
        values = pywt.dwt(pywt.dwt(values, "db2", axis=0)[0], "db2", axis=1)[0]
    high = pywt.dwt(values, "db2", axis=0)[1]
    detail = np.abs(pywt.dwt(high, "db2", axis=1)[1])  # [H/2^level, W/2^level], and one or two more
    detail = detail[detail > np.finfo(dtype).eps * peak]  # neither flat regions nor NaN
    return float(np.median(detail) / NORMAL_QUARTILE) if detail.size else 0.0
