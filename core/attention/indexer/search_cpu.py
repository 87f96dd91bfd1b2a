"""Index scores of chosen key blocks and the best tokens among them: numba kernels for the CPU.

Keys lie in blocks, transposed, so that the product runs along tokens in vector registers, and the queries of a chunk
are grouped by block, so that each key block enters the cache once per chunk. The flat search is the same with every
visible block as a candidate. Keys in bfloat16 are multiplied as such where the processor can, with float32 sums: the
scores are those of float32 products, but for the order in which they are added.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable
from typing import Any

import numpy as np
import torch
from numba import njit, types
from numba.extending import overload
from torch import Tensor

from ...cpu import cpu
from ...jit import FASTMATH, kernel
from ...threads import kernels_own_the_threads, run, thread_count
from ..tile_cpu import multiplies_pairs, new_eight_by_32, new_eight_by_32_of_pairs, new_four_by_16
from ..tokens.emit_cpu import emit, emit_ties
from ..tokens.top_k_cpu import LARGEST, ranked, threshold

Floats = np.ndarray[Any, np.dtype[np.float32]]
Ints = np.ndarray[Any, np.dtype[np.int32]]
Longs = np.ndarray[Any, np.dtype[np.int64]]
_ZERO, _INF = np.float32(0), np.float32(np.inf)
_GROUP = 8  # queries whose products with a key block are computed together
LARGEST_BLOCK = 512
_SCORES = 1 << 23  # of a chunk of queries, per thread: 32 MB
_ROWS = 256  # queries of a chunk at most


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


_REST = "int64[::1],int32[::1],int64[::1],int64,float32[:,::1])"
_score_float32 = kernel("void(float32[:,::1],float32[:,:,:,::1]," + _REST)(_score)
_score_pairs = kernel("void(int32[:,::1],int32[:,:,:,::1]," + _REST)(_score)


@njit(fastmath=FASTMATH, error_model="numpy")
def _index_scores(x: Floats, weights: Floats, target: Floats) -> None:
    """target[j] = sum over h of weights[h] max(x[h, j], 0), of which NaN stays NaN."""
    for h in range(weights.size):
        dot, weight = x[h, : target.size], weights[h]
        if h == 0:
            for j in range(target.size):
                target[j] = weight * (_ZERO if dot[j] <= _ZERO else dot[j])
        else:
            for j in range(target.size):
                target[j] += weight * (_ZERO if dot[j] <= _ZERO else dot[j])


@njit(fastmath=FASTMATH, error_model="numpy")
def _cut(scores: Floats, top_k: int, guess: Any, force: bool) -> tuple[Any, Any, Any]:
    """``threshold`` of visible scores, made fit for it in place; (-inf, inf, 0), all, where there are few enough.

    ``force``: the first and the last are chosen whatever their scores.
    """
    ranked(scores, LARGEST if force else _INF)  # below what is forced
    if scores.size <= top_k:
        return -_INF, _INF, 0
    if force:
        scores[0] = _INF
        scores[scores.size - 1] = _INF
    return threshold(scores, top_k, guess)


@kernel(
    "void(float32[:,:,::1],int32[:,::1],int32[::1],float32[:,::1],int64[::1],int64[::1],int64[::1],int64,boolean,"
    "float32[::1],int32[::1],float32[:,::1],int32[:,::1],int32[:,::1],float32[:,:,::1])"
)
def _select(
    x: Floats, blocks: Ints, counts: Ints, weights: Floats, ks: Longs, ke: Longs, origin: Longs, size: int, force: bool,
    row: Floats, numbers: Ints, products: Floats, out: Ints, ends: Ints, values: Floats,
) -> None:  # fmt: skip
    """The best tokens in [ks, ke) of each query's blocks, ascending, -1 at the end, into ``out`` [m, K].

    ``x`` [m * heads, S, wide]. A query's blocks ascend and hold ks and ke - 1, so its visible scores are one piece.
    ``force``: the first and the last visible one are chosen whatever their scores. ``origin`` [m] is subtracted.
    ``row`` and ``numbers`` [S * size + 16] are scratch, and so are ``products`` [H, S * size + 16]: none, or one for
    each head. Then ``values`` [m, H, K] are the products of the chosen. ``ends`` [m, S]: how many tokens of a list
    stand in its blocks up to this one.
    """
    guess = _ZERO
    heads, top_k = weights.shape[1], out.shape[1]
    slots, wide = x.shape[1], x.shape[2]
    products_of = x.reshape(x.size)
    into = products.reshape(products.size)
    room = products.shape[1]
    for t in range(out.shape[0]):
        n: Any = np.int64(0)
        if counts[t] > 0:
            start = ks[t] - np.int64(blocks[t, 0]) * size
            stop = (counts[t] - 1) * size + ke[t] - np.int64(blocks[t, counts[t] - 1]) * size
            # of one head, products that are positive are in the order of their scores, and need no copy
            origin_of_scores, scores, lo = t * slots * wide, products_of, _ZERO
            if heads == 1 and wide == size and weights[t, 0] > _ZERO:
                hi, lo, ties = _cut(scores[origin_of_scores + start : origin_of_scores + stop], top_k, guess, force)
            if not lo > _ZERO:
                origin_of_scores, scores = 0, row
                for s in range(counts[t]):
                    _index_scores(x[t * heads : (t + 1) * heads, s], weights[t], row[s * size : (s + 1) * size])
                hi, lo, ties = _cut(scores[start:stop], top_k, guess, force)
            guess = hi
            for s in range(counts[t]):
                base = np.int64(blocks[t, s]) * size - origin[t]
                a, b = max(start, s * size), min(stop, (s + 1) * size)
                inside = a - s * size
                end, left = n, ties
                for h in range(max(1, products.shape[0])):
                    source = ((t * heads + h) * slots + s) * wide + inside
                    a0, b0 = origin_of_scores + a, origin_of_scores + b
                    if ties > 0:
                        end, left = emit_ties(
                            scores, a0, b0, hi, lo, ties, base + inside, numbers, n, products_of, source, into, h * room
                        )  # fmt: skip
                    else:
                        end = emit(
                            scores, a0, b0, hi, base + inside, numbers, n, products_of, source, into, h * room
                        )  # fmt: skip
                n, ties = end, left
                ends[t, s] = n
        chosen = out[t]
        chosen[:n] = numbers[:n]
        chosen[n:] = -1
        for h in range(products.shape[0]):
            values[t, h, :n] = products[h, :n]


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
        self.blocks = tiles.contiguous().numpy()

    def items(self, x: Tensor) -> Tensor:
        """Queries or keys [..., d] as the kernels want them, contiguous."""
        if not self.pairs:
            return x.detach().float().contiguous()
        return torch.nn.functional.pad(x.detach(), (0, x.shape[-1] % 2)).contiguous().view(torch.int32)


class BestTokens:
    """The best tokens of each query's window, in all blocks or in given ones: one thread's memory for a chunk of them.

    Parameters
    ----------
    keys : KeyBlocks
    rows, heads : int
        Of a chunk, at most.
    width : int
        Candidate blocks of a query, at most.
    force : bool
        Choose the first and the last token of a window whatever their scores.

    Attributes
    ----------
    blocks, ends : int32 [m, S]
        Of the last chunk: each query's candidates, and how many tokens of its list stand in the blocks up to each.
    starts, lines : int64 [nb + 1], int32 [pairs * heads]
        Its queries by block: see ``_group``.
    """

    def __init__(
        self, keys: KeyBlocks, *, rows: int, heads: int, width: int | None = None, force: bool = False
    ) -> None:
        self.keys, self.heads, self.force = keys, heads, force
        num_blocks, parts, _, columns = keys.blocks.shape
        self.width = num_blocks if width is None else width
        pairs = rows * self.width
        self.x = np.empty(rows * heads * self.width * parts * columns + 16, np.float32)
        self.starts = np.empty(num_blocks + 1, np.int64)
        self.lines, self.places = np.empty(pairs * heads, np.int32), np.empty(pairs * heads, np.int64)
        self.all_ends = np.empty((rows, self.width), np.int32)
        slots = self.width * keys.size + 16
        self.row, self.numbers = torch.empty(slots).numpy(), np.empty(slots, np.int32)
        self.products = np.empty((heads, slots), np.float32)

    def find(
        self, q: Tensor, weights: Tensor, ks: Tensor, ke: Tensor, out: Ints, *, blocks: Ints | None = None,
        relative: bool = True, values: Floats | None = None,
    ) -> None:  # fmt: skip
        """Fill ``out`` int32 [m, K] with the best tokens of each query, ascending, -1 at the end.

        Parameters
        ----------
        q, weights : Tensor [m, H, d], [m, H]
        ks, ke : Tensor int64 [m]
        blocks : int32 [m, S], optional
            Candidates, ascending, -1 at the end; those of ks and of ke - 1 are among them.
        relative : bool
            Count tokens from ``ks``.
        values : float32 [m, H, K], optional
            Filled with the products q . k of the chosen tokens.
        """
        first, last, rows = ks.numpy(), ke.numpy(), q.shape[0]
        self.blocks = _visible_blocks(first, last, self.keys.size, self.width) if blocks is None else blocks
        counts = (self.blocks >= 0).sum(1, dtype=np.int32)
        self.ends = self.all_ends[:rows]
        # candidates may be fewer than there is room for, so that a query's products are one piece
        wide = self.keys.blocks.shape[1] * self.keys.blocks.shape[3]
        lines, slots = rows * self.heads, self.blocks.shape[1]
        x = self.x[: lines * slots * wide].reshape(lines, slots, wide)
        _group()(self.blocks, counts, self.heads, wide, self.starts, self.lines, self.places)
        score = _score_pairs if self.keys.pairs else _score_float32
        queries = self.keys.items(q).flatten(0, 1).numpy()
        score()(
            queries, self.keys.blocks, self.starts, self.lines, self.places, self.heads, x.reshape(lines, slots * wide)
        )  # fmt: skip
        _select()(
            x, self.blocks, counts, weights.detach().float().contiguous().numpy(), first, last,
            first if relative else np.zeros_like(first), self.keys.size, self.force, self.row, self.numbers,
            self.products[: 0 if values is None else self.heads], out, self.ends,
            np.empty((0, 1, 1), np.float32) if values is None else values,
        )  # fmt: skip


def _visible_blocks(ks: Longs, ke: Longs, size: int, width: int) -> Ints:
    """All blocks of each window, ascending, -1 at the end: int32 [m, width]."""
    block = ks[:, None] // size + np.arange(width)
    return np.where((block * size < ke[:, None]) & (ke > ks)[:, None], block, -1).astype(np.int32)


def chunk_rows(scores: int) -> int:
    """Queries of a chunk that have ``scores`` scores each."""
    return max(1, min(_ROWS, _SCORES // max(1, scores)))


def in_chunks(work: Tensor, rows: int, make: Callable[[], Callable[[slice], None]]) -> None:
    """Call ``make()(slice)`` for chunks of at most ``rows`` queries, one ``make()`` for each thread.

    ``work`` [M]: that of each query, by which they are shared out. What is found does not depend on the chunks.
    """

    def band(start: int, stop: int) -> None:
        torch.set_num_threads(1)  # counts per thread; undone for the caller by kernels_own_the_threads
        with torch.no_grad():  # also counts per thread
            chunk = make()
            for first in range(start, stop, rows):
                chunk(slice(first, min(first + rows, stop)))

    with kernels_own_the_threads():
        run(band, _bands(work))


def _bands(work: Tensor) -> list[tuple[int, int]]:
    """Split the queries into one piece per thread, of equal work."""
    total = work.cumsum(0)
    pieces = min(thread_count(), work.shape[0])
    goals = total[-1:] * torch.arange(1, pieces) // max(1, pieces)
    edges = [0, *torch.searchsorted(total, goals).tolist(), work.shape[0]]
    return [(start, stop) for start, stop in itertools.pairwise(edges) if start < stop]
