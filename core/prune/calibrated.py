"""Files of `attn prune calibrate`: JSON that says whose it is."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from dataclasses import asdict
from os import PathLike
from typing import TYPE_CHECKING, Any, TypeVar

from ..errors import InputError
from ..io.atomic import write_text
from ..io.records import json_file

if TYPE_CHECKING:
    from _typeshed import DataclassInstance

T = TypeVar("T")


def write_calibration(path: str | PathLike[str], name: str, fitted: DataclassInstance) -> None:
    """Write what the calibration ``name`` found, a dataclass, as JSON."""
    write_text(path, json.dumps({"kind": _kind(name), **asdict(fitted)}, indent=1) + "\n")


def read_calibration(path: str | PathLike[str], name: str, build: Callable[[dict[str, Any]], T]) -> T:
    """What ``write_calibration`` wrote, made by ``build`` of the file's fields.

    Raises
    ------
    InputError
        If the file cannot be read, is something else, or ``build`` raises ``KeyError``, ``TypeError`` or
        ``ValueError``.
    """
    content = json_file(path)
    if not isinstance(content, Mapping) or content.get("kind") != _kind(name):
        raise InputError(path, f"is no calibration of {name}", f"`attn prune calibrate {name}` writes one")
    try:
        return build({field: value for field, value in content.items() if field != "kind"})
    except (KeyError, TypeError, ValueError) as error:
        what = f"is a damaged calibration of {name} ({type(error).__name__}: {error})"
        raise InputError(path, what, "Calibrate again") from None


def _kind(name: str) -> str:
    return f"attn prune {name}"
