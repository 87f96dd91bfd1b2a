"""Learning rates over a training run, as factors of the highest rate.

Specification: methods/fsg-net.md, section 5; methods/efficient-probing.md, section 5, step 3 (``cosine_cycles``).
"""

from __future__ import annotations

import math


def cosine_cycles(step: float, *, steps: float, warmup: float, cycles: float = 0.5) -> float:
    """Linear warm-up, then a cosine of ``cycles`` whole waves, never below 0.

    Parameters
    ----------
    step : float
        From 0; a fraction where steps are epochs.
    steps, warmup : float
        Length of the run and of its warm-up.
    cycles : float
        0.5 falls once from the highest rate to zero. The paper's recipe takes epochs / 100: a smooth wave that comes
        back to the full rate about every hundred epochs.
    """
    if step < warmup:
        return step / warmup
    progress = (step - warmup) / max(1, steps - warmup)
    return max(0.0, 0.5 * (1 + math.cos(2 * math.pi * cycles * progress)))


def warmup_stable_decay(step: int, *, steps: int, warmup: int, stable: float, floor: float = 0.0) -> float:
    """Linear warm-up, the highest rate up to the share ``stable`` of the run, then a straight line down to ``floor``.

    Source: arXiv 2404.06395 (WSD), with a linear decay.
    """
    if step < warmup:
        return (step + 1) / warmup
    share = step / steps
    return 1.0 if share < stable else max(floor, 1 - (share - stable) / (1 - stable))
