"""From a stack of slices in physical units to a denoised one: window, fit, apply, restore. No files here."""

from __future__ import annotations

import time
from dataclasses import dataclass, fields, replace
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from ..device import pick_device, pick_dtype
from ..options import OptionError
from . import METHODS, SCENE
from .base import Filter, Progress
from .options import DenoiseOptions
from .window import Window

Stack = NDArray[np.floating[Any]]


@dataclass(frozen=True, slots=True)
class Shared:
    """A filter that serves several images, and the window that its range sigma is a share of."""

    fitted: Filter
    window: Window | None = None


@dataclass(frozen=True, slots=True)
class Denoised:
    """A denoised stack and how it came about.

    Parameters
    ----------
    pixels : ndarray, shape (Z, H, W), dtype of the input
        In the input's unit. Pixels outside the window or marked as padding are the input's, bit for bit.
    seen, normalised : ndarray, shape (Z, H, W), float32
        What the filters saw and what they returned, in [0, 1].
    filters : tuple of Filter
        One per fit: Z of them, or one for all.
    fit_seconds, apply_seconds : float
        Sums over the slices.
    """

    pixels: Stack
    seen: NDArray[np.float32]
    normalised: NDArray[np.float32]
    filters: tuple[Filter, ...]
    fit_seconds: float
    apply_seconds: float


def slice_to_fit(fit_on: str, count: int) -> int | None:
    """Which of ``count`` slices to fit on: None for each. Raises ``UsageError`` for an index that does not exist."""
    if fit_on == "each":
        return None
    if fit_on in ("first", "middle"):
        return 0 if fit_on == "first" else count // 2
    try:
        index = int(fit_on)
    except ValueError:
        raise OptionError(f"{{fit_on}}: {fit_on!r} is none of each, first, middle or a slice's index.") from None
    if not -count <= index < count:
        raise OptionError(f"{{fit_on}}: slice {index} does not exist; there are {count} slices, counted from 0.")
    return index % count


def method_device(method: str, device: str) -> torch.device:
    """Where a method runs: some, such as scikit-image's, on the CPU whatever was asked for."""
    return pick_device(device if METHODS[method].device == "any" else "cpu")


def see(pixels: Stack, window: Window, valid: NDArray[np.bool_] | None) -> NDArray[np.float32]:
    """What a filter is shown of ``pixels`` [..., H, W]: the window mapped to [0, 1], its lower end where padding is."""
    seen = window.normalise(pixels)
    if valid is not None:
        seen[~valid] = 0.0
    return seen


def _tensor(image: NDArray[np.float32], options: DenoiseOptions) -> torch.Tensor:
    """A slice [H, W] on the device and in the dtype that the options ask for."""
    tensor = torch.from_numpy(np.ascontiguousarray(image)).to(method_device(options.method, options.device))
    return tensor.to(pick_dtype(options.dtype))


def fit_filter(
    image: NDArray[np.float32],
    options: DenoiseOptions,
    progress: Progress | None = None,
    *,
    valid: NDArray[np.bool_] | None = None,
    aspect: float = 1.0,
) -> Filter:
    """Fit ``options.method`` on one normalised slice [H, W]; nothing but this noisy image is looked at.

    ``valid`` [H, W] and ``aspect`` are for the methods whose rows name them (``SCENE``).
    """
    row = METHODS[options.method]
    scene = {name: value for name, value in zip(SCENE, (valid, aspect), strict=True) if name in (row.options or ())}
    fitted: Filter = row.resolve()(_tensor(image, options), options.fit, progress, **scene)
    return fitted


def apply_filter(
    fitted: Filter, image: NDArray[np.float32], options: DenoiseOptions, valid: NDArray[np.bool_] | None = None
) -> NDArray[np.float32]:
    """Denoise one normalised slice [H, W] with a fitted filter; the result is cut to [0, 1].

    ``valid`` [H, W] is for the filters of methods whose rows name it (``SCENE``).
    """
    scene = {"valid": valid} if "valid" in (METHODS[options.method].options or ()) else {}
    with torch.inference_mode():
        return fitted(_tensor(image, options), **scene).clamp(0, 1).to("cpu", torch.float32).numpy()


def denoise_stack(
    pixels: Stack,
    window: Window,
    options: DenoiseOptions,
    *,
    valid: NDArray[np.bool_] | None = None,
    aspect: float = 1.0,
    fitted: Filter | None = None,
    progress: Progress | None = None,
) -> Denoised:
    """Denoise slices [Z, H, W] in physical units.

    Parameters
    ----------
    pixels : ndarray, shape (Z, H, W), float32 or float64
    window : Window
        Mapped to [0, 1] for the filter. An empty window (constant image) returns the input.
    options : DenoiseOptions
    valid : ndarray of bool, shape (Z, H, W), optional
        False where pixels are padding: the filter sees the window's lower end there, the result keeps the input.
    aspect : float
        Height of a pixel over its width.
    fitted : Filter, optional
        A filter to apply instead of fitting one.
    progress : callable, optional
        Called with (done, total) steps over all fits, and with slices where one filter is applied to all.

    Raises
    ------
    UsageError
        If the method cannot do what the options ask, or the slice to fit on does not exist.
    """
    if window.width <= 0:
        flat = np.zeros(pixels.shape, np.float32)
        return Denoised(pixels, flat, flat, (), 0.0, 0.0)
    seen = see(pixels, window, valid)
    index = slice_to_fit(options.fit_on, len(pixels))
    fits = 0 if fitted else (len(pixels) if index is None else 1)
    filters: list[Filter] = []
    fit_seconds = apply_seconds = 0.0

    def fit(z: int) -> Filter:
        nonlocal fit_seconds
        start = time.perf_counter()
        done = len(filters)
        told = progress and (lambda k, n: progress(done * n + k, fits * n))
        result = fit_filter(seen[z], options, told, valid=None if valid is None else valid[z], aspect=aspect)
        fit_seconds += time.perf_counter() - start
        filters.append(result)
        return result

    shared = fitted or (fit(index) if index is not None else None)
    normalised, restored = np.empty_like(seen), pixels.copy()
    for z, image in enumerate(seen):
        current = edited(shared or fit(z), options)
        start = time.perf_counter()
        normalised[z] = apply_filter(current, image, options, None if valid is None else valid[z])
        apply_seconds += time.perf_counter() - start
        replaced = window.inside(pixels[z])
        if valid is not None:
            replaced &= valid[z]
        restored[z][replaced] = window.restore(normalised[z])[replaced]
        if shared is not None and progress:
            progress(z + 1, len(seen))
        elif len(seen) > 1 and not options.maps:
            filters[-1] = released(filters[-1])
    used = tuple(filters) or ((fitted,) if fitted else ())
    return Denoised(restored, seen, normalised, used, fit_seconds, apply_seconds)


def released(fitted: Filter) -> Filter:
    """The filter without the planes that it holds of the image it was fitted on: of many only what must be is kept."""
    release = getattr(fitted, "released", None)
    light: Filter = fitted if release is None else release()
    return light


def edited(fitted: Filter, options: DenoiseOptions) -> Filter:
    """The filter with the user's strength and regions."""
    if options.strength == 1.0 and not options.regions:
        return fitted
    edit = getattr(fitted, "with_strength", None)
    if edit is None:
        raise OptionError(
            f"{{strength}} and {{regions}} need a filter whose range width can be scaled, not {options.method}."
        )
    changed: Filter = edit(options.strength, options.regions)
    return changed


def for_method(options: DenoiseOptions, method: str) -> DenoiseOptions:
    """The same task for another method, as a comparison needs it: without what that method's row does not name."""
    if method == options.method:
        return options
    read = METHODS[method].options or ()
    own = {name for row in METHODS.values() for name in row.options or ()}.difference(read)
    unread: dict[str, Any] = {one.name: one.default for one in fields(DenoiseOptions) if one.name in own}
    return replace(options, **{**unread, "method": method, "save_filter": None, "filter": None})
