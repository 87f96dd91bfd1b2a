"""A method by the name that users type, its modifiers behind it: ``fastv``, ``fastv+debias``, ``fastv+debias:pd``."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from ..errors import UsageError
from ..options import OptionError
from . import METHODS, MODIFIERS

if TYPE_CHECKING:
    from .methods.base import Pruner


def split(name: str) -> tuple[str, tuple[tuple[str, tuple[str, ...]], ...]]:
    """The method and its modifiers, each with the parts that are wanted of it; none named: all of them.

    >>> split("fastv+debias:pd,pas")
    ('fastv', (('debias', ('pd', 'pas')),))
    """
    method, *behind = name.split("+")
    modifiers = []
    for text in behind:
        modifier, _, parts = text.partition(":")
        modifiers.append((modifier, tuple(part for part in parts.split(",") if part)))
    return method, tuple(modifiers)


def check_name(name: str) -> None:
    """Raise ``UsageError`` where there is no such method, no such modifier, or one is named twice."""
    method, modifiers = split(name)
    if method in MODIFIERS:
        raise UsageError(f"{method} changes the scores of another method: fastv+{method}, say.")
    METHODS[method]
    known = [modifier for modifier, _ in modifiers]
    for modifier in known:
        if modifier not in MODIFIERS:
            raise UsageError(f"{name}: {modifier or 'nothing'} cannot stand behind +. Known: {', '.join(MODIFIERS)}.")
        if known.count(modifier) > 1:
            raise UsageError(f"{name}: +{modifier} stands there twice.")


def options_of(name: str) -> tuple[str, ...]:
    """The options of the command that a method and its modifiers read. Raises like ``check_name``."""
    check_name(name)
    method, modifiers = split(name)
    rows = [METHODS[method], *(MODIFIERS[modifier] for modifier, _ in modifiers)]
    return tuple(dict.fromkeys(option for row in rows for option in row.options or ()))


def pruner_of(name: str, settings: Mapping[str, Any]) -> Pruner:
    """The method of a name with its settings and modifiers.

    Parameters
    ----------
    name : str
    settings : mapping of str to Any
        Of the method's class and of its modifiers.

    Raises
    ------
    UsageError
        If there is no such method, modifier or setting, or the method does not score tokens by attention.
    """
    check_name(name)
    method, modifiers = split(name)
    cls = METHODS[method].resolve()
    from .vit.base import VitPruner

    if issubclass(cls, VitPruner):
        raise OptionError(
            f"{method} prunes image classifiers and backbones, not this {{model}}. Name one, such as vit."
        )
    if not hasattr(cls, "stages"):
        raise UsageError(f"{method} keeps pixels, no tokens: `attn prune --method {method}` alone asks about pictures.")
    if modifiers and not getattr(cls, "attentive", False):
        able = ", ".join(one for one, row in METHODS.items() if getattr(row.resolve(), "attentive", False))
        raise UsageError(f"{name}: +{modifiers[0][0]} changes the scores of {able}; {method} has none that it changes.")
    own = {field.name for field in dataclasses.fields(cls)} - {"modifiers"}
    theirs = {option for modifier, _ in modifiers for option in MODIFIERS[modifier].options or ()}
    for setting in settings:
        if setting not in own | theirs:
            known = ", ".join(sorted(own | theirs)) or "none"
            raise UsageError(f"{name} has no setting {setting!r}. It has {known}.")
    made = []
    for modifier, parts in modifiers:
        row = MODIFIERS[modifier]
        read = {key: value for key, value in settings.items() if key in (row.options or ())}
        made.append(row.resolve().of(method, parts, read))
    pruner: Pruner = cls(**{key: value for key, value in settings.items() if key in own})
    return dataclasses.replace(pruner, modifiers=tuple(made)) if made else pruner
