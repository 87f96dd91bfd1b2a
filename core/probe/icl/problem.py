"""Linear regression in a prompt: what is drawn. Specification: methods/icl-regression.md, sections 3.1 and 3.7."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from typing import NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor


@dataclass(frozen=True)
class Problem:
    """Which prompts are drawn.

    Parameters
    ----------
    dim : int
        Covariates, d.
    length : int
        Examples of a prompt that is trained on, L.
    noise : float
        Variance of the labels' noise, s2.
    tasks : int
        K: task k regresses on a part of the covariates of its own.
    eigenvalues : tuple of float
        Variances of the d covariates.
    """

    dim: int
    length: int
    noise: float
    tasks: int
    eigenvalues: tuple[float, ...]

    @property
    def width(self) -> int:
        """Of a token: covariates and labels."""
        return self.dim + self.tasks

    @property
    def isotropic(self) -> bool:
        return len(set(self.eigenvalues)) == 1

    @cached_property
    def parts(self) -> list[NDArray[np.int64]]:
        """The covariates of every task, S_k: consecutive ones, as even as can be."""
        return np.array_split(np.arange(self.dim), self.tasks)

    @cached_property
    def prior(self) -> NDArray[np.float64]:
        """Variance of each coefficient of each task [K, d]: 1 / |S_k| on S_k, 0 elsewhere."""
        out = np.zeros((self.tasks, self.dim))
        for row, part in zip(out, self.parts, strict=True):
            row[part] = 1 / len(part)
        return out


class Regressions(NamedTuple):
    """Prompts: ``tokens`` [..., d + K, L], covariates above labels; ``query`` [..., d]; ``answer`` [..., K], noisy."""

    tokens: Tensor
    query: Tensor
    answer: Tensor


def draw(problem: Problem, length: int, count: int, generator: torch.Generator, dtype: torch.dtype) -> Regressions:
    """``count`` prompts of ``length`` examples: every one with coefficients of its own; on the CPU."""

    def normal(*shape: int) -> Tensor:
        return torch.randn(*shape, generator=generator, dtype=dtype)

    deviation = torch.tensor(problem.eigenvalues, dtype=dtype).sqrt()
    x = normal(count, problem.dim, length) * deviation[:, None]
    query = normal(count, problem.dim) * deviation
    beta = normal(count, problem.tasks, problem.dim) * torch.from_numpy(problem.prior).to(dtype).sqrt()
    y = beta @ x + problem.noise**0.5 * normal(count, problem.tasks, length)
    answer = (beta @ query[..., None])[..., 0] + problem.noise**0.5 * normal(count, problem.tasks)
    return Regressions(torch.cat((x, y), 1), query, answer)


def generator_of(*seed: int) -> torch.Generator:
    """Random numbers of the CPU, of their own for each seed of several parts."""
    mixed = np.random.SeedSequence(seed).generate_state(1)[0]
    return torch.Generator().manual_seed(int(mixed))


def training_batch(problem: Problem, seeds: range, step: int, batch: int) -> Regressions:
    """The prompts of a step [S, B, ...], float32: each seed's are its own, whatever seeds are trained beside it."""
    drawn = [draw(problem, problem.length, batch, generator_of(seed, step), torch.float32) for seed in seeds]
    return Regressions(*map(torch.stack, zip(*drawn, strict=True)))
