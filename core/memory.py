"""One budget of memory, which every reader asks before it decodes and keeps to while it unpacks.

A small file may unpack to terabytes, and a header may promise them. So sizes are computed from headers and compared
with the budget first (``check_memory``), and what a stream unpacks to is counted while it unpacks (``read_within``,
``Counted``). The budget is for one input and what is made of it, beside the program itself (about 0.5 GB with torch).
"""

from __future__ import annotations

import ctypes
import io
import os
from os import PathLike
from typing import IO

from .errors import InputError, UsageError
from .sizes import parse_size, show_bytes

VARIABLE = "ATTN_MAX_MEMORY"
"""Environment variable with the default of ``--max-memory``."""
LEAST = 2**26
"""Below 64 MiB nothing could be read."""
FIX = "Raise --max-memory if it is what it should be, and the machine has that much"
_BLOCK = 2**20
_TRIM_THRESHOLD, _MMAP_THRESHOLD = -1, -3
"""Of mallopt(3): what is kept at the end of the heap, and from what size on a block is no part of it."""
_budget: int | None = None


def set_budget(size: int | None) -> None:
    """Let one input take ``size`` bytes in this process; None: what the environment or the machine say."""
    global _budget
    _budget = size


def budget() -> int:
    """Bytes that one input may take, with what is made of it."""
    if _budget is not None:
        return _budget
    if text := os.environ.get(VARIABLE):
        try:
            return parse_budget(text)
        except UsageError as error:
            raise UsageError(f"{VARIABLE}: {error}") from None
    return max(LEAST, machine_memory() // 2)


def parse_budget(text: str) -> int:
    """``4g``, ``512m`` as bytes. Raises ``UsageError`` for anything else, or less than 64 MiB."""
    try:
        size = parse_size(text)
    except UsageError:
        raise UsageError(f"{text!r} is no amount of memory. Use a number such as 512m or 4g.") from None
    if size < LEAST:
        raise UsageError(f"{text} is too little to read anything. Use at least {LEAST // 2**20}m.")
    return size


def machine_memory() -> int:
    """Bytes of memory that this process may use: those of the machine, or of the container where it has fewer."""
    sizes = []
    if hasattr(os, "sysconf"):
        sizes.append(os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE"))
    for place in ("/sys/fs/cgroup/memory.max", "/sys/fs/cgroup/memory/memory.limit_in_bytes"):
        try:
            with open(place) as file:
                sizes.append(int(file.read()))
        except (OSError, ValueError):  # no such file, or "max"
            continue
    return min((size for size in sizes if size > 0), default=2**32)


def keep_freed_memory() -> bool:
    """Let this process use freed blocks of up to 256 MiB again, and keep up to 1 GiB of them; whether it can.

    glibc gives blocks of more than 32 MiB back to the system at once, which hands them out anew page by page: a quarter
    of the time of a network whose maps are that large. It concerns the whole process, so a command may ask for it, and
    a library function may not. Other systems' allocators do as they always do.
    """
    mallopt = getattr(ctypes.CDLL(None), "mallopt", None) if os.name == "posix" else None
    if mallopt is None:
        return False
    return bool(mallopt(_MMAP_THRESHOLD, 2**28) and mallopt(_TRIM_THRESHOLD, 2**30))


def check_memory(path: str | PathLike[str], need: int, what: str = "its pixels take", fix: str = FIX) -> None:
    """Refuse before anything is allocated what does not fit.

    Parameters
    ----------
    path : str or PathLike
        The file whose header was read.
    need : int
        Bytes at the peak, with copies.
    what : str
        Begins the sentence: ``"its pixels take"``.
    fix : str

    Raises
    ------
    InputError
        If ``need`` is more than the budget.
    """
    if need > (most := budget()):
        raise InputError(path, f"{what} {show_bytes(need)} of memory, more than the budget of {show_bytes(most)}", fix)


def read_within(
    file: IO[bytes], path: str | PathLike[str], limit: int | None = None, what: str = "unpacks to"
) -> bytes:
    """All that is left of a stream, at most ``limit`` bytes (None: a third of the budget, for what is made of them).

    Raises
    ------
    InputError
        As soon as there is more; the stream is not unpacked further.
    """
    most = budget() // 3 if limit is None else limit
    parts, total = [], 0
    while part := file.read(min(_BLOCK, most - total + 1)):
        total += len(part)
        if total > most:
            raise InputError(path, f"{what} more than {show_bytes(most)}", FIX)
        parts.append(part)
    return b"".join(parts)


class Counted(io.RawIOBase):
    """A stream that refuses to give more than ``limit`` bytes (None: a third of the budget): for decoders that read it.

    Wrap it in ``io.BufferedReader`` for lines.
    """

    def __init__(self, file: IO[bytes], path: str | PathLike[str], limit: int | None = None) -> None:
        self._file, self._path, self._given = file, path, 0
        self._limit = budget() // 3 if limit is None else limit

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: bytearray | memoryview) -> int:  # type: ignore[override]
        data = self._file.read(len(buffer))
        self._given += len(data)
        if self._given > self._limit:
            raise InputError(self._path, f"unpacks to more than {show_bytes(self._limit)}", FIX)
        buffer[: len(data)] = data
        return len(data)
