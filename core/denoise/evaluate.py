"""What a denoised image is worth: noise before and after, agreement with a reference, all methods side by side."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import replace
from typing import Any

import numpy as np

from ..compare import Compared, Comparison, side_by_side
from ..errors import UsageError
from ..io.image import GreyImage
from . import METHODS
from .metrics import psnr, rmse, ssim
from .noise import noise_std
from .options import DenoiseOptions
from .physics.measure import Measures
from .pipeline import Denoised, Stack, denoise_stack, for_method
from .reference import Reference
from .window import Window

LITTLE = 0.3
"""Share of the estimated noise below which a user should know that a fit did next to nothing."""


def noise_metrics(image: GreyImage, denoised: Stack) -> dict[str, float]:
    """``noise_std_before``, ``noise_std_after`` and ``removed_std`` (of what was taken away), in the image's unit.

    From the second wavelet band: the finest one holds little of the correlated noise of a reconstructed CT slice.
    """
    return {
        "noise_std_before": _noise(image.pixels, image),
        "noise_std_after": _noise(denoised, image),
        "removed_std": rmse(denoised, image.pixels, valid=image.valid),
    }


def little_removed(metrics: Mapping[str, float]) -> list[str]:
    """Filter2Noise's objective suits strong noise; on a cleaner scan it can settle on doing nearly nothing."""
    if metrics["removed_std"] >= LITTLE * metrics["noise_std_before"]:
        return []
    share = metrics["removed_std"] / metrics["noise_std_before"]
    return [
        f"the fitted filter removed only {share:.0%} of the estimated noise; try a lower --lambda, or --method adaptive"
    ]


def _noise(pixels: Stack, image: GreyImage) -> float:
    masks: Iterable[Any] = image.valid if image.valid is not None else [None] * len(pixels)
    return float(np.mean([noise_std(slice_, mask, level=2) for slice_, mask in zip(pixels, masks, strict=True)]))


def scores(image: GreyImage, denoised: Stack, reference: Reference, window: Window) -> dict[str, float]:
    """Agreement with a reference: PSNR and SSIM of what the window shows (data range: its width), RMSE of everything.

    Parameters
    ----------
    image : GreyImage
        The noisy image.
    denoised : ndarray, shape (Z, H, W)
        In the image's unit.
    reference : Reference
        Where it or the image is padding, nothing is compared.
    window : Window
        Not empty; values outside are clipped before PSNR and SSIM.
    """
    if window.width <= 0:
        return {}
    clean, valid = reference.pixels, reference.valid
    truth, before, after = (window.normalise(pixels) for pixels in (clean, image.pixels, denoised))
    name = "rmse_hu" if image.unit == "HU" else "rmse"
    return {
        "psnr_noisy": psnr(before, truth, valid=valid),
        "psnr": psnr(after, truth, valid=valid),
        "ssim_noisy": ssim(before, truth, valid=valid),
        "ssim": ssim(after, truth, valid=valid),
        f"{name}_noisy": rmse(image.pixels, clean, valid=valid),
        name: rmse(denoised, clean, valid=valid),
    }


def compare_methods(
    image: GreyImage,
    result: Denoised,
    window: Window,
    reference: Reference | None,
    options: DenoiseOptions,
    step: Callable[[int, int], None],
    measures: Measures | None = None,
) -> Comparison:
    """Every method on this image: one row each, and each method's middle slice for the picture.

    A method that is not installed, or that this image defeats, has a row that says so; the others go on.
    """
    middle = len(image.pixels) // 2

    def compared(name: str, done: Denoised) -> Compared:
        values = {} if reference is None else scores(image, done.pixels, reference, window)
        values["noise_std_after"] = _noise(done.pixels, image)
        values |= {} if measures is None else measures.numbers(done.pixels)
        values |= {"fit_seconds": done.fit_seconds, "apply_seconds": done.apply_seconds}
        return Compared(name, values, done.pixels[middle])

    def run(name: str) -> Compared:
        if missing := METHODS[name].missing():
            raise UsageError(f"not installed: pip install {' '.join(missing)}")
        own = for_method(options, name)
        done = denoise_stack(image.pixels, window, own, valid=image.valid, aspect=image.aspect, progress=step)
        return compared(name, done)

    main = compared(options.method, result)
    known = {
        options.method: replace(main, values={**main.values, "seconds": result.fit_seconds + result.apply_seconds})
    }
    made = side_by_side(METHODS, run, known, {"noisy": image.pixels[middle]})
    return made if reference is None else replace(made, reference=reference.pixels[middle])
