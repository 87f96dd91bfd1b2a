"""The slices around a slice: each is analysed once while it is of use, whether it comes from a stack or from files."""

from __future__ import annotations

import functools
import os
import threading
import time
from collections import OrderedDict
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from ..errors import InputError
from ..io import GreyImage
from ..memory import check_memory
from ..threads import kernels_own_the_threads
from .adaptive.fitted import AdaptiveFilter, digest
from .adaptive.mixture import PRESETS, drawn_by, strength_map
from .adaptive.neighbours import REACH_SLICES, Shift, Slice
from .adaptive.volume import slicewise
from .base import Filter
from .options import DenoiseOptions
from .shared import Shared
from .simulate import read_noisy
from .volumes import Volume, find_volumes, frames_located
from .window import Window, see

Plane = NDArray[np.float32]

ROOM = 2 * REACH_SLICES + 2
"""Slices that are kept: a slice, its neighbours, and the one that the next slice needs besides."""
SLICE_BYTES = 56
"""For each pixel of a slice that is kept: the file's pixels and what was made of them; 44 were measured, more with a
simulated dose."""
WORK_BYTES = 400
"""For each pixel of a slice, while it is denoised with its neighbours; 250 were measured, more where their noise is
correlated."""


def check_room(path: Any, pixels: int) -> None:
    """``InputError`` where the slices around a slice of so many pixels do not fit into the budget of memory."""
    fix = "Raise --max-memory, or say --volume off"
    check_memory(path, pixels * (ROOM * SLICE_BYTES + WORK_BYTES), "the slices around it take", fix)


@dataclass(frozen=True, slots=True)
class Analysed:
    """A slice as its neighbours need it, the filter that was fitted to it, and how long that took in s."""

    slice: Slice
    fitted: AdaptiveFilter
    seconds: float


def analyse(
    seen: Plane, valid: NDArray[np.bool_] | None, aspect: float, options: DenoiseOptions, fitted: Filter | None
) -> Analysed:
    """One slice [H, W] in [0, 1] on its own, with the options' strength; ``fitted``: the noise of another slice.

    The seed is that of a slice that is denoised alone: without a usable neighbour the results are the same bits.
    """
    start = time.perf_counter()
    strength: Any = 1.0
    if options.strength != 1.0 or options.regions:
        strength = strength_map(seen.shape, options.strength, options.regions)
    assert fitted is None or isinstance(fitted, AdaptiveFilter)
    preset, seed, model = PRESETS[options.fit.preset], options.fit.seed, None
    if fitted is not None:
        preset, seed, model = fitted.preset, fitted.seed, fitted.model
    with kernels_own_the_threads():
        own = slicewise(seen, valid, preset, drawn_by(seed), strength=strength, model=model, aspect=aspect)
    made = fitted or AdaptiveFilter(own.model, preset, seed, digest(own.x, valid), own.shares)
    return Analysed(own, made, time.perf_counter() - start)


Around = tuple[Analysed, Sequence[tuple[Slice, Shift]]]


class Surroundings(Protocol):
    """Where a stack's slices find their neighbours."""

    @property
    def order(self) -> Sequence[int]:
        """The slices, so that few have to be kept."""
        ...

    def around(self, z: int, fitted: Filter | None) -> Around | None:
        """Slice ``z`` and its neighbours with their shifts; None where it belongs to no volume."""
        ...


class InStack:
    """The neighbours of slices of one stack in memory.

    Parameters
    ----------
    volumes : sequence of Volume
    see : callable
        Slice ``z`` in [0, 1] and its valid pixels.
    aspect : float
    options : DenoiseOptions
    """

    def __init__(
        self,
        volumes: Sequence[Volume],
        count: int,
        see: Callable[[int], tuple[Plane, NDArray[np.bool_] | None]],
        aspect: float,
        options: DenoiseOptions,
    ) -> None:
        self._see, self._aspect, self._options = see, aspect, options
        self._volume_of: Mapping[int, Volume] = {z: volume for volume in volumes for z in volume.rank}
        alone = [z for z in range(count) if z not in self._volume_of]
        self.order = [*alone, *(z for volume in volumes for z in sorted(volume.rank, key=volume.rank.__getitem__))]
        self._recent = Recent()

    def around(self, z: int, fitted: Filter | None) -> Around | None:
        volume = self._volume_of.get(z)
        if volume is None:
            return None

        def analysed(index: int) -> Analysed:
            def make() -> Analysed:
                seen, valid = self._see(index)
                return analyse(seen, valid, self._aspect, self._options, fitted)

            made: Analysed = self._recent.get(index, make)
            return made

        own = analysed(z)
        near = volume.geometry.near(volume.rank[z], own.slice.x.shape)
        return own, [(analysed(volume.members[j]).slice, shift) for j, shift in near]


def in_image(image: GreyImage, window: Window, options: DenoiseOptions, notes: list[str]) -> InStack | None:
    """The neighbours of the slices of one file that is a stack; None where it does not say how they lie.

    ``notes`` is told which slices are denoised alone, and why. Kinds that never say (NPY, TIFF) are not mentioned.
    """
    count, *size = image.pixels.shape
    if count < 2 or image.kind not in ("dicom", "nifti"):
        return None
    if not image.places:
        notes.append("its header does not say how its slices lie: each is denoised alone")
        return None
    volumes, odd = find_volumes(frames_located(image.places, (size[0], size[1])))
    notes += odd
    if not volumes:
        return None
    check_room(image.path, size[0] * size[1])
    return in_stack(volumes, image.pixels, image.valid, window, image.aspect, options)


def in_stack(
    volumes: Sequence[Volume],
    pixels: NDArray[Any],
    valid: NDArray[np.bool_] | None,
    window: Window,
    aspect: float,
    options: DenoiseOptions,
) -> InStack:
    """The neighbours of the slices of a stack [Z, H, W] in physical units."""

    def shown(z: int) -> tuple[Plane, NDArray[np.bool_] | None]:
        mask = None if valid is None else valid[z]
        return see(pixels[z], window, mask), mask

    return InStack(volumes, len(pixels), shown, aspect, options)


@dataclass(frozen=True, slots=True)
class Looked:
    """A file that was read: as it is, as it is denoised, and its slice analysed."""

    image: GreyImage
    noisy: GreyImage
    analysed: Analysed


class InFiles:
    """The neighbours of the one slice of a file, in other files.

    Parameters
    ----------
    path : Path
    shared : Shared
        With a volume and a window.
    options : DenoiseOptions

    Attributes
    ----------
    lost : list of str
        Names of neighbours that could not be read: the slice was done with the others.
    """

    order = (0,)

    def __init__(self, path: Path, shared: Shared, options: DenoiseOptions) -> None:
        assert shared.volume is not None
        assert shared.window is not None
        self._path, self._shared, self._options = path, shared, options
        self._volume, self._window = shared.volume, shared.window
        self.lost = list(self._volume.lost)

    def read(self) -> tuple[GreyImage, GreyImage]:
        """The file as it is, and as it is denoised."""
        looked = self._looked(self._path)
        return looked.image, looked.noisy

    def around(self, z: int, fitted: Filter | None) -> Around | None:
        own = self._looked(self._path).analysed
        others = []
        for beside in self._volume.beside:
            try:
                others.append((self._looked(beside.path).analysed.slice, beside.shift))
            except (InputError, OSError):  # it could be read when the series was surveyed
                self.lost.append(beside.name)
        return own, others

    def _looked(self, path: Path) -> Looked:
        def look() -> Looked:
            image, noisy = read_noisy(path, self._options)
            height, width = noisy.pixels.shape[1:]
            check_room(path, height * width)
            valid = None if noisy.valid is None else noisy.valid[0]
            seen = see(noisy.pixels[0], self._window, valid)
            fitted = self._shared.fitted
            return Looked(image, noisy, analyse(seen, valid, noisy.aspect, self._options, fitted))

        stamp = os.stat(path)
        key = (path.absolute(), stamp.st_mtime_ns, stamp.st_size, self._volume.request, str(self._window))
        looked: Looked = recent_files().get(key, look)
        return looked


@functools.cache
def recent_files() -> Recent:
    """What this process has read of late: the files of a series are done one after another."""
    return Recent()


class Recent:
    """The newest ``ROOM`` things that were made, by key; safe in threads."""

    def __init__(self) -> None:
        self._kept: OrderedDict[Any, Any] = OrderedDict()
        self._lock = threading.Lock()

    def get(self, key: Any, make: Callable[[], Any]) -> Any:
        """What is kept under ``key``, or is made now."""
        with self._lock:
            if key in self._kept:
                self._kept.move_to_end(key)
                return self._kept[key]
        made = make()
        with self._lock:
            self._kept[key] = made
            while len(self._kept) > ROOM:
                self._kept.popitem(last=False)
        return made

    def clear(self) -> None:
        with self._lock:
            self._kept.clear()
