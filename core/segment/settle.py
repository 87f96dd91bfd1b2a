"""The last step of a training: scale, threshold and calibration, from held-out photos as `attn segment` shows them."""

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
from .score.metrics import Triple, best_threshold, scores
from .threshold import fit_calibration

HeldOut = tuple[NDArray[np.float32], NDArray[Any], Fov]
"""A photo [3, H, W] in [0, 1], its vessels [H, W], not 0 where there is one, and its field of view."""
CALIBRE = 4.3
"""Pixels. With a model of DRIVE, HRF and FIVES, on photos held out, at one threshold: F1 from 0.750 to 0.785 on HRF's,
whose vessels were 2.3 to 2.8 px wide at first, from 0.889 to 0.895 on FIVES's (3.5 to 4.1); none on DRIVE's 540 px.
"""


def settled(
    checkpoint: FSGNetCheckpoint, photos: Iterable[HeldOut], device: torch.device | str = "cpu"
) -> FSGNetCheckpoint:
    """The same network with what is best for its predictions on held-out photos: calibre, threshold and calibration.

    Predictions are made by ``NetworkSegmenter`` and scored in the photo's own pixels. Where the preparation has a finer
    scale, it is for every photo with that many pixels or for thin vessels alone (``Preparation.calibre``), whichever
    gives the higher mean F1 at its best threshold; of equals, for thin vessels alone.

    Parameters
    ----------
    checkpoint : FSGNetCheckpoint
        Its own calibre, threshold and calibration are of no account.
    photos : iterable of (pixels, vessels, fov)
        Never trained on.

    Raises
    ------
    ValueError
        If there is no photo, or a shape does not fit.
    """
    photos, ways = list(photos), []
    for calibre in (None,) if checkpoint.preparation.fine_diameter is None else (CALIBRE, None):
        preparation = replace(checkpoint.preparation, calibre=calibre)
        segmenter = NetworkSegmenter(replace(checkpoint, preparation=preparation), torch.device(device), torch.float32)
        triples: list[Triple] = [(segmenter(pixels, fov).prob, vessels, fov.mask) for pixels, vessels, fov in photos]
        threshold = best_threshold(triples)
        mean = sum(scores(*triple, threshold=threshold)["f1"] for triple in triples if triple[2].any())
        found = replace(checkpoint, preparation=preparation, threshold=threshold, calibration=fit_calibration(triples))
        ways.append((mean, found))
    return max(ways, key=lambda way: way[0])[1]  # the first of equals
