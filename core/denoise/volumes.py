"""Which slices form a volume, by where they lie: nothing is mixed that does not belong together, nothing is guessed.

Specification: methods/adaptive-denoise.md, section 6.

1. Slices without a position are left alone.
2. Slices of another frame of reference, orientation, pixel spacing or size are another volume.
3. Copies of one slice (one SOPInstanceUID) count once.
4. Where slices lie in one place all the same, they are several acquisitions (phases, echoes, kernels). They are told
   apart by what the header says of the acquisition, if that divides all of them; otherwise the slices in question are
   left alone.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from itertools import chain, combinations, pairwise

import numpy as np

from ..io.place import SlicePlace
from .adaptive.neighbours import SAME_MM, SliceGeometry

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
        for phase in _phases(slices, part, notes):
            if len(volume := _volume(slices, phase)) > 1:
                notes += _gaps(slices, volume)
                volumes.append(_rank(slices, phase, volume))
    return volumes, notes


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


def _volume(slices: Sequence[Located], part: Sequence[int]) -> list[tuple[int, float, tuple[float, float]]]:
    """(slice, mm along the normal, offset in rows and columns), in order of position; of copies the first."""
    first = slices[part[0]].place
    assert first is not None
    seen: set[str] = set()
    found = []
    for index in part:
        one = slices[index]
        if one.place is None or (one.uid and one.uid in seen):
            continue
        seen.add(one.uid)
        mm, rows, columns = one.place.seen_from(first)
        found.append((index, mm, (rows, columns)))
    return sorted(found, key=lambda entry: entry[1])


def _shared(slices: Sequence[Located], part: Sequence[int]) -> list[int]:
    """The slices of ``part`` that lie where another one lies."""
    volume = _volume(slices, part)
    beside = [(a[0], b[0]) for a, b in pairwise(volume) if b[1] - a[1] < SAME_MM]
    return sorted(set(chain.from_iterable(beside)))


def _phases(slices: Sequence[Located], part: list[int], notes: list[str]) -> list[list[int]]:
    """Steps 3 and 4."""
    uids = [slices[index].uid for index in part if slices[index].uid]
    if copies := len(uids) - len(set(uids)):
        notes.append(f"{copies} cop{'ies' if copies > 1 else 'y'} of other slices (same SOPInstanceUID)")
    shared = _shared(slices, part)
    if not shared:
        return [part]
    marks = {index: slices[index].place.marks for index in part}  # type: ignore[union-attr]
    words = range(len(marks[part[0]]))
    best: tuple[list[list[int]], tuple[int, ...]] | None = None
    for which in chain(combinations(words, 1), combinations(words, 2)):
        groups: dict[tuple[str, ...], list[int]] = {}
        for index in part:
            groups.setdefault(tuple(marks[index][word][1] for word in which), []).append(index)
        phases = list(groups.values())
        whole = all(len(phase) > 1 and not _shared(slices, phase) for phase in phases)
        if whole and (best is None or (len(which), len(phases)) < (len(best[1]), len(best[0]))):
            best = phases, which
    if best is not None:
        phases, which = best
        named = " and ".join(marks[part[0]][word][0] for word in which)
        notes.append(f"positions repeat: {len(phases)} acquisitions by {named}, which are not mixed")
        return phases
    names = [slices[index].name for index in shared]
    notes.append(
        f"{_slices(names)} where another one lies, and the header does not say which belong together: denoised alone"
    )
    return [alone] if (alone := [index for index in part if index not in set(shared)]) else []


def _gaps(slices: Sequence[Located], volume: Sequence[tuple[int, float, tuple[float, float]]]) -> list[str]:
    """What is missing, as far as the steps between the slices tell."""
    steps = np.diff([mm for _, mm, _ in volume])
    usual = float(np.median(steps))
    thick = [slices[index].thickness or 0.0 for index, _, _ in volume]
    wide = [k for k, step in enumerate(steps) if step > GAP * max(usual, thick[k], thick[k + 1])]
    if not wide:
        return []
    k = wide[0]
    between = f"{slices[volume[k][0]].name} and {slices[volume[k + 1][0]].name}"
    return [
        f"{len(wide)} gap{'s' * (len(wide) > 1)} wider than the usual {usual:.4g} mm, the first of {steps[k]:.4g} mm "
        f"between {between}: is a slice missing?"
    ]


def _rank(
    slices: Sequence[Located], phase: Sequence[int], volume: Sequence[tuple[int, float, tuple[float, float]]]
) -> Volume:
    """The volume, with the place of every copy."""
    members = tuple(index for index, _, _ in volume)
    known = {slices[index].uid: rank for rank, index in enumerate(members) if slices[index].uid}
    own = {index: rank for rank, index in enumerate(members)}
    rank = {index: own[index] if index in own else known[slices[index].uid] for index in phase}
    geometry = SliceGeometry(tuple(mm for _, mm, _ in volume), tuple(offset for _, _, offset in volume))
    return Volume(members, rank, geometry)


def _slices(names: Sequence[str]) -> str:
    """``2 slices (a, b)``, with at most three names."""
    more = f" and {len(names) - 3} more" if len(names) > 3 else ""
    return f"{len(names)} slice{'s' * (len(names) > 1)} ({', '.join(names[:3])}{more})"
