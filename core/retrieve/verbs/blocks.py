"""Blocks of entries that are embedded at a time: the vectors of one are a file before they are in a store."""

from __future__ import annotations

import hashlib
import json
import zipfile
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

import attn

from ...batch.task import Task
from ...errors import InputError
from ...io.atomic import atomic_path
from ...io.kinds import open_regular
from ...memory import check_memory
from ...report.model import Item
from ..data.entry import Entry
from ..encoders.base import Encoded
from ..encoders.kept import BLOCK_IMAGES, BLOCK_TEXTS, MAX_SIDE, encoder_of
from ..options.encoder import EncoderOptions
from ..passages import PASSAGE_OF, passages
from ..store import is_remote, split_place
from ..store.checks import check_items

SNIPPET = 300
"""Characters of a text that hits show."""


@dataclass(frozen=True, slots=True)
class BlockItem(Item):
    """The item of a block; ``failed`` has (id, name, reason) of each entry of it that could not be read."""

    failed: Sequence[tuple[str, str, str]] = ()


def parts_folder(output: str | Path) -> Path:
    """Where finished blocks wait: inside the index, or for one on a server in the current directory."""
    if is_remote(output):
        name = hashlib.sha256(str(output).encode()).hexdigest()[:12]
        return Path(f".attn-parts-{name}")
    return Path(split_place(output)[1]) / ".parts"


def blocks_of(todo: Sequence[Entry], parts: Path) -> list[Task]:
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
            failed.append((entry.id, entry.name, error.reason if error.path == str(entry.path) else str(error)))
    step(1, 2)
    ids, meta = [], []
    empty = sum(entry.kind == "text" and not text.strip() for entry, text in zip(kept, inputs, strict=True))
    if chunk and kept and kept[0].kind == "text":
        cut = [passages(text, chunk, encoder) for text in inputs]
        inputs = [piece for some in cut for piece in some]
    else:
        cut = [[piece] for piece in inputs]
    for entry, some in zip(kept, cut, strict=True):
        for number, piece in enumerate(some, 1):
            added = {"stamp": entry.stamp, "kind": entry.kind} | (
                {"text": piece[:SNIPPET]} if entry.kind == "text" else {}
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
    return BlockItem(task.name, str(task.output), "ok", 0.0, metrics=counts, failed=failed)


def content(entry: Entry) -> Any:
    """A text, or pixels [3, H, W] in [0, 1]. Raises ``InputError``."""
    return entry.read_text() if entry.kind == "text" else entry.read_pixels(MAX_SIDE)


def read_part(part: Path) -> tuple[list[str], NDArray[np.float32], list[dict[str, Any]], dict[str, Any]]:
    """Ids, vectors [n, dim], metadata and fingerprint of a finished block. Raises ``InputError`` if it is not whole."""
    try:
        with open_regular(part) as file, zipfile.ZipFile(file) as archive:
            check_memory(part, 2 * sum(member.file_size for member in archive.infolist()), "unpacked it takes")
            file.seek(0)
            with np.load(file, allow_pickle=False) as saved:
                vectors, about = saved["vectors"], json.loads(saved["about"].tobytes())
        ids, meta, fingerprint = about["ids"], about["meta"], about["fingerprint"]
        sound = len(ids) == len(meta) == len(vectors) and isinstance(fingerprint, dict)
        if not sound or not all(isinstance(member["stamp"], str) for member in meta):
            raise ValueError("its parts do not fit")
        check_items(ids, vectors, meta, int(fingerprint["dim"]))
    except InputError:
        raise
    except Exception as error:  # half a zip file raises anything
        raise InputError(part, f"is no finished block ({error})", "Remove it") from error
    return ids, vectors, meta, fingerprint
