"""Where a Lance table is, in a folder of this machine: a connection, errors in our words, and what lies beside it."""

from __future__ import annotations

import contextlib
import importlib.util
import json
import re
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, Protocol

from ...errors import AttnError, InputError, UsageError
from ...io.atomic import write_text
from ...io.kinds import open_regular
from ...memory import read_within
from .base import damaged
from .files import folder_bytes
from .lance_table import TABLE
from .lock import WriterLock

FOLDER = f"{TABLE}.lance"
STATE = "attn-index.json"
_FILE = re.compile(re.escape(FOLDER) + r"/[\w./-]+\.(lance|manifest|idx|txn|bin)")
_RUST = re.compile(r",? *\S+\.rs:\d+(:\d+)?")
"""Where in Lance's own source an error arose: nothing to a user."""
CACHE_BYTES, METADATA_CACHE_BYTES = 640 << 20, 64 << 20
"""Lance keeps up to 6 GB by default. One million vectors of 384 as HNSW_SQ need about 550 MB."""


class WriteRight(Protocol):
    """The right to change a store: one writer at a time."""

    @property
    def held(self) -> bool:
        """Whether it is ours."""
        ...

    def acquire(self) -> bool:
        """Take it; False if it is ours already. Raises ``UsageError`` if somebody else has it."""
        ...

    def release(self) -> None:
        """Let others write; does nothing if it is not ours."""
        ...


class LanceHome(Protocol):
    """Where a Lance table is: ``FolderHome``, or ``BucketHome`` of ``bucket.py``."""

    @property
    def place(self) -> Path | str:
        """For messages, and for whoever opens it again."""
        ...

    @property
    def lock(self) -> WriteRight:
        """Of its writers."""
        ...

    def connect(self) -> Any:
        """The database, with bounded caches."""
        ...

    def in_our_words(self) -> contextlib.AbstractContextManager[None]:
        """Lance's errors as ours."""
        ...

    def check(self, version: int) -> None:
        """Raises ``InputError`` where ``version`` cannot be the newest."""
        ...

    def read_state(self) -> dict[str, Any]:
        """What we know of the table beside what is in it; can be lost without harm."""
        ...

    def write_state(self, state: dict[str, Any]) -> None:
        """Keep what ``read_state`` gives back. Only for who holds the lock."""
        ...

    def closing(self, version: int) -> None:
        """Note what tells damage later. Only for who holds the lock."""
        ...

    def tidy(self) -> None:
        """Give back the room of what ``write_state`` and the lock leave behind. Only for who holds the lock."""
        ...

    def sizes(self, table: Any) -> dict[str, int]:
        """``bytes`` of a table with all that is beside it, as far as that can be known."""
        ...


def database(address: str, **options: Any) -> Any:
    """A database of Lance, with bounded caches. Raises ``UsageError`` where the package is missing."""
    if importlib.util.find_spec("lancedb") is None:
        raise UsageError("a Lance store needs a package that is not installed: pip install 'attn[store]'")
    import lancedb

    session = lancedb.Session(index_cache_size_bytes=CACHE_BYTES, metadata_cache_size_bytes=METADATA_CACHE_BYTES)
    return lancedb.connect(address, session=session, **options)


def reason(error: BaseException) -> str | None:
    """What Lance says, in one line; None for what is no error of its."""
    if isinstance(error, AttnError) or (
        not isinstance(error, Exception) and type(error).__name__ != "PanicException"  # its panics are no Exception
    ):
        return None
    return _RUST.sub("", (str(error).splitlines() or ["no reason given"])[0])


@contextlib.contextmanager
def translated(tell: Callable[[str], Exception]) -> Iterator[None]:
    """Lance raises OSError, ValueError or RuntimeError with the reason in the first line: ``tell`` makes ours of it."""
    try:
        yield
    except BaseException as error:
        if (said := reason(error)) is None:
            raise
        raise tell(said) from error


class FolderHome:
    """A folder. See ``LanceHome``.

    Parameters
    ----------
    directory : Path
    lock_timeout : float
        How long a change waits for another writer, in s.
    """

    def __init__(self, directory: Path, lock_timeout: float) -> None:
        self.place, self.lock = directory, WriterLock(directory, lock_timeout)

    def connect(self) -> Any:
        """See ``LanceHome``."""
        if not self.place.is_dir():
            raise InputError(self.place, "no such index", "Make one: attn retrieve index")
        for path in (self.place / FOLDER).rglob("*"):
            if not path.is_dir() and not path.is_file():
                raise damaged(path, "is not a regular file")  # reading a pipe would wait for ever
        return database(str(self.place))

    def in_our_words(self) -> contextlib.AbstractContextManager[None]:
        """See ``LanceHome``."""
        return translated(self._told)

    def _told(self, said: str) -> Exception:
        file = _FILE.search(said)
        where = self.place / file[0] if file else self._resized() or self.place
        return damaged(where, f"Lance: {said[:300]}")

    def check(self, version: int) -> None:
        """See ``LanceHome``."""
        if version < (least := self.read_state().get("last_version", 0)):
            raise damaged(self.place, f"version {least} of {FOLDER} is missing, {version} is the newest")

    def read_state(self) -> dict[str, Any]:
        """See ``LanceHome``."""
        try:
            with open_regular(path := self.place / STATE) as file:
                return sound_state(json.loads(read_within(file, path, 2**20, "holds")))
        except (InputError, OSError, ValueError, TypeError, RecursionError):
            return {}

    def write_state(self, state: dict[str, Any]) -> None:
        """See ``LanceHome``."""
        write_text(self.place / STATE, json.dumps(state, indent=1) + "\n")

    def closing(self, version: int) -> None:
        """Lance says that a read failed, but not always where: the lengths of the files tell."""
        self.write_state(self.read_state() | {"last_version": version, "sizes": self._lengths()})

    def tidy(self) -> None:
        """There is nothing to do."""

    def sizes(self, table: Any) -> dict[str, int]:
        """See ``LanceHome``."""
        return {"bytes": folder_bytes(self.place)}

    def _lengths(self) -> dict[str, int]:
        return {path.name: path.stat().st_size for path in (self.place / FOLDER / "data").glob("*.lance")}

    def _resized(self) -> Path | None:
        """A data file that is not as long as it was, if there is one."""
        now, then = self._lengths(), self.read_state().get("sizes", {})
        name = next((name for name in now if now[name] != then.get(name, now[name])), None)
        return self.place / FOLDER / "data" / name if name else None


def sound_state(values: Any) -> dict[str, Any]:
    """A state as it was kept, without what is of the wrong type. Raises ``TypeError`` or ``ValueError`` for others."""
    kinds = {"last_version": int, "compacted_version": int, "sizes": dict, "index": dict}
    return {name: value for name, value in dict(values).items() if type(value) is kinds.get(name, type(value))}
