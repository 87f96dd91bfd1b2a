"""Files appear whole or not at all: write beside the target under a hidden name, then rename."""

from __future__ import annotations

import contextlib
import itertools
import os
import re
import shutil
import socket
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from os import PathLike
from pathlib import Path

from ..errors import InputError

_COUNTER = itertools.count()
_STALE = re.compile(r"^\.attn-tmp-([0-9a-f]{8})-([0-9]+)-[0-9]+-")


def _host() -> str:
    """Eight hex digits that stand for this machine (a shared directory may hold another machine's files)."""
    return f"{zlib.crc32(socket.gethostname().encode()):08x}"


@contextmanager
def atomic_path(path: str | PathLike[str]) -> Iterator[Path]:
    """A temporary path beside ``path`` that becomes ``path`` when the block ends well.

    Parameters
    ----------
    path : str or PathLike
        The file to make. Missing parent directories are made, too. An existing file is replaced in one step.

    Yields
    ------
    Path, not yet existing, in the same directory: ``.attn-tmp-HOST-PID-COUNT-NAME`` (suffix kept). It is synced to disk
    and renamed on success and removed on any exception.

    Raises
    ------
    InputError
        If the operating system refuses (no space, no permission, a directory of that name).
    """
    path = Path(path)
    temporary = _beside(path)
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        yield temporary
        with open(temporary, "rb+") as file:
            os.fsync(file.fileno())
        if path.exists():
            shutil.copymode(path, temporary)
        os.replace(temporary, path)
        _sync(path.parent)
    except OSError as error:
        reason = error.strerror or str(error)
        raise InputError(path, f"cannot be written ({reason})", "Check the place, its permissions and space") from error
    finally:
        with contextlib.suppress(OSError):
            temporary.unlink(missing_ok=True)


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
    temporary, old = _beside(path), _beside(path, "old")  # not "tmp": never taken for a rest that may be removed
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        if path.exists() and not path.is_dir():
            raise NotADirectoryError(None, "a file has that name")
        temporary.mkdir()
        yield temporary
        for file in temporary.rglob("*"):
            _sync(file)
        if path.exists():
            os.replace(path, old)
        os.replace(temporary, path)
        _sync(path.parent)
    except OSError as error:
        reason = error.strerror or str(error)
        raise InputError(path, f"cannot be written ({reason})", "Check the place, its permissions and space") from error
    finally:
        with contextlib.suppress(OSError):
            if old.exists() and not path.exists():  # interrupted between the renames
                os.replace(old, path)
        for folder in (temporary, old):
            if path.exists() or folder == temporary:
                shutil.rmtree(folder, ignore_errors=True)


def _beside(path: Path, what: str = "tmp") -> Path:
    """A hidden name in the directory of ``path`` that nobody else takes."""
    name = path.name.encode()[-100:].decode(errors="ignore")  # the whole must stay below 255 bytes
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
    """Remove temporary files and folders in ``directory`` that a killed run of this machine left behind.

    Returns
    -------
    list of Path, the removed files and folders. Those of running processes and of other machines stay.
    """
    removed = []
    for path in sorted(Path(directory).glob(".attn-tmp-*")):
        found = _STALE.match(path.name)
        if found and found[1] == _host() and not _alive(int(found[2])):
            with contextlib.suppress(OSError):
                shutil.rmtree(path) if path.is_dir() else path.unlink()
                removed.append(path)
    return removed


def _alive(pid: int) -> bool:
    """Whether a process of that number runs."""
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    except (PermissionError, OverflowError):
        return True
    return True
