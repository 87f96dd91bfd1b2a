"""Files appear whole or not at all: write beside the target under a hidden name, then rename."""

from __future__ import annotations

import contextlib
import functools
import itertools
import os
import re
import shutil
import socket
import stat
import time
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from os import PathLike
from pathlib import Path

from ..errors import InputError, UsageError
from ..options import OptionError

try:
    import fcntl
except ImportError:  # Windows
    fcntl = None  # type: ignore[assignment]

_COUNTER = itertools.count()
_STALE = re.compile(r"^\.attn-tmp-([0-9a-f]{8})-([0-9]+)-[0-9]+-")
_TIDIED: set[str] = set()
FORGOTTEN = 7 * 24 * 3600.0
"""Seconds after which a temporary file is a leftover where locks say nothing: another machine's, and no system's that
has none."""


@functools.cache
def _host() -> str:
    """Eight hex digits that stand for this running system, whose locks we see (containers on it included)."""
    try:
        name = Path("/proc/sys/kernel/random/boot_id").read_text()
    except OSError:
        name = socket.gethostname()
    return f"{zlib.crc32(name.encode()):08x}"


def place_fault(path: str | PathLike[str]) -> str:
    """Why no file can be written at ``path``, in one clause; empty where one can. Nothing is made.

    For commands to ask before the work, not after it.
    """
    try:
        name = os.fsencode(os.path.basename(path))
        if len(name) > 255:
            return f"a name of {len(name)} bytes is too long (255 are possible)"
        status = _stat(path)
        if status is not None and stat.S_ISDIR(status.st_mode):
            return "is a directory"
        if status is not None and not stat.S_ISREG(status.st_mode):
            return "is no regular file"
        folder = os.path.dirname(os.path.abspath(path))
        while (above := _stat(folder)) is None:
            if os.path.islink(folder):
                return f"{folder} is a link to nowhere"
            folder = os.path.dirname(folder)
    except (OSError, ValueError) as error:  # a NUL byte, a name too long, a folder that may not be entered
        return f"cannot be written ({getattr(error, 'strerror', None) or error})"
    if not stat.S_ISDIR(above.st_mode):
        return f"{folder} is a file, not a directory"
    if not os.access(folder, os.W_OK | os.X_OK):
        return f"{folder} may not be written to"
    return ""


def _stat(path: str | PathLike[str]) -> os.stat_result | None:
    """What is at ``path``, None for nothing."""
    try:
        return os.stat(path)
    except (FileNotFoundError, NotADirectoryError):
        return None


def check_place(field: str, path: str | PathLike[str], suffixes: tuple[str, ...] = ()) -> None:
    """Raise ``UsageError`` where the file of the option ``field`` could not be written, before the work.

    ``suffixes`` are those it may have; none: any.
    """
    if suffixes and Path(path).suffix.lower() not in suffixes:
        raise OptionError(f"{{{field}}} {path}: the file is written as {' or '.join(suffixes)}. Name it so.")
    if fault := place_fault(path):
        raise OptionError(f"{{{field}}} {path}: {fault}.")


def check_suffix(path: str | PathLike[str], suffixes: tuple[str, ...], kind: str, option: str = "") -> None:
    """Raise ``UsageError`` where ``path``, of the field ``option``, has none of ``suffixes``; ``kind`` names them."""
    if Path(path).suffix.lower() not in suffixes:
        ends = " or ".join(filter(None, (", ".join(suffixes[:-1]), suffixes[-1])))
        text = f"{path}: {kind} end in {ends}, which says how they are written."
        raise OptionError(f"{{{option}}} {text}") if option else UsageError(text)


@contextmanager
def atomic_path(path: str | PathLike[str]) -> Iterator[Path]:
    """A temporary path beside ``path`` that becomes ``path`` when the block ends well.

    Parameters
    ----------
    path : str or PathLike
        The file to make. Missing parent directories are made, too. An existing file is replaced in one step.

    Yields
    ------
    Path of an empty file in the same directory: ``.attn-tmp-HOST-PID-COUNT-NAME`` (suffix kept). It is locked, synced
    to disk and renamed on success, and removed on any exception. The first file of a process in a directory removes
    what killed runs left there.

    Raises
    ------
    InputError
        If the operating system refuses (no space, no permission, a directory of that name).
    """
    path = Path(path)
    temporary, lock = None, -1
    try:
        _parent(path)
        temporary, lock = _claimed(path)
        yield temporary
        with open(temporary, "rb+") as file:
            os.fsync(file.fileno())
        if path.exists():
            shutil.copymode(path, temporary)
        os.replace(temporary, path)
        _sync(path.parent)
    except OSError as error:
        raise _refused(path, error) from error
    finally:
        if temporary is not None:
            with contextlib.suppress(OSError):
                temporary.unlink(missing_ok=True)
        if lock >= 0:
            os.close(lock)


def _refused(path: Path, error: OSError) -> InputError:
    reason = error.strerror or str(error)
    return InputError(path, f"cannot be written ({reason})", "Check the place, its permissions and space")


def _parent(path: Path) -> None:
    """Make the directory of ``path`` and tidy it, once per process: no writer can forget ``remove_stale``."""
    if "\0" in str(path):
        raise OSError(None, "a NUL byte in its name")
    path.parent.mkdir(parents=True, exist_ok=True)
    if (place := os.path.abspath(path.parent)) not in _TIDIED:
        _TIDIED.add(place)
        remove_stale(path.parent)


def _claimed(path: Path, *, folder: bool = False) -> tuple[Path, int]:
    """A new empty file or folder beside ``path``, locked while the handle is open (-1: no locks on this system)."""
    while True:
        temporary = _beside(path)
        if folder:
            temporary.mkdir()
            if fcntl is None:
                return temporary, -1
        flags = os.O_RDONLY if folder else os.O_RDWR | os.O_CREAT | os.O_EXCL
        handle = os.open(temporary, flags | getattr(os, "O_BINARY", 0), 0o666)
        if _locked(handle) is not False and _stat(temporary) is not None:
            return temporary, handle
        os.close(handle)  # somebody who tidies up was quicker than our lock, and removes it


def _locked(handle: int) -> bool | None:
    """Lock an open file; False where somebody else holds the lock, None where there are no locks."""
    if fcntl is None:
        return None
    try:
        fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    except OSError:  # a file system without locks
        return None
    return True


@contextmanager
def atomic_folder(path: str | PathLike[str]) -> Iterator[Path]:
    """A temporary folder beside ``path`` that becomes ``path`` when the block ends well.

    Parameters
    ----------
    path : str or PathLike
        The folder to make. A folder that is there is replaced, with all that is in it; between the two renames that
        this takes there is none of that name.

    Yields
    ------
    Path, an empty folder in the same directory, renamed on success and removed on any exception.

    Raises
    ------
    InputError
        If the operating system refuses (no space, no permission, a file of that name).
    """
    path = Path(path)
    temporary, lock = None, -1
    old = _beside(path, "old")  # not "tmp": never taken for a rest that may be removed
    try:
        _parent(path)
        if path.exists() and not path.is_dir():
            raise NotADirectoryError(None, "a file has that name")
        temporary, lock = _claimed(path, folder=True)
        yield temporary
        for file in temporary.rglob("*"):
            _sync(file)
        if path.exists():
            os.replace(path, old)
        os.replace(temporary, path)
        _sync(path.parent)
    except OSError as error:
        raise _refused(path, error) from error
    finally:
        if lock >= 0:
            os.close(lock)
        with contextlib.suppress(OSError):
            if old.exists() and not path.exists():  # interrupted between the renames
                os.replace(old, path)
        with contextlib.suppress(OSError):
            for folder in (temporary, old):
                if folder is not None and (path.exists() or folder == temporary):
                    shutil.rmtree(folder, ignore_errors=True)


@contextmanager
def scratch_folder(directory: str | PathLike[str]) -> Iterator[Path]:
    """A hidden folder in ``directory``, for files that workers read meanwhile; it is removed when the block ends.

    That of a run that was killed goes with `remove_stale`. Raises ``InputError`` if the operating system refuses.
    """
    path = Path(directory, "scratch")
    try:
        _parent(path)
        folder, lock = _claimed(path, folder=True)
    except OSError as error:
        raise _refused(Path(directory), error) from error
    try:
        yield folder
    finally:
        if lock >= 0:
            os.close(lock)
        shutil.rmtree(folder, ignore_errors=True)


def _beside(path: Path, what: str = "tmp") -> Path:
    """A hidden name in the directory of ``path`` that nobody else takes."""
    name = os.fsencode(path.name)[-100:].decode(errors="ignore")  # the whole must stay below 255 bytes
    return path.parent / f".attn-{what}-{_host()}-{os.getpid()}-{next(_COUNTER)}-{name}"


def _sync(path: Path) -> None:
    """Make a file, or the renames in a directory, durable, where the system lets them be synced."""
    with contextlib.suppress(OSError):
        handle = os.open(path, os.O_RDONLY)
        try:
            os.fsync(handle)
        finally:
            os.close(handle)


def write_bytes(path: str | PathLike[str], data: bytes) -> None:
    """Write ``data`` to ``path`` atomically. Raises ``InputError`` as ``atomic_path`` does."""
    with atomic_path(path) as temporary:
        temporary.write_bytes(data)


def write_text(path: str | PathLike[str], text: str) -> None:
    """Write ``text`` as UTF-8 with unchanged line ends, atomically. Raises ``InputError`` as ``atomic_path`` does."""
    write_bytes(path, text.encode("utf-8"))


def remove_stale(directory: str | PathLike[str]) -> list[Path]:
    """Remove temporary files and folders in ``directory`` that a killed run left behind.

    A living writer holds a lock on its file, which the system drops when the writer ends, however it does. Process
    numbers say nothing: those of another container are not ours. Where locks are not seen (another machine's file, a
    file system without them), only what has not been touched for a week is taken for a leftover.

    Returns
    -------
    list of Path, the removed files and folders.
    """
    removed = []
    for path in sorted(Path(directory).glob(".attn-tmp-*")):
        if match := _STALE.match(path.name):
            with contextlib.suppress(OSError):
                handle = os.open(path, os.O_RDONLY | getattr(os, "O_NOFOLLOW", 0) | getattr(os, "O_NONBLOCK", 0))
                try:
                    free = _locked(handle)
                    age = time.time() - os.fstat(handle).st_mtime
                    if free is False or (age < FORGOTTEN and not (free and match[1] == _host())):
                        continue
                    shutil.rmtree(path) if path.is_dir() else path.unlink()
                    removed.append(path)
                finally:
                    os.close(handle)
    return removed
