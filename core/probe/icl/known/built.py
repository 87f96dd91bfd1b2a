"""Circuits that are built, not trained, and what they must say. Specification: methods/icl-regression.md, section 3.3;
methods/probe-peers.md, section 5, item 11."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch

from ..network import HeadMatrices
from ..problem import Problem, Regressions, draw, generator_of

PROBLEM = Problem(5, 63, 0.1, 1, (1.0,) * 5)
"""Examples and query are 64 tokens: a grid of 8 x 8 for operators on token maps."""
HEADS = ((0.3, 1.5), (-0.3, -1.0), (0.3, 0.5), (-0.3, -1.0))
"""w and m of each head: signs match, sizes are one, m adds up to nothing."""


@dataclass(frozen=True, slots=True)
class KnownAnswer:
    """One thing that a tool found, and what was to be found.

    Parameters
    ----------
    check : str
    found, expected : float
    tolerance : float
        Largest difference that passes.
    """

    check: str
    found: float
    expected: float
    tolerance: float = 0.0

    @property
    def passed(self) -> bool:
        return abs(self.found - self.expected) <= self.tolerance


def circuit_of(heads: Sequence[tuple[float, float]] = HEADS, problem: Problem = PROBLEM) -> HeadMatrices:
    """One network with KQ_h = w_h I on the covariates and OV_h = m_h on the label, all else 0, in float64."""
    dim, width = problem.dim, problem.width
    kq = torch.zeros(1, len(heads), width, width, dtype=torch.float64)
    ov = torch.zeros(1, len(heads), problem.tasks, width, dtype=torch.float64)
    for h, (w, m) in enumerate(heads):
        kq[0, h, :dim, :dim] = w * torch.eye(dim, dtype=torch.float64)
        ov[0, h, :, dim:] = m * torch.eye(problem.tasks, dtype=torch.float64)
    return HeadMatrices(kq, ov)


def some_prompts(seed: int, count: int = 8, problem: Problem = PROBLEM) -> Regressions:
    """Prompts [1, B, ...], float64."""
    return Regressions(*(x[None] for x in draw(problem, problem.length, count, generator_of(seed), torch.float64)))


def largest_error(found: torch.Tensor, expected: torch.Tensor) -> float:
    """Largest difference over the largest value that is expected."""
    difference = (found.detach().double().cpu() - expected.detach().double().cpu()).abs().max()
    return float(difference / expected.abs().max().double().cpu())


def exact(check: str, found: torch.Tensor, expected: torch.Tensor, tolerance: float) -> KnownAnswer:
    """A check that two tensors are one, by ``largest_error``."""
    return KnownAnswer(check, largest_error(found, expected), 0.0, tolerance)
