"""Loss and evaluation of the recipe."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from ...fit.chained import ChainedOptimizer, muon_and_adamw
from .data import DEVELOPMENT, VALUES, draw_lookups, training_lookups
from .network import LookupNetwork
from .options import SuperlinearOptions

MATRIX_FACTOR = 10.0
"""Muon's rate over AdamW's. With AdamW alone dense attention was right on 0.30 after 600 steps, with Muon on 0.99."""
AT_ONCE = 8192
"""Tokens of a batch where nothing is learnt."""


def optimizer(network: LookupNetwork, weight_decay: float) -> ChainedOptimizer:
    """Muon for the projections of the attention, AdamW for the rest."""
    projections = {f"{name}.weight" for name in ("q", "k", "v", "q_search", "out")}
    return muon_and_adamw(
        network, projections.__contains__, factor=MATRIX_FACTOR, weight_decay=weight_decay, matrix_decay=weight_decay
    )


class LookupRecipe:
    """Values of keys.

    Parameters
    ----------
    network : LookupNetwork
    options : SuperlinearOptions
    device : torch.device
    """

    score = "accuracy"
    stalled_below = ("accuracy", 2 / VALUES)

    def __init__(self, network: LookupNetwork, options: SuperlinearOptions, device: torch.device) -> None:
        self.model: nn.Module = network
        self.network, self.options, self.device = network, options, device

    def loss(self, step: int) -> Tensor:
        options = self.options
        lookups = training_lookups(options.compute.seed, step, options.batch, options.length, options.every)
        lookups = lookups.to(self.device)
        logits = self.network(lookups.tokens, lookups.asked)
        return F.cross_entropy(logits.flatten(0, 1), lookups.answer.flatten())

    def evaluate(self, model: nn.Module) -> Mapping[str, float]:
        """See ``judge``."""
        options = self.options
        return judge(self.network, DEVELOPMENT, options.judged, options.length, options.every, self.device)


@torch.no_grad()
def judge(
    network: LookupNetwork, seed: tuple[int, ...], questions: int, length: int, every: int, device: torch.device
) -> dict[str, float]:
    """Share of questions answered right, and of those whose answer is among the keys that are attended to.

    Parameters
    ----------
    network : LookupNetwork
    seed : tuple of int
    questions : int
        At least so many, in whole sequences.
    length, every : int
        See ``draw_lookups``.
    device : torch.device
    """
    sequences, batch = -(-questions // (length // every)), max(1, AT_ONCE // length)
    right: list[Tensor] = []
    reached: list[Tensor] = []
    for first in range(0, sequences, batch):
        count = min(batch, sequences - first)
        lookups = draw_lookups((*seed, length, first), count, length, every).to(device)
        right.append((network(lookups.tokens, lookups.asked).argmax(-1) == lookups.answer).flatten())
        reached.append(network.reached(lookups).flatten())
    return {"accuracy": share(right), "reached": share(reached)}


def share(flags: Any) -> float:
    """Share of what is true in tensors of bool."""
    return float(torch.cat(flags).double().mean())
