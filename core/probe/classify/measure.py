"""Numbers of a probe: accuracy with its interval, multiply-adds, milliseconds."""

from __future__ import annotations

import statistics
import time
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from .head import ProbeHead

RESAMPLES = 1000
LEVEL = 0.95
TIMED = 64
"""Pictures of a timed batch."""
Hits = NDArray[np.bool_]
"""Whether a picture was recognised: [seeds, pictures]."""


@dataclass(frozen=True, slots=True)
class Interval:
    """A mean over seeds, and the percentiles of the bootstrap over seeds and pictures."""

    mean: float
    low: float
    high: float


def interval(values: NDArray[np.float64] | Hits, seed: int = 0) -> Interval:
    """The 95 % percentile interval of the mean of [seeds, pictures]: both are resampled, each with replacement."""
    rng = np.random.default_rng((seed, 37))
    seeds, pictures = values.shape
    known = values.astype(np.float64)
    means = np.empty(RESAMPLES)
    for draw in range(RESAMPLES):
        of = known[rng.integers(seeds, size=seeds)].mean(0)
        means[draw] = of[rng.integers(pictures, size=pictures)].mean()
    low, high = np.quantile(means, ((1 - LEVEL) / 2, (1 + LEVEL) / 2))
    return Interval(float(known.mean()), float(low), float(high))


def hits(logits: Tensor, labels: Tensor, top: int = 1) -> Hits:
    """Whether the class is among the ``top`` best, [n]."""
    found = logits.topk(min(top, logits.shape[1])).indices == labels[:, None]
    return np.asarray(found.any(1).numpy())


def multiply_adds(head: nn.Module, tokens: Tensor) -> float:
    """Of matrix products and convolutions, of one picture; what is done element by element is not counted."""
    from torch.nn.attention import SDPBackend, sdpa_kernel
    from torch.utils.flop_counter import FlopCounterMode

    head.eval()
    with sdpa_kernel(SDPBackend.MATH), FlopCounterMode(display=False) as counter:
        head(tokens[:1])
    return float(counter.get_total_flops()) / 2


@torch.inference_mode()
def milliseconds(head: ProbeHead, tokens: Tensor, repeats: int = 5) -> float:
    """Wall time of a head for one picture of a batch: the median of five runs after one."""
    head.eval()
    head(tokens)
    times = []
    for _ in range(repeats):
        start = time.perf_counter()
        head(tokens)
        times.append(time.perf_counter() - start)
    return 1e3 * statistics.median(times) / len(tokens)
