"""Ridge filters as vessel segmenters without training: Frangi, Sato and Meijering, scikit-image's implementations.

Specification: methods/fsg-net.md, section 6 (the table of peers) and section 9, item 12. Sigmas and thresholds are
those of the best row of each filter; they hold for photos of DRIVE's scale, so others are brought to it first.

References
----------
Frangi et al., MICCAI 1998, doi:10.1007/BFb0056195. Sato et al., Medical Image Analysis 2(2), 1998,
doi:10.1016/S1361-8415(98)80009-1. Meijering et al., Cytometry A 58(2), 2004, doi:10.1002/cyto.a.20022.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Literal, cast, get_args

import numpy as np
import torch
from numpy.typing import NDArray

from ..errors import did_you_mean
from .base import Prediction
from .fov import Fov, fov_from_mask
from .prepare import rescale, scaled_size
from .threshold import Calibration

RidgeName = Literal["frangi", "sato", "meijering"]
DRIVE_DIAMETER = 540.0
"""Field of view in pixels for which the sigmas are meant."""
RIM = 3.0
"""The filters fire on the edge of the field of view and on the JPEG ringing along it: so near to it nothing counts."""
MARGIN = 64
"""Pixels around the field of view that the filters see, at DRIVE's scale: more than they reach."""
LARGEST_SIDE = 2160
"""Longest side that is filtered, four fields of view: bounds the memory where the field is a speck in a large photo."""
FLAT = 1 / 65535
"""A photo with less contrast than a 16-bit step holds rounding errors, which Meijering's filter stretches to 1."""

Image = NDArray[np.float32]
Mask = NDArray[np.bool_]


@dataclass(frozen=True, slots=True)
class Ridge:
    """Settings of a filter, and the response that the DRIVE training half gave as its best threshold."""

    threshold: float
    sigmas: tuple[float, ...]
    options: Mapping[str, float] = field(default_factory=dict)


RIDGES: Mapping[RidgeName, Ridge] = {
    "frangi": Ridge(0.2377, (1, 2, 3), {"beta": 0.5, "gamma": 0.01}),
    "sato": Ridge(0.01026, (1, 2, 3)),
    "meijering": Ridge(0.0743, (1.5, 2.5)),
}


def vesselness(pixels: Image, fov: Mask, method: RidgeName, *, scale: float | None = None) -> Image:
    """Pseudo-probability of dark vessels on bright ground.

    The filter's response r becomes r / (r + t) with its published threshold t: so 0.5 is that threshold, the order of
    the pixels stays, and nothing else about the value is that of a probability (Frangi's ends at 0.81).

    Parameters
    ----------
    pixels : ndarray, shape (3, H, W), float32 in [0, 1]
        RGB; the green channel alone is used.
    fov : ndarray of bool, shape (H, W)
        Field of view.
    method : {"frangi", "sato", "meijering"}
    scale : float, optional
        Diameter of the field of view in pixels / 540; by default that of the circle which ``fov`` suggests. Within 3 %
        of 1 the photo is filtered as it is; else it is brought to that scale, filtered, and the result resized back.

    Returns
    -------
    ndarray, shape (H, W), float32 in [0, 1). 0 outside the field of view, and inside it within 3 px (at DRIVE's scale)
    of its rim. Where the frame cuts the field off there is no rim.

    Raises
    ------
    ValueError
        If the shapes do not fit, ``fov`` is empty, ``scale`` is not positive and finite, or ``method`` is unknown.

    References
    ----------
    methods/fsg-net.md, section 6.
    """
    if method not in RIDGES:
        hint = did_you_mean(method, get_args(RidgeName)) or f"There are {', '.join(get_args(RidgeName))}."
        raise ValueError(f"no ridge filter named {method!r}. {hint}")
    if pixels.ndim != 3 or len(pixels) != 3 or fov.shape != pixels.shape[1:]:
        raise ValueError(f"expected a photo [3, H, W] and its field of view [H, W], got {pixels.shape} and {fov.shape}")
    field_of_view = fov_from_mask(fov)
    if scale is None:
        scale = field_of_view.diameter / DRIVE_DIAMETER
    if not (scale > 0 and np.isfinite(scale)):
        raise ValueError(f"scale must be positive and finite, got {scale}")
    box = _with_margin(field_of_view.box, round(MARGIN * scale), fov.shape)
    green, inside = np.asarray(pixels[1][box], np.float32), field_of_view.mask[box]  # [h, w]
    factor = min(1 / scale, LARGEST_SIDE / max(green.shape))
    size = scaled_size((green.shape[0], green.shape[1]), factor)
    prob = _filtered(_resized(green, size), _resized(inside, size) > 0.5, RIDGES[method], method)
    out: Image = np.zeros(fov.shape, np.float32)
    out[box] = np.where(inside, _resized(prob, green.shape), 0)
    return out


def fill_outside(image: Image, fov: Mask) -> Image:
    """Every pixel [H, W] outside the field of view takes the value of the nearest one inside; the field is not empty.

    Raises
    ------
    ValueError
        If the field of view is empty.
    """
    from scipy.ndimage import distance_transform_edt

    if not fov.any():
        raise ValueError("the field of view is empty: there is nothing to fill from")
    nearest = distance_transform_edt(~fov, return_distances=False, return_indices=True)  # [2, H, W]
    return np.asarray(image[tuple(nearest)])


def _filtered(green: Image, fov: Mask, ridge: Ridge, method: RidgeName) -> Image:
    """Pseudo-probability of [h, w] at DRIVE's scale."""
    from scipy.ndimage import distance_transform_edt
    from skimage import filters

    if not fov.any():  # a speck that scaling has lost
        return np.zeros(fov.shape, np.float32)
    run: Any = getattr(filters, method)
    filled = fill_outside(green, fov)
    if np.ptp(filled) < FLAT:
        return np.zeros(fov.shape, np.float32)
    response = run(filled, sigmas=ridge.sigmas, black_ridges=True, **ridge.options).astype(np.float64)
    prob = response / (response + ridge.threshold)  # in float32 the rounding of the sum would swap neighbours
    if not fov.all():  # without background there is no distance to it
        prob = np.where(distance_transform_edt(fov) > RIM, prob, 0)
    return np.asarray(np.where(fov, prob, 0), np.float32)


def _resized(image: NDArray[Any], size: tuple[int, ...]) -> Image:
    """[h, w] -> size, bilinear with anti-aliasing."""
    values = np.ascontiguousarray(image, np.float32)
    if values.shape == size:
        return values
    out: Image = rescale(torch.from_numpy(values)[None], (size[0], size[1]))[0].numpy()
    return out


def _with_margin(box: tuple[int, int, int, int], margin: int, shape: tuple[int, ...]) -> tuple[slice, slice]:
    top, left, bottom, right = box
    rows = slice(max(0, top - margin), min(shape[0], bottom + margin))
    return rows, slice(max(0, left - margin), min(shape[1], right + margin))


class RidgeSegmenter:
    """A ridge filter of scikit-image at the scale of DRIVE; its values count as vessel from 0.5."""

    parameters = 0
    threshold = 0.5
    calibration: Calibration | None = None

    def __init__(self, name: str, device: torch.device, dtype: torch.dtype) -> None:
        """``device`` and ``dtype`` are those of networks: scikit-image runs on the CPU, in float64."""
        self.name = name

    def __call__(
        self, pixels: NDArray[np.float32], fov: Fov, *, tta: bool = False, tile: int | None = None,
        attention: bool = False,
    ) -> Prediction:  # fmt: skip
        """See ``Segmenter``; the filters are symmetric and cheap, so ``tta`` and ``tile`` change nothing."""
        prob = vesselness(pixels, fov.mask, cast(RidgeName, self.name), scale=fov.diameter / DRIVE_DIAMETER)
        return Prediction(prob)
