"""The tokens that ``hisa`` chose against those of ``dsa``, in a model's own layers (methods/hisa.md, section 3.5)."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

import torch
from torch import Tensor

from ...attention.registry import OPERATORS
from ..accuracy import overlap, shared
from .calls import LayerCall

SPANS, QUERIES = 8, 32  # runs of neighbouring queries that are looked at, and how many are in each


def spans(length: int, pool: int) -> list[range]:
    """Queries of a prompt of ``length`` tokens, evenly spaced among those that see more than ``pool`` keys.

    The others see no more keys than the candidate blocks hold: there both operators choose the same by construction.
    """
    first = min(pool, length)
    if first == length:
        return []
    each = (length - first) / SPANS
    starts = sorted({first + int(number * each) for number in range(SPANS)})
    ends = [*starts[1:], length]
    return [range(start, min(start + QUERIES, end)) for start, end in zip(starts, ends, strict=True)]


def flat_iou(calls: Iterable[LayerCall], where: list[range], params: Mapping[str, Any]) -> dict[str, float]:
    """|A and B| / |A or B| of the chosen tokens, over layers, key/value heads and queries.

    Parameters
    ----------
    calls : iterable of LayerCall
        Of one prefill; their q are the queries of ``where``, one run behind the other.
    where : list of range
        ``spans`` of the prompt.
    params : mapping
        Of ``hisa``; ``dsa`` has its ``top_k``.

    Returns
    -------
    dict of ``accuracy.overlap`` and ``flat_iou_queries``; empty where no query is looked at.
    """
    hisa, dsa = OPERATORS["hisa"].resolve(), OPERATORS["dsa"].resolve()
    flat, least = {name: params[name] for name in ("top_k",) if name in params}, params.get("min_seq", 0)
    params = {**params, "min_seq": 0}  # the part of the keys that a query sees is shorter than the prompt
    shares: list[Tensor] = []
    for call in calls:
        if call.shape.len_k < least:
            continue  # searched flat
        start, group = 0, call.shape.num_heads // call.shape.num_kv_heads
        for run in where:
            q, k = call.q[:, :, start : start + len(run)], call.k[:, :, : run.stop]
            start += len(run)
            rows = torch.arange(len(run), device=q.device)
            masks = (
                operator.select(q, k, causal=True, scale=call.scale, **own).mask(rows)[:, ::group]
                for operator, own in ((hisa, params), (dsa, flat))
            )
            shares.append(shared(*masks).flatten())
    if not shares:
        return {}
    share = torch.cat(shares)
    return {**overlap(share), "flat_iou_queries": float(share.numel())}
