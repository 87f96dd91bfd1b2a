"""A strategy beside the same budget without a search, on samples that it was not found on.

Source: methods/prune-evaluation.md, section 4.4; methods/vflowopt.md, section 6, offline target.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray
from torch import Tensor

from ...errors import UsageError
from ...models.loaded import Loaded
from ..data.samples import QuestionSample
from ..methods.base import Keep, Pruner
from ..methods.random import Random
from ..vlm.ask import prepare
from .method import VFlowOpt
from .objective import LastTokens
from .strategy import FlowStrategy


@dataclass(frozen=True, slots=True, eq=False)
class HeldOut:
    """What a method leaves of the last token on samples.

    Parameters
    ----------
    cosine : ndarray, shape (n,)
        Of its state, pruned and not.
    logits : Tensor [n, V], float32
    retention : float
        Mean share of the visual tokens over samples and layers, counted.
    """

    cosine: NDArray[np.float64]
    logits: Tensor
    retention: float


def against_plain(
    loaded: Loaded, strategy: FlowStrategy, samples: Sequence[QuestionSample], seeds: Sequence[int] = (0, 1, 2)
) -> dict[str, HeldOut]:
    """The strategy, plain settings, mean attention and random choices at one budget.

    Parameters
    ----------
    loaded : Loaded
    strategy : FlowStrategy
    samples : sequence of QuestionSample
    seeds : sequence of int
        Of the random choices.

    Returns
    -------
    dict of str to HeldOut
        ``all`` (nothing pruned), ``optimised``, the same ``numbered anew`` behind stage 1, ``plain`` (t = 1,
        R1 = R2 = R3), ``mean attention`` (plain with t = 0) and ``random 0``, …

    Raises
    ------
    UsageError
        If the strategy is of another model, or a sample of its split.
    """
    if not strategy.fits(loaded.fingerprint):
        raise UsageError("the strategy was found for other weights. Calibrate it for this model.")
    strategy.check_held_out(samples)
    tokens = LastTokens(loaded, [prepare(loaded, [sample.read()], sample.question) for sample in samples])
    methods: dict[str, Pruner] = {
        "optimised": VFlowOpt.of(strategy),
        "numbered anew": replace(VFlowOpt.of(strategy), stage1_positions="compact"),
        "plain": VFlowOpt(), "mean attention": VFlowOpt(t=0.0),
        **{f"random {seed}": Random(layer=0, seed=seed) for seed in seeds},
    }  # fmt: skip
    found = {"all": HeldOut(np.ones(len(samples)), tokens.logits, 1.0)}
    for name, method in methods.items():
        found[name] = HeldOut(*tokens.compared(method, Keep(share=strategy.keep)))
    return found
