"""`attn retrieve export`: an index as a table, as plain arrays, or as another store, block by block.

What goes along with the vectors: ids, all metadata, and the header that names the encoder, so that `search` on a copy
works with the model of the original, and whoever opens a table knows what made it.

    parquet   columns id, vector (fixed-size list of float32), one for each name in the metadata, and ``meta``: the
              whole metadata of the entry as JSON, which tells null from missing. Where one name holds several types,
              each has a column (``width``, ``width#text``). Header: JSON, key ``attn`` of the schema's metadata
    arrays    a folder: vectors.npy [n, dim] float32, entries.jsonl ({"id", "meta"} in the order of the rows),
              header.json. Needs nothing but ``numpy.load`` and ``json``
    npz       the same three in one file: ``numpy.load(f)["vectors"]``, the other two as bytes
    flat, lance, qdrant
              an index for ``attn retrieve``

Files and folders appear whole or not at all. A Qdrant collection that was cut short keeps what was sent.

Specification: methods/retrieval-peers.md, sections 4 and 8.
"""

from __future__ import annotations

import json
import os
import shutil
import tempfile
import time
import zipfile
from collections.abc import Callable, Iterator, Mapping
from dataclasses import replace
from pathlib import Path
from typing import IO, Any

import numpy as np
from numpy.typing import NDArray

import attn

from ...errors import InputError, did_you_mean
from ...io.atomic import atomic_folder, atomic_path
from ...options import OptionError
from ...progress import Bars, Watcher
from ...report.model import Item, Report, summarise
from ..places import FOLDER, GALLERY, Places, file_name, index_folder, stored_name
from ..store import Header, VectorStore, create, holds_index, is_remote, open_store, split_place
from ..store.base import Meta, StoredBlock
from ..store.files import folder_bytes, item_line, write_npy

FORMS = ("parquet", "npz", "arrays", "flat", "lance")
"""What ``--to`` takes; a Qdrant collection is told by its address."""
BLOCK = 16_384
"""Entries in memory at a time; in another store, one commit."""
VECTORS, ENTRIES, HEADER = "vectors.npy", "entries.jsonl", "header.json"


def export(
    index: str | Path, output: str | Path, to: str | None = None, *, overwrite: bool = False,
    watcher: Watcher | None = None, arguments: Mapping[str, Any] | None = None, block: int = BLOCK,
) -> Report:  # fmt: skip
    """Write a copy of an index, ``block`` entries at a time.

    Parameters
    ----------
    index : str or path
    output : str or path
        A file, a folder, or ``s3://BUCKET/PATH`` or
        ``qdrant://HOST[:PORT]/COLLECTION``.
    to : {"parquet", "npz", "arrays", "flat", "lance"}, optional
        Default: by the name of ``output``: .parquet, .npz, ``flat:DIR``, ``lance:DIR``, else a folder of arrays.
    overwrite : bool
        Replace a file, an index or an earlier export that is there. Never a folder of anything else, nor a collection.
    watcher : Watcher, optional
    arguments : mapping, optional
        What the report records as the call's arguments.

    Returns
    -------
    Report of one item with ``entries``, ``dim`` and ``bytes`` (of what is on this machine).

    Raises
    ------
    UsageError
        If ``to`` does not fit, ``output`` is there already or is the index itself, or a package is missing.
    InputError
        If the index is damaged or changes meanwhile, or ``output`` cannot be written.
    """
    start = time.perf_counter()
    form, place = _form(str(output), to)
    watcher = watcher or Bars()
    store = open_store(index)
    try:
        _check_free(str(index), place, form, overwrite)
        count = len(store)
        header = replace(Header.new(store.header.fingerprint, store.header.dim), store=form)
        blocks = _watched(
            store, count, str(index), watcher, block, _Moved(index, place if form in ("flat", "lance", "s3") else None)
        )
        if is_remote(place):
            _fill(create(place, header), blocks)
        elif form in ("parquet", "npz"):
            with atomic_path(place) as path:
                if form == "parquet":
                    write_parquet(path, header, blocks)
                else:
                    write_npz(path, header, count, blocks)
        else:
            with atomic_folder(place) as path:
                if form == "arrays":
                    write_arrays(path, header, count, blocks)
                else:
                    dtype = store.stats()["dtype"] if form == "flat" else "float32"
                    _fill(create(path, header, form, dtype=dtype), blocks)  # type: ignore[arg-type]
    finally:
        store.close()
    metrics = {"entries": count, "dim": header.dim}
    if not is_remote(place):
        path = Path(place)
        metrics["bytes"] = folder_bytes(path) if path.is_dir() else path.stat().st_size
    seconds = time.perf_counter() - start
    item = Item(str(index), str(output), "ok", seconds, metrics=metrics, details={"form": form})
    named = arguments or {"verb": "export", "index": str(index), "output": str(output), "to": form}
    return Report("retrieve", attn.__version__, dict(named), "cpu", seconds, (item,), summarise([item]))


def _form(output: str, to: str | None) -> tuple[str, str]:
    """What is written, and where. Raises ``UsageError`` if the two do not agree."""
    if to is not None and to not in FORMS:
        raise OptionError(f"{{to}}: {to!r} is not known. {did_you_mean(to, FORMS)} Known: {', '.join(FORMS)}.")
    said, place = split_place(output)
    suffix = Path(place).suffix.lower().removeprefix(".")
    if said == "auto":
        said = suffix if suffix in ("parquet", "npz") else to or "arrays"
    if to not in (None, "lance" if said == "s3" else said):
        raise OptionError(f"{{to}} {to}: {output} is the name of another kind ({said}).")
    return said, place


def _check_free(index: str, place: str, form: str, overwrite: bool) -> None:
    """Raise ``UsageError`` for a place that must not be written to. A server checks by itself."""
    if form in ("qdrant", "s3"):
        return
    path = Path(place)
    if "://" not in index and path.resolve() == Path(split_place(index)[1]).resolve():
        raise OptionError(f"{{output}} {place} is the index itself. Name another place.")
    folder = form in ("arrays", "flat", "lance")
    if not path.exists() or (folder and path.is_dir() and not any(path.iterdir())):
        return
    if path.is_dir() is not folder:
        raise OptionError(f"{{output}} {place} is a {'file' if folder else 'folder'} already. Name another place.")
    if not overwrite:
        raise OptionError(f"{{output}} {place} exists. Name another place, or give {{overwrite}}.")
    if folder and not (holds_index(path) or {entry.name for entry in path.iterdir()} == {VECTORS, ENTRIES, HEADER}):
        raise OptionError(f"{{output}} {place} is no index and no export, so it is not replaced. Name another place.")


class _Moved:
    """Metadata as the copy keeps it: paths that hold now, and for an index where that will be."""

    def __init__(self, index: str | Path, copy: str | None) -> None:
        self.places = Places(index)
        self.copy = None if copy is None else index_folder(copy)

    def __call__(self, meta: Meta) -> Meta:
        if FOLDER not in meta:
            return meta
        fields = {name: value for name, value in meta.items() if name != FOLDER}
        for name in ("path", GALLERY):
            if not isinstance(stored := meta.get(name), str):
                continue
            if self.places.moved(path := file_name(stored), meta) != path:
                place = self.places.find(meta) if name == "path" else self.places.moved(path, meta)
                fields[name] = stored_name(place if place and (name == "path" or os.path.lexists(place)) else path)
        return fields if self.copy is None else fields | {FOLDER: stored_name(self.copy)}


def _watched(
    store: VectorStore, count: int, name: str, watcher: Watcher, size: int, moved: _Moved
) -> Callable[[], Iterator[StoredBlock]]:
    """The store's blocks, as often as they are asked for; raises ``InputError`` if there are not ``count`` entries."""

    def blocks() -> Iterator[StoredBlock]:
        done = 0
        for block in store.blocks(size=size):
            done += len(block.ids)
            if done > count:
                break
            watcher.step(name, done, count)
            yield block._replace(meta=[moved(meta) for meta in block.meta])
        if done != count:
            raise InputError(name, "changes while it is read", "Try again when nobody writes to it")

    return blocks


def _fill(copy: VectorStore, blocks: Callable[[], Iterator[StoredBlock]]) -> None:
    """All blocks into an empty store, compact and with an index where there should be one; closes it."""
    try:
        for block in blocks():
            copy.add(block.ids, block.vectors, block.meta, "strict")
        copy.compact()
    finally:
        copy.close()


def write_parquet(path: Path, header: Header, blocks: Callable[[], Iterator[StoredBlock]]) -> None:
    """A Parquet file; reads the blocks twice, because a file needs its columns before its rows."""
    from pyarrow.parquet import ParquetWriter  # type: ignore[import-untyped]

    from ..store import columns

    schema = columns.empty_schema(header)
    for block in blocks():
        for field in columns.missing_fields(block.meta, schema):
            schema = schema.append(field)
    other = [name for name in schema.names if name != "vector"]
    with ParquetWriter(path, schema, compression="zstd", use_dictionary=other) as writer:
        for block in blocks():
            writer.write_table(columns.table(block.ids, block.vectors, block.meta, schema))


def write_arrays(folder: Path, header: Header, count: int, blocks: Callable[[], Iterator[StoredBlock]]) -> None:
    """The three files of the form ``arrays``."""
    with open(folder / VECTORS, "wb") as vectors, open(folder / ENTRIES, "wb") as entries:
        write_npy(vectors, "float32", (count, header.dim), _entries_aside(blocks(), entries))
    (folder / HEADER).write_text(json.dumps(header.to_dict(), indent=1) + "\n")


def write_npz(path: Path, header: Header, count: int, blocks: Callable[[], Iterator[StoredBlock]]) -> None:
    """The same three files in one, not compressed: vectors hardly become smaller."""
    with zipfile.ZipFile(path, "w") as archive, tempfile.TemporaryFile() as entries:
        with archive.open(zipfile.ZipInfo(VECTORS), "w", force_zip64=True) as vectors:
            write_npy(vectors, "float32", (count, header.dim), _entries_aside(blocks(), entries))
        entries.seek(0)
        with archive.open(zipfile.ZipInfo(ENTRIES), "w", force_zip64=True) as member:
            shutil.copyfileobj(entries, member)
        archive.writestr(zipfile.ZipInfo(HEADER), json.dumps(header.to_dict(), indent=1) + "\n")


def _entries_aside(blocks: Iterator[StoredBlock], entries: IO[bytes]) -> Iterator[NDArray[np.float32]]:
    """The vectors of the blocks, while ids and metadata are written to ``entries``."""
    for block in blocks:
        entries.writelines(item_line(name, meta) for name, meta in zip(block.ids, block.meta, strict=True))
        yield block.vectors
