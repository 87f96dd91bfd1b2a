"""Log-probabilities of completions by one forward pass, and which tokens a loss sees.

Specification: methods/igpo.md, sections 3.4 (mean-field estimate) and 3.5 (entropy filter).
"""

from __future__ import annotations

import math

import torch
from torch import Tensor
from torch.nn import functional as F

AT_ONCE = 2**24
"""Logits whose softmax is in memory at a time, where no gradient is wanted."""
FIRST_STEP = 30
"""Least number of masked steps of a structured estimate."""


def mask_ratios(iterations: int, steps: int, generator: torch.Generator | None) -> list[float]:
    """Share of the completion that is masked in each inner iteration.

    Parameters
    ----------
    iterations : int
    steps : int
        Of the sampler, T.
    generator : Generator or None
        Of the first iteration's share, which the later ones raise to 1. None: all is masked in every iteration, so
        that all see the same input.
    """
    if generator is None or iterations == 1:
        return [1.0] * iterations
    first = int(torch.randint(FIRST_STEP, steps - 1, (), generator=generator))
    return [math.floor(n / (iterations - 1) * (steps - first) + first) / steps for n in range(iterations)]


def masked_positions(shape: tuple[int, int], ratio: float, generator: torch.Generator) -> Tensor:
    """Which positions of completions [B, N] are masked, bool; hints are like any others."""
    return torch.rand(shape, generator=generator) < ratio


def log_probabilities(logits: Tensor, targets: Tensor) -> Tensor:
    """log p of ``targets`` int64 [B, N] under ``logits`` [B, N, V], float32 [B, N], with gradients."""
    return -F.cross_entropy(logits.flatten(0, 1).float(), targets.flatten(), reduction="none").view_as(targets)


@torch.no_grad()
def log_probabilities_and_entropy(logits: Tensor, targets: Tensor) -> tuple[Tensor, Tensor]:
    """``log_probabilities``, and the entropy in nats of each position, float32 [B, N]; a part of the rows at a time."""
    rows = max(1, AT_ONCE // logits.shape[-1])
    logps, entropies = [], []
    for start in range(0, targets.numel(), rows):
        part, wanted = logits.flatten(0, 1)[start : start + rows], targets.flatten()[start : start + rows]
        logp = part.float().log_softmax(-1)
        logps.append(logp.gather(-1, wanted[:, None])[:, 0])
        p = logp.exp()
        entropies.append(-(p * (p + 1e-8).log()).sum(-1))
    return torch.cat(logps).view_as(targets), torch.cat(entropies).view(targets.shape)


def filtered(masked: Tensor, hints: Tensor, entropy: Tensor, keep: float) -> Tensor:
    """The tokens that a loss sees: of a sample's hints, those about which the old policy was least sure.

    Parameters
    ----------
    masked, hints : Tensor of bool [B, N]
        Masked in the estimate; planted.
    entropy : Tensor [B, N]
    keep : float
        Share of a sample's masked hints that stay, rounded down, but one at least; 1 keeps all.

    Returns
    -------
    Tensor of bool [B, N]
    """
    planted = masked & hints
    if keep >= 1:
        return masked
    count = planted.sum(1, keepdim=True)
    kept = (keep * count).floor().clamp_min(1)
    ordered = entropy.masked_fill(~planted, -torch.inf).argsort(dim=1, descending=True, stable=True).argsort(1)
    return masked & (~planted | (ordered < kept))
