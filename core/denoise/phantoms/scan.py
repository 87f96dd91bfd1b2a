"""What a scanner makes of a phantom: its truth with the noise of a dose."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from ..simulate import dose_of_all_noise, simulate_low_dose
from .phantom import Phantom


def scan(phantom: Phantom, dose: float, *, seed: int) -> NDArray[np.float32]:
    """A phantom as a scan at a fraction of the automatic exposure shows it.

    Parameters
    ----------
    phantom : Phantom
    dose : float
        As a share of the automatic exposure (`attn.core.denoise.simulate.COUNTS`); positive and finite. The noise's
        variance is ``1 / dose`` of that at full dose.
    seed : int
        Of the noise: slice z has ``seed + z``.

    Returns
    -------
    ndarray, shape (Z, H, W), float32, in HU.

    Raises
    ------
    ValueError
        If the dose is no positive number.
    """
    inserted = dose_of_all_noise(dose)
    slices = [
        simulate_low_dose(
            hu, dose=inserted, pixel_mm=phantom.pixel_mm, cutoff_per_mm=phantom.cutoff_per_mm, seed=seed + z
        )
        for z, hu in enumerate(phantom.truth)
    ]
    return np.asarray(slices, np.float32)
