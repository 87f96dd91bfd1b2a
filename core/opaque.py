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

    Autocast is off inside; where no gradients are recorded, tensors come detached.

    In a graph it is the operator ``attn::FOLDER_MODULE_FUNCTION``. Its gradient calls the function again, so that
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
        overload = _Operator(function, result).overload
        names = tuple(inspect.signature(function).parameters)

        @functools.wraps(function)
        def call(*args: P.args, **kwargs: P.kwargs) -> R:
            positional: list[Any] = list(args)
            named: dict[str, Any] = dict(kwargs)
            if not torch.is_grad_enabled():  # a tensor that wants a gradient is no array for numba, not even here
                positional = [x.detach() if isinstance(x, Tensor) else x for x in positional]
                named = {name: x.detach() if isinstance(x, Tensor) else x for name, x in named.items()}
            output: R
            if torch.compiler.is_compiling():
                given = {**dict(zip(names, positional, strict=False)), **named}
                wanted = [name for name, x in given.items() if isinstance(x, Tensor) and x.requires_grad]
                output = overload(*positional[len(names) :], **given, wanted=wanted)
            else:
                tensors = (x for x in (*positional, *named.values()) if isinstance(x, Tensor))
                with own_dtypes(next((x.device.type for x in tensors), "cpu")):
                    output = function(*positional, **named)  # type: ignore[call-arg]
            return output

        return call

    return decorate


def outside_graphs(function: Callable[P, R]) -> Callable[P, R]:
    """Decorate a function that no graph can hold: ``torch.compile`` ends its graph before it and begins one behind."""

    @functools.wraps(function)
    def call(*args: P.args, **kwargs: P.kwargs) -> R:
        run: Callable[..., R] = _disabled(function) if torch.compiler.is_compiling() else function
        return run(*args, **kwargs)

    return call


@functools.cache
def _disabled(function: Callable[..., Any]) -> Callable[..., Any]:
    return torch.compiler.disable(function)  # type: ignore[no-untyped-call, no-any-return]


class _Operator:
    """A function as an operator with a gradient; ``overload`` is what a graph calls.

    It takes the function's arguments and ``wanted``, the names of those whose gradient is recorded: a function may go
    another way then. They arrive by position, without those at the end that are the default.
    """

    def __init__(self, function: Callable[..., Any], result: Callable[..., Any]) -> None:
        signature = inspect.signature(function, eval_str=True)
        self.function, self.result = function, result
        # by name, as a schema wants those without a default first
        self.parameters = tuple(sorted(signature.parameters.values(), key=lambda p: p.default is not p.empty))
        self.names = tuple(p.name for p in self.parameters)
        self.tensors = [i for i, p in enumerate(self.parameters) if _schema_type(p).startswith("Tensor")]
        many = signature.return_annotation is not Tensor
        returns = ", ".join(["Tensor"] * len(typing.get_args(signature.return_annotation))) if many else "Tensor"
        name = f"{_place(function.__module__)}_{function.__name__.lstrip('_')}"
        arguments = ", ".join((*map(_schema_argument, self.parameters), "str[]? wanted=None"))
        gradient = f"{name}_gradient"
        for schema in (
            f"{name}({arguments}) -> ({returns})",
            f"{gradient}(Tensor[] grads, {arguments}) -> Tensor[]",
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
        """All arguments, as the function takes them, without ``wanted``."""
        given = [tuple(x) if isinstance(x, list) else x for x in args[: len(self.names)]]
        return given + [p.default for p in self.parameters[len(given) :]]

    def evaluate(self, args: Sequence[Any], names: Sequence[str], *, detach: bool = True) -> tuple[list[Any], Any]:
        """The function's arguments and what it returns, with a graph for the arguments ``names``."""
        given = [x.detach() if detach and isinstance(x, Tensor) else x for x in self.complete(args)]
        if detach:
            for i in self.tensors:
                if self.names[i] in names:
                    given[i].requires_grad_()
        with torch.set_grad_enabled(bool(names)), own_dtypes(args[0].device.type):
            return given, self.function(**dict(zip(self.names, given, strict=True)))

    def forward(self, *args: Any) -> Any:
        wanted = args[len(self.names)] if len(args) > len(self.names) else None
        _, outputs = self.evaluate(args, wanted or ())
        if isinstance(outputs, Tensor):
            return _separate([outputs.detach()], args)[0]
        return tuple(_separate([x.detach() for x in outputs], args))

    def fake_forward(self, *args: Any) -> Any:
        return self.result(**dict(zip(self.names, self.complete(args), strict=True)))

    def remember(self, ctx: Any, inputs: tuple[Any, ...], output: Any) -> None:
        given = self.complete(inputs)
        ctx.save_for_backward(*(given[i] for i in self.tensors))
        ctx.others = [None if i in self.tensors else x for i, x in enumerate(given)]

    def differentiate(self, ctx: Any, *grads: Tensor) -> tuple[Tensor | None, ...]:
        args = list(ctx.others)
        for i, x in zip(self.tensors, ctx.saved_tensors, strict=True):
            args[i] = x
        wanted = [self.names[i] for i in self.tensors if i < len(ctx.needs_input_grad) and ctx.needs_input_grad[i]]
        if torch.is_grad_enabled():  # with create_graph=True, for a derivative of this one
            gradients = self.derivatives(grads, args, wanted, create_graph=True)
        else:
            gradients = self.gradient(list(grads), *args, wanted)
        left = iter(gradients)
        return *(next(left) if name in wanted else None for name in self.names), None

    def derivatives(
        self, grads: Sequence[Tensor], args: Sequence[Any], wanted: Sequence[str], *, create_graph: bool
    ) -> Sequence[Tensor]:
        """Gradients of the arguments ``wanted``; with ``create_graph`` they depend on all that the arguments do."""
        given, outputs = self.evaluate(args, wanted, detach=not create_graph)
        pairs = zip([outputs] if isinstance(outputs, Tensor) else outputs, grads, strict=True)
        outs, weights = zip(*((out, grad) for out, grad in pairs if out.requires_grad), strict=True)
        with own_dtypes(args[0].device.type):
            return torch.autograd.grad(
                outs, [x for name, x in zip(self.names, given, strict=True) if name in wanted], weights,
                create_graph=create_graph, allow_unused=True, materialize_grads=True,
            )  # fmt: skip

    def backward(self, grads: list[Tensor], *args: Any) -> list[Tensor]:
        return _separate(self.derivatives(grads, args, args[-1], create_graph=False), [*grads, *args])

    def fake_backward(self, grads: list[Tensor], *args: Any) -> list[Tensor]:
        given = zip(self.names, self.complete(args), strict=True)
        return [x.new_empty(x.shape) for name, x in given if name in args[-1]]


def _place(module: str) -> str:
    """A module as part of an operator's name: ``hip_operator`` for ``attn.core.attention.hip.operator``."""
    inside = module.removeprefix("attn.core.").removeprefix("attention.")
    return inside.replace(".", "_") if inside != module else module.rpartition(".")[2].lstrip("_")


def _separate(tensors: Sequence[Tensor], others: Sequence[Any]) -> list[Tensor]:
    """What an operator may return: contiguous, as its fake says, and in memory of its own."""
    taken = {x.untyped_storage().data_ptr() for x in others if isinstance(x, Tensor)}
    own = []
    for x in tensors:
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
    default = list(parameter.default) if isinstance(parameter.default, tuple) else parameter.default
    return f'{text}="{default}"' if isinstance(default, str) else f"{text}={default!r}"
