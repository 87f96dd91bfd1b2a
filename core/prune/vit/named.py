"""A method for image classifiers and backbones by the name that users type."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from typing import Any

from ...errors import UsageError
from .. import METHODS
from .base import VitPruner
from .ranked import RandomPatches

TWINS: Mapping[str, type[VitPruner]] = {"random": RandomPatches}
"""Methods of vision-language models that have a counterpart here, by the same name."""


def image_methods() -> list[str]:
    """Names that ``image_pruner_of`` takes."""
    return [name for name in METHODS if class_of(name) is not None]


def class_of(name: str) -> type[VitPruner] | None:
    """The class of a method for image models, modifiers left out; None where it is for vision-language models only."""
    name = name.partition("+")[0]
    if name in TWINS:
        return TWINS[name]
    home = METHODS[name].resolve()
    return home if isinstance(home, type) and issubclass(home, VitPruner) else None


def image_pruner_of(name: str, settings: Mapping[str, Any]) -> VitPruner:
    """The method of a name with its settings.

    Raises
    ------
    UsageError
        If there is no such method or setting, or the method is for vision-language models only.
    """
    method, plus, modifier = name.partition("+")
    cls = class_of(method)
    if cls is None:
        raise UsageError(
            f"{method} needs a vision-language model. Image classifiers and backbones take "
            f"{', '.join(image_methods())}."
        )
    if plus:
        raise UsageError(f"{name}: +{modifier} is for methods of vision-language models, not for {method}.")
    known = {field.name for field in dataclasses.fields(cls)}
    for setting in settings:
        if setting not in known:
            raise UsageError(f"{method} has no setting {setting!r}. It has {', '.join(sorted(known)) or 'none'}.")
    return cls(**settings)
