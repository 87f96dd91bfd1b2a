"""Settings of a method that were typed as text, ``--set rows=code``: values by the types of its class's fields."""

from __future__ import annotations

import dataclasses
import types
import typing
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Literal

from ..errors import UsageError, did_you_mean

_WORDS = {"true": True, "yes": True, "on": True, "1": True, "false": False, "no": False, "off": False, "0": False}


def typed(cls: type, texts: Mapping[str, str], method: str) -> dict[str, Any]:
    """The values of fields of a method's dataclass.

    Raises
    ------
    UsageError
        For a field that it has not, or a value that the field cannot have.
    """
    known = {field.name for field in dataclasses.fields(cls)} - {"modifiers"}
    values = {}
    for name, text in texts.items():
        if name not in known:
            hint = did_you_mean(name, known) or f"It has {', '.join(sorted(known)) or 'none'}."
            raise UsageError(f"{method} has no setting {name!r}. {hint}")
        values[name] = _value(cls, name, text)
    return values


def _value(cls: type, name: str, text: str) -> Any:
    """The value of a field from its text, by the field's type. Raises ``UsageError``."""
    kind = typing.get_type_hints(cls)[name]
    kinds = typing.get_args(kind) if typing.get_origin(kind) in (typing.Union, types.UnionType) else (kind,)
    for one in kinds:
        choices = typing.get_args(one) if typing.get_origin(one) is Literal else ()
        if one is type(None) and text == "none":
            return None
        if one is bool and text.lower() in _WORDS:
            return _WORDS[text.lower()]
        if text in choices:
            return text
        if one in (str, Path):
            return one(text)
        if one in (int, float):
            try:
                return one(text)
            except ValueError:
                continue
        if typing.get_origin(one) is tuple:
            item = typing.get_args(one)[0]
            if item in (int, float):
                try:
                    return tuple(item(part) for part in text.split(","))
                except ValueError:
                    continue
    names = [str(choice) for one in kinds if typing.get_origin(one) is Literal for choice in typing.get_args(one)]
    wanted = f"Use one of {', '.join(names)}." if names else f"It is {_shown(kinds)}."
    raise UsageError(f"{name}={text} cannot be. {wanted}")


def _shown(kinds: tuple[Any, ...]) -> str:
    words = {int: "a whole number", float: "a number", bool: "true or false", type(None): "none"}
    return " or ".join(words.get(kind, "numbers, separated by commas") for kind in kinds)
