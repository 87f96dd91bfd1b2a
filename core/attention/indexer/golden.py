"""Golden vectors of HISA and of the flat lightning indexer: methods/hisa.md, section 10."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np
import torch

from attn.core.attention.indexer.module import LightningIndexer, index_iou, index_scores
from attn.core.attention.indexer.pool import block_scores, candidate_blocks, pool_blocks
from attn.core.attention.indexer.search import hisa_index, lightning_index

from ..golden import Arrays, Check, max_error, rows_that_differ


def check(stem: str, data: Arrays) -> Iterator[Check]:
    """Compare ours with one file."""
    yield from (_module(data) if stem == "indexer_module" else _pipeline(data))


def _module(data: Arrays) -> Iterator[Check]:
    heads = data["p_weights_proj_weight"].shape[0]
    indexer = LightningIndexer(
        data["x"].shape[1], data["q_resid"].shape[1], num_heads=heads, head_dim=data["p_wk_weight"].shape[0]
    )
    names = {name: "p_" + name.replace(".", "_") for name in indexer.state_dict()}
    indexer.load_state_dict({name: torch.from_numpy(data[stored]) for name, stored in names.items()})
    with torch.no_grad():
        operands = indexer(*(torch.from_numpy(data[name]) for name in ("x", "q_resid", "cos", "sin")))
        scores = index_scores(*operands)
        chosen = lightning_index(*operands, top_k=data["topk_indices"].shape[1]).numpy()
    yield Check("scores", _relative_error(scores, data["scores"]), 1e-4)
    golden = data["topk_indices"]
    visible = np.where(golden <= np.arange(golden.shape[0])[:, None], golden, -1)  # masked positions are arbitrary
    yield Check("topk_indices", rows_that_differ(chosen, visible), 0)


def _pipeline(data: Arrays) -> Iterator[Check]:
    block_size, top_blocks, top_k = (int(n) for n in data["cfg"][4:7])
    q = torch.from_numpy(data["q_fp8_as_f32"])
    k = torch.from_numpy(data["k_fp8_as_f32"] * data["k_scale"][:, None])
    weights, ks, ke = (torch.from_numpy(data[name]) for name in ("weights", "ks", "ke"))
    pooled = pool_blocks(k, block_size, quant="fp8")
    yield Check("pool_mean", max_error(pooled.mean, data["pool_mean"]), 1e-5)
    yield Check("pool_fp8: share of entries that differ", _share_differing(pooled.values, data), 0.005)
    yield Check("pool_fp8: most steps apart", _steps_apart(pooled.values, data["pool_fp8_as_f32"]), 1)
    yield Check("pool_scale", _relative_error(pooled.scale[:, 0], data["pool_scale"]), 1e-5)

    coarse = block_scores(q, pooled.keys, weights, ks, ke, block_size=block_size)
    yield Check("block_scores_masked", _relative_error(coarse, data["block_scores_masked"]), 1e-4)
    golden_blocks = data["blocks_sorted"]  # filled up with arbitrary hidden blocks where fewer are visible
    hidden = np.isneginf(np.take_along_axis(data["block_scores_masked"], golden_blocks.astype(np.int64), 1))
    golden_blocks = np.where(hidden, -1, golden_blocks)
    yield Check("blocks_sorted", rows_that_differ(candidate_blocks(coarse, top_blocks), golden_blocks), 0)

    position = torch.arange(k.shape[0])
    outside = (position < ks[:, None]) | (position >= ke[:, None])
    flat_scores = index_scores(q, k, weights).masked_fill(outside, -torch.inf)
    yield Check("flat_scores", _relative_error(flat_scores, data["flat_scores"]), 1e-4)
    # the weights hold the scales of the queries: queries that have theirs want weights without
    unscaled = index_scores(torch.from_numpy(data["q_deq"]), k, weights / torch.from_numpy(data["q_scale"]))
    error = _relative_error(unscaled.masked_fill(outside, -torch.inf), data["flat_scores"])
    yield Check("flat_scores of q_deq", error, 1e-4)
    flat = lightning_index(q, k, weights, top_k=top_k, ks=ks, ke=ke)
    yield Check("flat_topk_sorted", rows_that_differ(flat, data["flat_topk_sorted"]), 0)
    chosen = hisa_index(
        q, k, weights, top_k=top_k, block_size=block_size, top_blocks=top_blocks, ks=ks, ke=ke, quant="fp8"
    )
    yield Check("hisa_topk_sorted", rows_that_differ(chosen, data["hisa_topk_sorted"]), 0)
    yield Check("iou", max_error(index_iou(chosen, flat), data["iou"]), 1e-6)


def _relative_error(ours: Any, golden: Any) -> float:
    """Largest difference of finite entries, relative to the largest; infinite where the infinities differ."""
    a, b = np.asarray(ours, dtype=np.float64), np.asarray(golden, dtype=np.float64)
    if a.shape != b.shape or not np.array_equal(a[~np.isfinite(b)], b[~np.isfinite(b)]):
        return float("inf")
    finite = np.isfinite(b)
    return max_error(a[finite], b[finite]) / float(np.abs(b[finite]).max())


def _share_differing(values: torch.Tensor, data: Arrays) -> float:
    return float((values.numpy() != data["pool_fp8_as_f32"]).mean())


def _steps_apart(ours: torch.Tensor, golden: Any) -> float:
    """How many representable e4m3 numbers lie between, at most; every sign has its own count from zero."""
    codes = [
        torch.as_tensor(x, dtype=torch.float32).to(torch.float8_e4m3fn).view(torch.uint8).int() for x in (ours, golden)
    ]
    ordered = [torch.where(code >= 128, 128 - code, code) for code in codes]
    return float((ordered[0] - ordered[1]).abs().max())
