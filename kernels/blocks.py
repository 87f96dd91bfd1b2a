"""Softmax attention over runs of keys that each block of queries keeps: forward and backward in Triton.

Papers: arXiv 2205.14135, 2307.08691 (tiles with an online softmax, probabilities again from the log-sum-exp in the
backward pass). The engine under dense, window+sink, blocktopk, flux and rectified attention: DESIGN.md, section 4.

A query block's keys are *runs* [start, stop), ascending and disjoint, lists of them one behind the other (CSR). The
forward pass and the gradient of q walk over the runs of a tile of queries. The gradients of k and v walk over the
transposed lists: for a tile of keys, every list that reaches into it, all query heads of the group included. So nothing
is added by atomics, and a call repeated gives the same bits.

Scores are kept in units of log 2. Products are of q, k and v as they are with float32 sums; probabilities are rounded
to the dtype of v before they are multiplied.
"""

# The arguments of Triton functions have no Python types.
# mypy: disable-error-code="no-untyped-def, no-untyped-call, untyped-decorator"
from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
import triton
import triton.language as tl
from torch import Tensor

from .launch import operator, refuses_cpu
from .registry import Kernel, Variant
from .softmax import LOG2E, columns_of, load_rows, online_softmax, seen, store_rows

MAX_WIDTH = 256
"""Columns of q, k and v at most, of two bytes each: a tile of more would spill."""
SIZES = ["len_q", "len_k", "group", "window", "num_sinks", "block_m", "tiles", "list_stride"]
"""One binary for all of them: what is registered below is what is launched."""


@dataclass(frozen=True, slots=True)
class Runs:
    """Which keys each query block keeps.

    Parameters
    ----------
    indptr : Tensor int64 [lists + 1]
        List i is ``runs[indptr[i] : indptr[i + 1]]``. With ``shared`` there is a list for each query block, else for
        each batch, head and query block, query blocks fastest.
    runs : Tensor int32 [indptr[-1], 2]
        Keys [start, stop), ascending and disjoint within a list, inside the ``len_k`` keys of the call.
    block_m : int
        Queries of a block; blocks start at row 0 of q.
    shared : bool
        Whether every head keeps the same.
    causal : bool
        Whether a query sees only keys up to its own position; the queries are the last of the keys' positions.
    window : int or None
        Of its runs a query sees only the last ``window`` keys up to itself ...
    num_sinks : int
        ... and the first ``num_sinks`` of all keys.
    """

    indptr: Tensor
    runs: Tensor
    block_m: int
    shared: bool
    causal: bool
    window: int | None = None
    num_sinks: int = 0


@triton.jit
def _queries(block_m, tiles, len_q, rows: tl.constexpr, tile):
    """The queries of tile number ``tile``: their block, their rows [rows] and which of them exist."""
    block = tile // tiles
    first = block * block_m + tile % tiles * rows
    row = first + tl.arange(0, rows)
    last = tl.minimum((block + 1) * block_m, len_q)
    return block, first, row, row < last, last


@triton.jit(do_not_specialize=SIZES)
def blocks_forward_kernel(
    q_ptr,  # [B, Hq, Lq, D]
    k_ptr,  # [B, Hkv, Lk, D]
    v_ptr,  # [B, Hkv, Lk, Dv]
    out_ptr,  # [B, Hq, Lq, Dv]
    lse_ptr,  # [B, Hq, Lq] float32
    indptr_ptr,
    runs_ptr,
    scale,  # times log2(e)
    len_q,
    len_k,
    group,  # query heads of a key head
    window,
    num_sinks,
    block_m,
    tiles,  # of queries, in a block
    list_stride,  # lists from one head to the next: 0 where heads share them
    width: tl.constexpr,
    value_width: tl.constexpr,
    columns: tl.constexpr,  # width, rounded up to a power of two
    value_columns: tl.constexpr,
    rows: tl.constexpr,  # queries of a program
    keys: tl.constexpr,  # keys of a step
    causal: tl.constexpr,
    windowed: tl.constexpr,
):
    tile = tl.num_programs(0) - 1 - tl.program_id(0)  # the last blocks of a causal call are the longest
    head = tl.program_id(1)
    block, first, row, real, last = _queries(block_m, tiles, len_q, rows, tile)
    position = row + (len_k - len_q)
    q_ptr += head.to(tl.int64) * len_q * width
    k_ptr += (head // group).to(tl.int64) * len_k * width
    v_ptr += (head // group).to(tl.int64) * len_k * value_width
    query = load_rows(q_ptr, row, real, width, columns)  # [rows, columns]
    high = tl.full([rows], float("-inf"), tl.float32)
    total = tl.zeros([rows], tl.float32)
    mean = tl.zeros([rows, value_columns], tl.float32)
    limit = len_k
    if causal:  # no query of the tile sees further
        limit = tl.minimum(first + rows, last) + (len_k - len_q)
    item = head * list_stride + block
    for run in range(tl.load(indptr_ptr + item), tl.load(indptr_ptr + item + 1)):
        start = tl.load(runs_ptr + 2 * run)
        stop = tl.minimum(tl.load(runs_ptr + 2 * run + 1), limit)
        for at in range(start, stop, keys):
            key = at + tl.arange(0, keys)
            inside = key < stop
            k = load_rows(k_ptr, key, inside, width, columns)  # [keys, columns]
            scores = tl.dot(query, tl.trans(k), input_precision="ieee") * scale  # [rows, keys]
            sight = inside[None, :] & seen(position[:, None], key[None, :], window, num_sinks, causal, windowed)
            scores = tl.where(sight, scores, float("-inf"))
            weights, fade, high, total = online_softmax(scores, high, total)
            v = load_rows(v_ptr, key, inside, value_width, value_columns)
            mean = tl.dot(weights.to(v.dtype), v, mean * fade[:, None], input_precision="ieee")
    out = tl.where(high[:, None] == float("-inf"), 0.0, mean / total[:, None])  # without a key: zeros
    store_rows(out_ptr + head.to(tl.int64) * len_q * value_width, row, real, out, value_width, value_columns)
    ln2: tl.constexpr = 0.6931471805599453
    tl.store(lse_ptr + head.to(tl.int64) * len_q + row, (high + tl.log2(total)) * ln2, mask=real)


@triton.jit(do_not_specialize=SIZES)
def blocks_backward_q_kernel(
    q_ptr,
    k_ptr,
    v_ptr,
    grad_out_ptr,  # [B, Hq, Lq, Dv]
    lse_ptr,  # [B, Hq, Lq] float32
    delta_ptr,  # [B, Hq, Lq] float32: rowsum(dO * O) less the gradient of lse
    grad_q_ptr,  # [B, Hq, Lq, D]
    indptr_ptr,
    runs_ptr,
    scale,  # as it is
    len_q,
    len_k,
    group,
    window,
    num_sinks,
    block_m,
    tiles,
    list_stride,
    width: tl.constexpr,
    value_width: tl.constexpr,
    columns: tl.constexpr,
    value_columns: tl.constexpr,
    rows: tl.constexpr,
    keys: tl.constexpr,
    causal: tl.constexpr,
    windowed: tl.constexpr,
):
    log2e: tl.constexpr = 1.4426950408889634
    tile = tl.num_programs(0) - 1 - tl.program_id(0)
    head = tl.program_id(1)
    block, first, row, real, last = _queries(block_m, tiles, len_q, rows, tile)
    position = row + (len_k - len_q)
    k_ptr += (head // group).to(tl.int64) * len_k * width
    v_ptr += (head // group).to(tl.int64) * len_k * value_width
    at_head = head.to(tl.int64) * len_q
    query = load_rows(q_ptr + at_head * width, row, real, width, columns)
    grad_out = load_rows(grad_out_ptr + at_head * value_width, row, real, value_width, value_columns)
    lse = tl.load(lse_ptr + at_head + row, mask=real, other=0.0) * log2e
    lse = tl.where(lse == float("-inf"), 0.0, lse)  # a row without keys: every weight is exp2(-inf)
    delta = tl.load(delta_ptr + at_head + row, mask=real, other=0.0)
    grad = tl.zeros([rows, columns], tl.float32)
    limit = len_k
    if causal:
        limit = tl.minimum(first + rows, last) + (len_k - len_q)
    item = head * list_stride + block
    for run in range(tl.load(indptr_ptr + item), tl.load(indptr_ptr + item + 1)):
        start = tl.load(runs_ptr + 2 * run)
        stop = tl.minimum(tl.load(runs_ptr + 2 * run + 1), limit)
        for at in range(start, stop, keys):
            key = at + tl.arange(0, keys)
            inside = key < stop
            k = load_rows(k_ptr, key, inside, width, columns)
            v = load_rows(v_ptr, key, inside, value_width, value_columns)
            scores = tl.dot(query, tl.trans(k), input_precision="ieee") * (scale * log2e)
            sight = inside[None, :] & seen(position[:, None], key[None, :], window, num_sinks, causal, windowed)
            weights = tl.exp2(tl.where(sight, scores, float("-inf")) - lse[:, None])
            pull = tl.dot(grad_out, tl.trans(v), input_precision="ieee")  # [rows, keys]
            slope = weights * (pull - delta[:, None])
            grad = tl.dot(slope.to(k.dtype), k, grad, input_precision="ieee")
    store_rows(grad_q_ptr + at_head * width, row, real, grad * scale, width, columns)


@triton.jit(do_not_specialize=["len_q", "len_k", "window", "num_sinks", "block_m", "key_tiles"])
def blocks_backward_kv_kernel(
    q_ptr,
    k_ptr,
    v_ptr,
    grad_out_ptr,
    lse_ptr,
    delta_ptr,
    grad_k_ptr,  # [B, Hkv, Lk, D]
    grad_v_ptr,  # [B, Hkv, Lk, Dv]
    indptr_ptr,  # of the transposed lists: [B * Hkv * key_tiles + 1]
    pieces_ptr,  # [., 4]: query head, query block, first and last + 1 of the keys
    scale,
    len_q,
    len_k,
    window,
    num_sinks,
    block_m,
    key_tiles,
    width: tl.constexpr,
    value_width: tl.constexpr,
    columns: tl.constexpr,
    value_columns: tl.constexpr,
    rows: tl.constexpr,
    keys: tl.constexpr,
    causal: tl.constexpr,
    windowed: tl.constexpr,
):
    log2e: tl.constexpr = 1.4426950408889634
    key_tile, kv_head = tl.program_id(0), tl.program_id(1)
    key = key_tile * keys + tl.arange(0, keys)
    real_key = key < len_k
    at_kv = kv_head.to(tl.int64) * len_k
    k = load_rows(k_ptr + at_kv * width, key, real_key, width, columns)  # [keys, columns]
    v = load_rows(v_ptr + at_kv * value_width, key, real_key, value_width, value_columns)
    grad_k = tl.zeros([keys, columns], tl.float32)
    grad_v = tl.zeros([keys, value_columns], tl.float32)
    item = kv_head * key_tiles + key_tile
    for piece in range(tl.load(indptr_ptr + item), tl.load(indptr_ptr + item + 1)):
        head, block = tl.load(pieces_ptr + 4 * piece), tl.load(pieces_ptr + 4 * piece + 1)
        start, stop = tl.load(pieces_ptr + 4 * piece + 2), tl.load(pieces_ptr + 4 * piece + 3)
        inside = (key >= start) & (key < stop)
        at_head = head.to(tl.int64) * len_q
        last = tl.minimum((block + 1) * block_m, len_q)
        first = block * block_m
        if causal:  # rows that see no key of the piece are passed by
            first = tl.maximum(first, start - (len_k - len_q))
        for at in range(first, last, rows):
            row = at + tl.arange(0, rows)
            real = row < last
            query = load_rows(q_ptr + at_head * width, row, real, width, columns)  # [rows, columns]
            grad_out = load_rows(grad_out_ptr + at_head * value_width, row, real, value_width, value_columns)
            lse = tl.load(lse_ptr + at_head + row, mask=real, other=0.0) * log2e
            lse = tl.where(lse == float("-inf"), 0.0, lse)
            delta = tl.load(delta_ptr + at_head + row, mask=real, other=0.0)
            position = row + (len_k - len_q)
            scores = tl.dot(k, tl.trans(query), input_precision="ieee") * (scale * log2e)  # [keys, rows]
            sight = seen(position[None, :], key[:, None], window, num_sinks, causal, windowed)
            sight = sight & inside[:, None] & real[None, :]
            weights = tl.exp2(tl.where(sight, scores, float("-inf")) - lse[None, :])
            grad_v = tl.dot(weights.to(grad_out.dtype), grad_out, grad_v, input_precision="ieee")
            pull = tl.dot(v, tl.trans(grad_out), input_precision="ieee")  # [keys, rows]
            slope = weights * (pull - delta[None, :])
            grad_k = tl.dot(slope.to(query.dtype), query, grad_k, input_precision="ieee")
    store_rows(grad_k_ptr + at_kv * width, key, real_key, grad_k * scale, width, columns)
    store_rows(grad_v_ptr + at_kv * value_width, key, real_key, grad_v, value_width, value_columns)


def refuses(q: Tensor, k: Tensor, v: Tensor) -> str | None:
    """Why the kernels do not take these tensors, as a clause about them; None: they do."""
    if q.dtype not in (torch.float32, torch.bfloat16, torch.float16):
        return f"takes float32, bfloat16 and float16, not {q.dtype}"
    widest, most = max(q.shape[3], v.shape[3]), MAX_WIDTH * 2 // max(2, q.itemsize)
    if widest > most:
        return f"takes heads of up to {most} channels in {q.dtype}, not {widest}"
    return refuses_cpu(q, blocks_forward_kernel)


def _constants(q: Tensor, v: Tensor, kept: Runs, rows: int, keys: int) -> dict[str, Any]:
    width, value_width = q.shape[3], v.shape[3]
    return {
        "width": width, "value_width": value_width,
        "columns": columns_of(width), "value_columns": columns_of(value_width),
        "rows": rows, "keys": keys, "causal": kept.causal, "windowed": kept.window is not None,
    }  # fmt: skip


@dataclass(frozen=True, slots=True)
class Tiles:
    """How a kernel is cut: queries and keys of a step, warps, stages of the pipeline."""

    rows: int
    keys: int
    warps: int
    stages: int


FAMILIES = {
    "ampere": ("sm_80", "sm_86", "sm_89", "sm_120"),
    "hopper": ("sm_90", "sm_100"),
    "cdna": ("gfx90a", "gfx942"),
}
"""Chips that want the same tiles."""
TILES: dict[tuple[str, int, int], dict[str, Tiles]] = {
    ("forward", 2, 64): {"": Tiles(128, 64, 8, 2)},
    ("forward", 2, 128): {"": Tiles(64, 32, 8, 2), "hopper": Tiles(128, 64, 8, 2), "cdna": Tiles(128, 32, 8, 2)},
    ("forward", 2, 256): {"": Tiles(64, 32, 8, 1)},
    ("forward", 4, 64): {"": Tiles(64, 32, 8, 1)},
    ("forward", 4, 128): {"": Tiles(32, 32, 8, 1)},
    ("q", 2, 64): {"": Tiles(64, 32, 4, 1)},
    ("q", 2, 128): {"": Tiles(64, 32, 8, 1), "ampere": Tiles(32, 32, 8, 1)},
    ("q", 2, 256): {"": Tiles(32, 32, 4, 1), "ampere": Tiles(16, 32, 4, 1)},
    ("q", 4, 64): {"": Tiles(32, 32, 8, 1)},
    ("q", 4, 128): {"": Tiles(16, 32, 4, 1), "ampere": Tiles(16, 16, 4, 1)},
    ("kv", 2, 64): {"": Tiles(32, 64, 4, 1), "hopper": Tiles(64, 64, 4, 1)},
    ("kv", 2, 128): {"": Tiles(32, 64, 8, 1), "cdna": Tiles(32, 64, 4, 1)},
    ("kv", 2, 256): {"": Tiles(16, 32, 8, 1)},
    ("kv", 4, 64): {"": Tiles(16, 16, 4, 1), "ampere": Tiles(16, 16, 8, 1)},
    ("kv", 4, 128): {"": Tiles(16, 16, 4, 1)},
}
"""By kernel, bytes of an element and columns: the largest tried that spill nothing on any chip of ``FAMILIES``, or on
that of the family named. Predicted by the compiler alone: none was timed.
"""


def _tiles(kernel: str, q: Tensor, v: Tensor) -> Tiles:
    """The tiles of a kernel for these tensors, on their chip."""
    widest = max(64, columns_of(q.shape[3]), columns_of(v.shape[3]))
    cuts = TILES[kernel, q.itemsize, widest]
    family = "cdna" if torch.version.hip else "ampere"
    if q.device.type == "cuda" and not torch.version.hip and torch.cuda.get_device_capability(q.device)[0] in (9, 10):
        family = "hopper"
    return cuts.get(family, cuts[""])


def _rows(tiles: Tiles, block_m: int) -> int:
    """Queries of a program: no more than a block has."""
    return min(tiles.rows, max(16, int(triton.next_power_of_2(block_m))))


def _stride(kept: Runs, blocks: int) -> int:
    return 0 if kept.shared else blocks


def _fake_forward(q: Tensor, k: Tensor, v: Tensor, *_: Any, **__: Any) -> tuple[Tensor, Tensor]:
    return q.new_empty(*q.shape[:3], v.shape[3]), q.new_empty(q.shape[:3], dtype=torch.float32)


def _gradient(
    needs: tuple[bool, ...], grads: tuple[Tensor, Tensor], q: Tensor, k: Tensor, v: Tensor, *given: Any
) -> tuple[Tensor | None, ...]:
    """Of ``_forward``; its results stand last in ``given``."""
    *lists, out, lse = given
    return *_backward(q, k, v, out, lse, *grads, *lists), *[None] * len(lists)


@operator(_fake_forward, gradient=_gradient, results=True)
def _forward(
    q: Tensor, k: Tensor, v: Tensor, indptr: Tensor, runs: Tensor, scale: float, block_m: int, shared: bool,
    causal: bool, window: int | None, num_sinks: int,
) -> tuple[Tensor, Tensor]:  # fmt: skip
    """``forward`` as an operator: ``Runs`` taken apart."""
    kept = Runs(indptr, runs, block_m, shared, causal, window, num_sinks)
    _check(q, k, v)
    q, k, v = q.contiguous(), k.contiguous(), v.contiguous()
    batch, heads, len_q, _ = q.shape
    out, lse = q.new_empty(*q.shape[:3], v.shape[3]), q.new_empty(q.shape[:3], dtype=torch.float32)
    if not out.numel():
        return out, lse.fill_(-torch.inf)
    cut = _tiles("forward", q, v)
    rows, blocks = _rows(cut, kept.block_m), triton.cdiv(len_q, kept.block_m)
    tiles = triton.cdiv(kept.block_m, rows)
    with torch.cuda.device_of(q):
        blocks_forward_kernel[(blocks * tiles, batch * heads)](
            q, k, v, out, lse, kept.indptr, kept.runs, scale * LOG2E, len_q, k.shape[2], heads // k.shape[1],
            kept.window or 0, kept.num_sinks, kept.block_m, tiles, _stride(kept, blocks),
            **_constants(q, v, kept, rows, cut.keys), num_warps=cut.warps, num_stages=cut.stages,
        )  # fmt: skip
    return out, lse


@operator(lambda q, k, v, *_, **__: (q.new_empty(q.shape), k.new_empty(k.shape), v.new_empty(v.shape)))
def _backward(
    q: Tensor, k: Tensor, v: Tensor, out: Tensor, lse: Tensor, grad_out: Tensor, grad_lse: Tensor, indptr: Tensor,
    runs: Tensor, scale: float, block_m: int, shared: bool, causal: bool, window: int | None, num_sinks: int,
) -> tuple[Tensor, Tensor, Tensor]:  # fmt: skip
    """``backward`` as an operator."""
    kept = Runs(indptr, runs, block_m, shared, causal, window, num_sinks)
    _check(q, k, v)
    q, k, v, lse = (x.contiguous() for x in (q, k, v, lse))
    grad_out = grad_out.to(q.dtype).contiguous()
    grad_q, grad_k, grad_v = torch.empty_like(q), torch.empty_like(k), torch.empty_like(v)
    if not q.numel() or not k.numel():
        return grad_q.zero_(), grad_k.zero_(), grad_v.zero_()
    delta = ((grad_out.float() * out.float()).sum(-1) - grad_lse).contiguous()  # [B, Hq, Lq]
    batch, heads, len_q, _ = q.shape
    kv_heads, len_k = k.shape[1], k.shape[2]
    blocks, window = triton.cdiv(len_q, kept.block_m), kept.window or 0
    with torch.cuda.device_of(q):
        cut = _tiles("q", q, v)
        rows = _rows(cut, kept.block_m)
        tiles = triton.cdiv(kept.block_m, rows)
        blocks_backward_q_kernel[(blocks * tiles, batch * heads)](
            q, k, v, grad_out, lse, delta, grad_q, kept.indptr, kept.runs, scale, len_q, len_k, heads // kv_heads,
            window, kept.num_sinks, kept.block_m, tiles, _stride(kept, blocks),
            **_constants(q, v, kept, rows, cut.keys), num_warps=cut.warps, num_stages=cut.stages,
        )  # fmt: skip
        cut = _tiles("kv", q, v)
        key_tiles = triton.cdiv(len_k, cut.keys)
        indptr, pieces = transposed(kept, batch * heads, heads // kv_heads, blocks, len_k, cut.keys)
        blocks_backward_kv_kernel[(key_tiles, batch * kv_heads)](
            q, k, v, grad_out, lse, delta, grad_k, grad_v, indptr, pieces, scale, len_q, len_k, window, kept.num_sinks,
            kept.block_m, key_tiles, **_constants(q, v, kept, _rows(cut, kept.block_m), cut.keys),
            num_warps=cut.warps, num_stages=cut.stages,
        )  # fmt: skip
    return grad_q, grad_k, grad_v


def forward(q: Tensor, k: Tensor, v: Tensor, kept: Runs, scale: float) -> tuple[Tensor, Tensor]:
    """Softmax attention of each query over the keys that its block keeps.

    Parameters
    ----------
    q, k, v : Tensor [B, Hq, Lq, D], [B, Hkv, Lk, D], [B, Hkv, Lk, Dv]
        float32, bfloat16 or float16; Hkv divides Hq; D and Dv up to ``MAX_WIDTH``.
    kept : Runs
    scale : float
        Factor on q·kᵀ.

    Returns
    -------
    out : Tensor [B, Hq, Lq, Dv], dtype of ``q``; rows without a key are zeros.
    lse : Tensor [B, Hq, Lq], float32
        Natural logarithm of the sum of exponentials; minus infinity for rows without a key.

    Raises
    ------
    ValueError
        If the tensors are none that ``refuses`` lets through.
    """
    result: tuple[Tensor, Tensor] = _forward(
        q, k, v, kept.indptr, kept.runs, scale, kept.block_m, kept.shared, kept.causal, kept.window, kept.num_sinks
    )
    return result


def backward(
    q: Tensor, k: Tensor, v: Tensor, out: Tensor, lse: Tensor, grad_out: Tensor, grad_lse: Tensor, kept: Runs,
    scale: float,
) -> tuple[Tensor, Tensor, Tensor]:  # fmt: skip
    """Gradients of q, k and v from those of ``out`` [B, Hq, Lq, Dv] and ``lse`` [B, Hq, Lq].

    With P the probabilities, dS = P * (dO vᵀ - rowsum(dO * O) + dlse): dQ = dS K, dK = dSᵀ Q, dV = Pᵀ dO.
    """
    result: tuple[Tensor, Tensor, Tensor] = _backward(
        q, k, v, out, lse, grad_out, grad_lse, kept.indptr, kept.runs, scale, kept.block_m, kept.shared, kept.causal,
        kept.window, kept.num_sinks,
    )  # fmt: skip
    return result


def transposed(kept: Runs, heads: int, group: int, blocks: int, len_k: int, size: int) -> tuple[Tensor, Tensor]:
    """For every tile of ``size`` keys of every key head: which query heads and blocks keep which keys of it.

    Parameters
    ----------
    kept : Runs
    heads : int
        Batch times query heads.
    group, blocks, len_k, size : int
        Query heads of a key head, query blocks, keys, keys of a tile.

    Returns
    -------
    indptr : Tensor int64 [heads / group * key tiles + 1]
    pieces : Tensor int32 [., 4]
        Query head (of all of the batch), query block, first key, last key + 1.
    """
    count = kept.indptr.diff()  # [lists]
    item = torch.arange(count.numel(), device=count.device).repeat_interleave(count)  # [runs]
    start, stop = kept.runs.long().unbind(1)
    first = start // size
    number = torch.where(stop > start, (stop - 1) // size - first + 1, 0)  # tiles that a run reaches into
    run = torch.arange(number.numel(), device=count.device).repeat_interleave(number)  # [pieces]
    within = torch.arange(run.numel(), device=count.device) - (number.cumsum(0) - number)[run]
    tile = first[run] + within
    low, high = torch.maximum(start[run], tile * size), torch.minimum(stop[run], (tile + 1) * size)
    head, block = item[run] // blocks, item[run] % blocks
    if kept.shared:  # the lists of one head are those of all
        every = torch.arange(heads, device=count.device).repeat_interleave(run.numel())
        head = every
        block, tile, low, high = (x.repeat(heads) for x in (block, tile, low, high))
    key_tiles = triton.cdiv(len_k, size)
    at = head // group * key_tiles + tile
    order = at.argsort(stable=True)
    indptr = torch.zeros(heads // group * key_tiles + 1, dtype=torch.int64, device=count.device)
    torch.cumsum(torch.bincount(at, minlength=heads // group * key_tiles), 0, out=indptr[1:])
    pieces = torch.stack((head, block, low, high), 1)[order].to(torch.int32).contiguous()
    return indptr, pieces


def _check(q: Tensor, k: Tensor, v: Tensor) -> None:
    reason = refuses(q, k, v)
    if reason is not None:
        raise ValueError(f"attention over blocks in Triton {reason}.")


def _variants(kind: str, tensors: str, integers: str) -> tuple[Variant, ...]:
    """What the wrapper launches for heads of 64, 128 and 256 channels, in the dtypes that it takes."""
    found = []
    for dtype, width, causal, windowed in [
        ("bf16", 64, True, False), ("bf16", 128, True, False), ("fp16", 128, True, True), ("bf16", 256, False, False),
        ("fp32", 64, True, False), ("fp32", 128, False, False),
    ]:  # fmt: skip
        cuts = TILES[kind, 4 if dtype == "fp32" else 2, width]
        own = {chip for family in cuts for chip in FAMILIES.get(family, ())}
        types = {f"{name}_ptr": f"*{dtype}:16" for name in tensors.split()}
        types |= {f"{name}_ptr": "*fp32:16" for name in ("lse", "delta") if f"{name}_ptr" in types}
        types |= {"indptr_ptr": "*i64:16", ("pieces_ptr" if kind == "kv" else "runs_ptr"): "*i32:16", "scale": "fp32"}
        types |= dict.fromkeys(integers.split(), "i32")
        label = f"{dtype}-d{width}" + ("" if causal else "-whole") + ("-window" if windowed else "")
        for family, cut in cuts.items():
            constants = {
                "width": width, "value_width": width, "columns": width, "value_columns": width, "rows": cut.rows,
                "keys": cut.keys, "causal": causal, "windowed": windowed,
            }  # fmt: skip
            chips = FAMILIES[family] if family else tuple(c for f in FAMILIES.values() for c in f if c not in own)
            name = f"{label}-{family}" if family else label
            found.append(Variant(name, types, constants, cut.warps, cut.stages, targets=chips))
    return tuple(found)


_SEEN = "q k v grad_out lse delta"
_LISTS = "len_q len_k group window num_sinks block_m tiles list_stride"
KERNELS = (
    Kernel("blocks_forward", blocks_forward_kernel, _variants("forward", "q k v out lse", _LISTS)),
    Kernel("blocks_backward_q", blocks_backward_q_kernel, _variants("q", f"{_SEEN} grad_q", _LISTS)),
    Kernel(
        "blocks_backward_kv",
        blocks_backward_kv_kernel,
        _variants("kv", f"{_SEEN} grad_k grad_v", "len_q len_k window num_sinks block_m key_tiles"),
    ),
)
