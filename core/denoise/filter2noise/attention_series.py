"""Attention whose logits are tiny: the exponential's power series instead of N^2 exponentials.

Filter2Noise's second attention sees tokens that are averages of thousands of others and hence nearly equal
(methods/filter2noise.md, pitfall 1). With |s| <= b, e^s = 1 + s + s²/2 + s³/6 up to b⁴/24 times e^b, and each power of
s = q.k is a sum over monomials of q times monomials of k: one small matrix of moments of the keys serves every query.
"""

from __future__ import annotations

import functools
from typing import Any

import torch
from torch import Tensor

LARGEST = {2: 0.006, 3: 0.03}
"""Degree -> largest |q - mean| |k - mean| it is used for: the remainder, 3.6e-8, is below float32 rounding."""


@functools.cache
def _blocks(width: int, degree: int) -> list[tuple[int, slice, slice]]:
    """(d, source, target): monomials ``target`` are component d times the monomials ``source`` of one degree less."""
    first = [slice(1 + d, 1 + width) for d in range(width)]  # degree 1 with no component before d
    blocks, start, second = [], 1 + width, []
    for d, source in enumerate(first):
        second.append(start)
        blocks.append((d, source, slice(start, start + width - d)))
        start += width - d
    if degree == 2:
        return blocks
    end = start  # monomials of degree 2 with no component before d are those from second[d] to the end
    for d in range(width):
        blocks.append((d, slice(second[d], end), slice(start, start + end - second[d])))
        start += end - second[d]
    return blocks


@functools.cache
def coefficients(width: int, degree: int) -> list[float]:
    """1 / α! for every monomial α, in the order of ``Monomials``: the product of powers' factorials."""
    powers: list[tuple[int, ...]] = [(), *((d,) for d in range(width))]
    for d, source, _ in _blocks(width, degree):
        powers.extend((d, *power) for power in powers[source])
    factorial = (1.0, 1.0, 2.0, 6.0)
    weights = []
    for power in powers:
        weight = 1.0
        for d in set(power):
            weight /= factorial[power.count(d)]
        weights.append(weight)
    return weights


class Monomials(torch.autograd.Function):
    """x [B, D, N] -> products of at most ``degree`` components [B, F, N]; F = 45 or 165 for D = 8."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, degree: int) -> Tensor:
        width = x.shape[1]
        blocks = _blocks(width, degree)
        out = x.new_empty(x.shape[0], blocks[-1][2].stop, x.shape[2])
        out[:, 0] = 1
        out[:, 1 : 1 + width] = x
        for d, source, target in blocks:
            torch.mul(out[:, source], x[:, d : d + 1], out=out[:, target])
        ctx.save_for_backward(out)
        ctx.width, ctx.degree = width, degree
        return out

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, None]:  # type: ignore[override]
        (out,) = ctx.saved_tensors
        width: int = ctx.width
        grad = grad.clone()
        direct = torch.zeros_like(out[:, :width])
        for d, source, target in reversed(_blocks(width, ctx.degree)):
            direct[:, d] += (grad[:, target] * out[:, source]).sum(1)
            grad[:, source].addcmul_(grad[:, target], out[:, 1 + d : 2 + d])
        return grad[:, 1 : 1 + width] + direct, None


def attention_series(q: Tensor, k: Tensor, v: Tensor, degree: int) -> Tensor:
    """softmax(q k^T) v for q, k, v [B, N, D]; ``q`` carries the scale, ``k`` is centred.

    |q - mean| |k| is at most LARGEST[degree].
    What all queries share, mean(q).k, is no small logit but a weight of the keys, and is kept exactly.
    """
    q, k, v = (t.mT.contiguous() for t in (q, k, v))  # [B, D, N]: tokens last, as the vector unit wants them
    middle = q.detach().mean(-1, keepdim=True)
    shared = (middle * k).sum(1, keepdim=True)  # [B, 1, N]
    weight = (shared - shared.detach().amax(-1, keepdim=True)).exp()
    values = torch.cat([v, torch.ones_like(weight)], 1) * weight  # [B, D + 1, N]
    of_keys: Tensor = Monomials.apply(k, degree)  # type: ignore[no-untyped-call]
    of_queries: Tensor = Monomials.apply(q - middle, degree)  # type: ignore[no-untyped-call]
    moments = values @ of_keys.mT * q.new_tensor(coefficients(q.shape[1], degree))  # [B, D + 1, F]
    sums = moments @ of_queries  # [B, D + 1, N]
    return (sums[:, :-1] / sums[:, -1:]).mT
