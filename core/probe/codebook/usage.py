"""What a codebook's codes are used for, from the probabilities of frames.

Specification: methods/embodied-codebook.md, section 3.4. Natural logarithms; sums in float64. All but the nearest
neighbours is kept as sums over frames, so that a million frames need no more memory than one block of them.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray

from ..filters.activations import effective_rank

Floats = NDArray[np.float64]
Ints = NDArray[np.int64]
NEIGHBOURS = 3
"""Nearest frames that are looked up."""
BLOCK = 1024
"""Frames at once."""
SOFT_DEAD = 1e-3
"""A code is dead (soft) whose mean probability is below this share of an even one."""
FLAT, FEW, UNINFORMED = 0.05, 4.0, 0.05
"""The collapse test: soft perplexity over K, hard perplexity, mutual information in nats."""


def entropy(shares: Floats) -> Floats:
    """Of distributions along the last axis, in nats; 0 ln 0 is 0."""
    found: Floats = -np.where(shares > 0, shares * np.log(np.where(shares > 0, shares, 1.0)), 0.0).sum(-1)
    return found


@dataclass(frozen=True, slots=True)
class Usage:
    """Sums over n frames and K codes; ``goals`` G of them.

    Parameters
    ----------
    frames : int
    mean : ndarray of float64 [K]
        Mean probability of each code.
    winners : ndarray of int64 [K]
        Frames in which it is the most likely.
    conditional, spread, top : float
        Means over frames of the entropy, of its exponential, and of the greatest probability.
    by_goal : ndarray of int64 [K, G], optional
        Frames by most likely code and goal.
    """

    frames: int
    mean: Floats
    winners: Ints
    conditional: float
    spread: float
    top: float
    by_goal: Ints | None = None

    def metrics(self) -> dict[str, float]:
        """The table of section 3.4, but for geometry and neighbours. ``goal_information_share``: over H(goal)."""
        codes = len(self.mean)
        marginal = float(entropy(self.mean))
        found = {
            "marginal_entropy": marginal, "soft_perplexity": math.exp(marginal),
            "mean_conditional_entropy": self.conditional, "mutual_information": marginal - self.conditional,
            "hard_perplexity": math.exp(float(entropy(self.winners / self.frames))),
            "dead_hard": float((self.winners == 0).mean()),
            "dead_soft": float((self.mean < SOFT_DEAD / codes).mean()),
            "mean_top1_prob": self.top, "codes_per_frame": self.spread,
        }  # fmt: skip
        if self.by_goal is not None:
            joint = self.by_goal / self.by_goal.sum()
            own = float(entropy(joint.sum(0)))
            found["goal_information"] = own + float(entropy(joint.sum(1))) - float(entropy(joint.ravel()))
            if own > 0:
                found["goal_information_share"] = found["goal_information"] / own
        return found

    def collapsed(self) -> tuple[str, ...]:
        """Which parts of the collapse test fail, in words."""
        found, codes = self.metrics(), len(self.mean)
        parts = (
            (found["soft_perplexity"] < FLAT * codes, f"soft perplexity is below {FLAT} of the {codes} codes"),
            (found["hard_perplexity"] < FEW, f"hard perplexity is below {FEW:g}"),
            (found["mutual_information"] < UNINFORMED, f"a frame tells less than {UNINFORMED} nats about its codes"),
        )
        return tuple(text for failed, text in parts if failed)

    def lift(self) -> tuple[Ints, Floats]:
        """Of each code the goal that most of its frames have, and p(goal given code) / p(goal); -1 and NaN where it is
        the most likely of no frame. Raises ``ValueError`` without goals."""
        if self.by_goal is None:
            raise ValueError("there are no goals")
        count = self.by_goal.sum(1)
        goal = np.where(count > 0, self.by_goal.argmax(1), -1)
        share = self.by_goal.max(1) / np.maximum(count, 1)
        base = self.by_goal.sum(0) / self.by_goal.sum()
        return goal, np.where(count > 0, share / np.where(base > 0, base, 1.0)[goal], np.nan)


def usage(probs: NDArray[np.floating], goals: Ints | None = None, goal_count: int = 0) -> Usage:
    """Sums over frames.

    Parameters
    ----------
    probs : ndarray of float [n, K]
        Whole softmaxes: not negative, of sum 1.
    goals : ndarray of int64 [n], optional
        From 0 to ``goal_count`` - 1.
    goal_count : int

    Raises
    ------
    ValueError
        If there is no frame, or a row is no distribution (sum off 1 by more than 1e-3, negative, or not finite).
    """
    frames, codes = probs.shape
    if not frames:
        raise ValueError("there are no frames")
    total, winners = np.zeros(codes), np.zeros(codes, np.int64)
    by_goal = None if goals is None else np.zeros((codes, goal_count), np.int64)
    conditional = spread = top = 0.0
    for first in range(0, frames, BLOCK):
        part = np.asarray(probs[first : first + BLOCK], np.float64)
        wrong = ~(np.isfinite(part).all(1) & (part >= 0).all(1) & (abs(part.sum(1) - 1) < 1e-3))
        if wrong.any():
            raise ValueError(f"row {first + int(wrong.argmax())} is no distribution: it must sum to 1")
        own, best = entropy(part), part.argmax(1)
        total += part.sum(0)
        winners += np.bincount(best, minlength=codes)
        conditional, spread, top = conditional + own.sum(), spread + np.exp(own).sum(), top + part.max(1).sum()
        if by_goal is not None and goals is not None:
            np.add.at(by_goal, (best, goals[first : first + BLOCK]), 1)
    conditional, spread, top = (float(value / frames) for value in (conditional, spread, top))
    return Usage(frames, total / frames, winners, conditional, spread, top, by_goal)


def nearest(
    queries: NDArray[np.floating], rows: NDArray[np.floating], count: int = NEIGHBOURS, own: bool = False
) -> Ints:
    """The ``count`` rows of greatest cosine to each query, ties by their number: int64 [m, count].

    Parameters
    ----------
    queries, rows : ndarray of float [m, d], [n, d]
    count : int
        At most as many as there are.
    own : bool
        Query i is row i, which is left out.
    """

    def unit(x: NDArray[np.floating]) -> Floats:
        wide = np.asarray(x, np.float64)
        found: Floats = wide / np.maximum(np.linalg.norm(wide, axis=1, keepdims=True), 1e-12)
        return found

    theirs, found = unit(rows), []
    for first in range(0, len(queries), BLOCK):
        likeness = unit(queries[first : first + BLOCK]) @ theirs.T
        if own:
            here = np.arange(len(likeness))
            likeness[here, first + here] = -np.inf
        found.append(np.argsort(-likeness, axis=1, kind="stable")[:, : min(count, len(rows) - own)])
    return np.concatenate(found).astype(np.int64)


def precision(neighbours: Ints, of: Ints, labels: Ints) -> float:
    """Share of neighbours [m, k] of the label that the query, row ``of`` [m], has."""
    return float((labels[neighbours] == labels[of][:, None]).mean())


def geometry(codes: NDArray[np.floating]) -> dict[str, float | Floats]:
    """How codes [K, D_c] lie to each other.

    Returns
    -------
    dict: ``mean_cosine`` (of pairs; NaN of one code), ``spectrum`` [min(K, D_c)] (shares of variance, PCA) and
    ``effective_rank`` (exp of the entropy of the singular values of the centred codes, as shares of their sum).
    """
    wide = np.asarray(codes, np.float64)
    unit = wide / np.maximum(np.linalg.norm(wide, axis=1, keepdims=True), 1e-12)
    count = len(wide)
    pairs = (
        (float(np.square(unit.sum(0)).sum()) - float(np.square(unit).sum())) / (count * (count - 1))
        if count > 1
        else math.nan
    )
    centred = wide - wide.mean(0)
    variance = np.square(np.linalg.svd(centred, compute_uv=False))
    spectrum = variance / variance.sum() if variance.sum() > 0 else np.zeros_like(variance)
    return {
        "mean_cosine": pairs, "spectrum": spectrum,
        "effective_rank": effective_rank(torch.from_numpy(centred.T @ centred / count)),
    }  # fmt: skip


def specialisation(found: Usage, names: Sequence[str]) -> list[dict[str, float | int | str | None]]:
    """Rows for a table: the codes that are the most likely of some frame, the most frequent first. Without goals the
    columns of goals are left out."""
    rows: list[dict[str, float | int | str | None]] = []
    goal, lift = found.lift() if found.by_goal is not None else (None, None)
    for code in np.argsort(-found.winners, kind="stable"):
        if not found.winners[code]:
            break
        row: dict[str, float | int | str | None] = {
            "code": int(code), "frames": int(found.winners[code]), "mean_prob": float(found.mean[code])
        }  # fmt: skip
        if goal is not None and lift is not None:
            row |= {"goal": names[goal[code]], "lift": float(lift[code])}
        rows.append(row)
    return rows
