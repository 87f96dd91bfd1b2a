"""Gradients that have no gradient of their own, and say so.

PyTorch's ``once_differentiable`` raises only where the incoming gradient depends on something itself. Where it does
not, as for ``out.sum()``, a gradient that was asked for with ``create_graph=True`` comes back as a constant, and its
derivative is wrong without a word.
"""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from .opaque import own_dtypes

Gradients = Tensor | None | tuple[Tensor | None, ...]


class _Last(torch.autograd.Function):
    """The first ``count`` tensors as they are, and no derivative of what they depend on, the others."""

    @staticmethod
    def forward(ctx: Any, count: int, *tensors: Tensor) -> tuple[Tensor, ...]:
        return tuple(gradient.view_as(gradient) for gradient in tensors[:count])

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor | None, ...]:
        raise RuntimeError(
            "this attention has gradients of first order only: their derivative (create_graph=True) is not available. "
            "Use backend='reference' for it."
        )


def first_order_only(backward: Callable[..., Any]) -> Callable[..., Any]:
    """Decorate the ``backward`` of a ``torch.autograd.Function`` that is computed outside any graph.

    ``backward`` finds the function's inputs in ``ctx.saved_tensors``.

    Raises
    ------
    RuntimeError
        When a gradient that it returned is differentiated.
    """

    @functools.wraps(backward)
    def once(ctx: Any, *grads: Tensor) -> Any:
        with torch.no_grad(), own_dtypes(grads[0].device.type):  # .backward() may be called inside autocast
            gradients: Gradients = backward(ctx, *grads)
        if not torch.is_grad_enabled():  # it is where the caller asked for create_graph=True
            return gradients
        parts = list(gradients) if isinstance(gradients, tuple) else [gradients]
        given = [i for i, part in enumerate(parts) if part is not None]
        sources = [x for x in (*ctx.saved_tensors, *grads) if x is not None and x.requires_grad]
        marked = _Last.apply(len(given), *[parts[i] for i in given], *sources)  # type: ignore[no-untyped-call]
        for i, part in zip(given, marked, strict=True):
            parts[i] = part
        return tuple(parts) if isinstance(gradients, tuple) else parts[0]

    return once
