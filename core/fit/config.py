"""Options of a recipe from a TOML file: ``--config FILE.toml``, whose keys are the options' names.

``learning-rate`` and ``learning_rate`` are one key. What the command line takes as text with commas may be a list.
Tables only group: ``[compute]`` above ``seed = 3`` says no more than ``seed = 3``.
"""

from __future__ import annotations

import tomllib
import typing
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from ..errors import InputError, UsageError, did_you_mean
from ..io.kinds import open_regular
from ..memory import read_within
from ..options import Stated, stated

_WORDS = {int: "a whole number", float: "a number", bool: "true or false", str: "text in quotes"}


def read_config(path: Path, options: type) -> dict[str, Any]:
    """Values of the options that a file names, by field, as the command line takes them.

    Parameters
    ----------
    path : Path
    options : type
        The recipe's dataclass of options.

    Raises
    ------
    UsageError
        If the file cannot be read or is no TOML, has an unknown key, or a value of the wrong type.
    """
    try:
        with open_regular(path) as file:
            document = tomllib.loads(read_within(file, path, what="holds").decode())
    except InputError as error:
        raise UsageError(str(error)) from error
    except (ValueError, RecursionError) as error:  # UnicodeDecodeError is one
        raise UsageError(f"{path}: is no TOML ({error}). Write lines such as: learning-rate = 1e-3") from error
    known = {option.field: option for option in stated(options) if option.field != "config"}
    values: dict[str, Any] = {}
    for key, value in _pairs(document):
        field = key.replace("-", "_")
        if field not in known:
            hint = did_you_mean(field, known) or f"Known: {', '.join(known)}."
            raise UsageError(f"{path}: no option of this recipe is named {key!r}. {hint}")
        if field in values:
            raise UsageError(f"{path}: {key!r} is there twice. Name it once.")
        values[field] = _as_typed(path, key, value, known[field])
    return values


def _pairs(table: Mapping[str, Any]) -> Iterator[tuple[str, Any]]:
    for key, value in table.items():
        if isinstance(value, dict):
            yield from _pairs(value)
        else:
            yield key, value


def _as_typed(path: Path, key: str, value: Any, option: Stated) -> Any:
    """``value`` as it would be typed. Bounds and choices are checked where the options are built."""
    kind = option.type
    if option.option.parse is not None or kind is Path or typing.get_origin(kind) is typing.Literal:
        kind = str
    if option.option.parse is not None and isinstance(value, list):
        value = ",".join(map(str, value))
    if kind is float and type(value) is int:
        value = float(value)
    if type(value) is not kind:
        raise UsageError(f"{path}: {key} = {value!r} is not {_WORDS.get(kind, 'what it takes')}.")
    return value
