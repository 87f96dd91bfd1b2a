"""Standard streams that cannot be written: closed (``>&-``), a full disk, a reader that went away (``| head``).

Python would end with a traceback, with "Exception ignored" when it flushes, or say nothing at all.
"""

from __future__ import annotations

import errno
import io
import logging
import os
import sys
import warnings
from typing import Any

from attn.core.text import one_line, printable

from .say import say

EXIT_PIPE = 141


class OutputLost(Exception):
    """Standard output cannot be written. Raised once; what follows is dropped."""


class _Stream(io.FileIO):
    """A standard stream that remembers the first fault and takes everything after it in silence."""

    def __init__(self, number: int, *, closed: bool, raises: bool) -> None:
        super().__init__(number, "w", closefd=False)
        self.fault = OSError(errno.EBADF, "it is closed") if closed else None
        self.lost = False
        self._raises = raises

    def write(self, data: Any) -> int:
        if not self.lost:
            try:
                if self.fault is None:
                    return super().write(data)
            except OSError as error:
                self.fault = error
            self.lost = True
            if self._raises:
                raise OutputLost
        return memoryview(data).nbytes


class Streams:
    """Standard output and error, watched from here on; ``leave`` gives the exit code that they leave us with."""

    def __init__(self) -> None:
        closed = {number for number in (0, 1, 2) if _closed(number)}
        self._out = _Stream(1, closed=1 in closed, raises=True)
        self._err = _Stream(2, closed=2 in closed, raises=False)
        sys.stdout, sys.stderr = _text(self._out, sys.stdout), _text(self._err, sys.stderr)
        warnings.showwarning = _warn
        logging.lastResort = _Handler(logging.WARNING)

    def leave(self, code: int) -> int:
        """The exit code: ``code``, or what a stream that was lost makes of it, which is said where it can be."""
        try:
            sys.stdout.flush()
        except OutputLost:
            pass
        if self._out.lost and self._out.fault is not None:
            if self._out.fault.errno == errno.EPIPE:
                return EXIT_PIPE
            say(f"attn: standard output cannot be written ({self._out.fault.strerror})", err=True)
            code = code or 1
        sys.stderr.flush()
        return code or int(self._err.lost)


def _closed(number: int) -> bool:
    """Whether a standard stream is closed; if so it leads to nowhere from here on, lest a file of ours become it."""
    try:
        os.fstat(number)
    except OSError:
        handle = os.open(os.devnull, os.O_RDWR)
        if handle != number:
            os.dup2(handle, number)
            os.close(handle)
        return True
    return False


def _text(stream: _Stream, old: Any) -> io.TextIOWrapper:
    encoding = getattr(old, "encoding", None) or "utf-8"
    # what the terminal's encoding cannot say is escaped: no name may end a run
    return io.TextIOWrapper(
        io.BufferedWriter(stream), encoding=encoding, errors="backslashreplace", line_buffering=stream.isatty()
    )


def _warn(
    message: Any, category: type[Warning], filename: str, lineno: int, file: Any = None, line: Any = None
) -> None:
    """A warning of a library as one line; its text may hold words of the user's file."""
    say(f"attn: {category.__name__}: {one_line(str(message))}", err=True)


class _Handler(logging.Handler):
    """For libraries whose logger nobody has set up: as the standard one, but printable."""

    def emit(self, record: logging.LogRecord) -> None:
        say(f"attn: {printable(record.getMessage())}", err=True)
