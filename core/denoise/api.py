"""The library's door to denoising: arrays in, arrays out."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import replace
from functools import partial
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ..device import pick_device
from ..io.axes import plain_shape
from ..progress import Bars, Watcher
from .base import FitOptions, PresetName, Quality, Region
from .options import DenoiseOptions, check_read
from .pipeline import Denoised, denoise_stack
from .surroundings import in_stack
from .volumes import Volume, whole_volume
from .window import Window


def denoise(
    image: NDArray[Any],
    method: str = "adaptive",
    *,
    window: tuple[float, float] | None = None,
    valid: NDArray[np.bool_] | None = None,
    aspect: float = 1.0,
    slice_spacing_mm: float | None = None,
    positions_mm: Sequence[float] | None = None,
    offsets_px: Sequence[tuple[float, float]] | None = None,
    fit_on: str = "each",
    preset: PresetName = "default",
    quality: Quality = "balanced",
    steps: int | None = None,
    stages: int = 2,
    patch_size: int = 8,
    edge_weight: float | None = None,
    sigma: float | None = None,
    strength: float = 1.0,
    regions: tuple[Region, ...] = (),
    seed: int = 77,
    device: str = "auto",
    watcher: Watcher | None = None,
) -> Denoised:
    """Denoise a grey image or a stack of slices without training data.

    Parameters
    ----------
    image : ndarray, shape (H, W) or (Z, H, W), any real dtype
        Intensities in any unit (HU for CT), finite. Axes of length 1 beyond that make no slices: [H, W, 1] is an image.
    method : str
        A name in ``attn.core.denoise.METHODS``.
    window : (low, high), optional
        What is mapped to [0, 1] for the filter, in the image's unit; pixels outside come back unchanged. Default: the
        range of the valid pixels.
    valid : ndarray of bool, shape of ``image``, optional
        False where pixels are padding; they come back unchanged.
    aspect : float
        Height of a pixel over its width.
    slice_spacing_mm : float, optional
        The slices of a stack are this far apart, in order: each also draws on its neighbours (adaptive), on one
        intensity scale. Without it, or ``positions_mm``, every slice is denoised alone.
    positions_mm : sequence of float, optional
        Instead, where every slice lies along their normal, in any order.
    offsets_px : sequence of (float, float), optional
        With either: where the pixel (0, 0) of every slice lies in its plane, in rows and columns. Default: one place.
    fit_on : str
        ``"each"``, ``"first"``, ``"middle"`` or a slice's index.
    preset, quality, steps, stages, patch_size, edge_weight, sigma, seed
        See `attn.core.denoise.base.FitOptions`. What the method does not read is refused.
    strength : float
        Factor on the range sigma after the fit (adaptive, filter2noise).
    regions : tuple of Region
        Other factors inside rectangles (adaptive, filter2noise).
    device : str
        ``"auto"``, ``"cpu"``, ``"cuda"``, ``"cuda:N"`` or ``"mps"``.
    watcher : Watcher, optional
        Told about progress. Default: a bar on stderr, where that is a terminal.

    Returns
    -------
    Denoised
        ``.pixels`` is the result with the shape of ``image`` (float32, or float64 for float64 input), ``.filters`` what
        was fitted, ``.drawn`` what every slice drew from its neighbours.

    Raises
    ------
    ValueError
        If the image is not 2-D or 3-D, not real or not finite, or an option does not fit (``UsageError`` is a
        ``ValueError``).

    Examples
    --------
    >>> import numpy as np, attn
    >>> noisy = np.random.default_rng(0).normal(100, 20, (64, 64)).astype(np.float32)
    >>> bool(attn.denoise(noisy).pixels.std() < 0.3 * noisy.std())
    True
    >>> bool(attn.denoise(noisy, "tv").pixels.std() < 0.5 * noisy.std())
    True
    """
    if not isinstance(image, np.ndarray) or image.dtype.kind not in "buif":
        raise ValueError(f"expected an array of real numbers, got {_described(image)}")
    plain = plain_shape(image.shape)
    if len(plain) not in (2, 3) or not image.size:
        raise ValueError(f"expected an image [H, W] or a stack [Z, H, W], got shape {image.shape}")
    dtype: type[np.floating[Any]] = np.float64 if image.dtype == np.float64 else np.float32
    pixels = image.reshape(-1, *plain[-2:]).astype(dtype)
    if valid is not None and (not isinstance(valid, np.ndarray) or valid.dtype != bool or valid.shape != image.shape):
        raise ValueError(f"valid must be an array of bool, shape {image.shape}, got {_described(valid)}")
    masks = None if valid is None else valid.reshape(pixels.shape)
    seen = pixels if masks is None else pixels[masks]
    if not np.isfinite(seen).all():
        raise ValueError("the image holds NaN or infinity; replace them, or mark them in valid")
    if window is None:
        window = (float(seen.min()), float(seen.max())) if seen.size else (0.0, 0.0)
    elif len(window) != 2 or not window[0] < window[1]:
        raise ValueError(f"window must be (low, high) with low < high, got {window}")
    if not max(map(abs, (*window, window[1] - window[0]))) <= float(np.finfo(dtype).max):
        raise ValueError(f"numbers of type {dtype.__name__} do not reach as far as the window {window}: narrow it")
    options = DenoiseOptions(
        method=method,
        fit=FitOptions(preset, quality, steps, stages, patch_size, edge_weight, sigma=sigma, seed=seed),
        fit_on=fit_on,
        strength=strength,
        regions=regions,
        device=device,
    )
    volume = _volume(len(pixels), slice_spacing_mm, positions_mm, offsets_px)
    check_read(options, ("volume",) if volume else ())
    pick_device(device)  # whether it is here, whatever the method uses
    around = None if volume is None else in_stack([volume], pixels, masks, Window(*window), aspect, options)
    step = partial((watcher or Bars()).step, method)
    result = denoise_stack(
        pixels, Window(*window), options, valid=masks, aspect=aspect, progress=step, surroundings=around
    )
    return replace(result, pixels=result.pixels.reshape(image.shape))


def _described(value: Any) -> str:
    if isinstance(value, np.ndarray):
        return f"an array of {value.dtype}, shape {value.shape}"
    return f"a {type(value).__name__}"


def _volume(
    count: int,
    spacing: float | None,
    positions: Sequence[float] | None,
    offsets: Sequence[tuple[float, float]] | None,
) -> Volume | None:
    """Where the slices lie; None where nothing is said of it. Raises ``ValueError`` for what makes no sense."""
    if spacing is not None and positions is not None:
        raise ValueError("slice_spacing_mm and positions_mm say the same: leave one of them out")
    if spacing is not None:
        if not (isinstance(spacing, int | float) and spacing > 0 and math.isfinite(spacing)):
            raise ValueError(f"slice_spacing_mm must be positive and finite, got {spacing}")
        positions = [z * spacing for z in range(count)]
    if positions is None:
        if offsets is not None:
            raise ValueError("offsets_px alone do not say how far apart slices are: give positions_mm too")
        return None
    try:
        at = [float(position) for position in positions]
        shifts = (
            [(0.0, 0.0)] * count if offsets is None else [(float(rows), float(columns)) for rows, columns in offsets]
        )
    except (TypeError, ValueError):
        raise ValueError("positions_mm must be numbers, offsets_px pairs of numbers, one for each slice") from None
    for name, values in (("positions_mm", at), ("offsets_px", [number for pair in shifts for number in pair])):
        if len(values) != count * (2 if name == "offsets_px" else 1) or not all(map(math.isfinite, values)):
            raise ValueError(f"{name} must be finite, one for each of the {count} slices")
    return whole_volume(at, shifts)
