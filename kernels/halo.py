"""Halo attention in Triton, forward and backward: a block of queries over the window of cells around it.

Paper: arXiv 2103.12731. Specification: methods/halonet.md, sections 3.1 (steps 6 to 8) and 7. Windows overlap and are
never copied: a step reads one row of a window from the map where it lies. Position terms come as two small tables of
each query, one for the rows and one for the columns of its window, and are added as scores are made.

The gradient of keys and values is made per window, row by row, and folded by the caller: sums without atomics, so
repeating gives the same bits.
"""

# The arguments of Triton functions have no Python types.
# mypy: disable-error-code="no-untyped-def, no-untyped-call, untyped-decorator"
from __future__ import annotations

from typing import Any

import torch
import triton
import triton.language as tl
from torch import Tensor

from .launch import operator, refuses_cpu
from .registry import Kernel, Variant
from .softmax import LOG2E, columns_of, load_rows, online_softmax, store_rows

MAX_WIDTH, MAX_WINDOW = 128, 64
"""Channels of a head, and cells of a window's side, at most."""
TILES: dict[tuple[str, int, int], dict[str, tuple[int, int]]] = {
    ("forward", 2, 64): {"": (64, 8)},
    ("forward", 2, 128): {"": (64, 8)},
    ("forward", 4, 64): {"": (64, 4)},
    ("forward", 4, 128): {"": (32, 8)},
    ("q", 2, 64): {"": (64, 8)},
    ("q", 2, 128): {"": (64, 8)},
    ("q", 4, 64): {"": (64, 4)},
    ("q", 4, 128): {"": (32, 4)},
    ("kv", 2, 64): {"": (64, 8)},
    ("kv", 2, 128): {"": (64, 8)},
    ("kv", 4, 64): {"": (64, 8)},
    ("kv", 4, 128): {"": (16, 4)},
}
"""Queries of a step and warps, on every chip, by kernel, bytes of an element and columns: the most, up to a block of
8 x 8, that spill nothing on any chip tried. Predicted by the compiler alone: none was timed.
"""
SIZES = ["queries", "blocks_down", "blocks_across", "block", "halo", "height", "width", "win"]


@triton.jit
def _window(number, blocks_down, blocks_across, block, halo):
    """Of block ``number``: its map, and its window's first row and column on the map with the border."""
    across = number % blocks_across
    down = number // blocks_across % blocks_down
    item = (number // (blocks_down * blocks_across)).to(tl.int64)
    return item, down * block, across * block


@triton.jit
def _cells(item, top, left, r, lane, win, blocks_down, blocks_across, block, halo, height, width,
           masked: tl.constexpr):  # fmt: skip
    """Row ``r`` of a window: where its cells lie in memory [n], and which of them are there to be seen."""
    tall, wide = blocks_down * block + 2 * halo, blocks_across * block + 2 * halo
    place = (item * tall + top + r) * wide + left + lane
    there = lane < win
    seen = there
    if masked:
        seen = seen & (left + lane >= halo) & (left + lane < halo + width)
        seen = seen & (top + r >= halo) & (top + r < halo + height)
    return place, there, seen


@triton.jit(do_not_specialize=SIZES)
def halo_forward_kernel(
    q_ptr,  # [C, M, D], C = maps * blocks_down * blocks_across
    k_ptr,  # [N, tall, wide, D], border included
    v_ptr,  # [N, tall, wide, Dv]
    row_ptr,  # [C, M, win]: position terms of the rows of the window; read where ``relative``
    column_ptr,  # [C, M, win]
    out_ptr,  # [C, M, Dv]
    lse_ptr,  # [C, M] float32, in units of log 2
    scale,  # times log2(e)
    queries, blocks_down, blocks_across, block, halo, height, width, win,
    dim: tl.constexpr, value_dim: tl.constexpr, columns: tl.constexpr, value_columns: tl.constexpr,
    rows: tl.constexpr, lanes: tl.constexpr, relative: tl.constexpr, masked: tl.constexpr,
):  # fmt: skip
    log2e: tl.constexpr = 1.4426950408889634
    number = tl.program_id(0)
    item, top, left = _window(number, blocks_down, blocks_across, block, halo)
    row = tl.program_id(1) * rows + tl.arange(0, rows)
    lane = tl.arange(0, lanes)
    real = row < queries
    at = number.to(tl.int64) * queries
    query = load_rows(q_ptr + at * dim, row, real, dim, columns)
    if relative:
        term = tl.load(
            column_ptr + (at + row)[:, None] * win + lane[None, :],
            mask=real[:, None] & (lane < win)[None, :],
            other=0.0,
        ).to(tl.float32)
    high = tl.full([rows], float("-inf"), tl.float32)
    total = tl.zeros([rows], tl.float32)
    mean = tl.zeros([rows, value_columns], tl.float32)
    for r in range(0, win):
        place, there, seen = _cells(
            item, top, left, r, lane, win, blocks_down, blocks_across, block, halo, height, width, masked
        )
        k = load_rows(k_ptr, place, there, dim, columns)
        scores = tl.dot(query, tl.trans(k), input_precision="ieee") * scale
        if relative:
            of_row = tl.load(row_ptr + (at + row) * win + r, mask=real, other=0.0).to(tl.float32)
            scores += (of_row[:, None] + term) * log2e
        scores = tl.where(seen[None, :], scores, float("-inf"))
        weights, fade, high, total = online_softmax(scores, high, total)
        v = load_rows(v_ptr, place, there, value_dim, value_columns)
        mean = tl.dot(weights.to(v.dtype), v, mean * fade[:, None], input_precision="ieee")
    # every window holds its block's first cell, which is on the map: no total is 0
    store_rows(out_ptr + at * value_dim, row, real, mean / total[:, None], value_dim, value_columns)
    tl.store(lse_ptr + at + row, high + tl.log2(total), mask=real)


@triton.jit(do_not_specialize=SIZES)
def halo_backward_q_kernel(
    q_ptr, k_ptr, v_ptr, row_ptr, column_ptr,
    grad_ptr,  # [C, M, Dv]
    lse_ptr,
    delta_ptr,  # [C, M] float32: rowsum(dO * O)
    grad_q_ptr,  # [C, M, D]
    grad_row_ptr,  # [C, M, win] float32; written where ``relative``
    grad_column_ptr,
    scale,  # as it is
    queries, blocks_down, blocks_across, block, halo, height, width, win,
    dim: tl.constexpr, value_dim: tl.constexpr, columns: tl.constexpr, value_columns: tl.constexpr,
    rows: tl.constexpr, lanes: tl.constexpr, relative: tl.constexpr, masked: tl.constexpr,
):  # fmt: skip
    log2e: tl.constexpr = 1.4426950408889634
    number = tl.program_id(0)
    item, top, left = _window(number, blocks_down, blocks_across, block, halo)
    row = tl.program_id(1) * rows + tl.arange(0, rows)
    lane = tl.arange(0, lanes)
    real = row < queries
    at = number.to(tl.int64) * queries
    query = load_rows(q_ptr + at * dim, row, real, dim, columns)
    grad = load_rows(grad_ptr + at * value_dim, row, real, value_dim, value_columns)
    lse = tl.load(lse_ptr + at + row, mask=real, other=0.0)
    delta = tl.load(delta_ptr + at + row, mask=real, other=0.0)
    terms = (at + row)[:, None] * win + lane[None, :]
    inside = real[:, None] & (lane < win)[None, :]
    if relative:
        term = tl.load(column_ptr + terms, mask=inside, other=0.0).to(tl.float32)
    grad_q = tl.zeros([rows, columns], tl.float32)
    grad_column = tl.zeros([rows, lanes], tl.float32)
    for r in range(0, win):
        place, there, seen = _cells(
            item, top, left, r, lane, win, blocks_down, blocks_across, block, halo, height, width, masked
        )
        k = load_rows(k_ptr, place, there, dim, columns)
        v = load_rows(v_ptr, place, there, value_dim, value_columns)
        scores = tl.dot(query, tl.trans(k), input_precision="ieee") * (scale * log2e)
        if relative:
            of_row = tl.load(row_ptr + (at + row) * win + r, mask=real, other=0.0).to(tl.float32)
            scores += (of_row[:, None] + term) * log2e
        weights = tl.exp2(tl.where(seen[None, :], scores, float("-inf")) - lse[:, None])
        pull = tl.dot(grad, tl.trans(v), input_precision="ieee")
        slope = weights * (pull - delta[:, None])  # [rows, lanes]
        grad_q = tl.dot(slope.to(k.dtype), k, grad_q, input_precision="ieee")
        if relative:
            tl.store(grad_row_ptr + (at + row) * win + r, tl.sum(slope, 1), mask=real)
            grad_column += slope
    store_rows(grad_q_ptr + at * dim, row, real, grad_q * scale, dim, columns)
    if relative:
        tl.store(grad_column_ptr + terms, grad_column, mask=inside)


@triton.jit(do_not_specialize=SIZES)
def halo_backward_kv_kernel(
    q_ptr, k_ptr, v_ptr, row_ptr, column_ptr, grad_ptr, lse_ptr, delta_ptr,
    grad_k_ptr,  # [C, win, win, D] float32: of the cells of each window
    grad_v_ptr,  # [C, win, win, Dv] float32
    scale,
    queries, blocks_down, blocks_across, block, halo, height, width, win,
    dim: tl.constexpr, value_dim: tl.constexpr, columns: tl.constexpr, value_columns: tl.constexpr,
    rows: tl.constexpr, lanes: tl.constexpr, relative: tl.constexpr, masked: tl.constexpr,
):  # fmt: skip
    log2e: tl.constexpr = 1.4426950408889634
    number, r = tl.program_id(0), tl.program_id(1)
    item, top, left = _window(number, blocks_down, blocks_across, block, halo)
    lane = tl.arange(0, lanes)
    place, there, seen = _cells(
        item, top, left, r, lane, win, blocks_down, blocks_across, block, halo, height, width, masked
    )
    k = load_rows(k_ptr, place, there, dim, columns)
    v = load_rows(v_ptr, place, there, value_dim, value_columns)
    at = number.to(tl.int64) * queries
    grad_k = tl.zeros([lanes, columns], tl.float32)
    grad_v = tl.zeros([lanes, value_columns], tl.float32)
    for first in range(0, queries, rows):
        row = first + tl.arange(0, rows)
        real = row < queries
        query = load_rows(q_ptr + at * dim, row, real, dim, columns)
        grad = load_rows(grad_ptr + at * value_dim, row, real, value_dim, value_columns)
        lse = tl.load(lse_ptr + at + row, mask=real, other=0.0)
        delta = tl.load(delta_ptr + at + row, mask=real, other=0.0)
        scores = tl.dot(k, tl.trans(query), input_precision="ieee") * (scale * log2e)  # [lanes, rows]
        inside = (lane < win)[:, None] & real[None, :]
        if relative:
            term = tl.load(column_ptr + (at + row)[None, :] * win + lane[:, None], mask=inside, other=0.0)
            of_row = tl.load(row_ptr + (at + row) * win + r, mask=real, other=0.0)
            scores += (of_row.to(tl.float32)[None, :] + term.to(tl.float32)) * log2e
        weights = tl.exp2(tl.where(seen[:, None] & real[None, :], scores, float("-inf")) - lse[None, :])
        grad_v = tl.dot(weights.to(grad.dtype), grad, grad_v, input_precision="ieee")
        pull = tl.dot(v, tl.trans(grad), input_precision="ieee")
        slope = weights * (pull - delta[None, :])
        grad_k = tl.dot(slope.to(query.dtype), query, grad_k, input_precision="ieee")
    cell = (number.to(tl.int64) * win + r) * win + lane
    store_rows(grad_k_ptr, cell, there, grad_k * scale, dim, columns)
    store_rows(grad_v_ptr, cell, there, grad_v, value_dim, value_columns)


def refuses(q: Tensor, v_width: int, win: int) -> str | None:
    """Why the kernels do not take queries [..., D], values of ``v_width`` channels and windows of ``win`` cells a side,
    as a clause about them; None: they do.
    """
    if q.dtype not in (torch.float32, torch.bfloat16, torch.float16):
        return f"takes float32, bfloat16 and float16, not {q.dtype}"
    if (widest := max(q.shape[-1], v_width)) > MAX_WIDTH:
        return f"takes heads of up to {MAX_WIDTH} channels, not {widest}"
    if win > MAX_WINDOW:
        return f"takes windows of up to {MAX_WINDOW} cells a side, not {win}"
    return refuses_cpu(q, halo_forward_kernel)


def _fake(
    q: Tensor, k: Tensor, v: Tensor, of_rows: Tensor, of_columns: Tensor, sizes: list[int], scale: float, masked: bool
) -> tuple[Tensor, Tensor]:
    return q.new_empty(*q.shape[:-1], v.shape[-1]), q.new_empty(q.shape[:-1], dtype=torch.float32)


def _gradient(
    needs: tuple[bool, ...], grads: tuple[Tensor, Tensor], q: Tensor, k: Tensor, v: Tensor, of_rows: Tensor,
    of_columns: Tensor, sizes: list[int], scale: float, masked: bool, out: Tensor, lse: Tensor,
) -> tuple[Tensor | None, ...]:  # fmt: skip
    """Of ``attend``; ``lse`` is kept for this alone and has none of its own."""
    delta = (grads[0].float() * out.float()).sum(-1)
    grad_q, grad_row, grad_column, grad_k, grad_v = _attend_gradient(
        q, k, v, of_rows, of_columns, grads[0].to(q.dtype), lse, delta, sizes, scale, masked
    )
    grad_k, grad_v = (_folded(x, like, sizes) for x, like in ((grad_k, k), (grad_v, v)))
    return grad_q, grad_k, grad_v, grad_row.to(of_rows.dtype), grad_column.to(of_columns.dtype), None, None, None


def _folded(cells: Tensor, like: Tensor, sizes: list[int]) -> Tensor:
    """Gradients of the cells of windows [C, win, win, D] added up on the map [N, tall, wide, D]."""
    down, across, block, _, _, _, win = sizes
    cells = cells.view(len(like), down, across, win, win, -1)
    total = cells.new_zeros(like.shape)
    for top in range(0, win, block):
        for left in range(0, win, block):  # pieces of a block, or less at the far side: of these no two overlap
            tall, wide = min(block, win - top), min(block, win - left)
            piece = cells[:, :, :, top : top + tall, left : left + wide]
            piece = torch.nn.functional.pad(piece, (0, 0, 0, block - wide, 0, block - tall))
            piece = piece.permute(0, 1, 3, 2, 4, 5).reshape(len(like), down * block, across * block, -1)
            span = total[:, top : top + down * block, left : left + across * block]
            span += piece[:, : span.shape[1], : span.shape[2]]
    return total.to(like.dtype)


@operator(_fake, gradient=_gradient, results=True)
def attend(
    q: Tensor, k: Tensor, v: Tensor, of_rows: Tensor, of_columns: Tensor, sizes: list[int], scale: float, masked: bool
) -> tuple[Tensor, Tensor]:
    """Softmax attention of blocks of queries over their windows.

    Parameters
    ----------
    q : Tensor [C, M, D], float32, bfloat16 or float16
        M queries of each block; blocks count columns fastest, then rows, then maps.
    k, v : Tensor [N, tall, wide, D], [N, tall, wide, Dv]
        Maps with their border.
    of_rows, of_columns : Tensor [C, M, win], or both empty
        Added to the scores of the cells of each row and column of the window.
    sizes : list of int
        Blocks down and across, side of a block, halo, height and width of the map without border, side of a window.
    scale : float
        On q·kᵀ.
    masked : bool
        Leave the border out.

    The operator ``attn::kernels_halo_attend``; differentiable in the five tensors.

    Returns
    -------
    out : Tensor [C, M, Dv], dtype of ``q``
    lse : Tensor [C, M], float32
        In units of log 2, for the gradient.

    Raises
    ------
    ValueError
        If the tensors are none that ``refuses`` lets through.

    References
    ----------
    methods/halonet.md, sections 3.1 and 7; arXiv 2103.12731.
    """
    reason = refuses(q, v.shape[-1], sizes[-1])
    if reason is not None:
        raise ValueError(f"halo attention in Triton {reason}.")
    q, k, v, of_rows, of_columns = (x.contiguous() for x in (q, k, v, of_rows, of_columns))
    out, lse = q.new_empty(*q.shape[:-1], v.shape[-1]), q.new_empty(q.shape[:-1], dtype=torch.float32)
    if out.numel():
        launch = _launch("forward", q, v, sizes, masked, relative=of_rows.numel() > 0)
        grid = (len(q), triton.cdiv(q.shape[1], launch["rows"]))
        with torch.cuda.device_of(q):
            halo_forward_kernel[grid](
                q, k, v, of_rows, of_columns, out, lse, scale * LOG2E, q.shape[1], *sizes, **launch
            )
    return out, lse


def _fake_gradient(
    q: Tensor, k: Tensor, v: Tensor, of_rows: Tensor, of_columns: Tensor, grad: Tensor, lse: Tensor, delta: Tensor,
    sizes: list[int], scale: float, masked: bool,
) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor]:  # fmt: skip
    full, win = lse.new_empty, sizes[-1]
    of_k, of_v = (full(len(q), win, win, x.shape[-1]) for x in (k, v))
    return q.new_empty(q.shape), full(of_rows.shape), full(of_columns.shape), of_k, of_v


@operator(_fake_gradient)
def _attend_gradient(
    q: Tensor, k: Tensor, v: Tensor, of_rows: Tensor, of_columns: Tensor, grad: Tensor, lse: Tensor, delta: Tensor,
    sizes: list[int], scale: float, masked: bool,
) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor]:  # fmt: skip
    """Gradients of q and the position terms, and of the cells of each window [C, win, win, D or Dv], float32."""
    found = _fake_gradient(q, k, v, of_rows, of_columns, grad, lse, delta, sizes, scale, masked)
    if q.numel():
        tensors = [x.contiguous() for x in (q, k, v, of_rows, of_columns, grad, lse, delta)]
        relative = of_rows.numel() > 0
        launch = _launch("q", q, v, sizes, masked, relative=relative)
        tiles = triton.cdiv(q.shape[1], launch["rows"])
        with torch.cuda.device_of(q):
            halo_backward_q_kernel[(len(q), tiles)](*tensors, *found[:3], scale, q.shape[1], *sizes, **launch)
            launch = _launch("kv", q, v, sizes, masked, relative=relative)
            halo_backward_kv_kernel[(len(q), sizes[-1])](*tensors, *found[3:], scale, q.shape[1], *sizes, **launch)
    return found


def _launch(kernel: str, q: Tensor, v: Tensor, sizes: list[int], masked: bool, *, relative: bool) -> dict[str, Any]:
    cut = _cut(kernel, q.itemsize, q.shape[1], q.shape[-1], v.shape[-1], sizes[-1])
    return {**cut, "masked": masked, "relative": relative, "num_stages": 1}


def _cut(kernel: str, itemsize: int, queries: int, dim: int, value_dim: int, win: int) -> dict[str, Any]:
    """How a kernel is cut for heads of ``dim`` and ``value_dim`` channels: its sizes, and its warps."""
    rows, warps = TILES[kernel, itemsize, 64 if max(dim, value_dim) <= 64 else 128][""]
    return {
        "dim": dim, "value_dim": value_dim, "columns": columns_of(dim), "value_columns": columns_of(value_dim),
        "rows": min(rows, columns_of(queries)), "lanes": columns_of(win), "num_warps": warps,
    }  # fmt: skip


def _variants(kernel: str, tensors: str, floats: str) -> tuple[Variant, ...]:
    """Blocks of 8 x 8 with a halo of 3, heads narrow and wide; ``floats`` are float32 always."""
    found = []
    for dtype, dim, relative, masked in [
        ("bf16", 64, True, True), ("fp16", 128, False, False), ("fp32", 32, True, False),
        ("fp32", 128, True, False),
    ]:  # fmt: skip
        types = {f"{name}_ptr": f"*{dtype}:16" for name in ["q", "k", "v", "row", "column", *tensors.split()]}
        types |= (
            {f"{name}_ptr": "*fp32:16" for name in floats.split()} | {"scale": "fp32"} | dict.fromkeys(SIZES, "i32")
        )
        constants = _cut(kernel, 4 if dtype == "fp32" else 2, 64, dim, dim, 14)
        warps = constants.pop("num_warps")
        constants |= {"masked": masked, "relative": relative}
        label = f"{dtype}-d{dim}" + ("-relative" if relative else "") + ("-masked" if masked else "")
        found.append(Variant(label, types, constants, warps))
    return tuple(found)


KERNELS = (
    Kernel("halo_forward", halo_forward_kernel, _variants("forward", "out", "lse")),
    Kernel("halo_backward_q", halo_backward_q_kernel, _variants("q", "grad grad_q", "lse delta grad_row grad_column")),
    Kernel("halo_backward_kv", halo_backward_kv_kernel, _variants("kv", "grad", "lse delta grad_k grad_v")),
)
