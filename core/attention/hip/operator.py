"""HiP attention: a tree search finds about ``mask_k`` keys for each block of queries; attention runs on those alone.

Paper: arXiv 2406.09827 (ICLR 2025). Specification: methods/hip.md, sections 3.1-3.4; causal only. To the keys that the
search chose come the first ``sink`` keys and a window that ends with the query block.
Differs from the specification's text where that leaves a gap: the window of a last, short block ends at the last key,
as its search region does; a window shorter than the block leaves each query its own key; keys after the last whole
group (``block_size_k_group`` > 1) are not searched; keys after the block's own end never steer its search.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor

from ...opaque import opaque
from ..contract import Condition, Cost, Golden, Shape, Unphased
from ..equations import accumulator, again_where_not_finite, attention_result, masked_attention
from . import attend as hip_attend
from . import attend_cpu, search_cpu, search_reference
from . import search as hip_search
from .selection import HipSelection
from .settings import Layout, Representative, Settings, search_table

Searcher = Callable[[Tensor, Tensor, Tensor, Layout], tuple[Tensor, int]]


def _choose(q: Tensor, k: Tensor, settings: Settings, search: Searcher) -> HipSelection:
    """A selection, by ``search`` where a block has more units than it may keep."""
    layout, decode = Layout(settings, q.shape[2], k.shape[2]), q.shape[2] == 1
    grouped = (q.shape[0], k.shape[1], q.shape[1] // k.shape[1], q.shape[3])
    queries = q.reshape(grouped) if decode else q  # [B, H, rows, D]
    first, searched = layout.num_simple, 0
    starts = torch.arange(layout.width, dtype=torch.int32, device=q.device)
    starts = starts.repeat(q.shape[0], queries.shape[1], layout.num_blocks, 1)  # [B, H, nB, width]: every unit
    if first < layout.num_blocks and q.shape[0]:
        rows = torch.arange(queries.shape[2])[None] if decode else layout.search_rows()[first:]  # [nB, R]
        with torch.no_grad():
            starts[:, :, first:], searched = search(queries, rows, search_table(k, settings), layout)
    return HipSelection(layout, starts * settings.span, layout.count, q.shape[1] // queries.shape[1], searched)


def _has_kernel(q: Tensor) -> bool:
    """The kernels read float32: other dtypes are converted whole, which is too much for a single query."""
    return q.device.type == "cpu" and (q.dtype == torch.float32 or (q.dtype != torch.float64 and q.shape[2] > 1))


def _searcher(q: Tensor) -> Searcher:
    return search_cpu.search if _has_kernel(q) else hip_search.search


def _scale(q: Tensor, scale: float | None) -> float:
    if scale is not None and not scale > 0:
        raise ValueError(f"hip: scale is {scale}; the search ranks keys by their score, so it must be positive.")
    return q.shape[3] ** -0.5 if scale is None else scale


def reference(q: Tensor, k: Tensor, v: Tensor, *, causal: bool, scale: float | None = None, **params: Any) -> Tensor:
    """The search as printed, then dense attention under its mask; parameters as of ``blocked``."""
    selection = _choose(q, k, Settings(**params), search_reference.search)
    rows = torch.arange(q.shape[2], device=q.device)
    return masked_attention(q, k, v, selection.mask(rows), scale=_scale(q, scale))


def select(q: Tensor, k: Tensor, *, causal: bool, scale: float | None = None, **params: Any) -> HipSelection:
    """Sections 3.1 and 3.2: the keys of every query block, found by halving nodes of the key axis."""
    _scale(q, scale)
    return _choose(q, k, Settings(**params), _searcher(q))


def attend(
    q: Tensor, k: Tensor, v: Tensor, selection: HipSelection, *, causal: bool, scale: float | None = None
) -> Tensor:
    """Section 3.3: softmax attention over sink, chosen keys and window."""
    with_grad = torch.is_grad_enabled() and (q.requires_grad or k.requires_grad or v.requires_grad)
    arguments, factor = (q, k, v, selection), _scale(q, scale)
    if with_grad or not _has_kernel(q):
        return hip_attend.attend(*arguments, scale=factor)
    out = attend_cpu.attend(*arguments, scale=factor)
    return again_where_not_finite(out, lambda: hip_attend.attend(*arguments, scale=factor))


@opaque(attention_result)
def blocked(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    *,
    causal: bool,
    scale: float | None = None,
    mask_k: int = 512,
    block_size_q: int = 32,
    block_size_k: int = 2,
    block_size_k_group: int = 1,
    sliding_window: int = 128,
    sink: int = 32,
    representative: Representative = "first",
    query_stride: int = 2,
    query_offset: int = 1,
    dense_queries: int = 0,
    mask_refresh: int = 8,
    seed: int = 0,
) -> Tensor:
    """Causal attention over the keys that a tree search finds, O(L log L) in time and linear in memory.

    Parameters
    ----------
    q, k, v : Tensor
        As in ``Operator``. One query (decode): the query heads of a group share one search, by their largest score.
    causal : bool
        True; there is no other form.
    scale : float, optional
        Positive; default ``D ** -0.5``.
    mask_k : int, keys
        Budget of chosen keys. Larger finds more of the attention's mass, in proportionally more time. Rounded up, with
        a warning, to a multiple of ``block_size_k * block_size_k_group``.
    block_size_q : int, queries: power of two up to 128
        Queries that share one search. Smaller finds better keys and searches more often.
    block_size_k : int, keys: 1, 2, 4, 8 or 16
        Neighbouring keys chosen together. Smaller chooses more finely, with more rounds of search.
    block_size_k_group : int, keys: 1, 2, 4 or 8
        Above 1 the search sees the minimum and maximum of so many keys instead of the keys.
    sliding_window, sink : int, keys
        Last keys, counted from the end of the query block, and first keys, that every query sees.
    representative : {"first", "center", "random"}
        Which of a node's units is scored in its place.
    query_stride, query_offset : int, queries
        The search uses rows offset, offset + stride, ... of a block.
    dense_queries : int
        Query blocks that begin before this position see all their keys.
    mask_refresh : int, decode steps: 1 to 64
        How long a decoder keeps its choice; a single call has nothing to keep.
    seed : int
        Of ``representative="random"``.

    Returns
    -------
    Tensor [B, Hq, Lq, Dv], dtype of ``q``. Gradients flow through the chosen keys; the choice has none.

    Raises
    ------
    ValueError
        If a parameter is out of range; the message names the range.

    References
    ----------
    methods/hip.md, sections 3.1-3.4 and 4; arXiv 2406.09827.
    """
    params = {
        "mask_k": mask_k, "block_size_q": block_size_q, "block_size_k": block_size_k,
        "block_size_k_group": block_size_k_group, "sliding_window": sliding_window, "sink": sink,
        "representative": representative, "query_stride": query_stride, "query_offset": query_offset,
        "dense_queries": dense_queries, "mask_refresh": mask_refresh, "seed": seed,
    }  # fmt: skip
    selection = select(q, k, causal=causal, scale=scale, **params)
    return attend(q, k, v, selection, causal=causal, scale=scale)


class HipDecoder:
    """Decode step by step, with the choice of keys kept for ``mask_refresh`` steps. Section 3.4.

    A key that leaves the window between two searches is seen again after the next one.

    Parameters
    ----------
    scale : float, optional
        As of ``blocked``.
    **params
        As of ``blocked``. ``mask_refresh`` must not exceed the window, in which the newest keys are seen.

    Raises
    ------
    ValueError
        If a parameter is out of range.

    Examples
    --------
    >>> import torch
    >>> k = v = torch.randn(1, 2, 3000, 64)
    >>> decoder = HipDecoder(mask_refresh=4)
    >>> for length in (2998, 2999, 3000):
    ...     out = decoder.step(torch.randn(1, 8, 1, 64), k[:, :, :length], v[:, :, :length])
    >>> out.shape
    torch.Size([1, 8, 1, 64])
    """

    def __init__(self, *, scale: float | None = None, **params: Any) -> None:
        self._settings, self._scale = Settings(**params), scale
        if self._settings.mask_refresh > max(1, self._settings.sliding_window):
            raise ValueError(
                f"hip: with mask_refresh={self._settings.mask_refresh} steps between searches, new keys leave a window "
                f"of {self._settings.sliding_window} unseen. Lower mask_refresh or raise sliding_window."
            )
        self._kept: HipSelection | None = None
        self._age = 0

    def step(self, q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        """The newest query ``q`` [B, Hq, 1, D] against the whole cache ``k``, ``v``, its own key included."""
        layout = Layout(self._settings, 1, k.shape[2])
        if self._kept is None or self._age == self._settings.mask_refresh or layout.num_simple:
            self._kept, self._age = _choose(q, k, self._settings, _searcher(q)), 0
        self._age += 1
        return attend(q, k, v, replace(self._kept, layout=layout, searched=0), causal=True, scale=self._scale)


def decoder(q: Tensor, k: Tensor, v: Tensor, *, scale: float | None = None, **params: Any) -> Callable[[], Tensor]:
    """A decode step over a filled cache, with its keys chosen anew every ``mask_refresh`` calls."""
    session, query = HipDecoder(scale=scale, **params), q[:, :, -1:].to(accumulator(q.dtype))
    keys, values = (x.to(query.dtype).contiguous() for x in (k, v))
    return lambda: session.step(query, keys, values).to(q.dtype)


def cost(shape: Shape, **params: Any) -> Cost:
    """Section 7, for the kernel: a representative is scored once, so a round costs K scores and not 2K."""
    settings = Settings(**params)
    layout = Layout(settings, shape.len_q, shape.len_k)
    decode = shape.len_q == 1
    heads = shape.batch * (shape.num_kv_heads if decode else shape.num_heads)
    rows = shape.num_heads // shape.num_kv_heads if decode else layout.search_rows().shape[1]
    k, span = settings.num_nodes, settings.span
    steps = layout.rounds[layout.num_simple :] + 1
    scores = heads * int(steps.sum()) * k * settings.per_unit * rows
    starts = layout.count * span
    keys = (starts + settings.sink + settings.sliding_window).minimum(layout.end)
    keys[: layout.num_dense] = layout.end[: layout.num_dense]
    pairs = shape.batch * shape.num_heads * int((keys * (layout.end - layout.first)).sum())
    queries = max(1, shape.batch * shape.num_heads * shape.len_q)
    dims = shape.head_dim + shape.value_dim
    inputs = shape.batch * (shape.num_heads * shape.len_q * dims + shape.num_kv_heads * shape.len_k * dims)
    gathered = scores // max(1, rows) * shape.head_dim + heads * int(keys.sum()) * dims
    return Cost(
        flops=2.0 * scores * shape.head_dim + 2.0 * pairs * dims,
        bytes=float((inputs + gathered) * shape.itemsize),
        searched=scores / queries,
        attended=pairs / queries,
    )


def at_budget(keys: int, shape: Shape) -> dict[str, Any]:
    """Parameters with which a query visits about ``keys`` keys, those scored by the search included.

    ``mask_k`` gets what window and sink leave; these shrink with budgets under 512 keys.
    """
    params = {"sliding_window": min(128, max(8, keys // 4)), "sink": min(32, keys // 16)}
    span = Settings().span
    units, low, high = 1, 1, max(1, shape.len_k // span)
    while low <= high:
        middle = (low + high) // 2
        price = cost(shape, mask_k=middle * span, **params)
        if price.searched + price.attended <= keys:
            units, low = middle, middle + 1
        else:
            high = middle - 1
    return {"mask_k": units * span, **params}


OPERATOR = Unphased(
    reference=reference,
    blocked=blocked,
    cost=cost,
    select=select,
    attend=attend,
    decoder=decoder,
    at_budget=at_budget,
    decode_only=frozenset({"mask_refresh"}),
    causal=(True,),
    conditions={"seed": Condition("representative='random'", lambda params: params["representative"] == "random")},
    differentiable=True,
    small={"mask_k": 32, "sliding_window": 32, "sink": 4},
    golden=Golden(
        "hip", "attn.core.attention.hip.golden:check", ("prefill_bq32_bk2", "prefill_minmax_group8", "tail_ragged")
    ),
)
