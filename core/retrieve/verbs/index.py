"""`attn retrieve index`: from a gallery to an index. Unchanged entries are not embedded again, removed ones go.

Gone is only what an argument that was read whole does not hold any more (``gallery.Matched``); what cannot be read now
keeps its entries, and is reported.

Work is done in blocks. A block's vectors are a file of their own before they enter the store, so a run that is killed
has lost at most the blocks in hand: the next run takes the finished ones over.
"""

from __future__ import annotations

import shutil
import time
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

from ...batch.run import run_batch
from ...bundles import Placement
from ...device import pick_device, set_threads
from ...errors import UsageError
from ...io.atomic import remove_stale
from ...options import OptionError
from ...progress import Bars, Watcher
from ...report.model import Item, Report, rows_with_errors
from ..data.entry import Entry
from ..data.evalset import counted
from ..data.gallery import Known, Matched, named, read_gallery
from ..data.sources import BOTH
from ..encoders.base import Encoder
from ..encoders.kept import check_fingerprint, encoder_of, fingerprint_of
from ..options.encoder import IMAGE_MODEL, MODEL
from ..options.index import IndexOptions
from ..passages import document_of, passage_tokens
from ..places import Places
from ..store import Header, VectorStore, clear, create, exists, open_store
from .blocks import blocks_of, embed_block, parts_folder
from .intake import Intake

REMOVED_SHOWN = 1000
"""Ids of removed entries that a report lists."""


def index(
    gallery: Sequence[str],
    output: str | Path | None,
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
    output : str, Path or None
        The index: a folder, or an ``s3://`` or ``qdrant://`` address. None: ``beside`` the gallery.
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
    told = []
    if output is None:
        output = beside(gallery)
        told.append(f"the index is {output}, beside its gallery")
    listed = named(gallery, stdin)
    if not options.encoder.model:
        options = replace(options, encoder=replace(options.encoder, model=_fitting(listed, output, options.rebuild)))
    encoder = encoder_of(options.encoder)
    read = read_gallery(listed, encoder.modalities)
    passage_tokens(options.chunk, encoder)  # refused before anything is opened
    if options.rebuild and (lost := [argument for argument in read.arguments if argument.error]) and exists(output):
        raise OptionError(
            f"{{rebuild}} would lose what {output} holds of {lost[0].name}, which cannot be read now "
            f"({lost[0].error.rstrip('.')}). Nothing was changed: mend it, or do not name it."
        )
    store = _opened(output, options, encoder, len(read))
    try:
        labels = store.entries()
        places = Places(output)
        chunk = _chunk(options.chunk, encoder, labels)
        arguments_ = tuple(
            replace(argument, entries=tuple(_restamped(entry, chunk) for entry in argument.entries))
            for argument in read.arguments
        )
        read = replace(read, arguments=arguments_)
        known = {document_of(key, meta): Known.of(meta, places) for key, meta in labels.items()}
        matched = Matched(read, known, places, prune=options.prune)
        gone, unread, noted = matched.forgets()
        gone = [] if options.keep_missing else gone
        kept = len(known.keys() - matched.entries.keys()) - len(gone)
        unread_items = [Item(name, None, "failed", 0.0, error=why) for name, why in unread.items()]
        for item in (*read.failed, *unread_items):
            watcher.item(item, 0, len(matched.entries))
        if clash := next((key for key in matched.entries if chunk and _is_passage(key, matched.entries)), None):
            raise OptionError(
                f"{{chunk}}: {clash!r} is an id, and would be that of a passage, too. Rename one of them."
            )
        intake = Intake(store, labels, matched.entries, watcher)
        parts = parts_folder(output)
        remove_stale(parts)
        resumed = sum(intake.resume(part) for part in sorted(parts.glob("*.npz")))
        if placement.overwrite:
            intake.known = dict.fromkeys(intake.known, "")
        todo = [entry for entry in matched.entries.values() if intake.known.get(entry.id) != entry.stamp]
        outcome = run_batch(
            partial(embed_block, options=options.encoder, chunk=chunk), blocks_of(todo, parts),
            replace(placement, overwrite=False), intake,
        )  # fmt: skip
        if outcome.interrupted:
            gone = []  # a run that did not come to its end forgets nothing
        intake.forget(gone)
        relabelled = intake.relabel()
        store.compact()
        counts = intake.counts | {
            "entries": len(intake.members), "unchanged": len(matched.entries) - len(todo) - resumed - relabelled,
            "relabelled": relabelled, "removed": len(gone), "kept": kept, "resumed": resumed,
            "passages": len(store) if chunk else 0,
        }  # fmt: skip
        shutil.rmtree(parts, ignore_errors=True)
    finally:
        store.close()
    failed = [*read.failed, *unread_items, *intake.failed]
    failed += [item for item in outcome.items if item.status == "failed"]
    warnings = [*read.warnings, *noted, *_warnings(counts, encoder, chunk, intake.stale)]
    removed = gone[:REMOVED_SHOWN]
    item = Item(
        input=", ".join(gallery), output=str(output), status="ok", seconds=time.perf_counter() - start,
        metrics=counts | {"failed": len(failed)}, warnings=tuple(warnings),
        details={"model": encoder.fingerprint.to_dict(), "store": store.header.store, "removed": removed},
    )  # fmt: skip
    summary = {"model": encoder.fingerprint.model, "engine": encoder.engine, "store": store.header.store}
    return outcome.report(
        "retrieve", arguments or {"verb": "index", "gallery": list(gallery), "output": str(output)},
        str(pick_device(options.encoder.device)), start, items=[item, *failed], summary=summary,
        overview=rows_with_errors([item, *failed]), urgent=[*told, *_forgotten(output, removed, len(gone))],
    )  # fmt: skip


def beside(gallery: Sequence[str]) -> Path:
    """Where the index of one gallery is unless the user says otherwise: ``photos.index`` beside ``photos/``.

    Raises ``OptionError`` where it cannot be told from the names: several of them, a list on stdin, the root folder.
    """
    if len(gallery) == 1 and gallery[0] != "-" and (path := Path(gallery[0])).resolve().name:
        path = path if path.name and path.name != ".." else path.resolve()
        return path.with_name(f"{path.stem if path.is_file() else path.name}.index")
    raise OptionError(f"{{output}}: {', '.join(gallery)[:80]} names no place for an index. Give one, such as my.index.")


def _forgotten(output: str | Path, names: Sequence[str], count: int) -> list[str]:
    """Nothing goes without a word."""
    some = ", ".join(names[:3])
    return [f"{output}: {count} removed, gone from the gallery: {some}{', ...' if count > 3 else ''}"] if count else []


def _fitting(gallery: Sequence[str], output: str | Path, rebuild: bool) -> str:
    """The model where none was named: that of the index, or of the packaged ones the one that reads the gallery.

    Raises ``UsageError`` if there is nothing at all to index.
    """
    if not rebuild and exists(output):
        store = open_store(output)
        try:
            return fingerprint_of(output, store.header.fingerprint).model
        finally:
            store.close()
    try:
        read_gallery(gallery, {"text"})
    except UsageError:
        read_gallery(gallery, BOTH)
        return IMAGE_MODEL
    return MODEL


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
    if options.rebuild:
        clear(output)
    if not exists(output):
        header = Header.new(encoder.fingerprint.to_dict(), encoder.fingerprint.dim)
        return create(output, header, options.store, expected_items=count)  # type: ignore[arg-type]
    store = open_store(output)
    try:
        check_fingerprint(output, store.header.fingerprint, encoder)
    except BaseException:
        store.close()
        raise
    return store


def _warnings(counts: Mapping[str, int], encoder: Encoder, chunk: int, stale: int) -> list[str]:
    texts = []
    if counts["truncated"]:
        limit = encoder.fingerprint.max_tokens
        fix = "" if chunk else " (--chunk auto embeds it in passages)"
        texts.append(
            counted(counts["truncated"], "text is", "texts are")
            + f" longer than the model's {limit} tokens: what is beyond was left out{fix}"
        )
    if counts["empty"]:
        texts.append(counted(counts["empty"], "text is", "texts are") + " empty: embedded as the empty text")
    if stale:
        texts.append(counted(stale, "entry is", "entries are") + " stale: the file cannot be read as it is now")
    return texts
