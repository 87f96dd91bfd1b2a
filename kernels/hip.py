"""HiP's attention in Triton, forward: sink, chosen units and window of a query block in one pass over its keys.

Paper: arXiv 2406.09827. Specification: methods/hip.md, sections 3.3 and 7. What a block attends to is one list: the
sink's keys, those of its units, those of its window. A step takes the next keys of that list, wherever they lie, so
that small units fill its tile; a unit's key that sink or window holds too is passed over there.
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

MAX_WIDTH = {2: 256, 4: 64}
"""Channels of a head at most, by the bytes of an element: wider ones of four bytes spill on some chip, however cut."""
TILES: dict[tuple[str, int, int], dict[str, tuple[int, int, int]]] = {
    ("attend", 2, 64): {"": (64, 64, 4)},
    ("attend", 2, 128): {"": (64, 32, 8)},
    ("attend", 2, 256): {"": (32, 32, 8)},
    ("attend", 4, 64): {"": (32, 16, 8)},
}
"""Queries and keys of a step and warps, on every chip, by kernel, bytes of an element and columns: such as spill
nothing on any chip tried. Predicted by the compiler alone: none was timed.
"""
SIZES = [
    "len_q",
    "len_k",
    "group",
    "list_group",
    "width_of_lists",
    "sink",
    "window",
    "span",
    "block_m",
    "dense",
    "tiles",
]


@triton.jit(do_not_specialize=SIZES)
def hip_attend_kernel(
    q_ptr,  # [B, Hq, Lq, D]
    k_ptr,  # [B, Hkv, Lk, D]
    v_ptr,  # [B, Hkv, Lk, Dv]
    start_ptr,  # [B, Hq / list_group, blocks, width_of_lists] int32: first key of each unit, ascending
    count_ptr,  # [blocks] int64: how many of them are meant
    out_ptr,  # [B, Hq, Lq, Dv]
    scale,  # times log2(e)
    len_q, len_k,
    group,  # query heads of a key head
    list_group,  # query heads of a list
    width_of_lists,
    sink, window, span,
    block_m,
    dense,  # leading blocks that see all keys up to their end
    tiles,  # of queries, in a block
    width: tl.constexpr, value_width: tl.constexpr, columns: tl.constexpr, value_columns: tl.constexpr,
    rows: tl.constexpr, keys: tl.constexpr,
):  # fmt: skip
    tile = tl.num_programs(0) - 1 - tl.program_id(0)  # later blocks see more
    head = tl.program_id(1)
    block = tile // tiles
    row = block * block_m + tile % tiles * rows + tl.arange(0, rows)
    real = row < tl.minimum((block + 1) * block_m, len_q)
    position = row + (len_k - len_q)
    end = tl.minimum((block + 1) * block_m + (len_k - len_q), len_k)
    q_ptr += head.to(tl.int64) * len_q * width
    k_ptr += (head // group).to(tl.int64) * len_k * width
    v_ptr += (head // group).to(tl.int64) * len_k * value_width
    start_ptr += ((head // list_group).to(tl.int64) * tl.cdiv(len_q, block_m) + block) * width_of_lists
    chosen = tl.load(count_ptr + block).to(tl.int32) * span
    lowest = tl.maximum(end - window, 0)  # the window's first key
    first = tl.minimum(sink, end)  # keys of the sink
    if block < dense:
        first = end
        chosen = 0
        lowest = end
    after = tl.maximum(lowest, first)  # of the window what the sink does not hold
    query = load_rows(q_ptr, row, real, width, columns)  # [rows, columns]
    high = tl.full([rows], float("-inf"), tl.float32)
    total = tl.zeros([rows], tl.float32)
    mean = tl.zeros([rows, value_columns], tl.float32)
    for at in range(0, first + chosen + (end - after), keys):
        slot = at + tl.arange(0, keys)
        unit = slot - first
        of_unit = (unit >= 0) & (unit < chosen)
        start = tl.load(start_ptr + unit // span, mask=of_unit, other=0)
        key = tl.where(unit < 0, slot, tl.where(of_unit, start + unit % span, after + unit - chosen))
        listed = (~of_unit & (key < end)) | (of_unit & (key >= first) & (key < lowest))
        k = load_rows(k_ptr, key, listed, width, columns)  # [keys, columns]
        scores = tl.dot(query, tl.trans(k), input_precision="ieee") * scale
        scores = tl.where(listed[None, :] & (key[None, :] <= position[:, None]), scores, float("-inf"))
        weights, fade, high, total = online_softmax(scores, high, total)
        v = load_rows(v_ptr, key, listed, value_width, value_columns)
        mean = tl.dot(weights.to(v.dtype), v, mean * fade[:, None], input_precision="ieee")
    store_rows(out_ptr + head.to(tl.int64) * len_q * value_width, row, real, mean / total[:, None], value_width,
               value_columns)  # fmt: skip


def refuses(q: Tensor, v: Tensor) -> str | None:
    """Why the kernel does not take queries and values, as a clause about them; None: it does."""
    if q.dtype not in (torch.float32, torch.bfloat16, torch.float16):
        return f"takes float32, bfloat16 and float16, not {q.dtype}"
    widest, most = max(q.shape[3], v.shape[3]), MAX_WIDTH[q.itemsize]
    if widest > most:
        return f"takes heads of up to {most} channels in {q.dtype}, not {widest}"
    return refuses_cpu(q, hip_attend_kernel)


def _fake(
    q: Tensor, k: Tensor, v: Tensor, starts: Tensor, count: Tensor, scale: float, sink: int, window: int, span: int,
    block_m: int, dense: int,
) -> Tensor:  # fmt: skip
    return q.new_empty(*q.shape[:3], v.shape[3])


@operator(_fake)
def attend(
    q: Tensor, k: Tensor, v: Tensor, starts: Tensor, count: Tensor, scale: float, sink: int, window: int, span: int,
    block_m: int, dense: int,
) -> Tensor:  # fmt: skip
    """Causal attention of each query block over the sink, its units and its window. Without gradients.

    Parameters
    ----------
    q, k, v : Tensor [B, Hq, Lq, D], [B, Hkv, Lk, D], [B, Hkv, Lk, Dv]
        float32, bfloat16 or float16; the queries are the last of the keys' positions.
    starts : Tensor int32 [B, H, blocks, width]
        First key of each unit of ``span`` keys, ascending; H divides Hq.
    count : Tensor int64 [blocks]
        How many of a block's units are meant.
    scale : float
        On q·kᵀ.
    sink, window, block_m : int
        Keys at the beginning and before a block's end that it sees in any case; ``window`` is ``block_m`` at least, so
        that every query sees itself.
    dense : int
        Leading blocks that see every key.

    The operator ``attn::kernels_hip_attend``.

    Returns
    -------
    Tensor [B, Hq, Lq, Dv], dtype of ``q``

    Raises
    ------
    ValueError
        If the tensors are none that ``refuses`` lets through, or the window is shorter than a block.

    References
    ----------
    methods/hip.md, sections 3.3 and 7; arXiv 2406.09827.
    """
    reason = refuses(q, v) or (
        f"takes windows of a block ({block_m}) at least, not {window}" if window < block_m else None
    )
    if reason is not None:
        raise ValueError(f"hip in Triton {reason}.")
    q, k, v, starts = q.contiguous(), k.contiguous(), v.contiguous(), starts.to(torch.int32).contiguous()
    batch, heads, len_q, _ = q.shape
    out = q.new_empty(*q.shape[:3], v.shape[3])
    if not out.numel():
        return out
    constants, warps = _cut(q.itemsize, block_m, q.shape[3], v.shape[3])
    tiles = triton.cdiv(block_m, constants["rows"])
    with torch.cuda.device_of(q):
        hip_attend_kernel[(triton.cdiv(len_q, block_m) * tiles, batch * heads)](
            q, k, v, starts, count.to(q.device).contiguous(), out, scale * LOG2E, len_q, k.shape[2],
            heads // k.shape[1], heads // starts.shape[1], starts.shape[3], sink, window, span, block_m, dense, tiles,
            **constants, num_warps=warps, num_stages=1,
        )  # fmt: skip
    return out


def _cut(itemsize: int, block_m: int, width: int, value_width: int) -> tuple[dict[str, int], int]:
    """The kernel's sizes for heads of so many channels, and its warps."""
    columns, value_columns = columns_of(width), columns_of(value_width)
    rows, keys, warps = TILES["attend", itemsize, max(64, columns, value_columns)][""]
    return {
        "width": width, "value_width": value_width, "columns": columns, "value_columns": value_columns,
        "rows": min(rows, columns_of(block_m)), "keys": keys,
    }, warps  # fmt: skip


def _variants() -> tuple[Variant, ...]:
    """Blocks of 64 queries, and decode (16 rows of which one is real)."""
    found = []
    for dtype, width, block_m in [("bf16", 64, 64), ("bf16", 128, 64), ("bf16", 128, 1), ("fp16", 256, 64),
                                  ("fp32", 64, 64)]:  # fmt: skip
        types: dict[str, Any] = {f"{name}_ptr": f"*{dtype}:16" for name in ("q", "k", "v", "out")}
        types |= {"start_ptr": "*i32:16", "count_ptr": "*i64:16", "scale": "fp32"} | dict.fromkeys(SIZES, "i32")
        constants, warps = _cut(4 if dtype == "fp32" else 2, block_m, width, width)
        found.append(Variant(f"{dtype}-d{width}" + ("-decode" if block_m == 1 else ""), types, constants, warps))
    return tuple(found)


KERNELS = (Kernel("hip_attend", hip_attend_kernel, _variants()),)
