"""Rectified SpaAttn, section 3.1: the order of video tokens, and which blocks of that order touch each other."""

from __future__ import annotations

import functools
import itertools

import numpy as np
import torch
from torch import Tensor

from .gilbert import gilbert_order

Video = tuple[int, int, int]


def token_order(order: str, video: Video) -> Tensor:
    """Row-major numbers of the tokens of a (t, h, w) grid, in ``order``: int64 [t * h * w].

    ``gilbert``: along a generalised Hilbert curve; ``raster``: as they are; ``tile:4x4x8``: box by box [ours].
    """
    if order == "gilbert":
        return gilbert_order(*video)
    if order == "raster":
        return torch.arange(video[0] * video[1] * video[2])
    kind, _, numbers = order.partition(":")
    sides = [int(n) for n in numbers.split("x") if n.isdecimal()]
    if kind != "tile" or len(sides) != 3 or min(sides) < 1:
        raise ValueError(f"order is gilbert, raster or tile:4x4x8 (frames x rows x columns), not {order!r}.")
    place = np.indices(video).reshape(3, -1)
    box, inside = zip(*(np.divmod(p, s) for p, s in zip(place, sides, strict=True)), strict=True)
    return torch.from_numpy(np.lexsort((*inside[::-1], *box[::-1])))


@functools.lru_cache(maxsize=8)
@torch.inference_mode(False)  # what is kept must serve every mode
def neighbour_blocks(order: str, video: Video, block_size: int) -> Tensor:
    """bool [num_blocks, num_blocks]: blocks with tokens that touch, diagonally too; a block touches itself."""
    tokens = token_order(order, video).numpy()
    block = np.empty(len(tokens), dtype=np.int64)
    block[tokens] = np.arange(len(tokens)) // block_size
    grid = block.reshape(video)
    count = -(-len(tokens) // block_size)
    touch = np.eye(count, dtype=bool)
    for step in itertools.product((-1, 0, 1), repeat=3):
        here = tuple(slice(max(0, -s), n - max(0, s)) for s, n in zip(step, video, strict=True))
        there = tuple(slice(max(0, s), n - max(0, -s)) for s, n in zip(step, video, strict=True))
        touch[grid[here].ravel(), grid[there].ravel()] = True
    return torch.from_numpy(touch)
