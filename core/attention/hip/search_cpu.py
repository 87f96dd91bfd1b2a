"""HiP's tree search on the CPU: a numba kernel over query blocks. Same result as ``search``, float32.

A child whose representative is its parent's keeps the parent's score: with ``representative="first"`` that is every
left child, half of the work. Scores are ranked as integers of the same order, which vectorise without flags for NaN.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from numba import njit, types
from numba.extending import overload
from torch import Tensor

from ...jit import kernel
from ...threads import kernels_own_the_threads, run
from ..tile_cpu import (
    LANES,
    eight_by_16,
    eight_by_16_of_pairs,
    four_by_16_in_order,
    has_wide_registers,
    highest,
    items_of,
    multiplies_pairs,
    prefetch,
)
from .selection import bands
from .settings import Layout

Array = np.ndarray[Any, Any]
_REPRESENTATIVES = ("first", "center", "random")
_LOWEST = np.int32(-(2**31))
_PIECE = 64  # items of a vector: four cache lines


@njit(inline="always")
def _pick(kind: int, start: int, size: int, step: int, block: int, seed: int) -> int:
    """``settings.pick`` for one node."""
    if kind == 0:
        return start
    if kind == 1:
        return start + (size >> 1)
    x = (start * 0x9E3779B1 + block * 0x85EBCA6B + step * 0xC2B2AE35 + seed) & 0xFFFFFFFF
    x = ((x ^ (x >> 16)) * 0x7FEB352D) & 0xFFFFFFFF
    x = ((x ^ (x >> 15)) * 0x2C1B3C6D) & 0xFFFFFFFF
    return start + (x ^ (x >> 16)) % size


def _multiply(table: Any, a: Any, b: int, rows: int, items: int, c: int) -> None:
    """Add the products of the eight vectors at ``a`` with 16 of ``rows`` queries at ``b`` to those at ``c``."""


@overload(_multiply, strict=False)
def _multiply_for(table: Any, a: Any, b: int, rows: int, items: int, c: int) -> Any:
    if table.dtype == types.int32:
        return lambda table, a, b, rows, items, c: eight_by_16_of_pairs(a, 1, b, rows, 0, items, c, LANES)
    if has_wide_registers():
        return lambda table, a, b, rows, items, c: eight_by_16(a, 1, b, rows, 0, items, c, LANES)

    def by_halves(table: Any, a: Any, b: int, rows: int, items: int, c: int) -> None:
        four_by_16_in_order(a[:4], 1, b, rows, 0, items, c, LANES)
        four_by_16_in_order(a[4:], 1, b, rows, 0, items, c + 16 * LANES, LANES)

    return by_halves


@njit(error_model="numpy")
def _score(table: Array, queries: Array, vectors: Array, count: int, products: Array, best: Array) -> None:
    """best[i] = rank of max over rows of table[vectors[i]] . queries[:, row], for i < count; ``queries`` [items, R]."""
    dim, rows = queries.shape
    a, pitch = table.ctypes.data, 4 * dim
    for i in range(count, (count + 7) // 8 * 8):
        vectors[i] = vectors[count - 1]
    for i in range(0, count, 8):
        for j in range(8):
            best[i + j] = _LOWEST
        for row in range(0, rows, LANES):
            products[:] = 0
            for d in range(0, dim, _PIECE):
                # the next vectors come while these are multiplied: asked for all at once they would block the way
                for j in range(i + 8, min(i + 16, count)):
                    for item in range(d, min(d + _PIECE, dim), 16):
                        prefetch(a + vectors[j] * pitch + 4 * item)
                e = a + 4 * d
                addresses = (
                    e + vectors[i] * pitch, e + vectors[i + 1] * pitch, e + vectors[i + 2] * pitch,
                    e + vectors[i + 3] * pitch, e + vectors[i + 4] * pitch, e + vectors[i + 5] * pitch,
                    e + vectors[i + 6] * pitch, e + vectors[i + 7] * pitch,
                )  # fmt: skip
                b, piece = queries.ctypes.data + 4 * (d * rows + row), min(_PIECE, dim - d)
                _multiply(table, addresses, b, rows, piece, products.ctypes.data)
            for j in range(8):
                best[i + j] = max(best[i + j], highest(products.ctypes.data + 4 * LANES * j))


@njit(error_model="numpy")
def _threshold(ranks: Array, count: int, keep: int) -> np.int64:
    """The ``keep``-th largest of the first ``count`` ranks, by bisection: its loops have no branches to mispredict."""
    low, high = np.int64(ranks[0]), np.int64(ranks[0])
    for i in range(count):
        low, high = min(low, np.int64(ranks[i])), max(high, np.int64(ranks[i]))
    while low < high:
        middle = (low + high + 1) >> 1
        limit, above = np.int32(middle), np.int32(0)
        for i in range(count):
            above += np.int32(ranks[i] >= limit)
        if above >= keep:
            low = middle
        else:
            high = middle - 1
    return low


def _search(
    table: Array, q: Array, rows: Array, units: Array, last: Array, skipped: int, num_nodes: int, per_unit: int,
    kind: int, seed: int, starts: Array, searched: Array, begin: int, stop: int,
) -> None:  # fmt: skip
    """Blocks begin..stop-1 of ``starts`` [nB, K] and, in vectors times rows, of ``searched`` [nB].

    ``table`` [T, items] are the vectors, ``q`` [L, items] the queries (``tile_cpu.items_of``) and ``rows`` [nB, R]
    those of each block; ``units``, ``last`` [nB] are the units to choose from and the last vector that may be looked
    at.
    """
    dim, count = table.shape[1], rows.shape[1]
    padded = (count + LANES - 1) // LANES * LANES
    queries = np.empty((dim, padded), table.dtype)
    products = np.empty((8, LANES), np.float32)
    start, size, unit, rank = (
        np.empty(2 * num_nodes, np.int32), np.empty(2 * num_nodes, np.int32),
        np.empty(2 * num_nodes, np.int32), np.empty(2 * num_nodes, np.int32),
    )  # fmt: skip
    new_start, new_size, new_unit, new_rank = (
        np.empty(2 * num_nodes, np.int32), np.empty(2 * num_nodes, np.int32),
        np.empty(2 * num_nodes, np.int32), np.empty(2 * num_nodes, np.int32),
    )  # fmt: skip
    waiting = np.empty(2 * num_nodes, np.int32)  # nodes whose representative is to be scored
    vectors, best = np.empty(2 * num_nodes * per_unit + 8, np.int32), np.empty(2 * num_nodes * per_unit + 8, np.int32)
    for block in range(begin, stop):
        for r in range(padded):
            source = q[rows[block, min(r, count - 1)]]
            for d in range(dim):
                queries[d, r] = source[d]
        total = units[block]
        for i in range(num_nodes):
            start[i] = total * i // num_nodes
            size[i] = total * (i + 1) // num_nodes - start[i]
            unit[i] = -1
        most, step, computed = -(-total // num_nodes), 0, 0
        while most > 1:
            nodes, todo = 0, 0
            for i in range(num_nodes):
                half = size[i] >> 1
                for side in range(1 if half == 0 else 0, 2):  # a node of one unit has no left child
                    new_start[nodes] = start[i] + side * half
                    new_size[nodes] = size[i] - half if side else half
                    new_unit[nodes] = _pick(kind, new_start[nodes], new_size[nodes], step, block + skipped, seed)
                    new_rank[nodes] = rank[i]
                    if new_unit[nodes] != unit[i]:
                        for j in range(per_unit):
                            vectors[todo * per_unit + j] = min(new_unit[nodes] * per_unit + j, last[block])
                        waiting[todo] = nodes
                        todo += 1
                    nodes += 1
            if todo:
                _score(table, queries, vectors, todo * per_unit, products, best)
            for i in range(todo):
                top = best[i * per_unit]
                for j in range(1, per_unit):
                    top = max(top, best[i * per_unit + j])
                new_rank[waiting[i]] = top
            computed += todo * per_unit * count
            limit = _threshold(new_rank, nodes, num_nodes)
            equal = num_nodes  # places for nodes at the limit
            for i in range(nodes):
                equal -= new_rank[i] > limit
            kept = 0
            for i in range(nodes):  # in order, so that the nodes stay ascending
                start[kept], size[kept], unit[kept], rank[kept] = new_start[i], new_size[i], new_unit[i], new_rank[i]
                at_limit = new_rank[i] == limit and equal > 0
                equal -= at_limit
                kept += at_limit or new_rank[i] > limit
            most, step = (most + 1) >> 1, step + 1
        for i in range(num_nodes):
            starts[block, i] = start[i]
        searched[block] = computed


_REST = "int64[:,::1],int64[::1],int64[::1],int64,int64,int64,int64,int64,int32[:,::1],int64[::1],int64,int64)"
_search_float32 = kernel("void(float32[:,::1],float32[:,::1]," + _REST)(_search)
_search_pairs = kernel("void(int32[:,::1],int32[:,::1]," + _REST)(_search)


def search(queries: Tensor, rows: Tensor, table: Tensor, layout: Layout) -> tuple[Tensor, int]:
    """As ``search.search``, with products added in float32."""
    settings, skipped = layout.settings, layout.num_simple
    batch, heads = queries.shape[:2]
    units = layout.units[skipped:]
    last = layout.end[skipped:] // settings.block_size_k_group
    last = last * (settings.per_unit // settings.block_size_k) - 1
    starts = torch.empty(batch, heads, len(units), settings.num_nodes, dtype=torch.int32)
    searched = torch.zeros(batch, heads, len(units), dtype=torch.int64)
    pairs = queries.dtype == torch.bfloat16 and multiplies_pairs()
    vectors, compiled = items_of(table, pairs=pairs), _search_pairs() if pairs else _search_float32()
    queries, group = items_of(queries, pairs=pairs), heads // table.shape[1]
    kind = _REPRESENTATIVES.index(settings.representative)
    plan = (*(x.numpy() for x in (rows, units, last)), skipped, settings.num_nodes, settings.per_unit, kind)
    with kernels_own_the_threads():
        run(
            compiled,
            [
                (vectors[b, h // group].numpy(), queries[b, h].numpy(), *plan, settings.seed, starts[b, h].numpy(),
                 searched[b, h].numpy(), *band)
                for b in range(batch) for h in range(heads) for band in bands(len(units))
            ],
        )  # fmt: skip
    return starts, int(searched.sum())
