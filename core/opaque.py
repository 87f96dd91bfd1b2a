"""Functions that PyTorch takes as one operator: ``torch.compile`` does not look into them, autocast does not reach in.

Attention runs numba kernels, loops over blocks and makes choices that depend on data. None of that fits into a graph,
so graphs get a ``torch.library`` operator of the namespace ``attn`` instead, made from the function's signature.
Outside a graph the function is called as it is.
"""

from __future__ import annotations

import contextlib
import functools
import inspect
import types
import typing
from collections.abc import Callable, Iterator, Sequence
from typing import Any, ParamSpec, TypeVar

import torch
from torch import Tensor

P = ParamSpec("P")
R = TypeVar("R")

_LIBRARY = torch.library.Library("attn", "FRAGMENT")  # type: ignore[no-untyped-call]
_SCHEMA_TYPES = {Tensor: "Tensor", bool: "bool", int: "SymInt", float: "float", str: "str"}


@contextlib.contextmanager
def own_dtypes(device_type: str) -> Iterator[None]:
    """Switch autocast off, so that a product has the dtype of its operands."""
    if torch.is_autocast_enabled(device_type):
        with torch.autocast(device_type, enabled=False):
            yield
    else:
        yield


def opaque(result: Callable[..., Any]) -> Callable[[Callable[P, R]], Callable[P, R]]:
    """Decorate a function of tensors, numbers, strings and tuples of int that returns one tensor or a tuple of them.

    In a graph it is the operator ``attn::MODULE_FUNCTION``. The operator's gradient calls the function again, so that
    nothing but the arguments is kept: one forward pass more than outside a graph.

    Parameters
    ----------
    result : callable with the function's parameters
        Empty tensors of the shape, dtype and device of the function's results.

    Examples
    --------
    >>> @opaque(lambda x, times: torch.empty_like(x))
    ... def multiple(x: Tensor, times: int) -> Tensor:
    ...     return x * times
    >>> torch.compile(multiple, backend="eager", fullgraph=True)(torch.ones(2), times=3)
    tensor([3., 3.])
    """

    def decorate(function: Callable[P, R]) -> Callable[P, R]:
        operator = _Operator(function, result).overload

        @functools.wraps(function)
        def call(*args: P.args, **kwargs: P.kwargs) -> R:
            positional, named = list(args), dict(kwargs)
            compiling = torch.compiler.is_compiling()
            if not torch.is_grad_enabled():  # a tensor that wants a gradient is no array for numba, not even here
                positional = [x.detach() if isinstance(x, Tensor) else x for x in args]
                named = {name: x.detach() if isinstance(x, Tensor) else x for name, x in kwargs.items()}
            run: Any = operator if compiling else function
            first: Any = positional[0] if positional else next(iter(named.values()))
            with contextlib.nullcontext() if compiling else own_dtypes(first.device.type):
                found: R = run(*positional, **named)
            return found

        return call

    return decorate


class _Operator:
    """A function as an operator with a gradient; ``overload`` is what a graph calls.

    Arguments come by position, in the order of the signature, without those at the end that are the default.
    """

    def __init__(self, function: Callable[..., Any], result: Callable[..., Any]) -> None:
        signature = inspect.signature(function, eval_str=True)
        self.function, self.result = function, result
        self.parameters = tuple(signature.parameters.values())
        self.tensors = [i for i, p in enumerate(self.parameters) if _schema_type(p).startswith("Tensor")]
        many = signature.return_annotation is not Tensor
        returns = ", ".join(["Tensor"] * len(typing.get_args(signature.return_annotation))) if many else "Tensor"
        name = f"{function.__module__.rpartition('.')[2].lstrip('_')}_{function.__name__.lstrip('_')}"
        arguments = ", ".join(map(_schema_argument, self.parameters))
        gradient = f"{name}_gradient"
        for schema in (
            f"{name}({arguments}) -> ({returns})",
            f"{gradient}(Tensor[] grads, bool[] needs, {arguments}) -> Tensor[]",
        ):
            _LIBRARY.define(schema, tags=torch.Tag.pt2_compliant_tag)  # type: ignore[no-untyped-call]
        torch.library.register_kernel(f"attn::{name}", None, self.forward, lib=_LIBRARY)
        torch.library.register_kernel(f"attn::{gradient}", None, self.backward, lib=_LIBRARY)
        torch.library.register_fake(f"attn::{name}", self.fake_forward, lib=_LIBRARY)
        torch.library.register_fake(f"attn::{gradient}", self.fake_backward, lib=_LIBRARY)
        torch.library.register_autograd(f"attn::{name}", self.differentiate, setup_context=self.remember, lib=_LIBRARY)
        self.overload = getattr(torch.ops.attn, name).default
        self.gradient = getattr(torch.ops.attn, gradient).default

    def complete(self, args: Sequence[Any]) -> list[Any]:
        """All arguments, as the function takes them."""
        given = [tuple(x) if isinstance(x, list) else x for x in args]
        return given + [p.default for p in self.parameters[len(given) :]]

    def named(self, args: Sequence[Any]) -> dict[str, Any]:
        return {p.name: x for p, x in zip(self.parameters, self.complete(args), strict=True)}

    def forward(self, *args: Any) -> Any:
        given = [x.detach() if isinstance(x, Tensor) else x for x in args]
        with torch.no_grad(), own_dtypes(args[0].device.type):
            found = self.function(**self.named(given))
        if isinstance(found, Tensor):
            return _separate([found], args)[0]
        return tuple(_separate(found, args))

    def fake_forward(self, *args: Any) -> Any:
        return self.result(**self.named(args))

    def remember(self, ctx: Any, inputs: tuple[Any, ...], output: Any) -> None:
        given = self.complete(inputs)
        ctx.save_for_backward(*(given[i] for i in self.tensors))
        ctx.others = [None if i in self.tensors else x for i, x in enumerate(given)]

    def differentiate(self, ctx: Any, *grads: Tensor) -> tuple[Tensor | None, ...]:
        args, needs = list(ctx.others), [False] * len(ctx.others)
        needs[: len(ctx.needs_input_grad)] = ctx.needs_input_grad
        for i, x in zip(self.tensors, ctx.saved_tensors, strict=True):
            args[i] = x
        if torch.is_grad_enabled():  # with create_graph=True, for a derivative of this one
            found = self.derivatives(grads, needs, args, create_graph=True)
        else:
            found = self.gradient(list(grads), needs, *args)
        left = iter(found)
        return tuple(next(left) if need else None for need in needs)

    def derivatives(
        self, grads: Sequence[Tensor], needs: Sequence[bool], args: Sequence[Any], *, create_graph: bool
    ) -> list[Tensor]:
        """Gradients of the arguments that need one."""
        wanted = [x for x, need in zip(args, needs, strict=True) if need]
        with torch.enable_grad(), own_dtypes(args[0].device.type):
            found = self.function(**self.named(args))
            outs = [found] if isinstance(found, Tensor) else list(found)
            return list(
                torch.autograd.grad(
                    outs, wanted, grads, create_graph=create_graph, allow_unused=True, materialize_grads=True
                )
            )

    def backward(self, grads: list[Tensor], needs: list[bool], *args: Any) -> list[Tensor]:
        leaves = [
            x.detach().requires_grad_(need) if isinstance(x, Tensor) else x
            for x, need in zip(self.complete(args), needs, strict=True)
        ]
        return _separate(self.derivatives(grads, needs, leaves, create_graph=False), [*grads, *args])

    def fake_backward(self, grads: list[Tensor], needs: list[bool], *args: Any) -> list[Tensor]:
        return [x.new_empty(x.shape) for x, need in zip(self.complete(args), needs, strict=True) if need]


def _separate(found: Sequence[Tensor], others: Sequence[Any]) -> list[Tensor]:
    """What an operator may return: contiguous, as its fake says, and in memory of its own."""
    taken = {x.untyped_storage().data_ptr() for x in others if isinstance(x, Tensor)}
    own = []
    for x in found:
        if not x.is_contiguous() or x.untyped_storage().data_ptr() in taken:
            x = x.clone(memory_format=torch.contiguous_format)
        taken.add(x.untyped_storage().data_ptr())
        own.append(x)
    return own


def _schema_type(parameter: inspect.Parameter) -> str:
    """The type of an argument in the operator's schema. Raises ``TypeError`` where it has none."""
    options = typing.get_args(parameter.annotation)
    optional = type(None) in options
    kind: Any = parameter.annotation
    if typing.get_origin(kind) in (typing.Union, types.UnionType) and optional and len(options) == 2:
        kind = next(x for x in options if x is not type(None))
    if typing.get_origin(kind) is typing.Literal:
        kind = str
    if typing.get_origin(kind) is tuple and set(typing.get_args(kind)) <= {int, ...}:
        name = "SymInt[]"
    elif kind in _SCHEMA_TYPES:
        name = _SCHEMA_TYPES[kind]
    else:
        raise TypeError(f"{parameter}: an opaque function takes tensors, numbers, strings and tuples of int.")
    return name + "?" * optional


def _schema_argument(parameter: inspect.Parameter) -> str:
    """An argument in the operator's schema, such as ``float? scale=None``."""
    text = f"{_schema_type(parameter)} {parameter.name}"
    if parameter.default is inspect.Parameter.empty:
        return text
    default = f'"{parameter.default}"' if isinstance(parameter.default, str) else repr(parameter.default)
    return f"{text}={default}"
