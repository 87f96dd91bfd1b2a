"""HISA: hierarchical indexing. Pooled key blocks first, then the index scores of the tokens in the best blocks.

Paper: arXiv 2603.28458 (2026). Specification: methods/hisa.md, sections 3.3 and 3.4; step numbers are those of 3.3.
Index operands are those of ``dsa``. Up to ``top_blocks * block_size`` keys (8192) the flat search does the same work;
above, it loses on a CPU: by a quarter at 16k keys, twofold at 32k. ``min_seq`` switches to it for short inputs.
Differs from the official kernels in step 5: blocks are compared in float32 unless ``coarse_dtype`` is bf16.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from ...opaque import opaque
from ..contract import Cost, Shape, Unphased, shape_of
from ..equations import accumulator, attention_result, masked_attention
from ..tokens.attend import TokenSelection
from ..tokens.top_k import top_k_positions
from . import operator as shared
from .module import QUANTS, Quant, fake_quantise
from .pool import CoarseDtype, block_scores, candidate_blocks, pool_blocks
from .search import FlatIndex, HisaIndex, TokenIndex, check_hisa


@opaque(attention_result)
def reference(
    q: Tensor, k: Tensor, v: Tensor, *, causal: bool, scale: float | None = None, top_k: int = 2048,
    block_size: int = 128, top_blocks: int = 64, coarse_dtype: CoarseDtype = "fp32", quant: Quant = "none",
    min_seq: int = 0,
) -> Tensor:  # fmt: skip
    """Section 3.3, dense: index scores of all pairs, hidden outside the candidate blocks."""
    _check(top_k, block_size, top_blocks, coarse_dtype, quant, min_seq)
    scores = shared.dense_scores(q, k, quant)  # [B, Hkv, Lq, Lk]
    ks, ke = shared.windows(q.shape[2], k.shape[2], causal, q.device)
    position = torch.arange(k.shape[2], device=q.device)
    seen = (position < ke[:, None]).expand_as(scores)
    if k.shape[2] >= min_seq:
        group = q.shape[1] // k.shape[1]
        candidate = torch.zeros_like(scores, dtype=torch.bool)
        for b in range(k.shape[0]):
            for h in range(k.shape[1]):
                keys = fake_quantise(k[b, h].to(accumulator(k.dtype)), quant)
                queries = fake_quantise(q[b, h * group : (h + 1) * group].to(keys.dtype), quant).transpose(0, 1)
                coarse = block_scores(
                    queries, pool_blocks(keys, block_size, quant=quant).keys,
                    torch.full_like(queries[..., 0], 1 / group), ks, ke, block_size=block_size,
                    coarse_dtype=coarse_dtype,
                )  # fmt: skip
                blocks = candidate_blocks(coarse, top_blocks)  # [Lq, m]
                candidate[b, h] = (blocks[:, :, None] == position // block_size).any(1)
        seen = seen & candidate
    found = top_k_positions(scores.masked_fill(~seen, -torch.inf), top_k)
    selection = TokenSelection(found, q.shape[1], k.shape[2], 0)
    return masked_attention(q, k, v, selection.mask(torch.arange(q.shape[2], device=q.device)), scale=scale)


@opaque(attention_result)
def blocked(
    q: Tensor, k: Tensor, v: Tensor, *, causal: bool, scale: float | None = None, top_k: int = 2048,
    block_size: int = 128, top_blocks: int = 64, coarse_dtype: CoarseDtype = "fp32", quant: Quant = "none",
    min_seq: int = 0,
) -> Tensor:  # fmt: skip
    """Attention to the tokens with the best index scores inside the best key blocks.

    Parameters
    ----------
    q, k, v : Tensor [B, Hq, Lq, D], [B, Hkv, Lk, D], [B, Hkv, Lk, Dv]
    causal : bool
    scale : float, optional
        Default ``D ** -0.5``.
    top_k : int
        Tokens per query, at most ``top_blocks * block_size``.
    block_size : int
        Keys per pooled key. Larger: a cheaper, blunter first pass.
    top_blocks : int
        Candidate blocks per query, at least 2: the first and the last one it sees are always among them.
    coarse_dtype : {"fp32", "bf16"}
        What block scores are compared in.
    quant : {"none", "fp8", "fp8-ue8m0"}
        Rounding of index queries, keys and pooled keys to e4m3; the attention itself is not rounded.
    min_seq : int
        Search flat where there are fewer keys than this; 0: never.

    Returns
    -------
    Tensor [B, Hq, Lq, Dv], dtype of ``q``. Differentiable in q, k, v through the chosen tokens, the choice constant.

    Raises
    ------
    ValueError
        If a parameter is out of range.

    References
    ----------
    methods/hisa.md, sections 3.3 and 3.4; arXiv 2603.28458.
    """
    _check(top_k, block_size, top_blocks, coarse_dtype, quant, min_seq)
    make = _index(k.shape[2], top_k, block_size, top_blocks, coarse_dtype, quant, min_seq)
    return shared.run(q, k, v, make, causal=causal, scale=scale, quant=quant, top_k=top_k)


def select(
    q: Tensor, k: Tensor, *, causal: bool, scale: float | None = None, top_k: int = 2048, block_size: int = 128,
    top_blocks: int = 64, coarse_dtype: CoarseDtype = "fp32", quant: Quant = "none", min_seq: int = 0,
) -> TokenSelection:  # fmt: skip
    """The lists of all queries at once: 4 bytes x ``top_k`` for each key/value head and query."""
    _check(top_k, block_size, top_blocks, coarse_dtype, quant, min_seq)
    make = _index(k.shape[2], top_k, block_size, top_blocks, coarse_dtype, quant, min_seq)
    found = shared.search(q.detach(), k.detach(), make, causal=causal, quant=quant, top_k=top_k)
    shape = shape_of(q, k, k, causal=causal)
    searched = _searched(shape, block_size, top_blocks, min_seq) * shape.batch * shape.num_heads * shape.len_q
    return TokenSelection(found, q.shape[1], k.shape[2], round(searched))


def attend(
    q: Tensor, k: Tensor, v: Tensor, selection: TokenSelection, *, causal: bool, scale: float | None = None
) -> Tensor:
    """Second phase of ``blocked``."""
    return shared.attend(q, k, v, selection.indices, scale=scale)


def decoder(
    q: Tensor, k: Tensor, v: Tensor, *, scale: float | None = None, top_k: int = 2048, block_size: int = 128,
    top_blocks: int = 64, coarse_dtype: CoarseDtype = "fp32", quant: Quant = "none", min_seq: int = 0,
) -> Callable[[], Tensor]:  # fmt: skip
    """The last query's output against a cache that is pooled beforehand, as ``IncrementalPool`` keeps it."""
    _check(top_k, block_size, top_blocks, coarse_dtype, quant, min_seq)
    make = _index(k.shape[2], top_k, block_size, top_blocks, coarse_dtype, quant, min_seq)
    return shared.decoder(q, k, v, make, scale=scale, quant=quant, top_k=top_k)


def cost(
    shape: Shape, *, top_k: int = 2048, block_size: int = 128, top_blocks: int = 64, coarse_dtype: CoarseDtype = "fp32",
    quant: Quant = "none", min_seq: int = 0,
) -> Cost:  # fmt: skip
    """Section 7: pooled keys, the tokens of the candidate blocks, then the chosen tokens."""
    _, capped = shared.visible(shape)
    searched = _searched(shape, block_size, top_blocks, min_seq)
    return shared.predict(shape, searched=searched, attended=capped(top_k))


def at_budget(keys: int, shape: Shape) -> dict[str, int]:
    """Parameters for about ``keys`` keys per query, pooled keys included; candidates : tokens = 4 : 1 as by default."""
    seen, _ = shared.visible(shape)
    for block_size in (128, 64, 32, 16):
        top_k = max(1, round((keys - seen / block_size) / 5))
        if 4 * top_k >= 8 * block_size:  # fewer candidate blocks than that choose badly
            break
    top_blocks = max(2, 4 * top_k // block_size)
    return {"block_size": block_size, "top_blocks": top_blocks, "top_k": min(top_k, top_blocks * block_size)}


def _searched(shape: Shape, block_size: int, top_blocks: int, min_seq: int) -> float:
    """Mean number of keys, pooled ones included, that are scored per query."""
    seen, capped = shared.visible(shape)
    if shape.len_k < min_seq:
        return seen
    return seen / block_size + capped(top_blocks * block_size)


def _check(
    top_k: int, block_size: int, top_blocks: int, coarse_dtype: CoarseDtype, quant: Quant, min_seq: int
) -> None:  # fmt: skip
    check_hisa(top_k, block_size, top_blocks, coarse_dtype)
    if quant not in QUANTS:
        raise ValueError(f"quant is one of {', '.join(QUANTS)}, not {quant!r}.")
    if min_seq < 0:
        raise ValueError(f"min_seq is {min_seq}; pass a number of keys, or 0 to search hierarchically at any length.")


def _index(
    len_k: int, top_k: int, block_size: int, top_blocks: int, coarse_dtype: CoarseDtype, quant: Quant, min_seq: int
) -> shared.MakeIndex:  # fmt: skip
    """What turns a head's index keys [Lk, D] into an index."""

    def make(k: Tensor) -> TokenIndex:
        if len_k < min_seq:
            return FlatIndex(k, top_k=top_k)
        return HisaIndex(
            k, top_k=top_k, block_size=block_size, top_blocks=top_blocks, coarse_dtype=coarse_dtype, quant=quant
        )

    return make


OPERATOR = Unphased(
    reference=reference,
    blocked=blocked,
    cost=cost,
    select=select,
    attend=attend,
    decoder=decoder,
    at_budget=at_budget,
    differentiable=True,
    small={"top_k": 32, "block_size": 16, "top_blocks": 4},
    golden=shared.GOLDEN,
)
