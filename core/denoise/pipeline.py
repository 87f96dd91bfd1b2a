"""From a stack of slices in physical units to a denoised one: window, fit, apply, restore. No files here."""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, fields, replace
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from ..device import pick_device, pick_dtype
from ..options import OptionError
from ..threads import kernels_own_the_threads
from . import METHODS, SCENE
from .adaptive.neighbours import Shift, Slice
from .adaptive.volume import denoise_with
from .base import Filter, Progress
from .options import DenoiseOptions
from .surroundings import Analysed, Surroundings
from .window import Window, see

Stack = NDArray[np.floating[Any]]


@dataclass(frozen=True, slots=True)
class Drawn:
    """What a slice drew from its neighbours.

    Parameters
    ----------
    neighbours : int
        Slices that were used.
    share : float
        Mean share of the weight that lies in them.
    correlations : tuple of float
        Of their noise with the slice's own; 0 where it did not count.
    maps : mapping of str to ndarray, float32
        ``from_neighbours`` [H, W], the share at every pixel, and ``candidates`` [4, H, W], the weights of the
        slice-wise mixture and of the three filters over several slices; empty unless maps are asked for.
    """

    neighbours: int
    share: float
    correlations: tuple[float, ...]
    maps: Mapping[str, NDArray[np.float32]] = field(default_factory=dict)


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
    drawn : tuple of Drawn or None
        For every slice what it drew from its neighbours; None where it was denoised alone.
    """

    pixels: Stack
    seen: NDArray[np.float32]
    normalised: NDArray[np.float32]
    filters: tuple[Filter, ...]
    fit_seconds: float
    apply_seconds: float
    drawn: tuple[Drawn | None, ...] = ()


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


def method_dtype(method: str, dtype: str) -> torch.dtype:
    """What a method computes in: some, such as scikit-image's, in float32 whatever was asked for."""
    read = METHODS[method].options
    return pick_dtype(dtype if read is None or "dtype" in read else "float32")


def _tensor(image: NDArray[np.float32], options: DenoiseOptions) -> torch.Tensor:
    """A slice [H, W] on the device and in the dtype that the options ask for."""
    tensor = torch.from_numpy(np.ascontiguousarray(image)).to(method_device(options.method, options.device))
    return tensor.to(method_dtype(options.method, options.dtype))


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
    surroundings: Surroundings | None = None,
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
    surroundings : Surroundings, optional
        Where slices find their neighbours, for a method that draws on them.

    Raises
    ------
    UsageError
        If the method cannot do what the options ask, or the slice to fit on does not exist.
    """
    if window.width <= 0:
        flat = np.zeros(pixels.shape, np.float32)
        return Denoised(pixels, flat, flat, (), 0.0, 0.0)
    seen = see(pixels, window, valid)
    index = None if fitted else slice_to_fit(options.fit_on, len(pixels))  # one of a series may be fitted elsewhere
    fits = 0 if fitted else (len(pixels) if index is None else 1)
    filters: dict[int, Filter] = {}
    drawn: dict[int, Drawn] = {}
    fit_seconds = apply_seconds = 0.0

    def fit(z: int) -> Filter:
        nonlocal fit_seconds
        start = time.perf_counter()
        done = len(filters)
        told = progress and (lambda k, n: progress(done * n + k, fits * n))
        filters[z] = fit_filter(seen[z], options, told, valid=None if valid is None else valid[z], aspect=aspect)
        fit_seconds += time.perf_counter() - start
        return filters[z]

    shared = fitted or (fit(index) if index is not None else None)
    normalised, restored = np.empty_like(seen), pixels.copy()
    order = surroundings.order if surroundings else range(len(seen))
    for done, z in enumerate(order):
        around = surroundings.around(z, shared) if surroundings and _differs(seen[z], valid, z) else None
        start = time.perf_counter()
        if around is None:
            current = edited(shared or fit(z), options)
            start = time.perf_counter()
            normalised[z] = apply_filter(current, seen[z], options, None if valid is None else valid[z])
        else:
            own, others = around
            fit_seconds += own.seconds
            if shared is None:
                filters[z] = own.fitted
            normalised[z], drawn[z] = apply_among(own, others, options)
        apply_seconds += time.perf_counter() - start
        replaced = window.inside(pixels[z])
        if valid is not None:
            replaced &= valid[z]
        restored[z][replaced] = window.restore(normalised[z])[replaced]
        if progress and (shared is not None or around is not None):
            progress(done + 1, len(seen))
        if shared is None and len(seen) > 1 and not options.maps:
            filters[z] = released(filters[z])
    used = tuple(filters[z] for z in sorted(filters)) or ((fitted,) if fitted else ())
    told = tuple(drawn.get(z) for z in range(len(seen))) if drawn else ()
    return Denoised(restored, seen, normalised, used, fit_seconds, apply_seconds, told)


def _differs(seen: NDArray[np.float32], valid: NDArray[np.bool_] | None, z: int) -> bool:
    """Whether the valid pixels of slice ``z`` [H, W] hold more than one value: others come back as they are."""
    shown = seen if valid is None else seen[valid[z]]
    return bool(shown.size and shown.min() < shown.max())


def apply_among(
    own: Analysed, others: Sequence[tuple[Slice, Shift]], options: DenoiseOptions
) -> tuple[NDArray[np.float32], Drawn]:
    """Denoise one slice with its neighbours; the result [H, W] is cut to [0, 1]."""
    with kernels_own_the_threads():
        made = denoise_with(own.slice, others, own.fitted.preset)
    maps = {"from_neighbours": made.from_neighbours, "candidates": made.weights} if options.maps else {}
    drawn = Drawn(len(made.correlations), float(made.from_neighbours.mean()), made.correlations, maps)
    return np.clip(made.result, 0, 1).astype(np.float32), drawn


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
