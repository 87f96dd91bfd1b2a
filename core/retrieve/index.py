"""`attn retrieve index`: from a gallery to an index. Unchanged entries are not embedded again, removed ones go.

Work is done in blocks. A block's vectors are a file of their own before they enter the store, so a run that is killed
has lost at most the blocks in hand: the next run takes the finished ones over.
"""

from __future__ import annotations

import hashlib
import json
import shutil
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

import attn

from ..batch import Placement, Silent, Task, Watcher, run_batch
from ..device import pick_device, set_threads
from ..errors import InputError
from ..io.atomic import atomic_path, remove_stale
from ..io.report import Item, Report
from ._evalset import counted
from .encoders.base import Encoded, Encoder
from .gallery import read_gallery
from .options import BLOCK_IMAGES, BLOCK_TEXTS, MAX_SIDE, EncoderOptions, IndexOptions, check_fingerprint, encoder_of
from .sources import ADDED, Entry
from .store import Header, VectorStore, clear, create, is_vacant, open_store, split_place
from .store.base import BLOCK_ITEMS

SNIPPET = 300
"""Characters of a text that hits show."""
COUNTS = ("entries", "added", "changed", "relabelled", "unchanged", "removed", "truncated", "empty", "failed")
"""``relabelled``: the content is as it was, its path or other metadata are new."""


def index(
    gallery: Sequence[str],
    output: str | Path,
    options: IndexOptions,
    placement: Placement = Placement(),  # noqa: B008 - frozen
    *,
    watcher: Watcher | None = None,
    stdin: Iterable[str] | None = None,
    arguments: Mapping[str, Any] | None = None,
) -> Report:
    """Embed a gallery, or what changed in it since the last time.

    Parameters
    ----------
    gallery : sequence of str
        See ``read_gallery``.
    output : str or Path
        The index: a folder, or a ``qdrant://`` address.
    options : IndexOptions
    placement : Placement
        Where the encoder runs; ``overwrite`` embeds everything again.
    watcher : Watcher, optional
    stdin : iterable of str, optional
    arguments : mapping, optional
        What the report records as the call's arguments.

    Returns
    -------
    Report. The first item is the index with its counts; each entry that could not be read is a failed item.

    Raises
    ------
    UsageError
        If there is nothing to index, the model cannot be had, the index is another model's, or another process writes
        to it.
    InputError
        If the index is damaged.
    """
    start = time.perf_counter()
    set_threads(placement.threads)
    encoder = encoder_of(options.encoder)
    found = read_gallery(gallery, encoder.modalities, stdin=stdin)
    store = _opened(output, options, encoder, len(found.entries))
    try:
        writer = _Writer(store, {entry.id: entry for entry in found.entries}, watcher or Silent())
        parts = _parts_folder(output)
        remove_stale(parts)
        resumed = sum(writer.take(part) for part in sorted(parts.glob("*.npz")))
        if placement.overwrite:
            writer.known = dict.fromkeys(writer.known, "")
        todo = [entry for entry in found.entries if writer.known.get(entry.id) != entry.stamp]
        outcome = run_batch(
            partial(embed_block, options=options.encoder), _blocks(todo, parts), replace(placement, overwrite=False),
            writer,
        )  # fmt: skip
        there = {entry.id for entry in found.entries} - writer.unreadable
        gone = [] if options.keep_missing else sorted(writer.known.keys() - there)
        if gone and not outcome.interrupted:
            store.delete(gone)
        relabelled = writer.relabel()
        store.compact()
        counts = writer.counts | {
            "entries": len(store), "unchanged": len(found.entries) - len(todo) - resumed - relabelled,
            "relabelled": relabelled, "removed": len(gone), "resumed": resumed,
        }  # fmt: skip
        shutil.rmtree(parts, ignore_errors=True)
    finally:
        store.close()
    failed = [*found.failed, *writer.failed]
    failed += [item for item in outcome.items if item.status == "failed"]
    warnings = [*found.warnings, *_warnings(counts, encoder)]
    item = Item(
        input=", ".join(gallery), output=str(output), status="ok", seconds=time.perf_counter() - start,
        metrics=counts | {"failed": len(failed)}, warnings=tuple(warnings),
        details={"model": encoder.fingerprint.to_dict(), "store": store.header.store},
    )  # fmt: skip
    summary = {"model": encoder.fingerprint.model, "store": store.header.store}
    return outcome.report(
        "retrieve", arguments or {"verb": "index", "gallery": list(gallery), "output": str(output)},
        str(pick_device(options.encoder.device)), start, items=[item, *failed], summary=summary,
    )  # fmt: skip


def _opened(output: str | Path, options: IndexOptions, encoder: Encoder, count: int) -> VectorStore:
    """The index open for writing: the one that is there, if it is this encoder's, or a new one."""
    said, place = split_place(output)
    folder = None if said == "qdrant" else Path(place)
    if folder is not None and options.rebuild:
        clear(folder)
    if folder is None or not folder.is_dir() or is_vacant(folder):
        header = Header.new(encoder.fingerprint.to_dict(), encoder.fingerprint.dim)
        return create(output, header, options.store, expected_items=count)  # type: ignore[arg-type]
    store = open_store(output)
    try:
        check_fingerprint(output, store.header.fingerprint, encoder)
    except BaseException:
        store.close()
        raise
    return store


def _parts_folder(output: str | Path) -> Path:
    """Where finished blocks wait: inside the index, or for a server's index in the current directory."""
    said, place = split_place(output)
    if said == "qdrant":
        name = hashlib.sha256(str(output).encode()).hexdigest()[:12]
        return Path(f".attn-parts-{name}")
    return Path(place) / ".parts"


def _blocks(todo: Sequence[Entry], parts: Path) -> list[Task]:
    """Entries of one kind in blocks; a block's file is named after what is in it."""
    tasks = []
    for kind, size in (("text", BLOCK_TEXTS), ("image", BLOCK_IMAGES)):
        own = [entry for entry in todo if entry.kind == kind]
        for at in range(0, len(own), size):
            block = tuple(own[at : at + size])
            digest = hashlib.sha256("\0".join(f"{e.id}\0{e.stamp}" for e in block).encode()).hexdigest()[:16]
            part = parts / f"{digest}.npz"
            tasks.append(Task(block[0].path or part, part, f"block of {len(block)} {kind}s", payload=block))
    return tasks


def embed_block(task: Task, step: Callable[[int, int], None], options: EncoderOptions) -> Item:
    """Read and embed the entries of one block and write their vectors; what cannot be read is listed, not fatal."""
    encoder = encoder_of(options)
    kept, inputs, failed = [], [], []
    for entry in task.payload:
        try:
            inputs.append(content(entry))
            kept.append(entry)
        except InputError as error:
            failed.append([entry.id, entry.name, error.reason if error.path == str(entry.path) else str(error)])
    step(1, 2)
    out: Encoded | None = None
    if kept:
        out = encoder.encode_texts(inputs) if kept[0].kind == "text" else encoder.encode_images(inputs)
    meta = [
        {**entry.meta, "stamp": entry.stamp, "kind": entry.kind}
        | ({"text": text[:SNIPPET]} if entry.kind == "text" else {})
        for entry, text in zip(kept, inputs, strict=True)
    ]
    assert task.output is not None
    with atomic_path(task.output) as temporary:
        np.savez(
            temporary, ids=np.array([entry.id for entry in kept], dtype=np.str_),
            vectors=out.vectors if out else np.zeros((0, encoder.fingerprint.dim), np.float32),
            meta=np.frombuffer(json.dumps(meta).encode(), np.uint8), version=np.array(attn.__version__),
            fingerprint=np.array(json.dumps(encoder.fingerprint.to_dict(), sort_keys=True)),
        )  # fmt: skip
    counts = {
        "truncated": int(out.truncated.sum()) if out else 0,
        "empty": sum(entry.kind == "text" and not text.strip() for entry, text in zip(kept, inputs, strict=True)),
    }
    return Item(task.name, str(task.output), "ok", 0.0, metrics=counts, details={"failed": failed})


def content(entry: Entry) -> Any:
    """A text, or pixels [3, H, W] in [0, 1]. Raises ``InputError``."""
    return entry.read_text() if entry.kind == "text" else entry.read_pixels(MAX_SIDE)


class _Writer:
    """Watches the batch and takes each finished block into the store at once, in this process only."""

    def __init__(self, store: VectorStore, entries: Mapping[str, Entry], watcher: Watcher) -> None:
        self.store, self.entries, self.watcher = store, entries, watcher
        labels = store.entries()
        self.known = {key: str(meta.get("stamp")) for key, meta in labels.items()}
        self.labels = {
            key: dict(entry.meta)
            for key, entry in entries.items()
            if self.known.get(key) == entry.stamp and _own(labels[key]) != entry.meta
        }
        """Metadata that changed though the content did not."""
        self.unreadable: set[str] = set()
        self.counts = dict.fromkeys(COUNTS, 0)
        self.failed: list[Item] = []

    def item(self, item: Item, done: int, total: int) -> None:
        if item.status == "ok" and item.output:
            for name, value in item.metrics.items():
                self.counts[name] += int(value)
            for key, name, reason in item.details["failed"]:
                self.unreadable.add(key)
                self.failed.append(Item(name, None, "failed", 0.0, error=reason))
                self.watcher.item(self.failed[-1], done, total)
            self.take(Path(item.output))
        self.watcher.item(item, done, total)

    def step(self, name: str, done: int, total: int) -> None:
        self.watcher.step(name, done, total)

    def take(self, part: Path) -> int:
        """Add a block's vectors that are still wanted, then remove its file; returns how many."""
        try:
            with np.load(part) as saved:
                ids, vectors = saved["ids"].tolist(), saved["vectors"]
                meta, fingerprint = json.loads(saved["meta"].tobytes()), json.loads(str(saved["fingerprint"]))
        except Exception:  # half a zip file raises anything; what it held is embedded again
            part.unlink(missing_ok=True)
            return 0
        if fingerprint != self.store.header.fingerprint:
            part.unlink(missing_ok=True)
            return 0
        current = [
            i
            for i, key in enumerate(ids)
            if key in self.entries and self.entries[key].stamp == meta[i]["stamp"] != self.known.get(key)
        ]
        if current:
            self.store.add([ids[i] for i in current], vectors[current], [meta[i] for i in current])
        for i in current:
            self.counts["changed" if ids[i] in self.known else "added"] += 1
            self.known[ids[i]] = meta[i]["stamp"]
            self.labels.pop(ids[i], None)
        part.unlink(missing_ok=True)
        return len(current)

    def relabel(self) -> int:
        """Write changed metadata beside the vectors that are there; returns of how many entries."""
        new = []
        for block in self.store.blocks() if self.labels else ():
            for key, vector, meta in zip(*block, strict=True):
                if key in self.labels and self.known[key] == meta["stamp"]:
                    kept = {name: meta[name] for name in ADDED if name in meta}
                    new.append((key, vector, self.labels[key] | kept))
        for at in range(0, len(new), BLOCK_ITEMS):
            ids, vectors, labels = zip(*new[at : at + BLOCK_ITEMS], strict=True)
            self.store.add(ids, np.stack(vectors), labels)
        return len(new)


def _own(meta: Mapping[str, Any]) -> dict[str, Any]:
    """Metadata that came with an entry, without those that the index added."""
    return {name: value for name, value in meta.items() if name not in ADDED}


def _warnings(counts: Mapping[str, int], encoder: Encoder) -> list[str]:
    found = []
    if counts["truncated"]:
        limit = encoder.fingerprint.max_tokens
        found.append(
            counted(counts["truncated"], "text is", "texts are")
            + f" longer than the model's {limit} tokens: what is beyond was left out"
        )
    if counts["empty"]:
        found.append(counted(counts["empty"], "text is", "texts are") + " empty: embedded as the empty text")
    return found
