"""One writer at a time: a lock on a file that names its holder. The system frees it when the holder dies."""

from __future__ import annotations

import os
from pathlib import Path

from filelock import FileLock, Timeout

from ...errors import InputError, UsageError

LOCK = ".lock"
POLL_SECONDS = 0.05
DIGITS = 32
"""Bytes of the file that may say who holds it."""


class WriterLock:
    """The right to change the store in ``directory``; taken by ``acquire``, kept until ``release``.

    Parameters
    ----------
    directory : Path
        Where the store is; the lock is the file ``.lock`` inside, which stays when it is free.
    timeout : float
        How long to wait for another writer, in s.
    doing, meanwhile : str
        What a writer does, and what others can do meanwhile; for the refusal.
    """

    def __init__(
        self, directory: Path, timeout: float, doing: str = "writing to this index",
        meanwhile: str = "; searching is possible meanwhile",
    ) -> None:  # fmt: skip
        self.path, self.timeout, self.doing, self.meanwhile = directory / LOCK, timeout, doing, meanwhile
        # one right for all threads of a store; two stores of one process exclude each other all the same. A file system
        # without locks is refused: a lock that a dead holder leaves behind would be worse than none
        self._lock = FileLock(
            self.path, timeout, thread_local=False, poll_interval=POLL_SECONDS, fallback_to_soft=False,
            preserve_lock_file=True, on_acquired=_sign,
        )  # fmt: skip

    @property
    def held(self) -> bool:
        """Whether the right to write is ours."""
        return self._lock.is_locked

    def acquire(self) -> bool:
        """Take the lock; False if we hold it already. Raises ``UsageError`` if somebody else keeps it."""
        if self.held:
            return False
        try:
            self._lock.acquire()
        except Timeout:  # an OSError, too
            raise UsageError(self._refusal()) from None
        except OSError as error:
            raise InputError(self.path, f"cannot be written ({error.strerror})", "Check the permissions") from error
        return True

    def _refusal(self) -> str:
        with open(self.path, "rb") as file:
            owner = file.read(DIGITS).decode(errors="replace").strip()
        return (
            f"{self.path.parent}: process {owner or '?'} is {self.doing} (waited {self.timeout:g} s). "
            f"Wait until it is done, or end it{self.meanwhile}."
        )

    def release(self) -> None:
        """Let others write; does nothing if we do not hold the lock."""
        self._lock.release()


def _sign(handle: int) -> None:
    """Our process id into the file that we hold now."""
    os.truncate(handle, 0)
    os.write(handle, f"{os.getpid()}\n".encode())
