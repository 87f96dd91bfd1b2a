"""Videos of drawn shapes that move on a plain ground, bounce off the walls and hide each other."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from ...prune.shapes.drawing import RGB

KINDS = ("circle", "square", "triangle", "ring")
RADIUS = (4.5, 8.0)
SPEED = (0.4, 1.6)
"""Pixels per frame."""
ROOM = 650.0
"""Pixels of a frame for each shape."""


def draw_videos(rng: np.random.Generator, count: int, video: tuple[int, int, int]) -> Tensor:
    """Videos of ``video`` = (frames, rows, columns) in pixels: [count, frames, rows, columns, 3] in [-1, 1]."""
    return torch.from_numpy(np.stack([_draw(rng, video) for _ in range(count)]))


def _draw(rng: np.random.Generator, video: tuple[int, int, int]) -> NDArray[np.float32]:
    frames, *size = video
    ground = rng.uniform(40, 215) + rng.uniform(-40, 40, 3)
    picture = np.broadcast_to(np.clip(ground, 0, 255).astype(np.float32), (*video, 3)).copy()
    rows, columns = (np.arange(n, dtype=np.float32) + 0.5 for n in size)
    number = max(1, round(size[0] * size[1] / ROOM * rng.uniform(0.5, 1.5)))
    for _ in range(number):
        radius = rng.uniform(*RADIUS)
        turn = rng.uniform(0, 2 * np.pi)
        step = rng.uniform(*SPEED) * np.array([np.sin(turn), np.cos(turn)])
        start = np.array([rng.uniform(0, n) for n in size])
        centre = np.stack([_bounced(s + v * np.arange(frames), n) for s, v, n in zip(start, step, size, strict=True)])
        y = rows[None, :, None] - centre[0].astype(np.float32)[:, None, None]
        x = columns[None, None, :] - centre[1].astype(np.float32)[:, None, None]
        outside = _outside(KINDS[rng.integers(len(KINDS))], x, y, np.float32(radius))
        alpha = np.clip(0.5 - outside, 0, 1)[..., None]
        picture += alpha * (RGB[rng.integers(len(RGB))] - picture)
    out: NDArray[np.float32] = picture / 127.5 - 1
    return out


def _bounced(place: NDArray[Any], size: int) -> NDArray[Any]:
    """Places on a line that goes back and forth between 0 and ``size``."""
    turned: NDArray[Any] = size - np.abs(place % (2 * size) - size)
    return turned


def _outside(kind: str, x: NDArray[Any], y: NDArray[Any], radius: np.float32) -> NDArray[Any]:
    """How far pixels are outside of a shape, in pixels; below 0 inside."""
    out: NDArray[Any]
    if kind == "square":
        out = np.maximum(np.abs(x), np.abs(y)) - 0.88 * radius
    elif kind == "triangle":
        out = np.maximum(0.88 * np.abs(x) - 0.47 * y - 0.52 * radius, y - 0.8 * radius)
    else:
        out = np.hypot(x, y) - radius
        if kind == "ring":
            out = np.maximum(out, 0.5 * radius - np.hypot(x, y))
    return out
