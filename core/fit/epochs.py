"""Which samples a step trains on."""

from __future__ import annotations

import numpy as np


def epoch_rows(step: int, batch: int, count: int, seed: int) -> list[int]:
    """Rows of a step's batch: every sample once per epoch, each epoch in an order of its own.

    Parameters
    ----------
    step, batch : int
        Number of the step from 0, and samples of each.
    count : int
        Samples there are.
    seed : int
    """
    places = np.arange(step * batch, (step + 1) * batch)
    orders = {e: np.random.default_rng((seed, 1, e)).permutation(count) for e in set((places // count).tolist())}
    return [int(orders[place // count][place % count]) for place in places.tolist()]
