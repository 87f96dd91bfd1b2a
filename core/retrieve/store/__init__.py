"""Where embeddings are kept: flat files, a Lance table or a Qdrant collection behind one interface.

Specification: methods/retrieval-peers.md, sections 3-5, 8 and 9. Places are written as ``DIR``, ``flat:DIR``,
``lance:DIR``, ``s3://BUCKET/PATH`` (a Lance table) or ``qdrant://HOST[:PORT]/COLLECTION``.
"""

from __future__ import annotations

import importlib.util
import shutil
import warnings
from collections.abc import Sequence
from fnmatch import fnmatchcase
from os import PathLike
from pathlib import Path
from typing import Literal, TypeAlias

from ...errors import InputError, UsageError
from ...options import OptionError
from .base import FLAT_ITEMS, SCHEMA, Header, Hit, VectorStore
from .files import MANIFEST, PATTERNS
from .lance_home import FOLDER, STATE, FolderHome
from .lock import LOCK, WriterLock

__all__ = [
    "FLAT_ITEMS", "SCHEMA", "Header", "Hit", "VectorStore", "clear", "create", "exists", "holds_index", "is_index",
    "is_remote", "is_vacant", "open_store", "split_place", "stamp_of",
]  # fmt: skip

RESTS = (LOCK, ".parts", ".attn-tmp-*")
OWN = (*RESTS, MANIFEST, *PATTERNS, FOLDER, STATE)
"""Names of what is ours in an index."""

StoreKind: TypeAlias = Literal["auto", "flat", "lance", "qdrant"]
KINDS = ("auto", "flat", "lance", "qdrant")
REMOTE = ("qdrant://", "s3://")
"""How addresses begin of what is no folder of this machine."""


def create(
    place: str | PathLike[str],
    header: Header,
    kind: StoreKind = "auto",
    *,
    expected_items: int = 0,
    dtype: Literal["float32", "float16"] = "float32",
    lock_timeout: float = 10.0,
) -> VectorStore:
    """Make an empty store.

    Parameters
    ----------
    place : str or path
        A directory that is new or empty, or a URL; see the module.
    header : Header
        ``Header.new(fingerprint, dim)``; its ``store`` is filled in.
    kind : {"auto", "flat", "lance", "qdrant"}
        "auto": what ``place`` says, else flat up to ``FLAT_ITEMS`` expected items and Lance above.
    expected_items : int
        For "auto".
    dtype : {"float32", "float16"}
        How vectors are stored (float16: flat only). Scores of float16 are off by up to some 1e-4.
    lock_timeout : float
        How long a change waits for another writer, in s.

    Raises
    ------
    UsageError
        If something is there already, the kind does not fit the place, or a package is missing.
    """
    if kind not in KINDS:
        raise UsageError(f"no store called {kind!r}: use {', '.join(KINDS)}.")
    said, where = split_place(place)
    if said == "s3":
        return _create_in_bucket(where, header, kind, dtype, lock_timeout)
    if kind != "auto" and said not in ("auto", kind):
        raise UsageError(f"{place} is a {said} store, not a {kind} store.")
    chosen = _choose(expected_items) if (said, kind) == ("auto", "auto") else (kind if said == "auto" else said)
    if dtype != "float32" and chosen != "flat":
        raise UsageError(f"a {chosen} store keeps float32; {dtype} is for flat stores.")
    if chosen == "qdrant":
        from .qdrant import QdrantStore, connect

        return QdrantStore.create(*connect(str(place)), header)
    directory = Path(where)
    try:
        directory.mkdir(parents=True, exist_ok=True)
        taken = not is_vacant(directory)
    except OSError as error:
        raise InputError(directory, f"cannot be made a directory ({error.strerror})", "Choose another place") from error
    if taken:
        raise OptionError(f"{directory} is not empty. Choose another place, or build the index again ({{rebuild}}).")
    if chosen == "lance":
        from .lance import LanceStore

        return LanceStore.create(FolderHome(directory, lock_timeout), header)
    from .flat import FlatStore

    return FlatStore.create(directory, header, lock_timeout=lock_timeout, dtype=dtype)


def open_store(place: str | PathLike[str], *, lock_timeout: float = 10.0, verify: bool = True) -> VectorStore:
    """Open what ``create`` made. Opening takes no lock; the first change does, and keeps it until ``close``.

    Parameters
    ----------
    place : str or path
    lock_timeout : float
        How long the first change waits for another writer, in s.
    verify : bool
        Compare the files of a flat store with their checksums (about 1 s for 1 GB).

    Raises
    ------
    InputError
        If there is no store, or it is damaged.
    UsageError
        If a newer version of attn wrote it, or a package is missing.
    """
    said, where = split_place(place)
    if said == "qdrant":
        from .qdrant import QdrantStore, connect

        return QdrantStore(*connect(str(place)))
    if said == "s3":
        from .bucket import BucketHome
        from .lance import LanceStore

        return LanceStore(BucketHome(where, lock_timeout))
    directory = Path(where)
    if not directory.is_dir():
        raise InputError(directory, "no such index", "Make one: attn retrieve index")
    if said == "lance" or (said == "auto" and (directory / FOLDER).is_dir()):
        from .lance import LanceStore

        return LanceStore(FolderHome(directory, lock_timeout))
    from .flat import FlatStore

    return FlatStore(directory, lock_timeout=lock_timeout, verify=verify)


def is_index(place: str) -> bool:
    """Whether there is an index of some sort at a place; of a server only its address tells."""
    said, where = split_place(place) if "://" not in place or place.startswith(REMOTE) else ("", place)
    return said in ("qdrant", "s3") or (Path(where) / MANIFEST).is_file() or (Path(where) / FOLDER).is_dir()


def stamp_of(place: str | PathLike[str]) -> str:
    """What differs once an index has changed on disk; always the same of a Qdrant server, which is read as it is."""
    said, where = split_place(place)
    if said == "qdrant":
        return said
    if said == "s3":
        from .bucket import BucketHome

        return str(BucketHome(where, 0).version())
    marks = []
    for path in (Path(where) / MANIFEST, Path(where) / FOLDER / "_versions"):  # Lance writes a file for each version
        try:
            state = path.stat()
            marks.append(f"{state.st_size}:{state.st_mtime_ns}:{state.st_ino}")
        except OSError:
            marks.append("")
    return " ".join(marks)


def _create_in_bucket(address: str, header: Header, kind: StoreKind, dtype: str, lock_timeout: float) -> VectorStore:
    """``create`` in object storage, which takes Lance tables only."""
    from .bucket import BucketHome
    from .lance import LanceStore

    if kind not in ("auto", "lance") or dtype != "float32":
        raise UsageError(f"{address}: object storage keeps a Lance table of float32, nothing else.")
    home = BucketHome(address, lock_timeout)
    if home.exists():
        raise OptionError(f"{home.place} is an index. Choose another place, or build it again ({{rebuild}}).")
    return LanceStore.create(home, header)


def is_remote(place: str | PathLike[str]) -> bool:
    """Whether an index is on a server or in a bucket, and no folder of this machine."""
    return str(place).startswith(REMOTE)


def exists(place: str | PathLike[str]) -> bool:
    """Whether there is an index already: what is not there, or vacant, is none.

    Raises
    ------
    InputError
        If that cannot be known, because a server does not answer.
    """
    said, where = split_place(place)
    if said == "qdrant":
        from .qdrant import connect, has_collection

        return has_collection(*connect(str(place)))
    if said == "s3":
        from .bucket import BucketHome

        return BucketHome(where, 0).exists()
    return Path(where).is_dir() and not is_vacant(Path(where))


def holds_index(directory: Path) -> bool:
    """Whether a folder is an index, or empty: nothing but our own files is in it, so it may be replaced."""
    return all(_matches(path.name, OWN) for path in directory.iterdir())


def is_vacant(directory: Path) -> bool:
    """Whether a folder holds no index yet: it is empty but for what a killed run leaves before its first commit."""
    return all(_matches(path.name, RESTS) for path in directory.iterdir())


def clear(place: str | PathLike[str], *, lock_timeout: float = 10.0) -> None:
    """Remove an index, and nothing else; the lock stays, for those who wait for it.

    Raises
    ------
    UsageError
        If the folder holds anything that is not ours, another process writes to it, or it is a collection of a server.
    """
    said, where = split_place(place)
    if said == "qdrant":
        if exists(place):
            raise OptionError(f"{{rebuild}}: {place} is on a server. Delete it there, or choose another name.")
        return
    if said == "s3":
        from .bucket import BucketHome

        BucketHome(where, lock_timeout).clear()
        return
    directory = Path(where)
    if not directory.is_dir():
        return
    if foreign := sorted(path.name for path in directory.iterdir() if not _matches(path.name, OWN)):
        raise OptionError(
            f"{{rebuild}}: {directory} holds {foreign[0]!r}, which is no part of an index, so nothing was removed. "
            "Name another place with -o."
        )
    lock = WriterLock(directory, lock_timeout)
    lock.acquire()
    try:
        for path in directory.iterdir():
            if path.is_dir():
                shutil.rmtree(path)
            elif path.name != LOCK:
                path.unlink()
    finally:
        lock.release()


def _matches(name: str, patterns: Sequence[str]) -> bool:
    return any(fnmatchcase(name, pattern) for pattern in patterns)


def split_place(place: str | PathLike[str]) -> tuple[str, str]:
    """What kind the place says it is ("auto": nothing), and the place without that."""
    text = str(place)
    if text.startswith("qdrant://"):
        return "qdrant", text
    if text.startswith("s3://"):
        return "s3", text
    if "://" in text:
        raise UsageError(f"{text}: stores are directories, s3://BUCKET/PATH or qdrant://HOST[:PORT]/COLLECTION.")
    said, colon, rest = text.partition(":")
    return (said, rest) if colon and said in ("flat", "lance") else ("auto", text)


def _choose(items: int) -> str:
    """Flat up to ``FLAT_ITEMS``, Lance above if it is installed."""
    if items <= FLAT_ITEMS:
        return "flat"
    if importlib.util.find_spec("lancedb") is None:
        warnings.warn(
            f"{items} items in a flat store are slow to search. For an index: pip install 'attn[store]'", stacklevel=3
        )
        return "flat"
    return "lance"
