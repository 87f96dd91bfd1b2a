"""What the layers hand to their attention: caught on its way through transformers, nothing changed."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

from torch import Tensor

from ...attention.contract import Shape


@dataclass(frozen=True, slots=True)
class LayerCall:
    """The newest call of one layer.

    Parameters
    ----------
    q : Tensor [B, Hq, Lq, D]
        Rotated; of a prefill those rows that were asked for.
    k : Tensor [B, Hkv, Lk, D]
        The cache included.
    value_dim : int
    scale : float or None
    window : int or None
        Keys that the model itself lets the layer see.
    shape : Shape
        Of the whole call.
    """

    q: Tensor
    k: Tensor
    value_dim: int
    scale: float | None
    window: int | None
    shape: Shape


@contextmanager
def caught(implementation: str, rows: Callable[[Tensor], Tensor] = lambda q: q) -> Iterator[dict[int, LayerCall]]:
    """Layer -> its newest call, of every model that runs with this attention.

    Parameters
    ----------
    implementation : str
        Name in transformers, such as ``"attn:hip"``.
    rows : callable
        What to keep of q.
    """
    from transformers.modeling_utils import ALL_ATTENTION_FUNCTIONS

    function, calls = ALL_ATTENTION_FUNCTIONS[implementation], {}

    def passing(module: Any, query: Tensor, key: Tensor, value: Tensor, *args: Any, **others: Any) -> Any:
        calls[int(module.layer_idx)] = LayerCall(
            rows(query), key, value.shape[-1], others.get("scaling"), others.get("sliding_window"),
            Shape(
                query.shape[0], query.shape[1], key.shape[1], query.shape[2], key.shape[2], key.shape[3],
                value.shape[3], True, query.itemsize,
            ),
        )  # fmt: skip
        return function(module, query, key, value, *args, **others)

    ALL_ATTENTION_FUNCTIONS[implementation] = passing
    try:
        yield calls
    finally:
        ALL_ATTENTION_FUNCTIONS.pop(implementation)  # back to the registered one
