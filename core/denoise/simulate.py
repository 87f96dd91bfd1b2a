"""What a CT slice would have looked like at a lower dose: noise made in the sinogram, so that it is correlated.

Method after Yu et al. 2012, doi:10.1097/RCT.0b013e318264e09b (noise insertion by Poisson and electronic noise), with
parallel beams. The source has noise of its own, so only what the lower dose adds is inserted, and only that difference
is filtered and back-projected (both are linear): the slice itself never passes through the simulator's blur.

Steps
-----
1. HU to linear attenuation in 1/mm: ``mu = MU_WATER (1 + HU / 1000)``, never below 0; padding is air.
2. Line integrals ``p`` by scikit-image's ``radon``, at half resolution and every fourth angle: they set the variance of
   the noise only, which varies slowly.
3. Counts: a dose fraction d adds the variance that a scan with ``I0 d / (1 - d) exp(-p)`` photons has by itself, since
   ``1/d - 1 = (1 - d) / d``; electronic noise is scaled so that its variance grows by ``1/d² - 1``.
4. Log of the expected over the noisy counts, both floored at one count (photon starvation).
5. Ramp filter with a Hann window, then back-projection by scikit-image's ``iradon``; back to HU and added.
"""

from __future__ import annotations

import hashlib
import math
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ..errors import InputError
from ..io import GreyImage, read_grey
from .options import DenoiseOptions
from .phantoms.files import phantom_cutoff

MU_WATER = 0.0193
"""Attenuation of water in 1/mm at 70 keV, the mean energy of a 120 kVp beam (NIST XCOM)."""

COUNTS = 5.0e3
"""Automatic exposure, as scanners have it: at full dose so many photons reach a mm of detector behind the mean ray, in
one of `REFERENCE_VIEWS` views of half a turn. A slice then has 9 to 14 HU of noise at full dose and twice that at a
quarter, whatever its size: what abdomen protocols of 2-3 mm aim at."""

REFERENCE_VIEWS = 1000
ELECTRONIC = 5.0
"""Standard deviation of the detector's electronic noise in photons: felt behind dense objects alone."""

MOST_PHOTONS = 1e15
"""More make no visible noise, and NumPy's Poisson generator ends at 9e18."""

CUTOFF_PER_MM = 0.7
"""Where the Hann window ends: with it the noise peaks near 0.2 cycles per mm, as with a scanner's standard kernel."""

Image = NDArray[np.floating[Any]]


def _check(hu: Image, dose: float, angles: int | None, *, electronic: float, **positive: float | None) -> None:
    if hu.ndim != 2 or not hu.size:
        raise ValueError(f"expected a non-empty slice [H, W], got shape {hu.shape}")
    if not 0 < dose <= 1:
        raise ValueError(f"dose must be a fraction of the full dose, 0 < dose <= 1, got {dose}")
    for name, value in positive.items():
        if value is not None and not (value > 0 and math.isfinite(value)):
            raise ValueError(f"{name} must be positive and finite, got {value}")
    if not (electronic >= 0 and math.isfinite(electronic)):
        raise ValueError(f"electronic must be finite and not negative, got {electronic}")
    if angles is not None and angles < 1:
        raise ValueError(f"angles must be at least 1, got {angles}")


def attenuation(hu: Image, valid: NDArray[np.bool_] | None = None) -> NDArray[np.float32]:
    """Step 1. [H, W] HU -> [H, W] linear attenuation in 1/mm."""
    mu = np.maximum(MU_WATER * (1 + hu / 1000), 0)
    return np.asarray(mu if valid is None else np.where(valid, mu, 0), np.float32)


def line_integrals(mu: NDArray[np.float32], pixel_mm: float, theta: NDArray[np.float64]) -> NDArray[np.float64]:
    """Step 2. [H, W] in 1/mm -> [detector, angle] without unit, one detector element a pixel, full diagonal."""
    from scipy.ndimage import map_coordinates
    from skimage.transform import downscale_local_mean, radon

    side = max(mu.shape)
    square = np.zeros((side + side % 2,) * 2, np.float32)
    top, left = (len(square) - mu.shape[0]) // 2, (len(square) - mu.shape[1]) // 2
    square[top : top + mu.shape[0], left : left + mu.shape[1]] = mu
    coarse = radon(downscale_local_mean(square, (2, 2)), theta=theta[::4], circle=False)  # type: ignore[no-untyped-call]
    detectors = math.ceil(math.sqrt(2) * side)
    offset = np.arange(detectors) - detectors // 2  # in pixels from the axis of rotation
    where = np.meshgrid(offset / 2 + len(coarse) // 2, np.arange(len(theta)) / 4, indexing="ij")
    fine: NDArray[np.float64] = map_coordinates(np.asarray(coarse, np.float64), where, order=1, mode="nearest")
    return fine * (2 * pixel_mm)


def automatic_exposure(integrals: NDArray[np.float64]) -> float:
    """Photons per mm of detector and reference view in air at full dose that leave `COUNTS` behind the mean ray.

    Rays count by their attenuation, so that air beside the patient has no say and metal little.
    """
    total = float(integrals.sum())
    mean = float((integrals**2).sum()) / total if total > 0 else 0.0
    return min(COUNTS * math.exp(min(mean, 100.0)), MOST_PHOTONS)


def log_noise(
    integrals: NDArray[np.float64], dose: float, photons: float, electronic: float, rng: np.random.Generator
) -> NDArray[np.float64]:
    """Steps 3 and 4. What the lower dose adds to the line integrals; ``photons`` per element and view at full dose."""
    expected = np.minimum(photons * dose / (1 - dose) * np.exp(-integrals), MOST_PHOTONS)
    electrons = electronic * math.sqrt((1 + dose) / (1 - dose)) * rng.standard_normal(expected.shape)
    counts = rng.poisson(expected) + electrons
    return np.asarray(np.log(np.maximum(expected, 1) / np.maximum(counts, 1)))


def back_project(
    sinogram: NDArray[np.float64], pixel_mm: float, theta: NDArray[np.float64], side: int, cutoff_per_mm: float
) -> NDArray[np.float64]:
    """Step 5. [detector, angle] without unit -> [side, side] in 1/mm."""
    from skimage.transform import iradon

    detectors = len(sinogram)
    length = 2 ** math.ceil(math.log2(2 * detectors))  # zeros keep the circular convolution from wrapping round
    frequency = np.fft.rfftfreq(length, d=pixel_mm)  # cycles per mm
    window = np.where(frequency < cutoff_per_mm, 0.5 + 0.5 * np.cos(np.pi * frequency / cutoff_per_mm), 0)
    spectrum = np.fft.rfft(sinogram, n=length, axis=0) * (frequency * window)[:, None]
    filtered = np.fft.irfft(spectrum, n=length, axis=0)[:detectors]
    image = iradon(filtered, theta=theta, filter_name=None, circle=False, output_size=side)  # type: ignore[no-untyped-call]
    return np.asarray(image * 2)  # iradon's scale is that of its own filters, which are twice the ramp


def simulate_low_dose(
    hu: Image,
    *,
    dose: float,
    pixel_mm: float,
    photons: float | None = None,
    electronic: float = ELECTRONIC,
    angles: int | None = None,
    cutoff_per_mm: float = CUTOFF_PER_MM,
    seed: int = 77,
    valid: NDArray[np.bool_] | None = None,
) -> Image:
    """A CT slice with the noise that it would have had at a fraction of its dose.

    Parameters
    ----------
    hu : ndarray, shape (H, W), float32 or float64
        The slice in HU.
    dose : float
        Fraction of the slice's own dose, 0 < dose <= 1. The added variance grows as ``1 / dose - 1``; 1 adds nothing.
    pixel_mm : float
        Side of a pixel in mm.
    photons : float, optional
        Photons per mm of detector and view in air at full dose, for 1000 views in half a turn. More means less noise.
        Default: chosen for the slice by `automatic_exposure`.
    electronic : float
        Standard deviation of the electronic noise in photons. More means more streaks behind dense objects.
    angles : int, optional
        Views in half a turn; the photons are shared among them. Default: enough to sample the slice's rim,
        ``pi / 2`` times the longer side.
    cutoff_per_mm : float
        Cycles per mm at which the reconstruction kernel ends. Larger means sharper and stronger noise.
    seed : int
        Same seed, same noise. Give every slice of a stack another one.
    valid : ndarray of bool, shape (H, W), optional
        False marks pixel padding: air to the beam, unchanged in the result.

    Returns
    -------
    ndarray, shape and dtype of ``hu``, in HU.

    Raises
    ------
    ValueError
        If an argument is out of its range, shapes do not fit, or valid pixels are not finite.

    References
    ----------
    Yu et al. 2012, doi:10.1097/RCT.0b013e318264e09b.
    """
    _check(hu, dose, angles, pixel_mm=pixel_mm, photons=photons, cutoff_per_mm=cutoff_per_mm, electronic=electronic)
    if valid is not None and valid.shape != hu.shape:
        raise ValueError(f"the slice is {hu.shape}, its mask of valid pixels {valid.shape}: both must be the same")
    if not np.isfinite(hu if valid is None else hu[valid]).all():
        raise ValueError("the slice has values that are not finite")
    if dose == 1:
        return hu.copy()
    side = max(hu.shape)
    views = angles or math.ceil(math.pi / 2 * side)
    theta = np.arange(views) * (180.0 / views)
    integrals = line_integrals(attenuation(hu, valid), pixel_mm, theta)
    flux = automatic_exposure(integrals) if photons is None else photons
    per_element = flux * pixel_mm * REFERENCE_VIEWS / views
    noise = log_noise(integrals, dose, per_element, electronic, np.random.default_rng(seed))
    added = back_project(noise, pixel_mm, theta, side, cutoff_per_mm)
    top, left = (side - hu.shape[0]) // 2, (side - hu.shape[1]) // 2
    noisy = hu + (added * (1000 / MU_WATER))[top : top + hu.shape[0], left : left + hu.shape[1]]
    return (noisy if valid is None else np.where(valid, noisy, hu)).astype(hu.dtype)


def dose_of_all_noise(dose: float) -> float:
    """What to ask `simulate_low_dose` for, so that a slice without noise of its own gets all of it at ``dose``.

    It adds the variance ``1 / asked - 1`` in units of the full dose's, and ``1 / dose`` is wanted.
    Raises ``ValueError`` unless ``dose`` is positive and finite.
    """
    if not 0 < dose < math.inf:
        raise ValueError(f"dose must be positive and finite, got {dose}")
    return dose / (1 + dose)


def slice_seed(image: GreyImage, seed: int, z: int) -> int:
    """The seed of slice ``z``: another one for every slice of a stack, and for every DICOM file.

    It comes from the file's SOPInstanceUID, not from its name or its place among others: the slices of a series have
    independent noise, and each the same whether it is read alone or with the rest.
    """
    if uid := image.series.get("sop_uid"):
        return int.from_bytes(hashlib.sha256(f"{seed} {uid} {z}".encode()).digest()[:8])
    return seed + z


def simulated(image: GreyImage, options: DenoiseOptions) -> GreyImage:
    """``image`` as it would look at a fraction of its dose. Raises ``InputError`` unless it is CT in HU.

    A phantom has no noise of its own: it gets all that there is at this fraction, through its own kernel.
    """
    assert options.simulate_dose is not None
    if image.unit != "HU":
        raise InputError(image.path, "a dose can be simulated for CT in HU only", "Leave --simulate-dose out")
    pixel_mm = float(np.mean(image.spacing_mm)) if image.spacing_mm else 1.0
    dose, cutoff = options.simulate_dose, phantom_cutoff(image)
    if cutoff is not None:
        dose = dose_of_all_noise(dose)
    pixels = np.stack(
        [
            simulate_low_dose(
                hu,
                dose=dose,
                pixel_mm=pixel_mm,
                cutoff_per_mm=cutoff or CUTOFF_PER_MM,
                seed=slice_seed(image, options.fit.seed, z),
                valid=None if image.valid is None else image.valid[z],
            )
            for z, hu in enumerate(image.pixels)
        ]
    ).astype(image.pixels.dtype)
    warnings = image.warnings
    if not image.spacing_mm:
        warnings = (*warnings, "no pixel spacing in the file: the dose was simulated with 1 mm pixels")
    return replace(image, pixels=pixels, warnings=warnings)


def read_noisy(path: Path, options: DenoiseOptions) -> tuple[GreyImage, GreyImage]:
    """An image as it was read, and as it is denoised: at a lower dose where that is wanted."""
    image = read_grey(path, luma=options.luma, fill=options.fill, unit=options.unit)
    return image, simulated(image, options) if options.simulate_dose is not None else image
