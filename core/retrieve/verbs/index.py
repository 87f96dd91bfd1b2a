"""`attn retrieve index`: from a gallery to an index. Unchanged entries are not embedded again, removed ones go.

Gone is only what an argument that was read whole does not hold any more (``gallery.Matched``); what cannot be read now
keeps its entries, and is reported.

Work is done in blocks. A block's vectors are a file of their own before they enter the store, so a run that is killed
has lost at most the blocks in hand: the next run takes the finished ones over.
"""

from __future__ import annotations

import hashlib
import json
import shutil
import time
import zipfile
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

import attn

from ...batch.run import run_batch
from ...batch.task import Task
from ...bundles import Placement
from ...device import pick_device, set_threads
from ...errors import InputError
from ...io.atomic import atomic_path, remove_stale
from ...io.kinds import open_regular
from ...memory import check_memory
from ...options import OptionError
from ...progress import Bars, Watcher
from ...report.model import Item, Report
from ..data.entry import Entry
from ..data.evalset import counted
from ..data.gallery import Known, Matched, read_gallery
from ..data.rows import ADDED
from ..encoders.base import Encoded, Encoder
from ..encoders.kept import BLOCK_IMAGES, BLOCK_TEXTS, MAX_SIDE, check_fingerprint, encoder_of
from ..options.encoder import EncoderOptions
from ..options.index import IndexOptions
from ..passages import PASSAGE_OF, document_of, passage_tokens, passages
from ..places import Places
from ..store import Header, VectorStore, clear, create, is_vacant, open_store, split_place
from ..store.base import BLOCK_ITEMS
from ..store.checks import check_items

REMOVED_SHOWN = 1000
"""Ids of removed entries that a report lists."""
SNIPPET = 300
"""Characters of a text that hits show."""
COUNTS = (
    "entries", "added", "changed", "relabelled", "unchanged", "removed", "kept", "truncated", "empty", "failed",
    "passages",
)  # fmt: skip
"""``relabelled``: the content is as it was, its path or other metadata are new. ``kept``: not found now, not gone."""


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
    watcher = watcher or Bars()
    encoder = encoder_of(options.encoder)
    found = read_gallery(gallery, encoder.modalities, stdin=stdin)
    passage_tokens(options.chunk, encoder)  # refused before anything is opened
    if options.rebuild and (lost := [one for one in found.arguments if one.error]) and _holds_anything(output):
        raise OptionError(
            f"{{rebuild}} would lose what {output} holds of {lost[0].name}, which cannot be read now "
            f"({lost[0].error.rstrip('.')}). Nothing was changed: mend it, or do not name it."
        )
    store = _opened(output, options, encoder, len(found))
    try:
        labels = store.entries()
        places = Places(output)
        chunk = _chunk(options.chunk, encoder, labels)
        arguments_ = tuple(
            replace(one, entries=tuple(_restamped(entry, chunk) for entry in one.entries)) for one in found.arguments
        )
        found = replace(found, arguments=arguments_)
        known = {document_of(key, meta): Known.of(meta, places) for key, meta in labels.items()}
        matched = Matched(found, known, places, prune=options.prune)
        gone, unread, noted = matched.forgets()
        gone = [] if options.keep_missing else gone
        kept = len(known.keys() - matched.entries.keys()) - len(gone)
        unread_items = [Item(name, None, "failed", 0.0, error=why) for name, why in unread.items()]
        for item in (*found.failed, *unread_items):
            watcher.item(item, 0, len(matched.entries))
        if clash := next((key for key in matched.entries if chunk and _is_passage(key, matched.entries)), None):
            raise OptionError(
                f"{{chunk}}: {clash!r} is an id, and would be that of a passage, too. Rename one of them."
            )
        writer = _Writer(store, labels, matched.entries, watcher)
        parts = _parts_folder(output)
        remove_stale(parts)
        resumed = sum(writer.resume(part) for part in sorted(parts.glob("*.npz")))
        if placement.overwrite:
            writer.known = dict.fromkeys(writer.known, "")
        todo = [entry for entry in matched.entries.values() if writer.known.get(entry.id) != entry.stamp]
        outcome = run_batch(
            partial(embed_block, options=options.encoder, chunk=chunk), _blocks(todo, parts),
            replace(placement, overwrite=False), writer,
        )  # fmt: skip
        if outcome.interrupted:
            gone = []  # a run that did not come to its end forgets nothing
        writer.forget(gone)
        relabelled = writer.relabel()
        store.compact()
        counts = writer.counts | {
            "entries": len(writer.members), "unchanged": len(matched.entries) - len(todo) - resumed - relabelled,
            "relabelled": relabelled, "removed": len(gone), "kept": kept, "resumed": resumed,
            "passages": len(store) if chunk else 0,
        }  # fmt: skip
        shutil.rmtree(parts, ignore_errors=True)
    finally:
        store.close()
    failed = [*found.failed, *unread_items, *writer.failed]
    failed += [item for item in outcome.items if item.status == "failed"]
    stale = sum(item.details.get("stale", False) for item in writer.failed)
    warnings = [*found.warnings, *noted, *_warnings(counts, encoder, chunk, stale)]
    item = Item(
        input=", ".join(gallery), output=str(output), status="ok", seconds=time.perf_counter() - start,
        metrics=counts | {"failed": len(failed)}, warnings=tuple(warnings),
        details={"model": encoder.fingerprint.to_dict(), "store": store.header.store, "removed": gone[:REMOVED_SHOWN]},
    )  # fmt: skip
    summary = {"model": encoder.fingerprint.model, "store": store.header.store}
    return outcome.report(
        "retrieve", arguments or {"verb": "index", "gallery": list(gallery), "output": str(output)},
        str(pick_device(options.encoder.device)), start, items=[item, *failed], summary=summary,
    )  # fmt: skip


def _holds_anything(output: str | Path) -> bool:
    """Whether there is an index already."""
    said, place = split_place(output)
    return said != "qdrant" and Path(place).is_dir() and not is_vacant(Path(place))


def _chunk(wanted: str | None, encoder: Encoder, labels: Mapping[str, Any]) -> int:
    """Tokens of a passage; as the index has them where nothing else is wanted."""
    if wanted is None:
        stamps = (str(meta.get("stamp")).partition("@")[2] for meta in labels.values() if meta.get("kind") == "text")
        wanted = next((text for text in stamps if text.isdecimal()), None)
    return passage_tokens(wanted, encoder)


def _is_passage(key: str, entries: Mapping[str, Entry]) -> bool:
    """Whether an id may be that of a passage of another entry."""
    document, mark, number = key.rpartition("#")
    return bool(mark) and number.isdecimal() and document in entries


def _restamped(entry: Entry, chunk: int) -> Entry:
    """An entry whose stamp tells of passages, too: other passages are to be embedded again."""
    return replace(entry, stamp=f"{entry.stamp}@{chunk}") if chunk and entry.kind == "text" else entry


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


def embed_block(task: Task, step: Callable[[int, int], None], options: EncoderOptions, chunk: int = 0) -> Item:
    """Read and embed the entries of one block and write their vectors; what cannot be read is listed, not fatal.

    ``chunk`` is how many tokens a passage has, 0 for whole texts.
    """
    encoder = encoder_of(options)
    kept, inputs, failed = [], [], []
    for entry in task.payload:
        try:
            inputs.append(content(entry))
            kept.append(entry)
        except InputError as error:
            failed.append([entry.id, entry.name, error.reason if error.path == str(entry.path) else str(error)])
    step(1, 2)
    ids, meta = [], []
    empty = sum(entry.kind == "text" and not text.strip() for entry, text in zip(kept, inputs, strict=True))
    if chunk and kept and kept[0].kind == "text":
        cut = [passages(text, chunk, encoder) for text in inputs]
        inputs = [one for some in cut for one in some]
    else:
        cut = [[one] for one in inputs]
    for entry, some in zip(kept, cut, strict=True):
        for number, one in enumerate(some, 1):
            added = {"stamp": entry.stamp, "kind": entry.kind} | (
                {"text": one[:SNIPPET]} if entry.kind == "text" else {}
            )
            added |= {PASSAGE_OF: entry.id} if len(some) > 1 else {}
            ids.append(f"{entry.id}#{number}" if len(some) > 1 else entry.id)
            meta.append({**entry.meta, **added})
    out: Encoded | None = None
    if kept:
        out = encoder.encode_texts(inputs) if kept[0].kind == "text" else encoder.encode_images(inputs)
    assert task.output is not None
    about = {"ids": ids, "meta": meta, "fingerprint": encoder.fingerprint.to_dict(), "version": attn.__version__}
    with atomic_path(task.output) as temporary:
        np.savez(
            temporary, vectors=out.vectors if out else np.zeros((0, encoder.fingerprint.dim), np.float32),
            about=np.frombuffer(json.dumps(about).encode(), np.uint8),
        )  # fmt: skip
    counts = {"truncated": int(out.truncated.sum()) if out else 0, "empty": empty}
    return Item(task.name, str(task.output), "ok", 0.0, metrics=counts, details={"failed": failed})


def content(entry: Entry) -> Any:
    """A text, or pixels [3, H, W] in [0, 1]. Raises ``InputError``."""
    return entry.read_text() if entry.kind == "text" else entry.read_pixels(MAX_SIDE)


class _Writer:
    """Watches the batch and takes each finished block into the store at once, in this process only."""

    def __init__(
        self, store: VectorStore, labels: Mapping[str, Mapping[str, Any]], entries: Mapping[str, Entry],
        watcher: Watcher,
    ) -> None:  # fmt: skip
        self.store, self.entries, self.watcher = store, entries, watcher
        self.members: dict[str, list[str]] = {}
        """What is in the store of each entry: itself, or its passages."""
        self.known: dict[str, str] = {}
        self.labels: dict[str, dict[str, Any]] = {}
        """Metadata that changed though the content did not."""
        for key, meta in labels.items():
            document, stamp = document_of(key, meta), str(meta.get("stamp"))
            self.members.setdefault(document, []).append(key)
            if self.known.setdefault(document, stamp) != stamp:
                self.known[document] = ""  # passages of two states: a run was killed between them
        for key, meta in labels.items():
            entry = entries.get(document_of(key, meta))
            if entry is not None and self.known[entry.id] == entry.stamp and _own(meta) != entry.meta:
                self.labels[entry.id] = dict(entry.meta)
        self.counts = dict.fromkeys(COUNTS, 0)
        self.failed: list[Item] = []

    def item(self, item: Item, done: int, total: int) -> None:
        if item.status == "ok" and item.output:
            for name, value in item.metrics.items():
                self.counts[name] += int(value)
            for key, name, reason in item.details["failed"]:
                stale = key in self.members
                told = f"{reason.rstrip('.')}. Its entry of before was kept" if stale else reason
                self.failed.append(Item(name, None, "failed", 0.0, error=told, details={"stale": stale}))
                self.watcher.item(self.failed[-1], done, total)
            try:
                self.take(Path(item.output))
            except InputError as error:  # written a moment ago: what cannot be read again would be lost in silence
                self.failed.append(Item(item.input, None, "failed", 0.0, error=error.reason))
                self.watcher.item(self.failed[-1], done, total)
        self.watcher.item(item, done, total)

    def step(self, name: str, done: int, total: int) -> None:
        self.watcher.step(name, done, total)

    def resume(self, part: Path) -> int:
        """``take`` of a block that a run before left; half a file, or another attn's, is embedded again."""
        try:
            return self.take(part)
        except InputError:
            return 0

    def take(self, part: Path) -> int:
        """Add a block's vectors that are still wanted, then remove its file; returns of how many entries.

        Raises ``InputError`` if the file is not whole.
        """
        try:
            ids, vectors, meta, fingerprint = read_part(part)
        except InputError:
            part.unlink(missing_ok=True)
            raise
        wanted: dict[str, list[int]] = {}
        for i, key in enumerate(ids):
            entry = self.entries.get(document_of(key, meta[i]))
            if entry is not None and entry.stamp == meta[i]["stamp"] != self.known.get(entry.id):
                wanted.setdefault(entry.id, []).append(i)
        current = [i for some in wanted.values() for i in some]
        if current and fingerprint == self.store.header.fingerprint:
            self.store.add([ids[i] for i in current], vectors[current], [meta[i] for i in current])
            new = {key: [ids[i] for i in some] for key, some in wanted.items()}
            self.forget_keys(old for key in new for old in self.members.get(key, ()) if old not in new[key])
            for key in new:
                self.counts["changed" if key in self.known else "added"] += 1
                self.known[key] = self.entries[key].stamp
                self.labels.pop(key, None)
            self.members |= new
        else:
            wanted = {}
        part.unlink(missing_ok=True)
        return len(wanted)

    def forget(self, gone: Iterable[str]) -> None:
        """Remove entries with all their passages."""
        self.forget_keys(key for document in gone for key in self.members.pop(document, ()))

    def forget_keys(self, keys: Iterable[str]) -> None:
        """Remove items of the store."""
        if listed := list(keys):
            self.store.delete(listed)

    def relabel(self) -> int:
        """Write changed metadata beside the vectors that are there; returns of how many entries."""
        new = []
        for block in self.store.blocks() if self.labels else ():
            for key, vector, meta in zip(*block, strict=True):
                document = document_of(key, meta)
                if document in self.labels and self.known[document] == meta["stamp"]:
                    kept = {name: meta[name] for name in (*ADDED, PASSAGE_OF) if name in meta}
                    new.append((key, vector, self.labels[document] | kept))
        for at in range(0, len(new), BLOCK_ITEMS):
            ids, vectors, labels = zip(*new[at : at + BLOCK_ITEMS], strict=True)
            self.store.add(ids, np.stack(vectors), labels)
        return len(self.labels)


def read_part(part: Path) -> tuple[list[str], NDArray[np.float32], list[dict[str, Any]], dict[str, Any]]:
    """Ids, vectors [n, dim], metadata and fingerprint of a finished block. Raises ``InputError`` if it is not whole."""
    try:
        with open_regular(part) as file, zipfile.ZipFile(file) as archive:
            check_memory(part, 2 * sum(one.file_size for one in archive.infolist()), "unpacked it takes")
            file.seek(0)
            with np.load(file, allow_pickle=False) as saved:
                vectors, about = saved["vectors"], json.loads(saved["about"].tobytes())
        ids, meta, fingerprint = about["ids"], about["meta"], about["fingerprint"]
        sound = len(ids) == len(meta) == len(vectors) and isinstance(fingerprint, dict)
        if not sound or not all(isinstance(one["stamp"], str) for one in meta):
            raise ValueError("its parts do not fit")
        check_items(ids, vectors, meta, int(fingerprint["dim"]))
    except InputError:
        raise
    except Exception as error:  # half a zip file raises anything
        raise InputError(part, f"is no finished block ({error})", "Remove it") from error
    return ids, vectors, meta, fingerprint


def _own(meta: Mapping[str, Any]) -> dict[str, Any]:
    """Metadata that came with an entry, without those that the index added."""
    return {name: value for name, value in meta.items() if name not in (*ADDED, PASSAGE_OF)}


def _warnings(counts: Mapping[str, int], encoder: Encoder, chunk: int, stale: int) -> list[str]:
    found = []
    if counts["truncated"]:
        limit = encoder.fingerprint.max_tokens
        fix = "" if chunk else " (--chunk auto embeds it in passages)"
        found.append(
            counted(counts["truncated"], "text is", "texts are")
            + f" longer than the model's {limit} tokens: what is beyond was left out{fix}"
        )
    if counts["empty"]:
        found.append(counted(counts["empty"], "text is", "texts are") + " empty: embedded as the empty text")
    if stale:
        found.append(counted(stale, "entry is", "entries are") + " stale: the file cannot be read as it is now")
    return found
