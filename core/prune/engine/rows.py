"""Attention of a few rows, from what goes into an attention module: SDPA stays on, the matrix is never made."""

from __future__ import annotations

import sys
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from ...errors import UsageError
from ...models.family import heads_of, kv_groups_of, layout_of


@dataclass(frozen=True, slots=True)
class LayerInput:
    """What an attention module of a decoder gets.

    Parameters
    ----------
    module : Module
    hidden : Tensor [B, n, D]
        Behind the layer's normalisation.
    rotary : (cos, sin)
        Of its rows, each [B or 1, n, d].
    """

    module: Any
    hidden: Tensor
    rotary: tuple[Tensor, Tensor]


def attention_of_rows(source: LayerInput, sample: int, rows: Tensor, alive: Tensor) -> Tensor:
    """Probabilities of rows of one prompt over all its keys.

    Parameters
    ----------
    source : LayerInput
    sample : int
    rows : Tensor of int64 [R]
    alive : Tensor of bool [n]
        Keys that are no padding.

    Returns
    -------
    Tensor [H, R, n], float32. Equals eager attention to rounding.

    Source: methods/pruning-peers.md, section 8.4.
    """
    module = source.module
    parts = layout_of(module)
    if parts.fused:
        raise UsageError(f"{type(module).__name__}: rows of a fused projection cannot be made one by one.")
    x = source.hidden[sample : sample + 1]
    heads = heads_of(module)
    q = getattr(module, parts.query)(x[:, rows])
    k = getattr(module, parts.key)(x)
    q, k = (t.view(1, t.shape[1], -1, int(module.head_dim)).transpose(1, 2) for t in (q, k))
    if parts.qk_norms:
        q, k = (getattr(module, name)(t) for name, t in zip(parts.qk_norms, (q, k), strict=True))
    cos, sin = (t if t.shape[0] == 1 else t[sample : sample + 1] for t in source.rotary)
    rotate = sys.modules[type(module).__module__].apply_rotary_pos_emb
    q, _ = rotate(q, q, cos[:, rows], sin[:, rows])
    _, k = rotate(k, k, cos, sin)
    k = k.repeat_interleave(kv_groups_of(module), 1)
    assert q.shape[1] == heads
    logits: Tensor = (q.float() @ k.float().mT)[0] * float(module.scaling)  # [H, R, n]
    keys = torch.arange(x.shape[1], device=x.device)
    seen = (keys <= rows[:, None]) & alive
    return logits.masked_fill(~seen, -torch.inf).softmax(-1)
