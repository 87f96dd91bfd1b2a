"""How Filter2Noise is fitted: the official recipe and our two shorter ones.

Specification: methods/filter2noise.md, section 3.6, steps 23-25.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.optim.adamw import adamw

from ..base import Progress, Quality


@dataclass(frozen=True, slots=True)
class Filter2NoiseRecipe:
    """Optimisation steps and the one-cycle schedule over them.

    Parameters
    ----------
    steps : int
        Number of optimisation steps.
    learning_rate : float
        The highest learning rate of the cycle.
    rise : float
        Share of the steps in which the learning rate rises.
    """

    steps: int
    learning_rate: float
    rise: float = 0.3


# At the published rate σ creeps up to 1 and stays just below, where the filter radius would jump (pitfall 2). Ten times
# the rate carries it across: 90 steps end at a lower loss than the published 500 on the Mayo slice.
RECIPES: Mapping[Quality, Filter2NoiseRecipe] = {
    "paper": Filter2NoiseRecipe(500, 1e-3),
    "balanced": Filter2NoiseRecipe(90, 1e-2),
    "fast": Filter2NoiseRecipe(24, 2e-2),
}


class OneCycleAdamW:
    """Steps 23 and 24: AdamW on every parameter, learning rate and beta1 on one cosine cycle.

    The same numbers as ``torch.optim.AdamW`` under ``OneCycleLR`` (a test compares them), whose construction imports
    torch's compiler: 1.5 s more for a fit that takes 3.

    Parameters
    ----------
    parameters : iterable of Parameter
    recipe : Filter2NoiseRecipe
    """

    BETA1, BETA2, EPS, WEIGHT_DECAY = (0.95, 0.85), 0.999, 1e-8, 0.01  # beta1 where the learning rate is low, high

    def __init__(self, parameters: Iterable[nn.Parameter], recipe: Filter2NoiseRecipe) -> None:
        self.recipe, self.taken = recipe, 0
        self.parameters: list[Tensor] = list(parameters)
        self.first, self.second = ([torch.zeros_like(p) for p in self.parameters] for _ in range(2))
        self.counts = [torch.zeros((), device=p.device) for p in self.parameters]

    def learning_rate(self, step: int) -> float:
        """Rises from 1/25 of the highest to the highest, then falls to 4e-6 of it."""
        highest = self.recipe.learning_rate
        return self._on_cycle(step, highest / 25, highest, highest / 25 / 1e4)

    def beta1(self, step: int) -> float:
        low, high = self.BETA1
        return self._on_cycle(step, low, high, low)

    def _on_cycle(self, step: int, start: float, middle: float, end: float) -> float:
        top, last = self.recipe.rise * self.recipe.steps - 1, self.recipe.steps - 1
        if step <= top:
            return _cosine(start, middle, step / top if top else 1.0)
        return _cosine(middle, end, (step - top) / (last - top))

    def take_step(self, loss: Callable[[], Tensor]) -> float:
        """One optimisation step; gives the loss before it."""
        for parameter in self.parameters:
            parameter.grad = None
        value = loss()
        torch.autograd.backward(value)
        with torch.no_grad():
            adamw(
                self.parameters,
                [p.grad for p in self.parameters if p.grad is not None],
                self.first,
                self.second,
                [],
                self.counts,
                fused=self.parameters[0].device.type in ("cpu", "cuda"),
                amsgrad=False,
                maximize=False,
                lr=self.learning_rate(self.taken),
                beta1=self.beta1(self.taken),
                beta2=self.BETA2,
                weight_decay=self.WEIGHT_DECAY,
                eps=self.EPS,
            )
        self.taken += 1
        return value.item()


def _cosine(start: float, end: float, share: float) -> float:
    return end + (start - end) / 2 * (1 + math.cos(math.pi * share))


def optimise(
    model: nn.Module, loss: Callable[[], Tensor], recipe: Filter2NoiseRecipe, progress: Progress | None = None
) -> list[float]:
    """Run a recipe.

    Parameters
    ----------
    model : Module
        Changed in place.
    loss : callable
        The loss of the current parameters.
    recipe : Filter2NoiseRecipe
        How long and how fast.
    progress : callable or None
        Called with (steps done, steps in all).

    Returns
    -------
    list of float
        The loss before each step.
    """
    if recipe.steps < 1:
        return []
    optimiser = OneCycleAdamW(model.parameters(), recipe)
    losses = []
    for step in range(recipe.steps):
        losses.append(optimiser.take_step(loss))
        if progress is not None:
            progress(step + 1, recipe.steps)
    return losses
