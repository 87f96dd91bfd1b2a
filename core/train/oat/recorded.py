"""Paths that people left: a file of JSON lines, and its scenes divided for training, development and test.

A line is a path: ``{"id", "image", "boxes": [[x, y, w, h], ...] | "rows", "cols", "target", "fixations": [...]}``.
Lines of one ``id`` are of one scene. Specification: methods/oat.md, section 5.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ...errors import InputError
from ...io.records import identifier, json_lines
from ...models.pictures import eight_bits, read_picture
from ...probe.scanpath.boxes import checked_boxes, four_numbers
from ...probe.scanpath.objects import Objects
from .data import SearchedScene

FEWEST = 10
"""Scenes of a file: a tenth is for development, a tenth for the test."""


def read_recorded(path: Path, size: tuple[int, int]) -> list[SearchedScene]:
    """The scenes of a file, in the order in which they first appear; crops of ``size``.

    Raises
    ------
    InputError
        If it cannot be read, a line is no path over its objects, lines of a scene disagree, or there are fewer than
        ``FEWEST`` scenes.
    """
    scenes: dict[str, tuple[str, dict[str, Any]]] = {}
    paths: dict[str, list[tuple[int, ...]]] = {}
    for place, record in json_lines(path):
        name = identifier(path, place, record, "id")
        shown = {key: record.get(key) for key in ("image", "boxes", "rows", "cols", "target")}
        first, known = scenes.setdefault(name, (place, shown))
        if shown != known:
            other = next(key for key in shown if shown[key] != known[key])
            what = f"{place}: {other!r} is not that of {first}, which is of the same scene {name}"
            raise InputError(path, what, "Give each scene an id of its own")
        paths.setdefault(name, []).append(_fixations(path, place, record))
    if len(scenes) < FEWEST:
        what = f"holds {len(scenes)} scenes: a tenth of them is for development, a tenth for the test"
        raise InputError(path, what, f"Give at least {FEWEST}")
    return [_scene(path, place, shown, paths[name], size) for name, (place, shown) in scenes.items()]


def _fixations(path: Path, place: str, record: Mapping[str, Any]) -> tuple[int, ...]:
    given = record.get("fixations")
    whole = isinstance(given, list) and all(isinstance(one, int) and not isinstance(one, bool) for one in given)
    if not isinstance(given, list) or not whole or not given:
        what = f"{place}: 'fixations' is no list of numbers of objects, from 0"
        raise InputError(path, what, 'Write "fixations": [3, 1, 4]; leave out paths without any')
    return tuple(given)


def _scene(
    path: Path, place: str, shown: Mapping[str, Any], paths: list[tuple[int, ...]], size: tuple[int, int]
) -> SearchedScene:
    image = shown["image"]
    if not isinstance(image, str) or not image:
        raise InputError(path, f"{place} has no 'image'", "Write the picture's name, as seen from this file")
    picture = read_picture(path.parent / image)
    boxes = checked_boxes(path, place, _boxes(path, place, shown, picture.size), image, picture.size)
    target = shown["target"]
    for what, number in (("'target'", target), *(("a fixation", one) for own in paths for one in own)):
        if not isinstance(number, int) or isinstance(number, bool) or not 0 <= number < len(boxes):
            known = f"{what} is {number!r}, there are {len(boxes)} objects"
            raise InputError(path, f"{place}: {known}", "Number objects from 0, in the order of their boxes")
    objects = Objects(boxes, target, picture.size).at((picture.pixels.shape[1], picture.pixels.shape[2]))
    return SearchedScene.of(eight_bits(picture.pixels), objects, tuple(paths), size)


def _boxes(path: Path, place: str, shown: Mapping[str, Any], size: tuple[int, int]) -> NDArray[np.float64]:
    if shown["boxes"] is not None:
        if not isinstance(shown["boxes"], list):
            raise InputError(path, f"{place}: 'boxes' is no list", "Write [[x, y, w, h], ...] in pixels")
        sides = [four_numbers(path, place, ("boxes",), one) for one in shown["boxes"]]
        return np.array([(x, y, x + w, y + h) for x, y, w, h in sides], np.float64).reshape(-1, 4)
    rows, cols = shown["rows"], shown["cols"]
    if not all(isinstance(side, int) and not isinstance(side, bool) and 0 < side <= 100 for side in (rows, cols)):
        what = f"{place} has neither 'boxes' nor 'rows' and 'cols' from 1 to 100"
        raise InputError(path, what, 'Write "boxes": [[x, y, w, h], ...] in pixels')
    height, width = size
    row, col = np.divmod(np.arange(rows * cols), cols)
    edges = (col * width / cols, row * height / rows, (col + 1) * width / cols, (row + 1) * height / rows)
    return np.stack(edges, 1)


def divided(
    scenes: list[SearchedScene], seed: int
) -> tuple[list[SearchedScene], list[SearchedScene], list[SearchedScene]]:
    """Training, development and test: 80, 10 and 10 % of the scenes, by one shuffled list (section 5)."""
    order = np.random.default_rng((seed, 5)).permutation(len(scenes)).tolist()
    tenth = max(1, len(scenes) // 10)
    held = [scenes[number] for number in order]
    return held[2 * tenth :], held[:tenth], held[tenth : 2 * tenth]
