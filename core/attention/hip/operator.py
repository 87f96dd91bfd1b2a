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

from ...choose import Formulation, Phase
from ..contract import Condition, Cost, Golden, Operator, Shape
from ..equations import accumulator, masked_attention, needs_cpu_floats, wants_gradient
from . import attend_triton, search_reference
from .selection import HipSelection
from .settings import Layout, Settings, positive_scale, search_table

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


def _refuses(q: Tensor, *_: Any, **__: Any) -> str | None:
    """The kernels read float32 or pairs of bfloat16: what has to be converted is too much for a single query."""
    few = q.shape[2] == 1 and q.dtype != torch.float32
    return needs_cpu_floats(q) or (f"takes a single query in float32, not {q.dtype}" if few else None)


def _refuses_attend(q: Tensor, k: Tensor, v: Tensor, *_: Any, **__: Any) -> str | None:
    return "has no gradients" if wants_gradient(q, k, v) else _refuses(q)


SEARCH = Phase(
    "hip",
    (
        Formulation("tree search, numba", "cpu", "attn.core.attention.hip.search_cpu:search", _refuses),
        Formulation("tree search, torch", "torch", "attn.core.attention.hip.search:search"),
    ),
)
"""``search(queries, rows, table, layout) -> first units of the surviving nodes, scores computed``."""


def reference(
    q: Tensor, k: Tensor, v: Tensor, *, causal: bool, scale: float | None = None, settings: Settings
) -> Tensor:
    """The search as printed, then dense attention under its mask."""
    selection = _choose(q, k, settings, search_reference.search)
    rows = torch.arange(q.shape[2], device=q.device)
    return masked_attention(q, k, v, selection.mask(rows), scale=positive_scale(q, scale))


def _select(
    q: Tensor, k: Tensor, *, causal: bool, scale: float | None = None, settings: Settings, engine: Formulation
) -> HipSelection:
    """Sections 3.1 and 3.2: the keys of every query block, found by halving nodes of the key axis."""
    positive_scale(q, scale)
    return _choose(q, k, settings, engine.function)


SELECT = SEARCH.used_by("hip", _select)
ATTEND = Phase(
    "hip",
    (
        Formulation(
            "attention, Triton", "triton", "attn.core.attention.hip.attend_triton:attend", attend_triton.refuses
        ),
        Formulation("attention, numba", "cpu", "attn.core.attention.hip.attend_cpu:attend", _refuses_attend),
        Formulation("attention, torch", "torch", "attn.core.attention.hip.attend:attend"),
    ),
)


class HipDecoder:
    """Decode step by step, with the choice of keys kept for ``mask_refresh`` steps. Section 3.4.

    A key that leaves the window between two searches is seen again after the next one.

    Parameters
    ----------
    scale : float, optional
        Positive; default ``D ** -0.5``.
    **params
        Fields of ``Settings``. ``mask_refresh`` must not exceed the window, in which the newest keys are seen.

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

    def __init__(self, *, scale: float | None = None, settings: Settings | None = None, **params: Any) -> None:
        self._settings, self._scale = settings or Settings(**params), scale
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
            self._kept, self._age = SELECT(q, k, causal=True, scale=self._scale, settings=self._settings), 0
        self._age += 1
        selection = replace(self._kept, layout=layout, searched=0)
        out: Tensor = ATTEND(q, k, v, selection, causal=True, scale=self._scale, settings=self._settings)
        return out


def decoder(q: Tensor, k: Tensor, v: Tensor, *, scale: float | None = None, settings: Settings) -> Callable[[], Tensor]:
    """A decode step over a filled cache, with its keys chosen anew every ``mask_refresh`` calls."""
    session, query = HipDecoder(scale=scale, settings=settings), q[:, :, -1:].to(accumulator(q.dtype))
    keys, values = (x.to(query.dtype).contiguous() for x in (k, v))
    return lambda: session.step(query, keys, values).to(q.dtype)


def cost(shape: Shape, *, settings: Settings) -> Cost:
    """Section 7, for the kernel: a representative is scored once, so a round costs K scores and not 2K."""
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
    params: dict[str, Any] = {"sliding_window": min(128, max(8, keys // 4)), "sink": min(32, keys // 16)}
    span = Settings().span
    units, low, high = 1, 1, max(1, shape.len_k // span)
    while low <= high:
        middle = (low + high) // 2
        price = cost(shape, settings=Settings(mask_k=middle * span, **params))
        if price.searched + price.attended <= keys:
            units, low = middle, middle + 1
        else:
            high = middle - 1
    return {"mask_k": units * span, **params}


OPERATOR = Operator(
    settings=Settings,
    reference=reference,
    phases=(SELECT, ATTEND),
    cost=cost,
    decoder=decoder,
    session=HipDecoder,
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
