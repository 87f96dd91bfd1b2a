"""Products of queries with their candidate key blocks: numba kernels for the CPU.

Keys lie in blocks, transposed, so that the product runs along tokens in vector registers, and the queries of a chunk
are grouped by block, so that each key block enters the cache once per chunk. Keys in bfloat16 are multiplied as such
where the processor can, with float32 sums: the products are those of float32 but for the order of their sums.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from numba import njit, types
from numba.extending import overload
from torch import Tensor

from ...cpu import cpu
from ...jit import kernel
from ..tile_cpu import items_of, multiplies_pairs, new_eight_by_32, new_eight_by_32_of_pairs, new_four_by_16

Floats = np.ndarray[Any, np.dtype[np.float32]]
Ints = np.ndarray[Any, np.dtype[np.int32]]
Longs = np.ndarray[Any, np.dtype[np.int64]]
_GROUP = 8  # queries whose products with a key block are computed together


@kernel("void(int32[:,::1],int32[::1],int64,int64,int64[::1],int32[::1],int64[::1])")
def _group(blocks: Ints, counts: Ints, heads: int, wide: int, starts: Longs, lines: Ints, places: Longs) -> None:
    """Sort the pairs of a query t and its candidate blocks[t, s] by block.

    Those of block b end before ``starts[b]`` [nb + 1], where those of block b + 1 begin. Of each pair and head,
    ``lines`` is the query's row t * heads + h, and ``places`` where its products go in x [rows * heads, S * wide].
    """
    starts[:] = 0
    for t in range(blocks.shape[0]):
        for s in range(counts[t]):
            starts[blocks[t, s] + 1] += 1
    for b in range(starts.size - 1):
        starts[b + 1] += starts[b]
    for t in range(blocks.shape[0]):
        for s in range(counts[t]):
            pair = starts[blocks[t, s]]
            starts[blocks[t, s]] = pair + 1
            for h in range(heads):
                line = t * heads + h
                lines[pair * heads + h] = line
                places[pair * heads + h] = (np.int64(line) * blocks.shape[1] + s) * wide


def _multiply(q: Any, a: Any, items: int, b: int, columns: int, c: Any) -> None:
    """Products of the queries at the addresses ``a`` with a tile of keys at ``b`` [items, columns], to those ``c``."""


@overload(_multiply, strict=False)
def _multiply_for(q: Any, a: Any, items: int, b: int, columns: int, c: Any) -> Any:
    if q.dtype == types.int32:
        return lambda q, a, items, b, columns, c: new_eight_by_32_of_pairs(a, 1, b, 32, 0, items, c, 0)

    def float32(q: Any, a: Any, items: int, b: int, columns: int, c: Any) -> None:
        if columns == 32:
            new_eight_by_32(a, 1, b, 32, 0, items, c, 0)
        else:
            new_four_by_16(a[:4], 1, b, 16, 0, items, c[:4], 0)
            new_four_by_16(a[4:], 1, b, 16, 0, items, c[4:], 0)

    return float32


@njit(error_model="numpy", inline="always")
def _addresses(base: int, numbers: Any, step: int, i: int, last: int) -> Any:
    """Of the items numbers[i], ..., numbers[i + 7], of ``step`` bytes each; behind the last one that one again."""
    return (
        base + numbers[i] * step, base + numbers[min(i + 1, last)] * step, base + numbers[min(i + 2, last)] * step,
        base + numbers[min(i + 3, last)] * step, base + numbers[min(i + 4, last)] * step,
        base + numbers[min(i + 5, last)] * step, base + numbers[min(i + 6, last)] * step,
        base + numbers[min(i + 7, last)] * step,
    )  # fmt: skip


def _score(q: Any, keys: Any, starts: Longs, lines: Ints, places: Longs, heads: int, x: Floats) -> None:
    """Products of all pairs, of the rows of q [m * heads, items] with keys [nb, parts, items, columns], into ``x``.

    Both hold float32, or two bfloat16 as one int32. The rest as in ``_group``.
    """
    num_blocks, parts, items, columns = keys.shape
    first = np.int64(0)
    for block in range(num_blocks):
        last = starts[block] * heads
        for part in range(parts):
            b = keys.ctypes.data + 4 * (block * parts + part) * items * columns
            c = x.ctypes.data + 4 * part * columns
            for i in range(first, last, _GROUP):
                a = _addresses(q.ctypes.data, lines, 4 * items, i, last - 1)
                _multiply(q, a, items, b, columns, _addresses(c, places, 4, i, last - 1))
        first = last


_REST = "int64[::1],int32[::1],int64[::1],int64,float32[:,:,::1])"
_score_float32 = kernel("void(float32[:,::1],float32[:,:,:,::1]," + _REST)(_score)
_score_pairs = kernel("void(int32[:,::1],int32[:,:,:,::1]," + _REST)(_score)


class KeyBlocks:
    """Keys [T, d] laid out for the kernels: [ceil(T / B), parts, items, columns], zeros behind the end.

    An item is a float32, or two bfloat16 in an int32 where ``multiplies_pairs``.
    """

    def __init__(self, k: Tensor, block_size: int) -> None:
        k = k.detach()
        self.size, self.pairs = block_size, k.dtype == torch.bfloat16 and multiplies_pairs()
        columns = 32 if cpu().avx512 else 16  # two vectors of eight rows fill the registers of AVX-512
        num_blocks, parts = -(-k.shape[0] // block_size), -(-block_size // columns)
        items = self.items(k)
        blocks = items.new_zeros(num_blocks, parts * columns, items.shape[1])
        whole = k.shape[0] // block_size
        blocks[:whole, :block_size] = items[: whole * block_size].view(whole, block_size, items.shape[1])
        if whole < num_blocks:
            blocks[whole, : k.shape[0] - whole * block_size] = items[whole * block_size :]
        tiles = blocks.view(num_blocks, parts, columns, items.shape[1]).transpose(2, 3)
        self.blocks, self.length = tiles.contiguous().numpy(), k.shape[0]
        self._room = self.blocks

    def append(self, k: Tensor) -> None:
        """Add keys [n, d] at the end, few of them; n appended keys cost O(n)."""
        num_blocks = -(-(self.length + k.shape[0]) // self.size)
        if num_blocks > len(self._room):
            room = np.zeros((2 * num_blocks, *self.blocks.shape[1:]), self.blocks.dtype)
            room[: len(self.blocks)] = self.blocks
            self._room = room
        self.blocks = self._room[:num_blocks]
        for item in self.items(k).numpy():
            block, inside = divmod(self.length, self.size)
            part, column = divmod(inside, self.blocks.shape[3])
            self.blocks[block, part, :, column] = item
            self.length += 1

    def items(self, x: Tensor) -> Tensor:
        """Queries or keys [..., d] as the kernels want them, contiguous."""
        return items_of(x, pairs=self.pairs)


class BlockProducts:
    """One thread's memory for the products of a chunk of queries with their candidate blocks.

    Parameters
    ----------
    keys : KeyBlocks
    rows, heads, width : int
        Queries, heads and candidate blocks of a query, at most.

    Attributes
    ----------
    starts, lines
        Of the last chunk, its queries by block: see ``_group``.
    """

    def __init__(self, keys: KeyBlocks, *, rows: int, heads: int, width: int) -> None:
        num_blocks, parts, _, columns = keys.blocks.shape
        lines = rows * heads
        self.keys, self.heads, self.wide = keys, heads, parts * columns
        self.x = np.empty(lines * width * self.wide + 16, np.float32)
        self.starts = np.empty(num_blocks + 1, np.int64)
        self.lines, self.places = np.empty(lines * width, np.int32), np.empty(lines * width, np.int64)

    def compute(self, q: Tensor, blocks: Ints, counts: Ints) -> Floats:
        """float32 [m * H, S, B'] of q [m, H, d] with the keys of blocks[t, : counts[t]]; B' >= B, the rest is nothing.

        ``blocks`` int32 [m, S] ascend. The result is memory of this object's.
        """
        queries = self.keys.items(q).flatten(0, 1).numpy()
        x = self.x[: len(queries) * blocks.shape[1] * self.wide].reshape(len(queries), blocks.shape[1], self.wide)
        _group()(blocks, counts, self.heads, self.wide, self.starts, self.lines, self.places)
        score = _score_pairs if self.keys.pairs else _score_float32
        score()(queries, self.keys.blocks, self.starts, self.lines, self.places, self.heads, x)
        return x
