"""Sizes as people write them: 4k, 128k, 1m (k = 1024), lists and doubling ranges; grids; byte counts."""

from __future__ import annotations

import math
import re
from collections.abc import Sequence

from .errors import UsageError

_UNITS = {"": 1, "k": 2**10, "m": 2**20, "g": 2**30}


def parse_size(text: str) -> int:
    """``512``, ``4k``, ``1.5m`` as a number; k, m, g are powers of 1024. Raises ``UsageError`` for anything else."""
    match = re.fullmatch(r"(\d+(?:\.\d+)?)([kmg]?)", text.strip().lower())
    value = float(match[1]) * _UNITS[match[2]] if match else 0.0
    if not 1 <= value < math.inf or value != int(value):
        raise UsageError(f"{text!r} is no size. Use a positive number such as 512, 4k or 1m (k = 1024).")
    return int(value)


def parse_sizes(text: str) -> tuple[int, ...]:
    """``4k,16k`` or ``4k..128k`` (doubling, both ends included), or both mixed: ascending, without repeats."""
    sizes: set[int] = set()
    for part in text.split(","):
        low, dots, high = part.partition("..")
        if not dots:
            sizes.add(parse_size(part))
            continue
        size, last = parse_size(low), parse_size(high)
        if last < size:
            raise UsageError(f"{part!r}: the range runs backwards. Write {high}..{low}.")
        while size < last:
            sizes.add(size)
            size *= 2
        sizes.add(last)
    return tuple(sorted(sizes))


def parse_grid(text: str, parts: int = 2) -> tuple[int, ...]:
    """``256x256`` as (256, 256). Raises ``UsageError`` for anything else."""
    try:
        grid = tuple(int(side) for side in text.lower().split("x"))
    except ValueError:
        grid = ()
    if len(grid) != parts or min(grid) < 1:
        shown = "x".join("HW" if parts == 2 else "THW")
        raise UsageError(f"{text!r} is no grid. Use {shown}, as {'256x256' if parts == 2 else '16x45x80'}.")
    return grid


def show_size(value: int) -> str:
    """131072 as ``128k``; a number that is no multiple of 1024 as it is."""
    for unit in "gmk":
        if value >= _UNITS[unit] and value % _UNITS[unit] == 0:
            return f"{value // _UNITS[unit]}{unit}"
    return str(value)


def show_bytes(count: float) -> str:
    """A number of bytes for people: ``1.5 GiB``."""
    for unit in ("B", "KiB", "MiB", "GiB", "TiB"):
        if count < 1024 or unit == "TiB":
            return f"{count:.0f} {unit}" if unit == "B" else f"{count:.1f} {unit}"
        count /= 1024
    raise AssertionError


def show_sizes(values: Sequence[int]) -> str:
    """Several sizes, separated by commas."""
    return ",".join(show_size(value) for value in values)
