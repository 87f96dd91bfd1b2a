"""The files of a flat store: shards that never change, and one manifest that says which of them count.

    attn-store.json        header, generation, and for each file its size and CRC-32
    vectors-00000007.npy   [n, dim] float32 or float16, opens with ``numpy.load``
    items-00000007.jsonl   {"id": ..., "meta": {...}} for each row
    alive-00000009.npy     one bit a row over all shards: 0 for deleted and replaced items

A change writes new files under the next generation's number and then replaces the manifest in one step. Whatever
happens before leaves files that no manifest names; the next writer removes them.
"""

from __future__ import annotations

import contextlib
import functools
import json
import re
import zlib
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from fnmatch import fnmatchcase
from pathlib import Path
from typing import IO, Any

import numpy as np
from numpy.typing import NDArray

from ...errors import InputError, UsageError
from ...io.atomic import atomic_path, remove_stale, write_text
from ...io.kinds import open_regular
from ...memory import read_within
from .base import Header, Meta, damaged, sound_item

MANIFEST = "attn-store.json"
UNIT_SLACK = 0.01
"""How far the square of a norm may be from 1: what rounding to float16 does, and no forged vector."""
PATTERNS = ("vectors-*.npy", "items-*.jsonl", "alive-*.npy")


@dataclass(frozen=True, slots=True)
class File:
    """A file of the store and what it must be."""

    name: str
    bytes: int
    crc32: int

    @classmethod
    def of(cls, path: Path, final: str) -> File:
        return cls(final, path.stat().st_size, crc32(path))

    @classmethod
    def read(cls, values: Any) -> File:
        """Of the manifest. Raises ``ValueError`` for names that are not ours: they could lead out of the folder."""
        file = cls(**values)
        if not isinstance(file.name, str) or not any(fnmatchcase(file.name, pattern) for pattern in PATTERNS):
            raise ValueError(f"a file called {file.name!r}")
        if re.search(r"[/\\\0]", file.name) or not _natural(file.bytes, file.crc32):
            raise ValueError(f"the file {file.name!r}")
        return file

    def find(self, directory: Path) -> Path:
        """Its path. Raises ``InputError`` if it is no regular file; ``FileNotFoundError`` if missing."""
        path = directory / self.name
        try:
            open_regular(path).close()
        except InputError:
            path.stat()  # missing: a writer may have replaced it
            raise
        return path

    def check(self, directory: Path) -> Path:
        """Its path. Raises ``InputError`` if the content is not what was written; ``FileNotFoundError`` if missing."""
        path = self.find(directory)
        try:
            intact = path.stat().st_size == self.bytes and crc32(path) == self.crc32
        except InputError:
            path.stat()
            raise
        except OSError as error:
            raise damaged(path, f"cannot be read ({error.strerror})") from error
        if not intact:
            raise damaged(path, "its content has changed since it was written (size or checksum)")
        return path


@dataclass(frozen=True, slots=True)
class ShardFiles:
    rows: int
    vectors: File
    items: File


@dataclass(frozen=True, slots=True)
class Manifest:
    """One committed state. ``alive`` is None while no item was deleted or replaced."""

    header: Header
    dtype: str
    generation: int = 0
    shards: tuple[ShardFiles, ...] = ()
    alive: File | None = None

    def write(self, directory: Path) -> None:
        """Commit."""
        values = {**asdict(self), "format": "attn-store", "header_crc32": _crc32_of(self.header.to_dict())}
        write_text(directory / MANIFEST, json.dumps(values, indent=1) + "\n")

    @classmethod
    def read(cls, directory: Path) -> Manifest:
        path = directory / MANIFEST
        try:
            path.stat()
            with open_regular(path) as file:
                values = json.loads(read_within(file, path, what="holds"))
            if not isinstance(values, dict):
                raise ValueError("no object")
            header = Header.from_dict(values["header"], str(directory))
            if values.get("header_crc32", crc := _crc32_of(values["header"])) != crc:
                raise damaged(path, "its header was changed after it was written")
            if values["dtype"] not in ("float32", "float16"):
                raise ValueError(values["dtype"])
            shards = tuple(
                ShardFiles(shard["rows"], File.read(shard["vectors"]), File.read(shard["items"]))
                for shard in values["shards"]
            )
            if not _natural(values["generation"], *(shard.rows for shard in shards)):
                raise ValueError("a number that counts nothing")
            alive = File.read(values["alive"]) if values["alive"] else None
            return cls(header, values["dtype"], values["generation"], shards, alive)
        except FileNotFoundError as error:
            if any(next(directory.glob(pattern), None) for pattern in PATTERNS):
                raise damaged(directory, f"{MANIFEST} is missing") from error
            raise InputError(
                directory, f"not an index ({MANIFEST} is missing)", "Make one: attn retrieve index"
            ) from error
        except OSError as error:
            raise InputError(path, f"cannot be read ({error.strerror})", "Check the permissions") from error
        except (ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
            if isinstance(error, UsageError):
                raise
            raise damaged(path, "cannot be understood") from error

    def names(self) -> set[str]:
        """All files that belong to this state."""
        files = [file for shard in self.shards for file in (shard.vectors, shard.items)]
        return {file.name for file in (*files, *([self.alive] if self.alive else []))}

    def sweep(self, directory: Path) -> None:
        """Remove what killed writers and older states left behind. Only for the holder of the lock."""
        remove_stale(directory)
        mine = self.names()
        for pattern in PATTERNS:
            for path in directory.glob(pattern):
                if path.name not in mine:
                    path.unlink(missing_ok=True)


class Shard:
    """Rows of one shard, mapped into memory; both files are opened at once, so that a later sweep does not matter."""

    def __init__(self, directory: Path, files: ShardFiles, dim: int, dtype: str, verify: bool) -> None:
        self.files = files
        vectors, items = (
            file.check(directory) if verify else file.find(directory) for file in (files.vectors, files.items)
        )
        self.place = items
        try:
            self.vectors: NDArray[np.floating] = np.load(vectors, mmap_mode="r").view(np.ndarray)
            self._text = np.memmap(items, np.uint8, "r").view(np.ndarray)
        except (ValueError, EOFError, OverflowError, TypeError, SyntaxError) as error:
            raise damaged(vectors, "or its items are no whole array") from error  # cut short, and not verified
        if self.vectors.shape != (files.rows, dim) or self.vectors.dtype != np.dtype(dtype):
            raise damaged(vectors, f"holds {self.vectors.dtype} {list(self.vectors.shape)}, not {[files.rows, dim]}")
        if verify and not all(_unit_rows(self.vectors[at : at + 8192]) for at in range(0, files.rows, 8192)):
            raise damaged(vectors, "holds vectors that are no unit vectors")

    @functools.cached_property
    def _ends(self) -> NDArray[np.int64]:
        """Where each line ends. JSON writes a newline in a text as \\n, so every byte 10 is the end of an item."""
        return np.flatnonzero(self._text == 10)

    def item(self, row: int) -> tuple[str, Meta]:
        """Id and metadata of one row; reads only its line."""
        with self._told():
            start = int(self._ends[row - 1]) + 1 if row else 0
            item = json.loads(self._text[start : int(self._ends[row])].tobytes())
            return sound_item(self.place, item["id"], item["meta"])

    @functools.cached_property
    def items(self) -> list[tuple[str, Meta]]:
        """Id and metadata of all rows. One document is parsed several times faster than many lines."""
        with self._told():
            text = self._text.tobytes().rstrip(b"\n").replace(b"\n", b",")
            read = [sound_item(self.place, item["id"], item["meta"]) for item in json.loads(b"[" + text + b"]")]
            if len(read) != self.files.rows:
                raise damaged(self.place, f"holds {len(read)} entries, not {self.files.rows}")
            return read

    @contextlib.contextmanager
    def _told(self) -> Iterator[None]:
        """What is wrong with the items, in our words."""
        try:
            yield
        except (ValueError, KeyError, IndexError, TypeError, RecursionError) as error:
            raise damaged(self.place, "cannot be understood") from error


def _natural(*values: Any) -> bool:
    """Whether all are whole numbers from 0 that a file can count."""
    return all(type(value) is int and 0 <= value < 2**63 for value in values)


def _unit_rows(rows: NDArray[np.floating]) -> bool:
    """Whether all rows have length 1, up to rounding to float16."""
    wide = rows.astype(np.float32)
    return bool((np.abs(np.einsum("nd,nd->n", wide, wide) - 1) < UNIT_SLACK).all())  # NaN compares false


def write_shard(
    directory: Path, generation: int, dim: int, dtype: str,
    blocks: Iterable[NDArray[np.floating]], items: Sequence[tuple[str, Meta]],
) -> ShardFiles:  # fmt: skip
    """Write the two files of a shard; ``blocks`` are its vectors in pieces, [*, dim] each."""
    name = f"vectors-{generation:08d}.npy"
    with atomic_path(directory / name) as temporary:
        with open(temporary, "wb") as file:
            write_npy(file, dtype, (len(items), dim), blocks)
        vectors = File.of(temporary, name)
    name = f"items-{generation:08d}.jsonl"
    with atomic_path(directory / name) as temporary:
        with open(temporary, "wb") as out:
            out.writelines(item_line(key, meta) for key, meta in items)
        return ShardFiles(len(items), vectors, File.of(temporary, name))


def item_line(key: str, meta: Meta) -> bytes:
    """An item as a line of JSON, in ASCII."""
    return (json.dumps({"id": key, "meta": dict(meta)}, allow_nan=False) + "\n").encode("ascii")


def write_npy(file: IO[bytes], dtype: str, shape: tuple[int, int], blocks: Iterable[NDArray[np.floating]]) -> None:
    """An array as ``numpy.load`` reads it, of ``blocks`` [*, dim] that together have ``shape`` [n, dim]."""
    description = {"descr": np.dtype(dtype).str, "fortran_order": False, "shape": shape}
    np.lib.format.write_array_header_1_0(file, description)
    for block in blocks:
        file.write(np.ascontiguousarray(block, dtype=dtype).data)


def write_alive(directory: Path, generation: int, alive: NDArray[np.bool_]) -> File | None:
    """Write which rows count; None (no file) if all do."""
    if alive.all():
        return None
    name = f"alive-{generation:08d}.npy"
    with atomic_path(directory / name) as temporary:
        with open(temporary, "wb") as file:
            np.save(file, np.packbits(alive))
        return File.of(temporary, name)


def read_alive(directory: Path, file: File | None, rows: int) -> NDArray[np.bool_]:
    """Which of ``rows`` rows count, bool [rows]."""
    if file is None:
        return np.ones(rows, bool)
    path = file.check(directory)
    try:
        if path.stat().st_size > rows // 8 + 4096:
            raise ValueError("too long")
        bits = np.load(path, mmap_mode="r")
    except (ValueError, EOFError, OverflowError, TypeError, SyntaxError) as error:
        raise damaged(path, "is no whole array") from error
    if bits.dtype != np.uint8 or bits.size != -(-rows // 8):
        raise damaged(path, f"does not describe {rows} rows")
    return np.unpackbits(bits, count=rows).astype(bool)


def _crc32_of(values: Mapping[str, Any]) -> int:
    return zlib.crc32(json.dumps(values, sort_keys=True).encode())


def crc32(path: Path) -> int:
    """CRC-32 of a file's content."""
    value = 0
    with open_regular(path) as file:
        buffer = memoryview(bytearray(1 << 20))
        while size := file.readinto(buffer):  # type: ignore[attr-defined]
            value = zlib.crc32(buffer[:size], value)
    return value


def folder_bytes(directory: Path) -> int:
    """Bytes of all files in a folder and below; files that go meanwhile do not count."""
    total = 0
    for path in directory.rglob("*"):
        with contextlib.suppress(FileNotFoundError):
            if path.is_file():
                total += path.stat().st_size
    return total
