"""Images through a tower, a batch at a time."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from ...models.images import BATCH_IMAGES
from .base import Encoded, Fingerprint
from .text import unit


def encode_in_batches(
    images: Sequence[NDArray[np.float32]], prepare: Callable[[NDArray[np.float32]], Tensor],
    tower: Callable[[Tensor], Tensor], mark: Fingerprint,
) -> Encoded:  # fmt: skip
    """Photos [3, H, W] through an image tower, a batch at a time.

    Parameters
    ----------
    images : sequence of ndarray
    prepare : callable
        A photo to what the tower takes.
    tower : callable
        [B, 3, h, w] float32 on the CPU to features [B, dim], which need not be of length 1.
    mark : Fingerprint
    """
    vectors = np.zeros((len(images), mark.dim), np.float32)
    with torch.inference_mode():
        for start in range(0, len(images), BATCH_IMAGES):
            pixels = torch.stack([prepare(image) for image in images[start : start + BATCH_IMAGES]])
            vectors[start : start + len(pixels)] = unit(tower(pixels), mark.model)
    return Encoded(vectors, np.zeros(len(images), bool), np.zeros(len(images), np.int64))
