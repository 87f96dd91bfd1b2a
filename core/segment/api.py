"""The library's door to vessel segmentation: a photo in, its vessels out."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from os import PathLike
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ..io.photo.arrays import photo_pixels
from ..options import OptionError
from .case import clahe as even_out
from .case import segmenter_of
from .fov import find_fov, fov_from_mask, whole_image
from .options import model_name
from .outputs import least, quantise


@dataclass(frozen=True, slots=True)
class Vessels:
    """The vessels of a photo.

    Parameters
    ----------
    mask : ndarray of bool, shape (H, W)
        The vessels, as ``attn segment`` writes them.
    prob : ndarray, shape (H, W), float32
        Probability of a vessel; 0 outside the field of view.
    fov : ndarray of bool, shape (H, W)
        The field of view.
    threshold : float
        The least probability in ``mask``.
    model : str
    attention : mapping of str to ndarray, float32
        Attention maps of the guided filters by name, where they were asked for and exist.
    warnings : tuple of str
        What the user should know.
    """

    mask: NDArray[np.bool_]
    prob: NDArray[np.float32]
    fov: NDArray[np.bool_]
    threshold: float
    model: str
    attention: Mapping[str, NDArray[np.float32]] = field(default_factory=dict)
    warnings: tuple[str, ...] = ()


def segment(
    image: NDArray[Any] | str | PathLike[str],
    model: str = "fsgnet",
    *,
    fov: NDArray[Any] | str = "auto",
    threshold: float | None = None,
    tta: bool = False,
    tile: int | None = None,
    clahe: bool = False,
    attention: bool = False,
    device: str = "auto",
    dtype: str = "float32",
) -> Vessels:
    """Segment the retinal vessels of a fundus photograph.

    Parameters
    ----------
    image : ndarray or path
        [H, W] grey or [H, W, 3] RGB: unsigned integers, whose largest value is white, or floats in [0, 1]. Or a file.
    model : str
        A name in ``attn.core.segment.MODELS``, or a ``.safetensors`` file that ``attn train fsgnet`` wrote. It is kept
        in memory for the next call.
    fov : ndarray of shape (H, W), or {"auto", "none"}
        The field of view, not 0 inside; ``"auto"`` finds it, ``"none"`` takes the whole photo.
    threshold : float, optional
        Least probability of a vessel, 0 < threshold < 1; higher finds fewer. Default: the one kept with the model.
    tta : bool
        Mean over four flips: slower, a little better.
    tile : int, optional
        Side of the tiles in pixels of the model's scale; less memory. Default: by size.
    clahe : bool
        Even out the contrast first.
    attention : bool
        Return the attention maps, too.
    device : str
        ``"auto"``, ``"cpu"``, ``"cuda"``, ``"cuda:N"`` or ``"mps"``.
    dtype : str
        ``"float32"`` or ``"float64"``.

    Returns
    -------
    Vessels

    Raises
    ------
    ValueError
        If the image is no photo, no field of view can be found in it, or an option does not fit (``UsageError``, for a
        model that is not there, is a ``ValueError``).
    InputError
        If the file cannot be read.

    Examples
    --------
    >>> import attn
    >>> from skimage.data import retina
    >>> vessels = attn.segment(retina(), "sato")
    >>> vessels.mask.shape
    (1411, 1411)
    """
    if threshold is not None and not 0 < threshold < 1:
        raise OptionError(f"{{threshold}}: {threshold:g} is no probability between 0 and 1.")
    pixels = photo_pixels(image)
    if isinstance(fov, str):
        if fov not in ("auto", "none"):
            raise OptionError(f"{{fov}}: {fov!r} is neither auto, none nor an array.")
        field_of_view = find_fov(pixels) if fov == "auto" else whole_image(pixels.shape[1:])
    else:
        if fov.shape != pixels.shape[1:]:
            raise OptionError(f"{{fov}}: its shape is {fov.shape}, the photo's {pixels.shape[1:]}.")
        field_of_view = fov_from_mask(fov != 0)
    segmenter = segmenter_of(model_name(model), device, dtype)
    shown = even_out(pixels) if clahe else pixels
    prediction = segmenter(shown, field_of_view, tta=tta, tile=tile, attention=attention)
    least_probability = segmenter.threshold if threshold is None else threshold
    mask = quantise(prediction.prob, field_of_view.mask) >= least(least_probability)
    return Vessels(
        mask, prediction.prob, field_of_view.mask, least_probability, segmenter.name, prediction.attention,
        (*field_of_view.warnings, *prediction.warnings),
    )  # fmt: skip
