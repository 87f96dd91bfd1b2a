"""Files of scanpaths, a path a line, and two of them against each other without any model."""

from __future__ import annotations

import json
from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ...errors import InputError, UsageError
from ...io.records import identifier, json_lines
from ...scanpaths import cell_centres
from .compare import ScenePaths, compare


@dataclass(frozen=True, slots=True)
class RecordedPath:
    """One line.

    Parameters
    ----------
    scene : str
    fixations : tuple of str
        Names of objects.
    target : str or None
    places : ndarray (T, 2) or None
        Fixations in pixels.
    screen : (float, float) or None
        Width and height in pixels.
    """

    scene: str
    fixations: tuple[str, ...]
    target: str | None = None
    places: NDArray[np.float64] | None = None
    screen: tuple[float, float] | None = None


def path_line(scene: str, path: Sequence[int], target: int, places: NDArray[np.float64], size: Sequence[float]) -> str:
    """A line as ``read_paths`` reads it, with its line end."""
    line = {
        "id": scene, "target": target, "fixations": list(path), "xy": np.round(places, 1).tolist(),
        "screen": list(size),
    }  # fmt: skip
    return json.dumps(line) + "\n"


def read_paths(path: Path) -> list[RecordedPath]:
    """The paths of a file: ``{"id", "fixations", "target"?, "screen"?, "xy"? | "rows", "cols"}`` on each line.

    Raises
    ------
    InputError
        If it cannot be read, or a line is no path.
    """
    found = [_path(path, place, record) for place, record in json_lines(path)]
    if not found:
        raise InputError(path, "holds no path", 'Write a line for each: {"id": "scene", "fixations": [3, 1]}')
    return found


def _path(path: Path, place: str, record: Mapping[str, Any]) -> RecordedPath:
    scene = identifier(path, place, record, "id", "scene")
    given = record.get("fixations")
    if not isinstance(given, list) or not all(
        isinstance(one, (int, str)) and not isinstance(one, bool) for one in given
    ):
        what = f"{place} has no list of objects under 'fixations'"
        raise InputError(path, what, 'Write "fixations": [3, 1, 4]')
    if not given:
        raise InputError(path, f"{place} has no fixation", "Leave out paths without fixations")
    target = identifier(path, place, record, "target") if record.get("target") is not None else None
    screen = record.get("screen")
    if screen is not None:
        sides = _floats(path, place, "screen", screen)
        if sides.shape != (2,) or not (sides > 0).all():
            raise InputError(path, f"{place}: 'screen' is no width and height", 'Write "screen": [1680, 1050]')
        screen = float(sides[0]), float(sides[1])
    return RecordedPath(scene, tuple(map(str, given)), target, _places(path, place, record, given, screen), screen)


def _floats(path: Path, place: str, name: str, value: Any) -> NDArray[np.float64]:
    try:
        found = np.asarray(value, np.float64)
    except (TypeError, ValueError):
        found = np.full(1, np.nan)
    if not np.isfinite(found).all():
        raise InputError(path, f"{place}: {name!r} holds what is no number", f"Write {name!r} as numbers in pixels")
    return found


def _places(
    path: Path, place: str, record: Mapping[str, Any], given: list[Any], screen: tuple[float, float] | None
) -> NDArray[np.float64] | None:
    if record.get("xy") is not None:
        found = _floats(path, place, "xy", record["xy"])
        if found.shape != (len(given), 2):
            what = f"{place}: 'xy' is of shape {list(found.shape)}, there are {len(given)} fixations"
            raise InputError(path, what, "Write x and y in pixels for each fixation")
        return found
    rows, cols = record.get("rows"), record.get("cols")
    if rows is None or cols is None or screen is None:
        return None
    if not all(isinstance(side, int) and side > 0 for side in (rows, cols)):
        raise InputError(path, f"{place}: 'rows' and 'cols' are no whole numbers from 1", "Write the grid's size")
    if not all(isinstance(one, int) and 0 <= one < rows * cols for one in given):
        what = f"{place}: a fixation is no cell of a grid of {rows} x {cols}, 0 to {rows * cols - 1}"
        raise InputError(path, what, "Write row * cols + column, from 0")
    return cell_centres(given, rows, cols, screen)


@dataclass(frozen=True, slots=True)
class PathComparison:
    """What ``compare_files`` found: scores of all scenes, of each, and what the user should know."""

    metrics: dict[str, float]
    rows: list[dict[str, Any]]
    warnings: tuple[str, ...]


def compare_files(one: Path, other: Path, *, compat: bool = False) -> PathComparison:
    """Score the paths of one file against those of another over the same scenes.

    Raises
    ------
    InputError
        If one cannot be read, or two lines of a scene name different targets or screens.
    UsageError
        If they have no scene in common.
    """
    groups: list[dict[str, list[RecordedPath]]] = []
    for file in (one, other):
        grouped: dict[str, list[RecordedPath]] = defaultdict(list)
        for path in read_paths(file):
            grouped[path.scene].append(path)
        groups.append(grouped)
    both = [scene for scene in groups[0] if scene in groups[1]]
    if not both:
        raise UsageError(f"{one} and {other} have no scene in common: their lines' 'id' must be the same.")
    warnings = [
        f"{len(alone)} of {len(own)} scenes of {path.name} are not in the other file: left out ({', '.join(alone[:3])})"
        for path, own, others in zip((one, other), groups, reversed(groups), strict=True)
        if (alone := [scene for scene in own if scene not in others])
    ]
    scenes = {scene: _scene(other, scene, groups[0][scene], groups[1][scene]) for scene in both}
    metrics = compare(list(scenes.values()), compat=compat)
    rows = [{"scene": name, **compare([scene], compat=compat)} for name, scene in scenes.items()]
    pairs = sum(len(scene.model) * len(scene.human) for scene in scenes.values() if scene.places is not None)
    if metrics["mm_undefined"]:
        warnings.append(
            f"{metrics['mm_undefined']:.0f} of {pairs} pairs have a path of one or two fixations: their MultiMatch is "
            "NaN, and left out of the means"
        )
    if without := [name for name, scene in scenes.items() if scene.places is None]:
        warnings.append(
            f"no MultiMatch of {len(without)} of {len(scenes)} scenes: a line lacks 'screen', and 'xy' or 'rows' and "
            "'cols'"
        )
    if without := [name for name, scene in scenes.items() if scene.target is None]:
        warnings.append(f"no Delta of {len(without)} of {len(scenes)} scenes: no line has a 'target'")
    return PathComparison(metrics | {"scenes": float(len(both))}, rows, tuple(warnings))


def _scene(path: Path, name: str, one: Sequence[RecordedPath], other: Sequence[RecordedPath]) -> ScenePaths:
    every = [*one, *other]
    for what in ("target", "screen"):
        if len(said := {getattr(line, what) for line in every} - {None}) > 1:
            shown = " and ".join(sorted(map(str, said))[:2])
            raise InputError(path, f"scene {name}: lines name different {what}s ({shown})", "Give each its own id")
    numbers = {word: number for number, word in enumerate(dict.fromkeys(w for line in every for w in line.fixations))}
    target = next((line.target for line in every if line.target is not None), None)
    if target is not None:
        target_number = numbers.setdefault(target, len(numbers))
    screen = next((line.screen for line in every if line.screen is not None), None)
    places = None
    if screen is not None and all(line.places is not None for line in every):
        found = [[line.places for line in side if line.places is not None] for side in (one, other)]
        places = (found[0], found[1])
    paths = [[[numbers[word] for word in line.fixations] for line in side] for side in (one, other)]
    return ScenePaths(paths[0], paths[1], None if target is None else target_number, None, screen or (0.0, 0.0), places)
