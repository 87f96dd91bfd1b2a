"""Samplers without a network: methods/oat.md, section 6. Each draws objects it has not been at, until the target.

The chance of an object is softmax of its cue times a strength, which is fitted to the searchers' paths of training by
maximum likelihood: each baseline is at its best. None is told what the searcher's rule is.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np
from numpy.typing import NDArray

from .data import SearchedScene

Cue = Callable[[SearchedScene, int | None], NDArray[np.float64]]
"""Of each object (N,), from where the sampler is; None: at the beginning."""
STRENGTHS = np.concatenate(([0.0], np.geomspace(0.1, 30.0, 24)))
FITTED = 200
"""Scenes of training that the strength is fitted to."""


def random(scene: SearchedScene, now: int | None) -> NDArray[np.float64]:
    """All alike."""
    return np.zeros(len(scene.cells))


def centre(scene: SearchedScene, now: int | None) -> NDArray[np.float64]:
    """Near the middle of the picture, in cells."""
    cells = scene.cells
    return np.asarray(-np.linalg.norm(cells - (cells.min(0) + cells.max(0)) / 2, axis=1))


def nearest(scene: SearchedScene, now: int | None) -> NDArray[np.float64]:
    """Near the object it is at, in cells; at the beginning near the middle."""
    if now is None:
        return centre(scene, now)
    return np.asarray(-np.linalg.norm(scene.cells - scene.cells[now], axis=1))


def rgb(scene: SearchedScene, now: int | None) -> NDArray[np.float64]:
    """Like the target in mean colour; distance of RGB in [0, 1]."""
    return np.asarray(-np.linalg.norm(scene.colours - scene.colours[scene.objects.target], axis=1))


def saliency(scene: SearchedScene, now: int | None) -> NDArray[np.float64]:
    """Unlike the rest of the picture in mean colour (global contrast)."""
    return np.asarray(np.linalg.norm(scene.colours[:, None] - scene.colours, axis=-1).mean(1))


BASELINES: dict[str, Cue] = {
    "random": random, "centre": centre, "nearest object": nearest, "RGB similarity": rgb, "saliency": saliency,
}  # fmt: skip


def strength_of(cue: Cue, scenes: Sequence[SearchedScene]) -> float:
    """The likeliest of ``STRENGTHS``, by the first visits of the searchers."""
    total = np.zeros(len(STRENGTHS))
    for scene in scenes[:FITTED]:
        values: dict[int | None, NDArray[np.float64]] = {}
        for path in scene.paths:
            free = np.ones(len(scene.cells), bool)
            now: int | None = None
            for step in path:
                if free[step]:
                    if now not in values:
                        values[now] = cue(scene, now)
                    scores = STRENGTHS[:, None] * values[now][free]
                    peak = scores.max(1)
                    total += STRENGTHS * values[now][step] - peak - np.log(np.exp(scores - peak[:, None]).sum(1))
                free[step] = False
                now = step
    return float(STRENGTHS[total.argmax()])


def sample(
    rng: np.random.Generator, cue: Cue, strength: float, scene: SearchedScene, count: int, longest: int
) -> list[list[int]]:
    """So many paths of at most ``longest`` objects."""
    values: dict[int | None, NDArray[np.float64]] = {}
    found = []
    for _ in range(count):
        path: list[int] = []
        while len(path) < longest and scene.objects.target not in path:
            now = path[-1] if path else None
            if now not in values:
                values[now] = cue(scene, now)
            share = np.exp(strength * (values[now] - values[now].max()))
            share[path] = 0
            if not share.any():  # all that is left is too far off for a number: the nearest of them
                share = np.where(np.isin(np.arange(len(share)), path), -np.inf, values[now])
                share = (share == share.max()).astype(float)
            path.append(int(rng.choice(len(share), p=share / share.sum())))
        found.append(path)
    return found
