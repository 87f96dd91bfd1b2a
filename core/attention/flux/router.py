"""The router of Flux attention: methods/flux-attention.md, sections 3.1, 3.2, 3.6 and 6.

Differs from the official classes: one class for the user's span and for the whole prompt, rows clamped to the span
(9.3), a decision per sample (9.4).
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import NamedTuple

import torch
from torch import Tensor, nn

FULL_BIAS = 4.5  # P(full) = 0.989 before training
_EPS = 1e-8


class Decision(NamedTuple):
    """Of each sample: ``full`` [B] 1 for full attention, 0 for sparse (straight-through in training); ``prob`` [B]."""

    full: Tensor
    prob: Tensor
    logits: Tensor


class LayerRouter(nn.Module):
    """Sends a layer to full or to sparse attention, from its queries before RoPE.

    Parameters
    ----------
    head_dim : int
        D of the queries.
    pool_size : int, tokens
        The first and the last that many tokens are averaged.
    use_softmax : bool
        Two logits (sparse, full) with softmax; False: one logit with a sigmoid.

    Raises
    ------
    ValueError
        In ``forward``, if a span does not lie in the prompt.

    References
    ----------
    methods/flux-attention.md, sections 3.1 and 3.2; arXiv 2604.07394.

    Examples
    --------
    >>> import torch
    >>> router = LayerRouter(64).eval()
    >>> router(torch.randn(2, 4, 300, 64)).full
    tensor([1., 1.])
    """

    def __init__(self, head_dim: int, *, pool_size: int = 100, use_softmax: bool = True) -> None:
        super().__init__()
        self.pool_size, self.use_softmax = pool_size, use_softmax
        d, classes = head_dim, 2 if use_softmax else 1
        self.features = nn.Sequential(nn.Linear(d, 8 * d), nn.SiLU(), nn.Linear(8 * d, 2 * d))
        self.last = nn.Linear(d, classes)
        self.classify = nn.Sequential(nn.Linear(2 * d, 4 * d), nn.SiLU(), nn.Linear(4 * d, d), nn.SiLU())
        self.reset_parameters()

    def reset_parameters(self) -> None:
        """The last layer says full attention, whatever the prompt."""
        nn.init.zeros_(self.last.weight)
        with torch.no_grad():
            self.last.bias.zero_()
            self.last.bias[-1:].fill_(FULL_BIAS)  # in place, so that it works on the meta device as well

    def pooled(self, q: Tensor, span: Tensor | None = None) -> Tensor:
        """Step 1. Mean of the first and last rows of each sample's span, per head: [B, H, L, D] -> [B, H, D]."""
        batch, _, length, _ = q.shape
        if not length:
            raise ValueError("the router needs at least one token; the prompt is empty.")
        ends = [(0, length - 1)] * batch if span is None else [(int(a), int(e)) for a, e in span.tolist()]
        if len(ends) != batch or any(not 0 <= a <= e < length for a, e in ends):
            raise ValueError(f"span {ends}: needs {batch} pairs 0 <= first <= last < {length}.")
        means = []
        for sample, (a, e) in zip(q, ends, strict=True):
            prefix = sample[:, a : min(a + self.pool_size, e + 1)]
            suffix = sample[:, max(e + 1 - self.pool_size, a) : e + 1]
            means.append(torch.cat([prefix, suffix], dim=1).mean(1))
        return torch.stack(means) if means else q.new_empty(0, q.shape[1], q.shape[3])

    def forward(
        self, q: Tensor, *, span: Tensor | None = None, tau: float = 1.0, noise: Tensor | None = None,
        generator: torch.Generator | None = None,
    ) -> Decision:  # fmt: skip
        """Decide for each sample; in training mode with Gumbel noise and straight-through gradients.

        Parameters
        ----------
        q : Tensor [B, H, L, D]
            Queries before RoPE (rotated ones have other means).
        span : Tensor, int [B, 2], optional
            First and last token of the user's part, inclusive; None: the whole prompt.
        tau : float
            Temperature in training; smaller is nearer to a hard decision.
        noise : Tensor [B, 2], optional
            Uniform in [0, 1), for the Gumbel noise; None: drawn from ``generator``.
        """
        pooled = self.pooled(q, span).mean(1).to(self.last.weight.dtype)  # [B, D]
        logits: Tensor = self.last(self.classify(self.features(pooled)))  # [B, 2] or [B, 1]
        # one logit against nothing is two logits of which the first is 0
        pair = logits if self.use_softmax else torch.cat([torch.zeros_like(logits), logits], -1)
        if not self.training:
            prob = pair.softmax(-1)[:, 1]
            return Decision((pair[:, 1] > pair[:, 0]).to(prob.dtype), prob, logits)
        if noise is None:
            noise = torch.rand(pair.shape, generator=generator, dtype=pair.dtype, device=pair.device)
        gumbel = -torch.log(-torch.log(noise + _EPS) + _EPS)
        prob = ((pair + gumbel) / tau).softmax(-1)[:, 1]
        hard = (prob > 0.5).to(prob.dtype)
        return Decision(hard + prob - prob.detach(), prob, logits)


def temperature(step: int, steps: int, *, start: float = 1.5, stop: float = 1.0, share: float = 0.6) -> float:
    """Tau at ``step`` of ``steps``: a cosine from ``start`` to ``stop`` over the first ``share``, then ``stop``."""
    progress = min(1.0, step / max(1.0, share * steps))
    return stop + (start - stop) * (1 + math.cos(math.pi * progress)) / 2


def sparsity_penalty(full: Tensor, target: Tensor, multipliers: Tensor, task: Tensor) -> Tensor:
    """Section 3.6. Mean over the tasks present of lam1 |delta| + lam2 delta^2, delta = realised sparsity - target.

    Parameters
    ----------
    full : Tensor [num_layers, B]
        Decisions of all layers.
    target : Tensor [B]
        Share of layers that should be sparse.
    multipliers : Tensor [num_tasks, 2]
        lam1, lam2 of each task, to be raised by gradient ascent; counted as at least 0 (9.7).
    task : Tensor, int64 [B]
    """
    delta = 1 - full.mean(0) - target  # [B]
    lam = multipliers.clamp(min=0)[task]
    penalty = lam[:, 0] * delta.abs() + lam[:, 1] * delta.square()
    return torch.stack([penalty[task == t].mean() for t in sorted(set(task.tolist()))]).mean()


def stack_speedup(full: Sequence[bool], *, sparse_seconds: float, full_seconds: float) -> float:
    """Section 6. Expected speed-up of a stack of layers over full attention in all: 1 / (rho c_SA / c_FA + 1 - rho).

    ``full`` says for each layer whether it was routed to full attention; rho is the share of the others.
    """
    if not full:
        raise ValueError("no layers: pass one route per layer.")
    rho = 1 - sum(full) / len(full)
    return 1 / (rho * sparse_seconds / full_seconds + 1 - rho)
