"""Bytes of keys and values that writing one token reads, by what the operator visits."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch

from ...attention.contract import Operator
from .calls import LayerCall


def layer_bytes(call: LayerCall, operator: Operator | None, params: Mapping[str, Any]) -> float | None:
    """Of one layer and one query against its cache.

    The query searches anew: keys (or pooled keys) whose score the search computes, once for the query heads that share
    them, ``D`` numbers each; then the distinct keys and values that it attends to, ``D + Dv`` numbers each, once for
    the query heads of a key/value head.

    Parameters
    ----------
    call : LayerCall
        Of a decode step: one query.
    operator : Operator or None
        What ran; None: dense attention, or the model's own window.
    params : mapping
        Its parameters.

    Returns
    -------
    float, or None where a state is kept in place of keys and values.
    """
    shape = call.shape
    group, width = shape.num_heads // shape.num_kv_heads, shape.head_dim + shape.value_dim
    if operator is not None and operator.rows is not None:
        return None  # a state
    if operator is None or operator.select is None:
        seen = min(shape.len_k, call.window or shape.len_k)
        return float(shape.itemsize * shape.batch * shape.num_kv_heads * seen * width)
    selection = operator.select(call.q, call.k, causal=True, scale=call.scale, **params)
    mask = selection.mask(torch.zeros(1, dtype=torch.int64, device=call.q.device))  # [B, Hq, 1, Lk]
    kept = int(mask.unflatten(1, (shape.num_kv_heads, group)).any(2).sum())
    return float(shape.itemsize * (kept * width + selection.searched / group * shape.head_dim))
