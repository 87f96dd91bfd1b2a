"""What the options say to a method: its own options, and ``--set rows=code``, whose text becomes a value here."""

from __future__ import annotations

import dataclasses
import types
import typing
from pathlib import Path
from typing import Any, Literal

from ..errors import did_you_mean
from ..options import OptionError
from . import METHODS, MODIFIERS
from .named import options_of, split
from .options import GUIDES, PruneOptions

_WORDS = {"true": True, "yes": True, "on": True, "1": True, "false": False, "no": False, "off": False, "0": False}
_SHOWN = {int: "a whole number", float: "a number", bool: "true or false", type(None): "none"}


def settings_of(options: PruneOptions, name: str) -> dict[str, Any]:
    """The settings of a method and its modifiers, as ``named.pruner_of`` takes them.

    Raises
    ------
    UsageError
        For a setting that they have not, or that has an option of its own, and for a value that it cannot have.
    """
    own = {option: getattr(options, option) for option in options_of(name) if hasattr(options, option)}
    if own.get("guide", "") is None:
        own["guide"] = GUIDES.get(options.choice.model)
    given = {option: value for option, value in own.items() if value is not None}
    texts = options.settings.get("", {}) if name == options.method else {}
    known = _fields(name)
    for setting, text in {**texts, **options.settings.get(name, {})}.items():
        if setting in own:
            raise OptionError(f"{{settings}} {setting}={text}: {{{setting}}} says that.")
        if setting not in known:
            hint = did_you_mean(setting, known) or f"It has {', '.join(sorted(known.keys() - own)) or 'none'}."
            raise OptionError(f"{{settings}} {setting}={text}: {name} has no such setting. {hint}")
        given[setting] = value_of(known[setting], f"{setting}={text}", text)
    return given


def _fields(name: str) -> dict[str, Any]:
    """Field -> type of a method's class; of modifiers those that their rows name."""
    method, modifiers = split(name)
    cls = METHODS[method].resolve()
    hints = typing.get_type_hints(cls)
    known = {field.name: hints[field.name] for field in dataclasses.fields(cls) if field.name != "modifiers"}
    for modifier, _ in modifiers:
        row = MODIFIERS[modifier]
        hints = typing.get_type_hints(row.resolve())
        known |= {option: hints[option] for option in row.options or () if option in hints}
    return known


def value_of(kind: Any, where: str, text: str) -> Any:
    """The value of a type from its text. Raises ``OptionError``, which says ``where``."""
    union = typing.get_origin(kind) in (typing.Union, types.UnionType)
    for one in typing.get_args(kind) if union else (kind,):
        if one is type(None) and text == "none":
            return None
        if typing.get_origin(one) is Literal and text in typing.get_args(one):
            return text
        if one is bool and text.lower() in _WORDS:
            return _WORDS[text.lower()]
        if one in (int, float, str, Path):
            try:
                return one(text)
            except ValueError:
                continue
        if typing.get_origin(one) is tuple and typing.get_args(one)[0] in (int, float):
            try:
                return tuple(typing.get_args(one)[0](part) for part in text.split(","))
            except ValueError:
                continue
    raise OptionError(f"{{settings}} {where}: it is {_wanted(typing.get_args(kind) if union else (kind,))}.")


def _wanted(kinds: tuple[Any, ...]) -> str:
    shown = []
    for kind in kinds:
        if typing.get_origin(kind) is Literal:
            shown += [str(choice) for choice in typing.get_args(kind)]
        elif typing.get_origin(kind) is tuple:
            shown.append("numbers, separated by commas")
        else:
            shown.append(_SHOWN.get(kind, "set from Python alone"))
    return " or ".join(shown)
