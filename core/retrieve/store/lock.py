"""One writer at a time: an advisory lock on a file that names its holder. The system frees it when the holder dies."""

from __future__ import annotations

import contextlib
import os
import time
from pathlib import Path

from ...errors import InputError, UsageError

LOCK = ".lock"
POLL_SECONDS = 0.05


class WriterLock:
    """The right to change the store in ``directory``; taken by ``acquire``, kept until ``release``.

    Parameters
    ----------
    directory : Path
        Where the store is; the lock is the file ``.lock`` inside, which stays when it is free.
    timeout : float
        How long to wait for another writer, in s.
    """

    def __init__(self, directory: Path, timeout: float) -> None:
        self.path, self.timeout = directory / LOCK, timeout
        self._handle: int | None = None

    @property
    def held(self) -> bool:
        """Whether the right to write is ours."""
        return self._handle is not None

    def acquire(self) -> bool:
        """Take the lock; False if we hold it already. Raises ``UsageError`` if somebody else keeps it."""
        import fcntl

        if self._handle is not None:
            return False
        try:
            handle = os.open(self.path, os.O_RDWR | os.O_CREAT, 0o666)
        except OSError as error:
            raise InputError(self.path, f"cannot be written ({error.strerror})", "Check the permissions") from error
        deadline = time.monotonic() + self.timeout
        try:
            while True:
                try:
                    # flock, not lockf: its owner is the open file, so two stores in one process exclude each other, too
                    fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
                    break
                except BlockingIOError:
                    if time.monotonic() >= deadline:
                        raise UsageError(self._refusal(handle)) from None
                    time.sleep(POLL_SECONDS)
            os.truncate(handle, 0)
            os.pwrite(handle, f"{os.getpid()}\n".encode(), 0)
        except BaseException:
            os.close(handle)
            raise
        self._handle = handle
        return True

    def _refusal(self, handle: int) -> str:
        owner = os.pread(handle, 32, 0).decode(errors="replace").strip()
        return (
            f"{self.path.parent}: process {owner or '?'} is writing to this index (waited {self.timeout:g} s). "
            "Wait until it is done, or end it; searching is possible meanwhile."
        )

    def release(self) -> None:
        """Let others write; does nothing if we do not hold the lock."""
        if self._handle is not None:
            with contextlib.suppress(OSError):
                os.close(self._handle)
            self._handle = None
