"""Golden vectors of HiP: the search of the official v1.1 CPU code, and a float64 oracle of the sparse attention."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np
import torch

from .. import dense
from ..golden import Arrays, Check, max_error
from .operator import OPERATOR, SELECT
from .settings import Settings


def check(stem: str, data: Arrays) -> Iterator[Check]:
    """methods/hip.md, section 10: indices as sets and the mask exactly, outputs to 2e-5, recall to 1e-5."""
    _, _, len_k, _, mask_k, block_q, block_k, group, window, sink = (int(x) for x in data["cfg"])
    q, k, v = (torch.from_numpy(data[name])[None] for name in ("q_scaled", "k", "v"))  # N heads: [1, N, L, d]
    params: dict[str, Any] = {
        "mask_k": mask_k, "block_size_q": block_q, "block_size_k": block_k, "block_size_k_group": group,
        "sliding_window": window, "sink": sink,
    }  # fmt: skip
    selection = SELECT(q, k, causal=True, scale=1.0, settings=Settings(**params))
    count = selection.count.numpy()
    yield Check("counts", max_error(np.broadcast_to(count, data["ks"].shape), data["ks"]), 0)
    differing = sum(
        set(ours[:n].tolist()) != set(theirs[:m].tolist())
        for head, head_counts, golden in zip(selection.starts[0].numpy(), data["ks"], data["indices"], strict=True)
        for ours, n, theirs, m in zip(head, count, golden, head_counts, strict=True)
    )
    yield Check("indices", differing, 0)
    mask = selection.mask(torch.arange(q.shape[2]))[0]
    yield Check("mask", max_error(mask, np.unpackbits(data["mask_packed"], axis=-1, count=len_k)), 0)

    for name, formulation in (("reference", OPERATOR.reference), ("blocked", OPERATOR.blocked)):
        out = formulation(q, k, v, causal=True, scale=1.0, **params)[0]
        yield Check(f"out, {name}", max_error(out, data["out"]), 2e-5)
    # under the same mask: rounded keys would be ranked differently
    out = OPERATOR.attend(q.bfloat16(), k.bfloat16(), v.bfloat16(), selection, causal=True, scale=1.0)[0]
    yield Check("out, bfloat16", max_error(out.float(), data["out"]), 2e-2)
    scores = q[0].double() @ k[0].double().mT
    causal = torch.arange(len_k) <= torch.arange(len_k - q.shape[2], len_k)[:, None]
    prob = scores.masked_fill(~causal, -torch.inf).softmax(-1)
    yield Check(
        "dense_out", max_error(dense.OPERATOR.blocked(q, k, v, causal=True, scale=1.0)[0], data["dense_out"]), 2e-5
    )
    yield Check("recall_mass", max_error((prob * mask).sum(-1), data["recall_mass"]), 1e-5)
