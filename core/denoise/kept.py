"""Filters in files: what all methods that keep theirs share. The tensors and the words are each method's own."""

from __future__ import annotations

import math
import os
import pkgutil
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import attn

from ..errors import InputError
from ..io.atomic import write_bytes
from ..io.weights import read_tensors
from ..options import OptionError
from . import METHODS
from .base import Filter
from .window import Window

if TYPE_CHECKING:
    from torch import Tensor

FIX = "Give a file that `attn denoise --save-filter` wrote"


def write_kept(
    path: str | os.PathLike[str], method: str, state: Mapping[str, Tensor], described: Mapping[str, Any]
) -> None:
    """Write a fitted filter to a safetensors file, whole or not at all.

    Parameters
    ----------
    path : path
    method : str
        The method's name.
    state : mapping of str to Tensor
    described : mapping of str to Any
        Metadata beside the method and the version of attn; kept as text.

    Raises
    ------
    InputError
        If the place cannot be written.
    """
    from safetensors.torch import save

    tensors = {name: tensor.detach().cpu().contiguous() for name, tensor in state.items()}
    metadata = {"method": method, "version": attn.__version__, **described}
    write_bytes(path, save(tensors, {key: str(value) for key, value in metadata.items()}))


def read_kept(
    path: str | os.PathLike[str], method: str = "", *, weights: bool = True
) -> tuple[dict[str, str], dict[str, Tensor]]:
    """Metadata and tensors of a file that ``write_kept`` wrote; no tensors without ``weights``.

    Raises
    ------
    InputError
        If there is no such file, it cannot be read, or it is not a filter (of ``method``, where that is named).
    """
    if not os.path.lexists(path):
        raise InputError(path, "there is no such file", FIX)
    try:
        metadata, state = read_tensors(path, weights=weights)
    except InputError as error:
        sick = "weights" in error.what
        what = error.what if sick else f"not a safetensors file that can be read: it {error.what}"
        raise InputError(path, what, FIX) from error
    if "method" not in metadata or (method and metadata["method"] != method):
        raise InputError(path, f"a safetensors file, but not a filter{method and ' of ' + method}", FIX)
    return metadata, state


def no_match(path: str | os.PathLike[str], method: str) -> InputError:
    """The fault of a file whose description and contents do not match."""
    return InputError(path, f"a filter of {method} whose description and contents do not match", FIX)


def load_filter(path: Path, method: str) -> tuple[Filter, Window | None]:
    """A filter of ``method`` that ``--save-filter`` wrote, and the window it was fitted in, where the file says so.

    A method that keeps filters has a ``load(path)`` beside its ``fit``. Raises ``UsageError`` where the file cannot be
    used.
    """
    try:
        described = read_kept(path, weights=False)[0]
        kind = described["method"]
        if kind != method and kind in METHODS:
            raise OptionError(f"{{filter}}: {path} is a filter of {kind}, not of {method}. Add {{method}} {kind}.")
        load = pkgutil.resolve_name(METHODS[method].home.partition(":")[0] + ":load")
        fitted: Filter = load(path)
        window = _window(described["window"], path, method) if "window" in described else None
    except InputError as error:
        raise OptionError(f"{{filter}}: {error}") from None
    return fitted, window


def _window(text: str, path: Path, method: str) -> Window:
    try:
        window = Window(*map(float, text.split()))
    except (TypeError, ValueError):
        raise no_match(path, method) from None
    if not 0 < window.width < math.inf:
        raise no_match(path, method)
    return window
