"""Trained models as files: float16 safetensors whose header says what they are."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from os import PathLike
from typing import TYPE_CHECKING, Any, TypeVar

from ..errors import UsageError
from .atomic import write_bytes

if TYPE_CHECKING:
    from torch import Tensor

T = TypeVar("T")


def write_weights(path: str | PathLike[str], state: Mapping[str, Tensor], described: Mapping[str, Any]) -> None:
    """Write a model file, atomically. Floating weights are rounded to float16.

    Parameters
    ----------
    path : str or PathLike
    state : mapping of str to Tensor
    described : mapping
        What the file is, as JSON holds it: ``format`` and ``version``, and what it takes to build the model.

    Raises
    ------
    InputError
        If the file cannot be written.
    """
    import torch
    from safetensors.torch import save

    half = {
        name: (value.to(torch.float16) if value.is_floating_point() else value).detach().cpu().contiguous()
        for name, value in state.items()
    }
    write_bytes(path, save(half, {"attn": json.dumps(dict(described), sort_keys=True)}))


def read_description(path: str | PathLike[str]) -> dict[str, Any]:
    """The header of a model file, without its weights; empty where attn did not write it. Raises ``UsageError``."""
    return _opened(path, weights=False)[0]


def _opened(path: str | PathLike[str], *, weights: bool) -> tuple[dict[str, Any], dict[str, Tensor]]:
    from safetensors import SafetensorError, safe_open

    try:
        with safe_open(path, "pt") as file:
            described = json.loads((file.metadata() or {}).get("attn", "{}"))
            state = {name: file.get_tensor(name) for name in file.keys()} if weights else {}
    except FileNotFoundError:
        raise UsageError(f"--model: {path} does not exist.") from None
    except (SafetensorError, OSError, ValueError) as error:
        raise UsageError(f"--model: {path} is no safetensors file ({str(error).splitlines()[0]}).") from None
    return described if isinstance(described, dict) else {}, state


def read_weights(
    path: str | PathLike[str], form: str, version: int, build: Callable[[dict[str, Any], dict[str, Tensor]], T],
    *, what: str,
) -> T:  # fmt: skip
    """Read a model file of ``write_weights``.

    Parameters
    ----------
    path : str or PathLike
    form : str
        ``format`` that the header must name.
    version : int
        The newest that this attn reads.
    build : callable
        Makes the model of description and weights; whatever it raises means that the file is damaged.
    what : str
        For messages: ``"GA-DMS model of attn. `attn train ga-dms` makes one"``.

    Raises
    ------
    UsageError
        If there is no such file, it is another kind's or a newer version's, or it is damaged.
    """
    described, state = _opened(path, weights=True)
    if described.get("format") != form:
        raise UsageError(f"--model: {path} is no {what}.")
    try:
        if described["version"] > version:
            raise UsageError(f"--model: {path} was written by a newer attn (format {described['version']}). Upgrade.")
        return build(described, state)
    except UsageError:
        raise
    except Exception as error:  # a damaged description fails anywhere: in JSON, in the dataclasses, in torch
        reason = (str(error) or type(error).__name__).splitlines()[0]
        raise UsageError(f"--model: {path} does not hold the model it describes ({reason}).") from None
