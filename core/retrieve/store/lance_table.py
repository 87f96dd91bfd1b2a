"""What the Lance store needs beside its table: a connection, errors in our words, notes about the index."""

from __future__ import annotations

import contextlib
import importlib.util
import json
import math
import re
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ...errors import AttnError, InputError, UsageError
from ...io.atomic import write_text
from ...io.kinds import open_regular
from ...memory import read_within
from .base import Header, Meta, StoredBlock, damaged, sound_item

TABLE = "vectors"
FOLDER = f"{TABLE}.lance"
_FILE = re.compile(re.escape(FOLDER) + r"/[\w./-]+\.(lance|manifest|idx|txn|bin)")
_RUST = re.compile(r",? *\S+\.rs:\d+(:\d+)?")
"""Where in Lance's own source an error arose: nothing to a user."""
EF_CONSTRUCTION = 150
"""Half of Lance's default: half the time to build, and recall@10 0.99 instead of 1.00 on a million vectors."""
STATE = "attn-index.json"
CACHE_BYTES, METADATA_CACHE_BYTES = 640 << 20, 64 << 20
"""Lance keeps up to 6 GB by default. One million vectors of 384 as HNSW_SQ need about 550 MB."""


def connect(directory: Path) -> Any:
    """The database, with bounded caches."""
    if importlib.util.find_spec("lancedb") is None:
        raise UsageError("a Lance store needs a package that is not installed: pip install 'attn[store]'")
    import lancedb

    if not directory.is_dir():
        raise InputError(directory, "no such index", "Make one: attn retrieve index")
    for path in (directory / FOLDER).rglob("*"):
        if not path.is_dir() and not path.is_file():
            raise damaged(path, "is not a regular file")  # reading a pipe would wait for ever
    session = lancedb.Session(index_cache_size_bytes=CACHE_BYTES, metadata_cache_size_bytes=METADATA_CACHE_BYTES)
    return lancedb.connect(str(directory), session=session)


@contextlib.contextmanager
def in_our_words(directory: Path) -> Iterator[None]:
    """Lance's errors as ours: it raises OSError, ValueError or RuntimeError with the reason in the first line."""
    try:
        yield
    except AttnError:
        raise
    except BaseException as error:  # its panics are no Exception
        if not isinstance(error, Exception) and type(error).__name__ != "PanicException":
            raise
        reason = (str(error).splitlines() or ["no reason given"])[0]
        file = _FILE.search(reason)
        where = directory / file[0] if file else _resized(directory) or directory
        raise damaged(where, f"Lance: {_RUST.sub('', reason)[:300]}") from error


def sizes(directory: Path) -> dict[str, int]:
    """Bytes of the data files, for ``_resized``: Lance says that a read failed, but not always where."""
    return {path.name: path.stat().st_size for path in (directory / FOLDER / "data").glob("*.lance")}


def _resized(directory: Path) -> Path | None:
    """A data file that is not as long as it was, if there is one."""
    now, then = sizes(directory), read_state(directory).get("sizes", {})
    name = next((name for name in now if now[name] != then.get(name, now[name])), None)
    return directory / FOLDER / "data" / name if name else None


def header_of(table: Any, directory: Path) -> Header:
    """The header in a table's schema. Raises ``InputError`` if there is none."""
    try:
        values = json.loads((table.schema.metadata or {})[b"attn"])
    except (KeyError, ValueError, RecursionError) as error:
        raise damaged(directory, "a Lance table without attn's header") from error
    header = Header.from_dict(values, str(directory))
    from .columns import empty_schema

    types = {field.name: field.type for field in table.schema}
    if wrong := [field.name for field in empty_schema(header) if types.get(field.name) != field.type]:
        raise damaged(directory, f"its table has no column {wrong[0]!r} as the header promises")
    return header


def item_meta(directory: Path, key: Any, text: Any) -> Meta:
    """Metadata of an entry of its JSON. Raises ``InputError`` if it is damaged."""
    try:
        return sound_item(directory, key, json.loads(text))[1]
    except (ValueError, TypeError, RecursionError) as error:
        raise damaged(directory, f"the metadata of {str(key)[:40]!r} cannot be understood") from error


def id_in(ids: Sequence[str]) -> str:
    """SQL that selects the items of these ids."""
    return "id IN (" + ", ".join("'" + name.replace("'", "''") + "'" for name in ids) + ")"


def vectors_of(rows: Any, dim: int) -> NDArray[np.float32]:
    """The column ``vector`` [n, dim] of a table or a batch of Arrow."""
    column = rows["vector"]
    if hasattr(column, "combine_chunks"):  # of a table
        column = column.combine_chunks()
    out: NDArray[np.float32] = column.flatten().to_numpy().reshape(-1, dim)
    return out


def read_state(directory: Path) -> dict[str, Any]:
    """What we know of the table beside what is in it; can be lost without harm."""
    try:
        with open_regular(path := directory / STATE) as file:
            state = dict(json.loads(read_within(file, path, 2**20, "holds")))
    except (InputError, OSError, ValueError, TypeError, RecursionError):
        return {}
    kinds = {"last_version": int, "compacted_version": int, "sizes": dict, "index": dict}
    return {name: value for name, value in state.items() if type(value) is kinds.get(name, type(value))}


def write_state(directory: Path, state: dict[str, Any]) -> None:
    """Keep what ``read_state`` gives back."""
    write_text(directory / STATE, json.dumps(state, indent=1) + "\n")


def index_config(items: int, dim: int, *, filters: bool) -> tuple[str, int, Any]:
    """Type, partitions and Lance's configuration of an approximate index: evenly filtering IVF_PQ, or IVF_HNSW_SQ."""
    from lancedb.index import HnswSq, IvfPq

    if filters:
        partitions = max(1, round(math.sqrt(items)))
        pq = IvfPq(distance_type="cosine", num_partitions=partitions, num_sub_vectors=sub_vectors(dim))
        return "IVF_PQ", partitions, pq
    partitions = max(1, round(items / 50_000))
    hnsw = HnswSq(distance_type="cosine", num_partitions=partitions, ef_construction=EF_CONSTRUCTION)
    return "IVF_HNSW_SQ", partitions, hnsw


def sub_vectors(dim: int) -> int:
    """PQ's pieces: a quarter of ``dim``, or the next smaller number that divides it."""
    return next(count for count in range(max(1, dim // 4), 0, -1) if dim % count == 0)


def nearest_ids(blocks: Iterable[StoredBlock], queries: NDArray[np.float32], k: int) -> list[set[str]]:
    """Ids of the ``k`` items nearest to each query [q, dim], exactly, in one pass for all queries."""
    scores = np.zeros((len(queries), 0), np.float32)
    names = np.zeros((len(queries), 0), object)
    for block in blocks:
        scores = np.concatenate([scores, queries @ block.vectors.T], axis=1)
        names = np.concatenate([names, np.tile(np.array(block.ids, object), (len(queries), 1))], axis=1)
        best = np.argsort(-scores, axis=1)[:, :k]
        scores, names = (np.take_along_axis(values, best, axis=1) for values in (scores, names))
    return [set(row) for row in names]
