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
from .options import Asked, check_threshold, model_name
from .outputs import least, quantise
from .threshold import threshold_of


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
    threshold_from : {"auto", "model", "given"}
        Whether it was chosen for this photo, kept with the model, or given.
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
    threshold_from: str
    model: str
    attention: Mapping[str, NDArray[np.float32]] = field(default_factory=dict)
    warnings: tuple[str, ...] = ()


def segment(
    image: NDArray[Any] | str | PathLike[str],
    model: str = "fsgnet",
    *,
    fov: NDArray[Any] | str = "auto",
    threshold: Asked = "auto",
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
    threshold : float, "auto" or "model"
        Least probability of a vessel, 0 < threshold < 1; higher finds fewer. ``"auto"`` chooses it for the photo, by
        the F1 to expect; ``"model"`` takes the one kept with the model, as ``"auto"`` does for ridge filters.
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
        Of a network: ``"float32"``, ``"float64"``, or ``"bfloat16"``, which is faster where the processor has it.

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
    check_threshold(threshold)
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
    stored = quantise(prediction.prob, field_of_view.mask)
    chosen = threshold_of(threshold, segmenter.threshold, segmenter.calibration, stored, field_of_view.mask)
    return Vessels(
        stored >= least(chosen.value), prediction.prob, field_of_view.mask, chosen.value, chosen.origin, segmenter.name,
        prediction.attention, (*field_of_view.warnings, *prediction.warnings, *chosen.warnings),
    )  # fmt: skip
