"""Drawn shelves and the paths of simulated searchers over them: for training, and for tests that share nothing with it.

Each scene's numbers come from the run's seed, what it is for, and its own number. Shelves of ``LAYOUTS`` rows and
columns are in training; those of ``NEW_LAYOUTS``, and targets of the hues ``shelves.HELD_OUT``, are in tests alone.
"""

from __future__ import annotations

import hashlib
import math
from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from ...probe.scanpath.objects import Objects, SceneTensors, scene_tensors
from ...probe.scanpath.shelves import Shelf, draw_shelf
from .searcher import search

LAYOUTS = ((2, 5), (2, 7), (3, 4), (3, 6), (4, 5))
NEW_LAYOUTS = ((2, 6), (3, 5), (4, 4), (4, 6))
TRAINING, DEVELOPMENT, TEST, NEW_LAYOUT, NEW_TARGET = range(5)
"""What scenes are for."""
SETS = {"known": TEST, "layouts": NEW_LAYOUT, "targets": NEW_TARGET}
"""Tests by name."""


@dataclass(frozen=True, slots=True)
class SearchedScene:
    """Objects, as a network takes them, and where searchers looked.

    Parameters
    ----------
    objects : Objects
    tensors : SceneTensors
    paths : tuple of tuple of int
        Of several searchers.
    colours : ndarray (N, 3) of float64
        Mean colour of each object, in [0, 1].
    digest : str
        Hash of what is shown and searched, hexadecimal.
    likeness : ndarray (N,) or None
        Of a drawn shelf: what its searcher goes by.
    """

    objects: Objects
    tensors: SceneTensors
    paths: tuple[tuple[int, ...], ...]
    colours: NDArray[np.float64]
    digest: str
    likeness: NDArray[np.float64] | None = None

    @property
    def cells(self) -> NDArray[np.float64]:
        return self.objects.cells()[0]

    @classmethod
    def of(
        cls, picture: NDArray[np.uint8], objects: Objects, paths: tuple[tuple[int, ...], ...], size: tuple[int, int],
        likeness: NDArray[np.float64] | None = None,
    ) -> SearchedScene:  # fmt: skip
        """The objects of a picture (H, W, 3), crops of ``size``."""
        colours = []
        for x0, y0, x1, y1 in objects.boxes:
            crop = picture[int(y0) : math.ceil(y1), int(x0) : math.ceil(x1)]
            colours.append(crop.reshape(-1, 3).mean(0) / 255)
        digest = hashlib.sha256(picture.tobytes() + objects.target.to_bytes(4)).hexdigest()
        return cls(objects, scene_tensors(picture, objects, size), paths, np.array(colours), digest, likeness)


def searched_scenes(purpose: int, seed: int, count: int, searchers: int, size: tuple[int, int]) -> list[SearchedScene]:
    """Scenes for a purpose, each with the paths of so many searchers; ``size`` of crops in pixels."""
    layouts = NEW_LAYOUTS if purpose == NEW_LAYOUT else LAYOUTS
    found = []
    for number in range(count):
        rng = np.random.default_rng((seed, purpose, number))
        shelf = draw_shelf(rng, *layouts[number % len(layouts)], held_out=purpose == NEW_TARGET)
        found.append(searched(rng, shelf, searchers, size))
    return found


def searched(rng: np.random.Generator, shelf: Shelf, searchers: int, size: tuple[int, int]) -> SearchedScene:
    """A shelf with the paths of so many searchers."""
    height, width = shelf.picture.shape[:2]
    objects = Objects(shelf.boxes, shelf.target, (height, width))
    cells, likeness = objects.cells()[0], shelf.likeness
    paths = tuple(tuple(search(rng, cells, likeness, shelf.target)) for _ in range(searchers))
    return SearchedScene.of(shelf.picture, objects, paths, size, likeness)


def batches(scenes: Sequence[SearchedScene], size: int, rng: np.random.Generator) -> list[list[int]]:
    """Numbers of all scenes in batches of equally many objects, in an order that is drawn."""
    groups: dict[int, list[int]] = defaultdict(list)
    for number in rng.permutation(len(scenes)).tolist():
        groups[len(scenes[number].objects.boxes)].append(number)
    cut = [group[first : first + size] for group in groups.values() for first in range(0, len(group), size)]
    return [cut[number] for number in rng.permutation(len(cut)).tolist()]


def shared(one: Sequence[SearchedScene], other: Sequence[SearchedScene]) -> int:
    """How many scenes of the first are in the second, by hash."""
    known = {scene.digest for scene in other}
    return sum(scene.digest in known for scene in one)
