"""Loss and evaluation of the recipe."""

from __future__ import annotations

from collections.abc import Mapping
from itertools import pairwise
from typing import NamedTuple

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from ...attention.superlinear.settings import Settings
from ...fit.chained import ChainedOptimizer, muon_and_adamw
from .data import DEVELOPMENT, VALUES, draw_lookups, training_lookups
from .network import LookupNetwork, LookupShape
from .options import SuperlinearOptions

MATRIX_FACTOR = 10.0
"""Muon's rate over AdamW's. With AdamW alone dense attention was right on 0.30 after 600 steps, with Muon on 0.99."""
GAPS = (0, 8, 16, 32, 64, 128, 2**30)
"""Edges of the rows of ``by_gap``."""
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
        """See ``Judged.metrics``."""
        options = self.options
        judged = judge(self.network, DEVELOPMENT, options.judged, options.length, options.every, self.device)
        return judged.metrics()


class Judged(NamedTuple):
    """Questions, one after the other: bool [N] whether answered right; bool [N, H] whether the answer was among the
    keys that a head attended to; int64 [N] how many tokens back it stood."""

    right: Tensor
    reached: Tensor
    back: Tensor

    def metrics(self, of: Tensor | slice = slice(None)) -> dict[str, float]:
        """Shares of all of them, or of some: ``reached`` by some head, ``reached_by_head`` the mean over heads."""
        shares = {"accuracy": self.right, "reached": self.reached.any(-1), "reached_by_head": self.reached}
        return {name: float(part[of].double().mean()) for name, part in shares.items()}


@torch.no_grad()
def judge(
    network: LookupNetwork, seed: tuple[int, ...], questions: int, length: int, every: int, device: torch.device
) -> Judged:
    """What a network answers.

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
    parts: list[Judged] = []
    for first in range(0, sequences, batch):
        count = min(batch, sequences - first)
        lookups = draw_lookups((*seed, length, first), count, length, every).to(device)
        right = network(lookups.tokens, lookups.asked).argmax(-1) == lookups.answer
        judged = right, network.reached(lookups), lookups.asked - lookups.place
        parts.append(Judged(*(x.flatten(0, 1).cpu() for x in judged)))
    return Judged(*map(torch.cat, zip(*parts, strict=True)))


def by_gap(judged: Judged, shape: LookupShape, length: int) -> list[dict[str, float | str]]:
    """Rows: shares by how many tokens the answer stands before the nearest anchor that may stand for it.

    Of questions at the last of ``length`` positions or before. What search keys remember fades with that distance.
    """
    steps = Settings(**shape.settings).tables(length, length).steps
    nearest = torch.searchsorted(steps, judged.back + 1, right=True) - 1
    gap = judged.back + 1 - steps[nearest.clamp_min(0)]
    rows: list[dict[str, float | str]] = []
    for low, high in pairwise(GAPS):
        some = (nearest >= 0) & (gap >= low) & (gap < high)
        if bool(some.any()):
            rows.append({"gap": f"{low} to {high - 1}", "questions": int(some.sum()), **judged.metrics(some)})
    return rows
