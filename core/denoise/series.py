"""Which files belong together when one filter serves a whole series."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from ..io.dicom_series import sort_series
from ..io.kinds import suffix_of


@dataclass(frozen=True, slots=True)
class Group:
    """Files that share a filter, in slice order, and what is odd about them as a series."""

    name: str
    paths: tuple[Path, ...]
    warnings: tuple[str, ...] = ()


def group_series(paths: Sequence[Path]) -> list[Group]:
    """Every path in exactly one group.

    DICOM files are grouped by SeriesInstanceUID and sorted by position; localizers and multi-frame files stand alone.
    Files of other kinds are one series per directory and suffix, in the order given.
    """
    groups = [Group(series.key, series.items, series.warnings) for series in sort_series(paths)]
    dicom = {path for group in groups for path in group.paths}
    others: dict[tuple[Path, str], list[Path]] = {}
    for path in paths:
        if path not in dicom:
            others.setdefault((path.parent, suffix_of(path)), []).append(path)
    return groups + [Group(str(folder), tuple(found)) for (folder, _), found in others.items()]
