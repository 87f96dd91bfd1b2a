"""Settings and their fields: functions that take either, and a call as one node of a graph, which takes the fields."""

from __future__ import annotations

import functools
import inspect
import typing
from collections.abc import Callable, Container, Mapping
from dataclasses import fields
from typing import Any, TypeVar

from torch import Tensor

from ..opaque import opaque
from .equations import attention_result

R = TypeVar("R")


def with_settings(kind: type[Any]) -> Callable[[Callable[..., R]], Callable[..., R]]:
    """Decorate a function with ``settings: kind``, which then takes them whole or their fields by keyword."""
    names = frozenset(field.name for field in fields(kind))

    def decorate(function: Callable[..., R]) -> Callable[..., R]:
        @functools.wraps(function)
        def call(*args: Any, **keywords: Any) -> R:
            if "settings" not in keywords:
                own = {name: value for name, value in keywords.items() if name in names}
                keywords = {name: value for name, value in keywords.items() if name not in names}
                keywords["settings"] = kind(**own)
            return function(*args, **keywords)

        return call

    return decorate


def parameters_of(kind: type[Any]) -> dict[str, inspect.Parameter]:
    """The fields of settings as keyword-only parameters."""
    hints = typing.get_type_hints(kind)
    return {own.name: _keyword(own.name, hints[own.name], own.default) for own in fields(kind)}


def _keyword(name: str, annotation: Any, default: Any = inspect.Parameter.empty) -> inspect.Parameter:
    return inspect.Parameter(name, inspect.Parameter.KEYWORD_ONLY, annotation=annotation, default=default)


def one_node(
    function: Callable[..., Tensor], kind: type[Any], *, name: str, module: str, options: Mapping[str, tuple[Any, ...]],
    without: Container[str] = (),
) -> Callable[..., Tensor]:  # fmt: skip
    """``function(q, k, v, *, settings, ...)`` as one node of a graph, which takes the settings' fields one by one.

    Parameters
    ----------
    function : callable
    kind : frozen dataclass
        Of ``settings``.
    name, module : str
        Of the node.
    options : mapping of str to (type,) or (type, default)
        The other keyword arguments.
    without : container of str
        Fields that no graph can hold; they keep their defaults.
    """
    own = {field: parameter for field, parameter in parameters_of(kind).items() if field not in without}
    defaults = {option: default[0] for option, (_, *default) in options.items() if default}

    def flat(q: Tensor, k: Tensor, v: Tensor, **arguments: Any) -> Tensor:
        settings = kind(**{field: arguments.pop(field) for field in own if field in arguments})
        return function(q, k, v, **(defaults | arguments), settings=settings)

    tensors = [inspect.Parameter(x, inspect.Parameter.POSITIONAL_OR_KEYWORD, annotation=Tensor) for x in "qkv"]
    others = [_keyword(option, *given) for option, given in options.items()]
    flat.__signature__ = inspect.Signature(  # type: ignore[attr-defined]
        [*tensors, *others, *own.values()], return_annotation=Tensor
    )
    flat.__name__, flat.__module__ = name, module
    return opaque(attention_result)(flat)
