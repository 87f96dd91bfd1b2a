"""Drawn pictures with boxes in two domains: scenes as they are drawn (source), and shifted ones (target).

Source: methods/astigmatism.md, section 5. The six shapes are the classes. Every set has a stream of random numbers of
its own, so that source training, support and test pictures are disjoint.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
import torch
from numpy.typing import NDArray
from scipy.ndimage import gaussian_filter
from torch import Tensor
from torch.nn import functional as F

from ...prune.shapes.drawing import render
from ...prune.shapes.scenes import OBJECTS, SIDE, Ints, Scenes, draw_scenes
from ...prune.shapes.words import SHAPES

CLASSES = SHAPES
PER_PICTURE = 3
"""Objects of a support picture: two pictures show every class once."""
VIEWS = 8
"""Of every support picture in training: as it is, and mirrored or scaled."""
MIX = np.array([[0.1, 0.2, 0.7], [0.6, 0.2, 0.2], [0.2, 0.7, 0.1]], np.float32)
"""Channels of the target domain, from red, green and blue."""
CONTRAST, BRIGHTNESS, BLUR, NOISE, WEAVE = 0.7, 20.0, 0.6, 8.0, 12.0
"""Of the target domain: factor, grey values added, and deviations of blur (pixels), noise and weave (grey values)."""
_SOURCE, _HELD_OUT, _SUPPORT, _TEST, _VIEWS = range(5)
_SALT = 91007
"""First number of all seeds here; ``train.shapes_vlm``, whose image tower is the backbone, has 77001."""


@dataclass(frozen=True, slots=True)
class DetectionSet:
    """N pictures with boxes.

    Parameters
    ----------
    pictures : ndarray of uint8 [N, 96, 96, 3]
    boxes : tuple of N Tensor [n, 4]
        x0, y0, x1, y1 in pixels.
    labels : tuple of N Tensor of int64 [n]
        Numbers in ``CLASSES``.
    """

    pictures: NDArray[np.uint8]
    boxes: tuple[Tensor, ...]
    labels: tuple[Tensor, ...]

    def __len__(self) -> int:
        return len(self.pictures)


def _drawn(rng: np.random.Generator, scenes: Scenes, *, shifted: bool) -> DetectionSet:
    pictures = render(rng, scenes)
    if shifted:
        pictures = shift(rng, pictures)
    present = scenes.present[:, :OBJECTS]
    corners = scenes.boxes()[:, :OBJECTS]
    boxes = tuple(torch.from_numpy(corners[i][present[i]].astype(np.float32)) for i in range(len(scenes)))
    labels = tuple(torch.from_numpy(scenes.shape[i][present[i]]) for i in range(len(scenes)))
    return DetectionSet(pictures, boxes, labels)


def source_batch(seed: int, step: int, count: int) -> DetectionSet:
    """Pictures of a step of source training."""
    rng = np.random.default_rng([_SALT, _SOURCE, seed, step])
    return _drawn(rng, draw_scenes(rng, count, digits=0.0), shifted=False)


def judged_set(count: int, seed: int, *, shifted: bool, held_out: bool = False) -> DetectionSet:
    """Pictures to judge by, of the source or of the target domain; ``held_out``: to look at while training."""
    rng = np.random.default_rng([_SALT, _HELD_OUT if held_out else _TEST, int(shifted), seed])
    return _drawn(rng, draw_scenes(rng, count, digits=0.0), shifted=shifted)


def support_set(shots: int, seed: int) -> DetectionSet:
    """Pictures of the target domain that show every class ``shots`` times: ``2 * shots`` with three objects each."""
    rng = np.random.default_rng([_SALT, _SUPPORT, shots, seed])
    count = shots * len(CLASSES) // PER_PICTURE
    scenes = draw_scenes(rng, 8 * count + 40, most=PER_PICTURE, digits=0.0)
    full = np.nonzero(scenes.present[:, :OBJECTS].sum(1) == PER_PICTURE)[0][:count]
    assert len(full) == count
    scenes = scenes.select(full)
    rounds = np.stack([rng.permutation(len(CLASSES)) for _ in range(shots)])
    shape: Ints = scenes.shape.copy()
    shape[scenes.present[:, :OBJECTS]] = rounds.ravel()
    return _drawn(rng, replace(scenes, shape=shape), shifted=True)


def shift(rng: np.random.Generator, pictures: NDArray[np.uint8]) -> NDArray[np.uint8]:
    """Pictures as the target domain has them: other colours, flat contrast, a woven ground, blur, noise.

    Parameters
    ----------
    rng : Generator
        Of weave and noise, which differ from picture to picture.
    pictures : ndarray of uint8 [N, 96, 96, 3]
    """
    count = len(pictures)
    x = pictures.astype(np.float32) @ MIX.T
    x = (x - 127.5) * CONTRAST + 127.5 + BRIGHTNESS
    step = np.arange(SIDE, dtype=np.float32)
    angle, period = rng.uniform(0, np.pi, (count, 1, 1)), rng.uniform(5, 9, (count, 1, 1))
    along = np.cos(angle) * step + np.sin(angle) * step[:, None]
    across = np.cos(angle) * step[:, None] - np.sin(angle) * step
    weave = np.sin(2 * np.pi * along / period) * np.sin(2 * np.pi * across / period)
    x += WEAVE * weave[..., None].astype(np.float32)
    x = gaussian_filter(x, (0, BLUR, BLUR, 0))
    x += NOISE * rng.standard_normal(x.shape, np.float32)
    out: NDArray[np.uint8] = np.clip(np.rint(x), 0, 255).astype(np.uint8)
    return out


def views(pixels: Tensor, boxes: Sequence[Tensor], seed: int) -> tuple[Tensor, list[Tensor]]:
    """``VIEWS`` views of each picture: itself, and mirrored or scaled by 0.85 to 1.15 about its middle.

    Parameters
    ----------
    pixels : Tensor [N, 3, H, W]
    boxes : sequence of N Tensor [n, 4]
    seed : int

    Returns
    -------
    Tensor [N * VIEWS, 3, H, W] and the boxes in them; the views of a picture follow each other.
    """
    count, _, height, width = pixels.shape
    rng = np.random.default_rng([_SALT, _VIEWS, seed])
    scale = rng.uniform(0.85, 1.15, (count, VIEWS)).astype(np.float32)
    mirror = np.where(rng.random((count, VIEWS)) < 0.5, -1, 1).astype(np.float32)
    scale[:, 0], mirror[:, 0] = 1, 1
    s, m = torch.from_numpy(scale.ravel()), torch.from_numpy(mirror.ravel())
    theta = torch.zeros(count * VIEWS, 2, 3)
    theta[:, 0, 0], theta[:, 1, 1] = m / s, 1 / s
    repeated = pixels.repeat_interleave(VIEWS, 0)
    places = F.affine_grid(theta, list(repeated.shape), align_corners=False).to(pixels.device)
    seen = F.grid_sample(repeated, places, padding_mode="reflection", align_corners=False)
    middle = torch.tensor([width, height, width, height]) / 2
    moved = []
    for number in range(count * VIEWS):
        box = (boxes[number // VIEWS] - middle) * s[number]
        if m[number] < 0:
            box = box[:, [2, 1, 0, 3]] * torch.tensor([-1.0, 1.0, -1.0, 1.0])
        moved.append(torch.minimum((box + middle).clamp(min=0), 2 * middle))
    return seen, moved
