"""Rules of layer-wise relevance propagation: the relevance of a layer's input, of that of its output.

Specification: methods/salient-relevance.md, sections 3.2 and 3.3. With z_ij = x_i w_ij each is a forward pass with
changed weights, a division, and the vector-Jacobian product of that pass.
"""

from __future__ import annotations

from collections.abc import Callable
from copy import copy
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

Rule = Callable[[nn.Module, Tensor, Tensor], Tensor]
"""(layer, input [B, ...], relevance of the output) -> relevance of the input."""
Bounds = tuple[Tensor, Tensor]
"""Lowest and highest value of an input, broadcastable to it."""


def stabilised(z: Tensor, epsilon: float, *, signed: bool = True) -> Tensor:
    """z + epsilon sign(z), sign(0) = 1; or z + epsilon."""
    if not signed:
        return z + epsilon
    return z + torch.where(z < 0, -epsilon, epsilon)


def changed(module: nn.Module, weight: Callable[[Tensor], Tensor], bias: Callable[[Tensor], Tensor] | None) -> Any:
    """A layer with weights and bias put through functions; without a bias where there is none for it."""
    out: Any = copy(module)
    own: Any = module
    out._parameters = dict(module._parameters)
    out.weight = nn.Parameter(weight(own.weight.detach()), requires_grad=False)
    out.bias = None
    if own.bias is not None and bias is not None:
        out.bias = nn.Parameter(bias(own.bias.detach()), requires_grad=False)
    return out


def positive(values: Tensor) -> Tensor:
    """max(values, 0)."""
    return values.clamp(min=0)


def negative(values: Tensor) -> Tensor:
    """min(values, 0)."""
    return values.clamp(max=0)


def same(values: Tensor) -> Tensor:
    """The values."""
    return values


def passed(module: Any, x: Tensor) -> tuple[Tensor, Callable[[Tensor], Tensor]]:
    """A layer's output, and its vector-Jacobian product."""
    with torch.enable_grad():
        x = x.detach().requires_grad_()
        z = module(x)

    def back(cotangent: Tensor) -> Tensor:
        (out,) = torch.autograd.grad(z, x, cotangent, retain_graph=True)
        return out

    return z.detach(), back


def ratio(module: nn.Module, x: Tensor, relevance: Tensor, *, epsilon: float, signed: bool = True) -> Tensor:
    """epsilon: R_i = sum_j z_ij R_j / (sum_i z_ij + b_j + epsilon sign). Of averages as of convolutions."""
    z, back = passed(module, x)
    return x * back(relevance / stabilised(z, epsilon, signed=signed))


def weights_positive(module: nn.Module, x: Tensor, relevance: Tensor, *, epsilon: float) -> Tensor:
    """The official z+ of linear layers: the weights' positive part, no bias, epsilon unsigned; for x >= 0."""
    z, back = passed(changed(module, positive, None), x)
    return x * back(relevance / stabilised(z, epsilon, signed=False))


def alpha_beta(
    module: nn.Module, x: Tensor, relevance: Tensor, *, alpha: float, beta: float, epsilon: float, bias: bool = True
) -> Tensor:
    """alpha times the shares of what adds, less beta times those of what takes away; alpha - beta = 1.

    ``bias``: that of each sign is among what adds or takes away, and absorbs its share.
    """
    out = torch.zeros_like(x)
    for factor, here, there in ((alpha, positive, negative), (-beta, negative, positive)):
        if not factor:
            continue
        above, below = positive(x), negative(x)
        z, back = passed(changed(module, here, here if bias else None), above)
        other, back_other = passed(changed(module, there, None), below)
        share = factor * relevance / stabilised(z + other, epsilon)
        out = out + above * back(share) + below * back_other(share)
    return out


def gamma(module: nn.Module, x: Tensor, relevance: Tensor, *, rate: float, epsilon: float) -> Tensor:
    """w + gamma w+ and b + gamma b+ in the place of w and b, then epsilon; for x >= 0."""

    def favoured(values: Tensor) -> Tensor:
        return values + rate * positive(values)

    return ratio(changed(module, favoured, favoured), x, relevance, epsilon=epsilon)


def flat(module: nn.Module, x: Tensor, relevance: Tensor) -> Tensor:
    """R_i = sum_j R_j / (number of inputs of j): all inputs alike; padding is none."""
    z, back = passed(changed(module, torch.ones_like, None), torch.ones_like(x))
    return back(relevance / z)


def box(module: nn.Module, x: Tensor, relevance: Tensor, *, bounds: Bounds, epsilon: float) -> Tensor:
    """z^B: R_i = sum_j (x_i w_ij - l_i w+_ij - h_i w-_ij) R_j / sum_i(same), for inputs between l and h."""
    low, high = (bound.to(x).expand_as(x) for bound in bounds)
    parts = [(x, same), (low, positive), (high, negative)]
    runs = [passed(changed(module, weight, None), values) for values, weight in parts]
    (z, back), (z_low, back_low), (z_high, back_high) = runs
    share = relevance / stabilised(z - z_low - z_high, epsilon)
    return x * back(share) - low * back_low(share) - high * back_high(share)


def winner(module: nn.Module, x: Tensor, relevance: Tensor) -> Tensor:
    """Max pooling: each window's relevance goes to its largest input; what several windows give one input adds up."""
    _, back = passed(module, x)
    return back(relevance)


def winner_overwritten(module: nn.Module, x: Tensor, relevance: Tensor, *, epsilon: float) -> Tensor:
    """Max pooling as the official code has it: X * unpool(R / (Y + epsilon)), the last of several windows counts."""
    assert isinstance(module, nn.MaxPool2d)
    y, index = F.max_pool2d(
        x, module.kernel_size, module.stride, module.padding, module.dilation, module.ceil_mode, return_indices=True
    )
    of: Any = module
    share = F.max_unpool2d(relevance / (y + epsilon), index, of.kernel_size, of.stride, of.padding, list(x.shape))
    return x * share


def reshaped(module: nn.Module, x: Tensor, relevance: Tensor) -> Tensor:
    """Activations, dropout and flattening: the same relevance."""
    return relevance.reshape(x.shape)
