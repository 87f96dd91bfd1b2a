"""What the wrappers of all kernels share: where a kernel may run, and the operators that graphs see.

How a wrapper becomes an operator of ``torch.library``
-----------------------------------------------------
Put ``@operator(fake)`` over the function that launches: it takes tensors, numbers and strings (and lists of int), by
name or position, returns new tensors, and changes none of its arguments. ``fake`` has the same parameters and returns
empty tensors of the results' shapes. That is all for a kernel without a gradient. With one, add ``gradient=`` and,
where the arguments alone are not enough, ``results=True``::

    @operator(lambda q, k, scale: q.new_empty(q.shape[0], k.shape[0]), gradient=_gradient)
    def scores(q: Tensor, k: Tensor, scale: float) -> Tensor: ...

    def _gradient(needs, grads, q, k, scale):  # one gradient for each parameter, None where there is none
        return scores_gradient(grads[0], q, k, scale) + (None,)

Anything that is no tensor or number (``blocks.Runs``) is taken apart in a plain function above the operator.
"""

from __future__ import annotations

import functools
import inspect
from collections.abc import Callable, Sequence
from typing import Any, ParamSpec, TypeVar

import torch
from torch import Tensor
from triton.runtime.jit import JITFunction

P = ParamSpec("P")
R = TypeVar("R")

CPU_TOO = False
"""Whether something stands in for the GPU without replacing ``triton.jit``: the sanitiser of tests/kernels."""


def refuses_cpu(tensor: Tensor, kernel: Any) -> str | None:
    """Why ``kernel`` cannot be launched on ``tensor``, as a clause about it; None: it can."""
    if tensor.device.type == "cpu" and isinstance(kernel, JITFunction) and not CPU_TOO:
        return "takes tensors of a GPU; of the CPU only where TRITON_INTERPRET=1 is set"
    return None


def operator(
    fake: Callable[..., Any], *, gradient: Callable[..., Sequence[Tensor | None]] | None = None, results: bool = False
) -> Callable[[Callable[P, R]], Callable[P, R]]:
    """Decorate a wrapper: it becomes the operator ``attn::kernels_FILE_FUNCTION``, for eager calls and graphs alike.

    Parameters
    ----------
    fake : callable with the function's parameters
        Empty tensors of the shape, dtype and device of the results; ``torch.compile`` and ``torch.export`` use it.
    gradient : callable (needs, grads, *arguments) -> one gradient or None for each argument
        ``needs`` says of each argument whether its gradient is wanted, ``grads`` holds one of each result, zeros where
        a result was not used. None: a gradient is an error, where it is taken.
    results : bool
        ``gradient`` takes the results behind the arguments.

    Returns
    -------
    callable
        The function with attribute ``op``, a ``torch.library.CustomOpDef``.
    """

    def decorate(function: Callable[P, R]) -> Callable[P, R]:
        name = f"kernels_{function.__module__.rpartition('.')[2]}_{function.__name__.lstrip('_')}"
        op = torch.library.custom_op(f"attn::{name}", function, mutates_args=())
        op.register_fake(fake)
        if gradient is not None:
            _register(op, gradient, len(inspect.signature(function).parameters), results)

        @functools.wraps(function)
        def call(*args: P.args, **kwargs: P.kwargs) -> R:
            result: R = op(*args, **kwargs)
            return result

        call.op = op  # type: ignore[attr-defined]
        return call

    return decorate


def _register(op: Any, gradient: Callable[..., Sequence[Tensor | None]], count: int, results: bool) -> None:
    """Give ``op`` its gradient: tensors are saved as autograd wants it, all else as it is."""

    def remember(ctx: Any, inputs: tuple[Any, ...], output: Any) -> None:
        kept = [*inputs, *((output,) if isinstance(output, Tensor) else output)] if results else list(inputs)
        ctx.save_for_backward(*(x for x in kept if isinstance(x, Tensor)))
        ctx.others = [None if isinstance(x, Tensor) else (x,) for x in kept]

    def backward(ctx: Any, *grads: Tensor) -> Any:
        tensors = iter(ctx.saved_tensors)
        given = [next(tensors) if other is None else other[0] for other in ctx.others]
        return tuple(gradient(ctx.needs_input_grad[:count], grads, *given))

    op.register_autograd(backward, setup_context=remember)
