"""The last step of a training: threshold and calibration, from held-out photos as `attn segment` would show them."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import replace
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from .fov import Fov
from .fsgnet.checkpoint import FSGNetCheckpoint
from .network import NetworkSegmenter
from .score.metrics import Triple, best_threshold
from .threshold import fit_calibration

HeldOut = tuple[NDArray[np.float32], NDArray[Any], Fov]
"""A photo [3, H, W] in [0, 1], its vessels [H, W], not 0 where there is one, and its field of view."""


def settled(
    checkpoint: FSGNetCheckpoint, photos: Iterable[HeldOut], device: torch.device | str = "cpu"
) -> FSGNetCheckpoint:
    """The same network with the threshold and the calibration that are best for its predictions on held-out photos.

    Predictions are made by ``NetworkSegmenter``: scaled as the checkpoint's preparation says, and scored in the photo's
    own pixels. Neither photos nor network are changed.

    Parameters
    ----------
    checkpoint : FSGNetCheckpoint
        Its own threshold and calibration are of no account.
    photos : iterable of (pixels, vessels, fov)
        Never trained on.

    Raises
    ------
    ValueError
        If there is no photo, or a shape does not fit.
    """
    segmenter = NetworkSegmenter(checkpoint, torch.device(device), torch.float32)
    triples: list[Triple] = [(segmenter(pixels, fov).prob, vessels, fov.mask) for pixels, vessels, fov in photos]
    return replace(checkpoint, threshold=best_threshold(triples), calibration=fit_calibration(triples))
