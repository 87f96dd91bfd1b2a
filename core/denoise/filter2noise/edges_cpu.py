"""7x7 convolution of float32 images on the CPU, seven taps of a kernel row at a time."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from ...jit import kernel
from ...threads import bands, run

Array = np.ndarray[Any, np.dtype[np.float32]]
_ZERO = np.float32(0)


@kernel("void(float32[:,::1],float32[:,::1],float32[:,::1],int64,int64)")
def _rows(padded: Array, weights: Array, out: Array, start: int, stop: int) -> None:
    """Rows start..stop-1 of ``out`` [H, W] from ``padded`` [H + 6, W + 6]."""
    width = out.shape[1]
    for y in range(start, stop):
        target = out[y]
        for x in range(width):
            target[x] = _ZERO
        for dy in range(7):
            source = padded[y + dy]
            w0, w1, w2, w3 = weights[dy, 0], weights[dy, 1], weights[dy, 2], weights[dy, 3]
            w4, w5, w6 = weights[dy, 4], weights[dy, 5], weights[dy, 6]
            for x in range(width):
                left = w0 * source[x] + w1 * source[x + 1] + w2 * source[x + 2] + w3 * source[x + 3]
                target[x] += left + w4 * source[x + 4] + w5 * source[x + 5] + w6 * source[x + 6]


def convolve(x: Tensor, weights: Tensor) -> Tensor:
    """Correlate every channel of ``x`` [B, C, H, W] with ``weights`` [7, 7], zero outside the image."""
    padded = F.pad(x, (3, 3, 3, 3)).flatten(0, 1).numpy()
    out = torch.empty(x.shape)
    planes = out.flatten(0, 1).numpy()
    function = _rows()
    run(function, [(padded[i], weights.numpy(), planes[i], *b) for i in range(len(padded)) for b in bands(x.shape[2])])
    return out
