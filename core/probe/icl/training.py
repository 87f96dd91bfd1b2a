"""Training of networks side by side, on the frame's loop. Specification: methods/icl-regression.md, sections 4 and 5.

Adam, no schedule, no clipping, fresh prompts every step: the loop's AdamW without decay, at a constant rate. Its loss
is the mean over the networks, so ``eps`` is divided by their number: then every network learns as it would alone.
"""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
import torch
from torch import Tensor, nn

from ...fit.loop import Plan
from .circuit import diagnose
from .errors import predictions
from .network import HeadMatrices, InContextHeads
from .problem import draw, generator_of, training_batch

LOOKS = 20
"""Evaluations of a run."""
DEVELOPMENT, LOOKED_AT = 8, 2048
"""Seed and number of the prompts of those evaluations."""


def plan_of(steps: int, rate: float, networks: int, seed: int) -> Plan:
    """See the file's docstring. The newest weights are what counts: none are averaged."""
    return Plan(
        steps, 0, rate, weight_decay=0.0, average=0.0, clip=0.0, evaluate_every=max(1, steps // LOOKS), seed=seed,
        eps=1e-8 / networks, stable=1.0,
    )  # fmt: skip


class InContextRecipe:
    """Squared error of the query's label.

    Parameters
    ----------
    network : InContextHeads
    seeds : range
        Of its networks.
    batch : int
        Prompts of a step, for each.
    """

    score = "explained"
    stalled_below = ("explained", -float("inf"))  # networks that do not learn are what is studied here

    def __init__(self, network: InContextHeads, seeds: range, batch: int) -> None:
        self.model: nn.Module = network
        self.network, self.seeds, self.batch = network, seeds, batch
        problem = network.problem
        self.held = draw(problem, problem.length, LOOKED_AT, generator_of(DEVELOPMENT), torch.float64)

    def loss(self, step: int) -> Tensor:
        prompts = training_batch(self.network.problem, self.seeds, step, self.batch)
        device = self.network.parts[0].device
        query, answer, tokens = (x.to(device) for x in (prompts.query, prompts.answer, prompts.tokens))
        said: Tensor = self.network(prompts._replace(tokens=tokens, query=query))
        return (said - answer).square().mean()

    def evaluate(self, model: nn.Module) -> Mapping[str, float]:
        """Share of the labels' variance that is explained; of every network ``mse_S``, ``omega_S_H_K``, ``mu_S_H_K``.

        S, H and K are network, head and task, from 0.
        """
        network = self.network
        heads = network.heads
        said = predictions(
            self.held, heads, network.kind, over=network.problem.length, attend_query=network.attend_query
        )
        answer = self.held.answer.numpy()
        mse = ((said - answer) ** 2).mean((1, 2))
        found = {"explained": float(1 - mse.mean() / answer.var())}
        for s, (kq, ov) in enumerate(arrays_of(heads)):
            circuit = diagnose(kq, ov, network.problem)
            found[f"mse_{s}"] = float(mse[s])
            for name, values in (("omega", circuit.omega), ("mu", circuit.mu)):
                for (h, k), value in np.ndenumerate(values):
                    found[f"{name}_{s}_{h}_{k}"] = float(value)
        return found


def arrays_of(heads: HeadMatrices) -> list[tuple[np.ndarray, np.ndarray]]:
    """``kq`` and ``ov`` of each network, as ``diagnose`` takes them."""
    kq, ov = (x.detach().double().cpu().numpy() for x in heads)
    return list(zip(kq, ov, strict=True))
