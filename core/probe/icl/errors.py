"""Errors of networks and of what theory has to offer, on the same prompts, at several lengths.

Specification: methods/icl-regression.md, sections 3.4 and 3.6.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache

import numpy as np
import torch
from numpy.typing import NDArray

from .network import HeadMatrices, Kind, predict
from .problem import Problem, Regressions, draw, generator_of
from .theory import best_head, best_step, head_prediction, ridge_prediction, step_prediction

Floats = NDArray[np.float64]
EVALUATED = 9
"""Seed of the prompts that errors are measured on; ``SOUGHT`` of those that the single head is fitted to."""
SOUGHT = 10
AT_ONCE = 2**22
"""Numbers of a piece of prompts."""


class Moments:
    """Mean and standard error of what comes in pieces along axis -2."""

    def __init__(self) -> None:
        self.count, self.first, self.second = 0, np.zeros(()), np.zeros(())

    def add(self, values: Floats) -> None:
        self.count += values.shape[-2]
        self.first = self.first + values.sum(-2)
        self.second = self.second + (values**2).sum(-2)

    @property
    def mean(self) -> Floats:
        out: Floats = self.first / self.count
        return out

    @property
    def stderr(self) -> Floats:
        spread = np.maximum(self.second / self.count - self.mean**2, 0)
        out: Floats = np.sqrt(spread / self.count)
        return out


@dataclass(frozen=True, slots=True)
class References:
    """What theory's predictors come to at one length.

    Parameters
    ----------
    squared : mapping of str to Moments of (N, K)
        Squared errors: ``zero``, ``vgd`` and ``dgd`` with the best step at this length, ``dgd_fixed`` with that of the
        length that is trained on, ``ridge`` (Bayes), ``preconditioned`` (debiased) where covariates are not isotropic,
        ``single_head`` where there is one task.
    dgd : ndarray, shape (N, K)
        Its predictions.
    """

    squared: Mapping[str, Moments]
    dgd: Floats


@dataclass(frozen=True, slots=True)
class Errors:
    """Mean squared errors at the lengths; of one network more where it can be applied in two ways.

    Parameters
    ----------
    lengths : tuple of int
    means, errors : mapping of str to ndarray, shape (S, N lengths, K)
        Mean over the prompts, and its standard error; S is 1 of what is not trained. ``network``, ``rescaled`` (linear
        attention divided by the length there is, not by the one trained on), and those of ``References``.
    distance : ndarray, shape (S, N lengths)
        RMS(network - DGD) / RMS(DGD).
    """

    lengths: tuple[int, ...]
    means: Mapping[str, Floats]
    errors: Mapping[str, Floats]
    distance: Floats

    def mse(self, name: str) -> Floats:
        """Mean over the tasks [S, N lengths]."""
        out: Floats = self.means[name].mean(2)
        return out

    def stderr(self, name: str) -> Floats:
        """Of ``mse``, taking the tasks' errors for independent [S, N lengths]."""
        out: Floats = np.sqrt((self.errors[name] ** 2).mean(2) / self.errors[name].shape[2])
        return out


def pieces(problem: Problem, length: int, count: int, seed: int = EVALUATED) -> Iterator[Regressions]:
    """``count`` prompts [B, ...] in float64, the same for all predictors."""
    generator = generator_of(seed, length)
    at_once = max(1, AT_ONCE // (problem.width * length))
    for start in range(0, count, at_once):
        yield draw(problem, length, min(at_once, count - start), generator, torch.float64)


@lru_cache(maxsize=16)
def references(problem: Problem, length: int, count: int) -> References:
    """Theory's predictors at a length. See ``measured``."""
    vgd, dgd = (best_step(problem, length, debiased=way, scalar=True).gamma for way in (False, True))
    fixed = best_step(problem, problem.length, debiased=True, scalar=True).gamma
    matrix = best_step(problem, length, debiased=True, scalar=False).gamma
    w, m = 0.0, 0.0
    if problem.tasks == 1:
        sought = next(pieces(problem, length, min(count, 4000), SOUGHT))
        w, m = best_head(*(x.numpy() for x in sought))
    squared: defaultdict[str, Moments] = defaultdict(Moments)
    predictions: list[Floats] = []
    for prompts in pieces(problem, length, count):
        tokens, query, answer = (x.numpy() for x in prompts)
        said = {
            "zero": np.zeros_like(answer),
            "vgd": step_prediction(tokens, query, vgd, debiased=False),
            "dgd": step_prediction(tokens, query, dgd, debiased=True),
            "dgd_fixed": step_prediction(tokens, query, fixed, debiased=True),
            "ridge": ridge_prediction(tokens, query, problem),
        }
        if not problem.isotropic:
            said["preconditioned"] = step_prediction(tokens, query, matrix, debiased=True)
        if problem.tasks == 1:
            said["single_head"] = m * head_prediction(tokens, query, w)
        for name, values in said.items():
            squared[name].add((values - answer) ** 2)
        predictions.append(said["dgd"])
    return References(squared, np.concatenate(predictions))


def measured(
    problem: Problem, lengths: Sequence[int], count: int, heads: HeadMatrices, kind: Kind, *,
    attend_query: bool = False,
) -> Errors:  # fmt: skip
    """Errors of S networks and of theory on ``count`` prompts at each length.

    Networks compute in their own dtype on data drawn in float64 (section 4).
    """
    means: defaultdict[str, list[Floats]] = defaultdict(list)
    errors: defaultdict[str, list[Floats]] = defaultdict(list)
    distances: list[Floats] = []
    for length in lengths:
        known = references(problem, length, count)
        ways = {"network": problem.length} | ({"rescaled": length} if kind == "linear" else {})
        squared = {name: Moments() for name in ways}
        away, start = Moments(), 0
        for prompts in pieces(problem, length, count):
            for name, over in ways.items():
                said = predictions(prompts, heads, kind, over=over, attend_query=attend_query)
                squared[name].add((said - prompts.answer.numpy()) ** 2)
                if name == "network":
                    away.add((said - known.dgd[start : start + said.shape[1]]) ** 2)
            start += len(prompts.answer)
        for name, moments in squared.items():
            means[name].append(moments.mean)
            errors[name].append(moments.stderr)
        for name, moments in known.squared.items():
            means[name].append(moments.mean[None])
            errors[name].append(moments.stderr[None])
        distances.append(np.sqrt(away.mean.mean(1) / (known.dgd**2).mean()))
    return Errors(
        tuple(lengths), {name: np.stack(parts, 1) for name, parts in means.items()},
        {name: np.stack(parts, 1) for name, parts in errors.items()}, np.stack(distances, 1),
    )  # fmt: skip


@torch.inference_mode()
def predictions(
    prompts: Regressions, heads: HeadMatrices, kind: Kind, *, over: int = 0, attend_query: bool = False
) -> Floats:
    """What each of S networks says of the same prompts [B, ...]: [S, B, K], computed in the networks' dtype."""
    like = heads.kq
    here = Regressions(*(x[None].to(like.device, like.dtype) for x in prompts))
    each = [
        predict(HeadMatrices(kq[None], ov[None]), here, kind, over=over, attend_query=attend_query)
        for kq, ov in zip(*heads, strict=True)
    ]
    return torch.cat(each).double().cpu().numpy()
