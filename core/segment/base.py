"""What every segmentation model shares: how it is made, what it is shown, and what it says.

A model's ``home`` is ``make(name, device, dtype) -> Segmenter``.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from .fov import Fov
from .threshold import Calibration


@dataclass(frozen=True, slots=True)
class Prediction:
    """What a model says of one photo.

    Parameters
    ----------
    prob : ndarray, shape (H, W), float32
        Probability of a vessel at the photo's size; 0 outside the field of view.
    attention : mapping of str to ndarray, float32
        Attention maps of the guided filters by name, where they were asked for and exist.
    warnings : tuple of str
    diameter : float or None
        Pixels across the field of view as a network saw it.
    """

    prob: NDArray[np.float32]
    attention: Mapping[str, NDArray[np.float32]] = field(default_factory=dict)
    warnings: tuple[str, ...] = ()
    diameter: float | None = None


class Segmenter(Protocol):
    """A model ready to use.

    ``threshold`` is the least value of a vessel on the cameras it was made for; ``calibration`` makes its values
    probabilities, None where they are none.
    """

    name: str
    threshold: float
    calibration: Calibration | None
    parameters: int

    def __call__(
        self, pixels: NDArray[np.float32], fov: Fov, *, tta: bool = False, tile: int | None = None,
        attention: bool = False,
    ) -> Prediction:  # fmt: skip
        """Segment one photo.

        Parameters
        ----------
        pixels : ndarray, shape (3, H, W), float32 in [0, 1]
        fov : Fov
        tta : bool
            Average over the photo and its three mirror images.
        tile : int, optional
            Side of the tiles, pixels at the model's scale. Default: the whole photo, tiles of 608 above 1.5 Mpixel.
        attention : bool
            Return the attention maps, too.

        Raises
        ------
        ValueError
            If the shapes do not fit, or ``tile`` is too small.
        """
        ...
