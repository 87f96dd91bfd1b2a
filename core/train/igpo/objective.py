"""The clipped objective with its KL term, of one inner iteration: methods/igpo.md, section 3.6."""

from __future__ import annotations

from dataclasses import dataclass
from typing import NamedTuple

import torch
from torch import Tensor

from .parts import Ratio


@dataclass(frozen=True, slots=True)
class ClippedObjective:
    """Settings of the objective.

    Parameters
    ----------
    ratio : {"sequence", "token", "sequence-filtered"}
        Of new to old policy: of a sample's mean log-probability over all positions (GSPO), of each token, or of the
        mean over the positions that the entropy filter left.
    low, high : float
        How far a ratio counts below and above 1.
    beta : float
        Weight of the KL divergence from the reference.
    """

    ratio: Ratio = "sequence"
    low: float = 0.2
    high: float = 0.2
    beta: float = 0.01


class Terms(NamedTuple):
    """Sums over the tokens of a loss, which several batches add up: ``value / weight`` is the loss.

    ``clipped`` and ``kl`` are sums, too; ``ratio`` is the sum over tokens of the ratio.
    """

    value: Tensor
    weight: Tensor
    clipped: Tensor
    kl: Tensor
    ratio: Tensor


def terms(
    new: Tensor, old: Tensor, reference: Tensor | None, advantage: Tensor, seen: Tensor, settings: ClippedObjective
) -> Terms:
    """Sums of the objective over a batch.

    Parameters
    ----------
    new, old : Tensor [B, N]
        Log-probabilities of the completions; ``new`` with gradients.
    reference : Tensor [B, N] or None
        Of the policy that training began with; None where ``beta`` is 0.
    advantage : Tensor [B]
    seen : Tensor of bool [B, N]
        Tokens of the loss.
    settings : ClippedObjective
    """
    w = seen.to(new.dtype)
    if settings.ratio == "token":
        logratio = new - old
    elif settings.ratio == "sequence":
        logratio = (new.mean(1) - old.mean(1))[:, None].expand_as(new)
    else:
        count = w.sum(1).clamp_min(1)
        logratio = (((new - old) * w).sum(1) / count)[:, None].expand_as(new)
    rho, a = logratio.exp(), advantage[:, None]
    bounded = rho.clamp(1 - settings.low, 1 + settings.high)
    loss = -torch.minimum(rho * a, bounded * a)
    kl = torch.zeros_like(new)
    if reference is not None:
        d = reference - new
        kl = d.exp() - d - 1
        loss = loss + settings.beta * kl
    clipped = ((rho < 1 - settings.low) & (a < 0)) | ((rho > 1 + settings.high) & (a > 0))
    sums = [(part * w).sum() for part in (loss, torch.ones_like(w), clipped.to(w.dtype), kl, rho)]
    return Terms(sums[0], sums[1], *(part.detach() for part in sums[2:]))
