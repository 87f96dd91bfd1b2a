"""Which files belong together when one filter serves a whole series."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from ..io import sort_series


def group_series(paths: Sequence[Path]) -> list[list[Path]]:
    """Files that share a filter, in slice order.

    DICOM files are grouped by SeriesInstanceUID and sorted by position (localizers stand alone); files of other kinds
    are one series per directory and suffix, sorted by name. Every path is in exactly one group.
    """
    groups = [list(group) for group in sort_series(paths)]
    grouped = {path for group in groups for path in group}
    others: dict[tuple[Path, str], list[Path]] = {}
    for path in sorted(set(paths) - grouped):
        others.setdefault((path.parent, path.suffix.lower()), []).append(path)
    return groups + list(others.values())
