"""The parameters of the operators inside a model: from its configuration, and for a while by a context manager."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

_OPEN: list[dict[str, Any]] = []


@dataclass(frozen=True, slots=True)
class Parameters:
    """What a layer runs with: the layers left dense, and the operator's own parameters."""

    dense_layers: frozenset[int]
    own: dict[str, Any]


@contextlib.contextmanager
def attention_parameters(*, dense_layers: Sequence[int] | None = None, **params: Any) -> Iterator[None]:
    """Run models with an ``attn:`` implementation with these parameters, before those of ``config.attn_parameters``.

    They hold in every thread, as text is often generated in a thread of its own; of nested ones the inner counts.

    Parameters
    ----------
    dense_layers : sequence of int, optional
        Layers that keep dense attention, counted from 0.
    **params
        The operator's parameters, such as ``mask_k=1024`` for ``attn:hip``, and ``backend``.

    Examples
    --------
    >>> from attn.core.attention.in_models import attention_parameters
    >>> with attention_parameters(dense_layers=(0, 1), mask_k=256):
    ...     pass  # model(...) or model.generate(...)
    """
    given = params if dense_layers is None else {"dense_layers": dense_layers, **params}
    _OPEN.append(given)
    try:
        yield
    finally:
        _OPEN[:] = [other for other in _OPEN if other is not given]


def parameters_for(config: Any) -> Parameters:
    """The parameters of a layer whose model has this configuration.

    Raises
    ------
    ValueError
        If ``config.attn_parameters`` is no mapping, or ``dense_layers`` names a layer that is not there.
    """
    kept = getattr(config, "attn_parameters", None) or {}
    if not isinstance(kept, dict):
        raise ValueError(
            f"config.attn_parameters is {kept!r}; a dict of parameters is needed, such as {{'mask_k': 512}}."
        )
    own = dict(kept)
    for given in list(_OPEN):
        own |= given
    layers = own.pop("dense_layers", ())
    count = getattr(config, "num_hidden_layers", None)
    if not isinstance(layers, Sequence) or isinstance(layers, str):
        raise ValueError(f"dense_layers is {layers!r}; a list of layers is needed, such as (0, 1).")
    for layer in layers:
        number = hasattr(layer, "__index__") and not isinstance(layer, bool)
        if not number or layer < 0 or (count is not None and layer >= count):
            there = "" if count is None else f"; the model has layers 0 to {count - 1}"
            raise ValueError(f"dense_layers names layer {layer!r}{there}.")
    return Parameters(frozenset(map(int, layers)), own)
