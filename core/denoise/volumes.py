"""Which slices form a volume, by where they lie: nothing is mixed that does not belong together, nothing is guessed.

Specification: methods/adaptive-denoise.md, section 6.

1. Slices without a position are left alone.
2. Slices of another frame of reference, orientation, pixel spacing or size are another volume.
3. Copies of one slice (one SOPInstanceUID, one place) count once.
4. Where slices lie in one place all the same, they are several acquisitions (phases, echoes, kernels). They are told
   apart by what the header says of the acquisition, if that divides all of them; otherwise the slices in question are
   left alone.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from itertools import combinations, pairwise

import numpy as np

from ..io.place import SAME_MM, SlicePlace
from .adaptive.neighbours import SliceGeometry

GAP = 1.5
"""Usual steps between slices, or thicknesses of the slices, from which on one may be missing."""


@dataclass(frozen=True, slots=True)
class Located:
    """A slice as it is sorted into volumes.

    Parameters
    ----------
    place : SlicePlace or None
    size : (rows, columns)
    uid : str
        The same for copies of one slice; empty where it is not known.
    name : str
        What the user calls it.
    thickness : float or None
        mm, where the header says it.
    """

    place: SlicePlace | None
    size: tuple[int, int]
    uid: str
    name: str
    thickness: float | None = None


@dataclass(frozen=True, slots=True)
class Volume:
    """Slices that form one volume.

    Parameters
    ----------
    members : tuple of int
        Which of the slices, in order of position; of copies the first.
    rank : mapping of int to int
        For every slice of the volume, copies included, its index in ``members``.
    geometry : SliceGeometry
        Parallel to ``members``.
    """

    members: tuple[int, ...]
    rank: Mapping[int, int]
    geometry: SliceGeometry


def frames_located(places: Sequence[SlicePlace | None], size: tuple[int, int]) -> list[Located]:
    """The slices of one file, by number."""
    return [Located(place, size, "", f"slice {z}") for z, place in enumerate(places)]


def whole_volume(positions: Sequence[float], offsets: Sequence[tuple[float, float]]) -> Volume:
    """All slices as one volume, where they are known to be one; slices of one position are no neighbours."""
    order = sorted(range(len(positions)), key=lambda index: positions[index])
    geometry = SliceGeometry(tuple(positions[index] for index in order), tuple(offsets[index] for index in order))
    return Volume(tuple(order), {index: rank for rank, index in enumerate(order)}, geometry)


def find_volumes(slices: Sequence[Located]) -> tuple[list[Volume], list[str]]:
    """The volumes of at least two slices among ``slices``, and what the user should know of the others."""
    notes: list[str] = []
    placed = [index for index, one in enumerate(slices) if one.place is not None]
    if len(slices) > 1 and len(placed) < len(slices):
        lost = [one.name for one in slices if one.place is None]
        notes.append(f"{_slices(lost)} without a position in the header: denoised alone")
    parts = _alike(slices, placed)
    if len(parts) > 1:
        sizes = ", ".join(f"{len(part)} like {slices[part[0]].name}" for part in parts[:4])
        more = f" and {len(parts) - 4} more kinds" if len(parts) > 4 else ""
        notes.append(f"slices of other orientation, pixel spacing, size or frame are not mixed: {sizes}{more}")
    volumes = []
    for part in parts:
        layers = _layers(slices, part)
        for phase in _phases(slices, layers, notes):
            if len(phase) > 1:
                notes += _gaps(slices, phase)
                volumes.append(_volume(phase))
    return volumes, notes


@dataclass(frozen=True, slots=True)
class SliceLayer:
    """Slices that are copies of one, where it lies: mm along the normal, offset in rows and columns."""

    copies: tuple[int, ...]
    mm: float
    offset: tuple[float, float]


def _alike(slices: Sequence[Located], indices: Iterable[int]) -> list[list[int]]:
    """Step 2."""
    parts: list[list[int]] = []
    for index in indices:
        for part in parts:
            if _parallel(slices[index], slices[part[0]]):
                part.append(index)
                break
        else:
            parts.append([index])
    return parts


def _parallel(one: Located, other: Located) -> bool:
    a, b = one.place, other.place
    if a is None or b is None or one.size != other.size or a.frame != b.frame:
        return False
    turned = np.subtract((*a.across, *a.down), (*b.across, *b.down))
    return bool(np.abs(turned).max() < 1e-3 and np.allclose(a.spacing, b.spacing, rtol=1e-3, atol=0))


def _layers(slices: Sequence[Located], part: Sequence[int]) -> list[SliceLayer]:
    """Step 3. The slices of ``part`` in order of position, copies together.

    Copies also lie in one place and were acquired alike: there are files whose SOPInstanceUIDs are all the same.
    """
    first = slices[part[0]].place
    assert first is not None
    together: dict[object, list[int]] = {}
    for index in part:
        one = slices[index]
        assert one.place is not None
        together.setdefault((one.uid, one.place.origin, one.place.marks) if one.uid else index, []).append(index)
    layers = []
    for copies in together.values():
        place = slices[copies[0]].place
        assert place is not None
        mm, rows, columns = place.seen_from(first)
        layers.append(SliceLayer(tuple(copies), mm, (rows, columns)))
    return sorted(layers, key=lambda layer: layer.mm)


def _shared(layers: Sequence[SliceLayer]) -> list[SliceLayer]:
    """The layers, in order, that lie where another one lies."""
    near = [after.mm - before.mm < SAME_MM for before, after in pairwise(layers)]
    either = [left or right for left, right in zip([False, *near], [*near, False], strict=True)]
    return [layer for layer, meets in zip(layers, either, strict=True) if meets]


def _phases(slices: Sequence[Located], layers: list[SliceLayer], notes: list[str]) -> list[list[SliceLayer]]:
    """Step 4. The layers of each acquisition."""
    if copies := sum(len(layer.copies) - 1 for layer in layers):
        notes.append(f"{copies} cop{'ies' if copies > 1 else 'y'} of other slices (same SOPInstanceUID)")
    shared = _shared(layers)
    if not shared:
        return [layers]
    marks = [place.marks for layer in layers if (place := slices[layer.copies[0]].place) is not None]
    words = range(len(marks[0]))
    for count in (1, 2):  # words of the header that are needed to tell them apart: as few as possible
        found = []
        for which in combinations(words, count):
            groups: dict[tuple[str, ...], list[SliceLayer]] = {}
            for layer, said in zip(layers, marks, strict=True):
                groups.setdefault(tuple(said[word][1] for word in which), []).append(layer)
            if all(len(phase) > 1 and not _shared(phase) for phase in groups.values()):
                found.append((list(groups.values()), which))
        if found:
            phases, which = min(found, key=lambda one: len(one[0]))
            named = " and ".join(marks[0][word][0] for word in which)
            notes.append(f"positions repeat: {len(phases)} acquisitions by {named}, which are not mixed")
            return phases
    names = [slices[index].name for layer in shared for index in layer.copies]
    notes.append(
        f"{_slices(names)} where another one lies, and the header does not say which belong together: denoised alone"
    )
    return [[layer for layer in layers if layer not in shared]]


def _gaps(slices: Sequence[Located], layers: Sequence[SliceLayer]) -> list[str]:
    """What is missing, as far as the steps between the slices tell."""
    steps = np.diff([layer.mm for layer in layers])
    usual = float(np.median(steps))
    ones = [slices[layer.copies[0]] for layer in layers]
    thick = [one.thickness or 0.0 for one in ones]
    wide = [k for k, step in enumerate(steps) if step > GAP * max(usual, thick[k], thick[k + 1])]
    if not wide:
        return []
    k = wide[0]
    return [
        f"{len(wide)} gap{'s' * (len(wide) > 1)} wider than the usual {usual:.4g} mm, the first of {steps[k]:.4g} mm "
        f"between {ones[k].name} and {ones[k + 1].name}: is a slice missing?"
    ]


def _volume(layers: Sequence[SliceLayer]) -> Volume:
    rank = {index: k for k, layer in enumerate(layers) for index in layer.copies}
    geometry = SliceGeometry(tuple(layer.mm for layer in layers), tuple(layer.offset for layer in layers))
    return Volume(tuple(layer.copies[0] for layer in layers), rank, geometry)


def _slices(names: Sequence[str]) -> str:
    """``2 slices (a, b)``, with at most three names."""
    more = f" and {len(names) - 3} more" if len(names) > 3 else ""
    return f"{len(names)} slice{'s' * (len(names) > 1)} ({', '.join(names[:3])}{more})"
