"""Files that form volumes: which they are, one scale for all, and what the task of each file is told.

1. ``plan``: by the headers alone. Files of one SeriesInstanceUID are sorted into volumes (``volumes.py``).
2. ``survey``: every file of a volume that has work to do is read once. What cannot be read, or is in another unit, is
   no neighbour; the rest have one window. Where all results exist nothing is read: all files were once read.
3. A task carries the paths of its neighbours, the window, and the identity of the volume, so that results made with
   other slices around are another series. Pixels never travel; each process reads what it needs (``surroundings.py``).
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from typing import Any

from ..batch.task import Task
from ..bundles import Placement
from ..errors import InputError
from ..io import read_grey
from ..io.dicom.series import key_of, read_info
from ..progress import Watcher
from . import METHODS
from .options import DenoiseOptions
from .shared import Beside, InVolume, Shared
from .simulate import read_noisy
from .volumes import Located, Volume, find_volumes, frames_located
from .window import Window, choose_window, common_window, parse_window, value_range


@dataclass(frozen=True, slots=True)
class SeriesPlan:
    """Files of one series, with what is known of each, and the volumes that they form.

    Parameters
    ----------
    tasks : tuple of int
        Which of the batch's tasks they are; parallel to ``slices``.
    slices : tuple of Located
    notes : tuple of str
        What the user should know.
    volumes : tuple of Volume
    overview : str
        Which files of the series are overview images; a note by itself.
    windows : tuple of Window or None
        Of the volumes; None before the survey, or where the window is given.
    lost : tuple of int
        Which of ``slices`` cannot be used.
    """

    tasks: tuple[int, ...]
    slices: tuple[Located, ...]
    notes: tuple[str, ...] = ()
    volumes: tuple[Volume, ...] = ()
    overview: str = ""
    windows: tuple[Window, ...] = ()
    lost: tuple[int, ...] = ()

    @property
    def told(self) -> list[str]:
        """All notes."""
        return [*([self.overview] if self.overview else []), *self.notes]

    @property
    def name(self) -> str:
        """What reports call the series: it has no name that people would know."""
        first = self.slices[self.volumes[0].members[0] if self.volumes else 0].name
        return f"{len(self.slices)} files with {first}"


def draws_on_neighbours(options: DenoiseOptions) -> bool:
    """Whether the method can, and may."""
    return options.volume == "auto" and "volume" in (METHODS[options.method].options or ())


class SeriesVolumes:
    """The volumes among the files of a batch.

    Parameters
    ----------
    tasks : sequence of Task
    options : DenoiseOptions
    request : str
        The ``identity`` of the options.
    """

    def __init__(self, tasks: Sequence[Task], options: DenoiseOptions, request: str) -> None:
        self._options, self._request, self._names = options, request, [task.name for task in tasks]
        self._plans, stacks = plan(tasks) if draws_on_neighbours(options) else ([], [])
        self._requests = {self._names[index]: f"{request} volume" for index in stacks}
        self._name_requests()

    def prepare(self, tasks: Sequence[Task], placement: Placement, watcher: Watcher) -> list[Task]:
        """The tasks with what those in a volume must know; the series with work to do are read once."""
        ready = list(tasks)
        turn = 0
        for number, before in enumerate(self._plans):
            members = [tasks[index] for index in before.tasks]
            if not before.volumes or not any(
                placement.overwrite or task.output is None or not task.output.exists() for task in members
            ):
                continue
            step = partial(watcher.step, f"read {before.name}")
            self._plans[number] = planned = survey(before, tasks, self._options, step)
            for index, task in told(planned, before, tasks, self._request, turn):
                ready[index] = task
                turn = task.turn + 1
        self._name_requests()
        return ready

    def request_of(self, name: str) -> str:
        """The identity of the result for a task of this name."""
        return self._requests.get(name, self._request)

    def rows(self) -> list[dict[str, Any]]:
        """For the report: a row per volume, and per series that forms none."""
        return [row for planned in self._plans for row in rows(planned)]

    def remarks(self) -> list[str]:
        """What the user should know."""
        return [f"warning: series of {planned.name}: {note}" for planned in self._plans for note in planned.told]

    def _name_requests(self) -> None:
        for planned in self._plans:
            self._requests |= {self._names[index]: own for index, own in requests(planned, self._request)}


def plan(tasks: Sequence[Task]) -> tuple[list[SeriesPlan], list[int]]:
    """The series of at least two files among the tasks, and the tasks whose files are volumes by themselves; step 1."""
    stacks: list[int] = []
    groups: dict[str, list[tuple[int, Mapping[str, Any]]]] = {}
    for index, task in enumerate(tasks):
        if task.error is None and (info := read_info(task.source)):
            uid = key_of({**info, "localizer": False}, task.source)
            groups.setdefault(uid, []).append((index, info))
            if len(info["places"]) > 1 and find_volumes(frames_located(info["places"], info["size"][:2]))[0]:
                stacks.append(index)
    plans = []
    for members in groups.values():
        if len(members) < 2:
            continue
        overviews = [tasks[index].name for index, info in members if info["localizer"]]
        members = [(index, info) for index, info in members if not info["localizer"]]
        slices = tuple(
            Located(
                next(iter(info["places"]), None),
                info["size"][:2],
                info["sop_uid"],
                tasks[index].name,
                info["thickness"],
            )
            for index, info in members
        )
        if not slices:
            continue
        volumes, notes = find_volumes(slices)
        if overviews:
            overview = f"{len(overviews)} localizer{'s' * (len(overviews) > 1)} ({overviews[0]}): denoised alone"
        else:
            overview = ""
        plans.append(SeriesPlan(tuple(index for index, _ in members), slices, tuple(notes), tuple(volumes), overview))
    return plans, stacks


def survey(
    planned: SeriesPlan, tasks: Sequence[Task], options: DenoiseOptions, step: Callable[[int, int], None]
) -> SeriesPlan:
    """The plan without the files that cannot be used, and with one window for each volume; step 2."""
    ranges: dict[int, tuple[float, float] | None] = {}
    units: dict[str, list[int]] = {}
    given, auto = None, parse_window(options.window) is None
    candidates = sorted({index for volume in planned.volumes for index in volume.rank})
    for done, index in enumerate(candidates):
        try:
            source = tasks[planned.tasks[index]].source
            if auto:
                image = read_noisy(source, options)[1]
            else:  # the range is not looked at, so no dose need be simulated
                image = read_grey(source, luma=options.luma, fill=options.fill, unit=options.unit)
                given = choose_window(options.window, image)
            ranges[index] = value_range(image)
            units.setdefault(image.unit, []).append(index)
        except (InputError, OSError, MemoryError):  # told when the file's own turn comes
            pass
        step(done + 1, len(candidates))
    main = max(units.values(), key=len, default=[])
    usable = set(main)
    lost = tuple(index for index in candidates if index not in usable)
    notes, volumes = list(planned.notes), list(planned.volumes)
    if lost:
        kept = [index for index in range(len(planned.slices)) if index not in lost]
        again, notes = find_volumes([planned.slices[index] for index in kept])
        volumes = [_renumbered(volume, kept) for volume in again]
        names = ", ".join(planned.slices[index].name for index in lost[:3]) + (", ..." if len(lost) > 3 else "")
        notes.append(f"cannot be read, or in another unit, and so no neighbours: {len(lost)} of its files ({names})")
    windows = tuple(given or common_window(ranges[index] for index in volume.members) for volume in volumes)
    return replace(planned, notes=tuple(notes), volumes=tuple(volumes), windows=windows, lost=lost)


def _renumbered(volume: Volume, kept: Sequence[int]) -> Volume:
    members = tuple(kept[index] for index in volume.members)
    return Volume(members, {kept[index]: rank for index, rank in volume.rank.items()}, volume.geometry)


def requests(planned: SeriesPlan, request: str) -> Iterator[tuple[int, str]]:
    """(task, identity) for every file of a volume: the call's, and which slices the volume has."""
    for volume in planned.volumes:
        ones = [planned.slices[index] for index in volume.members]
        held = sorted((one.uid or one.name, one.place.origin if one.place else ()) for one in ones)
        own = f"{request} volume {hashlib.sha256(repr(held).encode()).hexdigest()}"
        yield from ((planned.tasks[index], own) for index in volume.rank)


def told(
    planned: SeriesPlan, before: SeriesPlan, tasks: Sequence[Task], request: str, turn: int
) -> Iterator[tuple[int, Task]]:
    """(index, task) for every file of a volume, with what its task must know; step 3.

    ``before``: the plan as it was before the survey, which says whose neighbours were lost. Turns count from ``turn``.
    """
    known = dict(requests(planned, request))
    for volume, window in zip(planned.volumes, planned.windows, strict=True):
        if window.width <= 0:
            continue
        for index in sorted(volume.rank, key=volume.rank.__getitem__):
            near = volume.geometry.near(volume.rank[index], planned.slices[index].size)
            beside = []
            for rank, shift in near:
                member = volume.members[rank]
                task = tasks[planned.tasks[member]]
                beside.append(Beside(task.source.absolute(), task.name, shift))
            own = planned.tasks[index]
            payload = tasks[own].payload or Shared()
            lost = tuple(_lost(planned, before, index))
            volumed = InVolume(tuple(beside), known[own], lost)
            yield own, replace(tasks[own], payload=replace(payload, window=window, volume=volumed), turn=turn)
            turn += 1


def _lost(planned: SeriesPlan, before: SeriesPlan, index: int) -> Iterator[str]:
    """Names of the files that would be neighbours of a slice if they could be used."""
    for volume in before.volumes if planned.lost else ():
        if index in volume.rank:
            for rank, _ in volume.geometry.near(volume.rank[index], planned.slices[index].size):
                if volume.members[rank] in planned.lost:
                    yield planned.slices[volume.members[rank]].name


def rows(planned: SeriesPlan) -> Iterator[dict[str, Any]]:
    """A row of the report for every volume, and for a series that forms none."""
    for number, volume in enumerate(planned.volumes):
        steps = [b - a for a, b in zip(volume.geometry.positions, volume.geometry.positions[1:], strict=False)]
        spacing = f"{min(steps):.4g}" if max(steps) - min(steps) < 0.01 else f"{min(steps):.4g} to {max(steps):.4g}"
        yield {
            "series": planned.name, "slices": len(volume.members), "spacing_mm": spacing,
            "window": str(planned.windows[number]) if planned.windows else "",
            "copies": len(volume.rank) - len(volume.members), "left_out": len(planned.lost),
            "notes": "; ".join(planned.told),
        }  # fmt: skip
    if not planned.volumes:
        yield {"series": planned.name, "slices": 0, "notes": "; ".join(planned.told)}
