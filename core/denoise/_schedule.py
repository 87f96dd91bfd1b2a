"""How Filter2Noise is fitted: the official recipe and our two shorter ones.

Specification: methods/filter2noise.md, section 3.6, steps 23-25.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.optim import AdamW
from torch.optim.lr_scheduler import OneCycleLR

from .base import Progress, Quality


@dataclass(frozen=True, slots=True)
class Recipe:
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
RECIPES: Mapping[Quality, Recipe] = {
    "paper": Recipe(500, 1e-3),
    "balanced": Recipe(90, 1e-2),
    "fast": Recipe(24, 2e-2),
}


def one_cycle(model: nn.Module, recipe: Recipe) -> tuple[AdamW, OneCycleLR]:
    """Steps 23 and 24: AdamW on every parameter, and the schedule of its learning rate and beta1."""
    optimiser = AdamW(model.parameters(), lr=recipe.learning_rate, weight_decay=0.01, fused=True)
    return optimiser, OneCycleLR(optimiser, recipe.learning_rate, total_steps=recipe.steps, pct_start=recipe.rise)


def take_step(optimiser: AdamW, schedule: OneCycleLR, loss: Callable[[], Tensor]) -> float:
    """One optimisation step; gives the loss before it."""
    optimiser.zero_grad(set_to_none=True)
    value = loss()
    torch.autograd.backward(value)
    optimiser.step()
    schedule.step()
    return value.item()


def optimise(
    model: nn.Module, loss: Callable[[], Tensor], recipe: Recipe, progress: Progress | None = None
) -> list[float]:
    """Run a recipe.

    Parameters
    ----------
    model : Module
        Changed in place.
    loss : callable
        The loss of the current parameters.
    recipe : Recipe
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
    optimiser, schedule = one_cycle(model, recipe)
    losses = []
    for step in range(recipe.steps):
        losses.append(take_step(optimiser, schedule, loss))
        if progress is not None:
            progress(step + 1, recipe.steps)
    return losses
