"""What a denoised image is worth: noise before and after, agreement with a reference, all methods side by side."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ..errors import AttnError
from ..io.image import GreyImage
from ..report.model import Item
from . import METHODS
from .metrics import psnr, rmse, ssim
from .noise import noise_std
from .options import DenoiseOptions
from .pipeline import Denoised, Stack, denoise_stack, for_method
from .reference import Reference
from .window import Window


def noise_metrics(image: GreyImage, denoised: Stack) -> dict[str, float]:
    """``noise_std_before``, ``noise_std_after`` and ``removed_std`` (of what was taken away), in the image's unit.

    From the second wavelet band: the finest one holds little of the correlated noise of a reconstructed CT slice.
    """
    return {
        "noise_std_before": _noise(image.pixels, image),
        "noise_std_after": _noise(denoised, image),
        "removed_std": rmse(denoised, image.pixels, valid=image.valid),
    }


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
) -> tuple[list[dict[str, Any]], dict[str, NDArray[Any]]]:
    """Every method on this image: one row each, and each method's middle slice for the picture.

    A method that is not installed, or that this image defeats, has a row that says so; the others go on.
    """
    rows: list[dict[str, Any]] = []
    middle = len(image.pixels) // 2
    pictures: dict[str, NDArray[Any]] = {"noisy": image.pixels[middle]}
    for name, method in METHODS.items():
        if missing := method.missing():
            rows.append({"method": name, "note": f"not installed: pip install {' '.join(missing)}"})
            continue
        start = time.perf_counter()
        try:
            own = for_method(options, name)
            done = (
                result
                if name == options.method
                else denoise_stack(image.pixels, window, own, valid=image.valid, progress=step)
            )
        except (AttnError, ValueError) as error:
            rows.append({"method": name, "note": str(error)})
            continue
        row: dict[str, Any] = {"method": name}
        if reference is not None:
            row |= scores(image, done.pixels, reference, window)
        row["noise_std_after"] = _noise(done.pixels, image)
        row |= {"fit_seconds": done.fit_seconds, "apply_seconds": done.apply_seconds}
        row["seconds"] = row["fit_seconds"] + row["apply_seconds"] if done is result else time.perf_counter() - start
        rows.append(row)
        pictures[name] = done.pixels[middle]
    if reference is not None:
        pictures["reference"] = reference.pixels[middle]
    return rows, pictures


def mean_comparison(items: Iterable[Item]) -> list[dict[str, Any]]:
    """The rows of all items' comparisons averaged per method, best first where there was a reference.

    Each method's means are over the files that it finished; ``files`` says how many those are.
    """
    tables = [item.details["comparison"] for item in items if item.status == "ok" and "comparison" in item.details]
    by_file = [{row["method"]: row for row in table} for table in tables]
    rows: list[dict[str, Any]] = []
    for name in METHODS:
        own = [table[name] for table in by_file if name in table]
        done = [row for row in own if "note" not in row]
        if not done:
            rows += [{"method": name, "note": own[0]["note"]}] if own else []
            continue
        row: dict[str, Any] = {"method": name, "files": len(done)}
        for key in dict.fromkeys(key for entry in done for key in entry if key != "method"):
            values = [entry[key] for entry in done if key in entry and np.isfinite(entry[key])]
            if values:
                row[key] = float(np.mean(values))
        if any("psnr" in entry for entry in done):
            row["wins_psnr"] = sum(_is_best(table, name) for table in by_file)
        rows.append(row)
    return sorted(rows, key=lambda row: -row.get("psnr", -np.inf)) if any("psnr" in row for row in rows) else rows


def _is_best(table: dict[str, dict[str, Any]], name: str) -> bool:
    best = max((row for row in table.values() if "psnr" in row), key=lambda row: float(row["psnr"]), default=None)
    return best is not None and best["method"] == name
