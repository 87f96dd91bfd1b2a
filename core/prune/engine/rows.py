"""Attention of a few rows, from what goes into an attention module: SDPA stays on, the matrix is never made."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torch.nn.utils.rnn import pad_sequence

from ...errors import UsageError
from ...models.family import heads_of, layout_of

AT_ONCE = 1 << 22
"""Probabilities that ``summed_attention`` works out at a time: 16 MB."""


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
    keys : Tensor [B, Hkv, n, d] or None
        Rotated, where a cache has them already.
    """

    module: Any
    hidden: Tensor
    rotary: tuple[Tensor, Tensor]
    keys: Tensor | None = None


def attention_of_rows(source: LayerInput, rows: Sequence[Tensor], alive: Tensor) -> Tensor:
    """Probabilities of rows of each prompt over all keys.

    Parameters
    ----------
    source : LayerInput
    rows : sequence of Tensor of int64 [R_b]
        Of each prompt.
    alive : Tensor of bool [B, n]
        Keys that are no padding; those of a cache are as many as ``keys``.

    Returns
    -------
    Tensor [B, H, R, n], float32
        R is the largest of R_b; what is behind R_b means nothing. Equals eager attention to rounding.

    Raises
    ------
    UsageError
        If the attention has parts that are not worked out here.

    Source: methods/pruning-peers.md, section 8.4.
    """
    module, parts = source.module, layout_of(source.module)
    rotate = getattr(sys.modules[type(module).__module__], "apply_rotary_pos_emb", None)
    if parts.fused or parts.softmax or rotate is None or getattr(module, "attn_logit_softcapping", None):
        raise UsageError(f"{type(module).__name__}: its attention cannot be worked out for single rows.")

    def projected(name: str, x: Tensor, norm: int) -> Any:  # [B, heads, ., d]
        heads = getattr(module, name)(x).unflatten(2, (-1, int(module.head_dim)))
        return (getattr(module, parts.qk_norms[norm])(heads) if parts.qk_norms else heads).transpose(1, 2)

    index = pad_sequence(list(rows), batch_first=True)  # [B, R]
    cos, sin = (t.expand(len(index), *t.shape[1:]) for t in source.rotary)

    def of_rows(t: Tensor) -> Tensor:
        return t.gather(1, index[..., None].expand(-1, -1, t.shape[2]))

    q = projected(parts.query, of_rows(source.hidden), 0)
    q, _ = rotate(q, q, of_rows(cos), of_rows(sin))
    k = source.keys
    if k is None:
        k = projected(parts.key, source.hidden, 1)
        _, k = rotate(k, k, cos, sin)
    batch, heads, wanted, width = q.shape
    together = heads // k.shape[1] * wanted  # rows of heads that share keys, one below the other
    grouped = q.float().reshape(batch, k.shape[1], together, width)
    logits = (grouped @ k.float().mT).view(batch, heads, wanted, k.shape[2]) * float(module.scaling)
    earlier = k.shape[2] - source.hidden.shape[1]  # keys of a cache in front of all rows
    seen = (torch.arange(k.shape[2], device=k.device) <= index[..., None] + earlier) & alive[:, None]
    probabilities: Tensor = logits.masked_fill_(~seen[:, None], -torch.inf).softmax(-1)
    return probabilities


def summed_attention(
    source: LayerInput, rows: Sequence[Tensor], alive: Tensor, columns: Sequence[Tensor]
) -> list[Tensor]:
    """Attention of rows of each prompt to some of its keys, summed over heads and rows; worked out in parts.

    Parameters
    ----------
    source : LayerInput
    rows : sequence of Tensor of int64 [R_b]
    alive : Tensor of bool [B, n]
    columns : sequence of Tensor of int64 [C_b]

    Returns
    -------
    list of Tensor [C_b], float32
    """
    sums = []
    for sample, (own, wanted) in enumerate(zip(rows, columns, strict=True)):
        one = slice(sample, sample + 1)
        cos, sin = (factors if len(factors) == 1 else factors[one] for factors in source.rotary)
        keys = None if source.keys is None else source.keys[one]
        alone = LayerInput(source.module, source.hidden[one], (cos, sin), keys)
        step = max(1, AT_ONCE // (alive.shape[1] * heads_of(source.module)))
        total = torch.zeros(len(wanted), device=alive.device)
        for part in own.split(step):  # type: ignore[no-untyped-call]
            if len(part):
                total += attention_of_rows(alone, [part], alive[one])[0][..., wanted].sum((0, 1))
        sums.append(total)
    return sums


def rotated_ones(source: LayerInput, sample: int, rows: Tensor) -> Tensor:
    """What positions alone give: logits of rows of one prompt to all its keys where queries and keys are ones, [R, n].

    Source: methods/pruning-peers.md, section 3.4 ("+").
    """
    rotate = sys.modules[type(source.module).__module__].apply_rotary_pos_emb
    cos, sin = (factors[sample : sample + 1] if len(factors) > 1 else factors for factors in source.rotary)
    ones = source.hidden.new_ones(1, 1, source.hidden.shape[1], int(source.module.head_dim))
    q, _ = rotate(ones[:, :, rows], ones[:, :, rows], cos[:, rows], sin[:, rows])
    _, k = rotate(ones, ones, cos, sin)
    logits: Tensor = (q.float() @ k.float().mT)[0, 0] * float(source.module.scaling)
    return logits
