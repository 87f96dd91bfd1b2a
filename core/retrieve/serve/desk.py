"""The open index and its model, and what one thread answers with them."""

from __future__ import annotations

import tempfile
import time
from collections import OrderedDict
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, TypeGuard

import numpy as np
from numpy.typing import NDArray

import attn

from ...device import pick_device, set_threads
from ...errors import AttnError, InputError, UsageError
from ...io.photo.read import PHOTO_SUFFIXES
from ...io.tables import read_picture
from ...options import OptionError
from ..encoders.base import Encoder
from ..encoders.kept import MAX_SIDE, check_fingerprint, encoder_of, fingerprint_of
from ..options.find import SearchOptions, SimilarOptions
from ..options.serve import ServeOptions
from ..passages import nearest
from ..places import Places, index_folder
from ..score.results import Result
from ..store import Hit, VectorStore, open_store, stamp_of
from ..verbs.search import encoder_options
from ..verbs.similar import by_id, entries_of, neighbours, title

Vector = NDArray[np.float32]
PHOTO = "photo"
"""What an uploaded photo is called."""
REMEMBERED = 20_000
"""Photos of recent hits whose places are known without asking the index."""


class UnknownEntry(UsageError):
    """There is no such entry in the index."""


@dataclass(frozen=True, slots=True)
class Wanted:
    """One thing that is looked for.

    Parameters
    ----------
    kind : {"text", "photo", "entry"}
    content : str or bytes
        A sentence, the bytes of a photo's file, the id (or path) of an entry.
    options : SimilarOptions
        How many hits, and of which entries.
    places : Places
        Finds the files of the hits; one for all of a request, which is told once what is missing.
    """

    kind: Literal["text", "photo", "entry"]
    content: str | bytes
    options: SimilarOptions
    places: Places


@dataclass(frozen=True, slots=True)
class Reply:
    """What was found, with absolute paths, and what is wrong with the index; empty where nothing is."""

    result: Result
    fault: str


@dataclass(frozen=True, slots=True)
class _Open:
    """An index as it was opened, the model that made it, and the mark of its files then."""

    store: VectorStore
    encoder: Encoder
    stamp: str


class Desk:
    """An index and its model, opened again when the index changes. For one thread at a time.

    Parameters
    ----------
    index : str
    options : ServeOptions
    told : callable
        Is given a line about what the person who runs the server should know.

    Raises
    ------
    AttnError
        As ``verbs.search``.
    """

    def __init__(self, index: str, options: ServeOptions, told: Callable[[str], None]) -> None:
        self.index, self._options, self._told = index_folder(index) or index, options, told
        self.device = str(pick_device(options.device))
        self._photos: OrderedDict[str, str] = OrderedDict()
        self._fault = ""
        self._now = self._opened()
        self._embedded(["a first sentence, so that the first person does not wait longer than others"])

    def answer(self, wanted: Sequence[Wanted]) -> list[Reply | Exception]:
        """What each came to; what is wrong with one is no matter of the others."""
        self._refresh()
        replies: list[Reply | Exception | None] = [None] * len(wanted)
        vectors: dict[int, Vector] = {}
        texts = [row for row, one in enumerate(wanted) if one.kind == "text"]
        try:
            vectors |= dict(zip(texts, self._embedded([str(wanted[row].content) for row in texts]), strict=True))
        except AttnError as error:
            for row in texts:
                replies[row] = error
        for row, one in enumerate(wanted):
            try:
                if one.kind == "photo":
                    vectors[row] = self._photo(one.content)
                elif one.kind == "entry":
                    replies[row] = self._like(one)
            except AttnError as error:
                replies[row] = error
        for options in dict.fromkeys(wanted[row].options for row in vectors):
            rows = [row for row in vectors if wanted[row].options == options]
            try:
                found = self._nearest([vectors[row] for row in rows], [wanted[row] for row in rows], options)
                for row, reply in zip(rows, found, strict=True):
                    replies[row] = reply
            except AttnError as error:
                for row in rows:
                    replies[row] = error
        return [reply or AssertionError("nothing was answered") for reply in replies]

    def remembered(self, name: str) -> str | None:
        """The photo of a recent hit. For any thread."""
        return self._photos.get(name)

    def photo_of(self, name: str) -> str | None:
        """The photo of an entry; None where there is no such entry, or it is no photo."""
        self._refresh()
        entry = by_id(self._now.store, [name]).get(name)
        path = Places(self.index).find(entry.meta) if entry else None
        self._remember(name, path)
        return path if is_photo(path) else None

    def info(self) -> dict[str, Any]:
        """What is served: the index, its model, how many entries, and what is wrong."""
        encoder = self._now.encoder
        return {
            "index": self.index,
            "entries": len(self._now.store),
            "model": encoder.fingerprint.model,
            "engine": encoder.engine,
            "reads": sorted(encoder.modalities),
            "temperature": encoder.fingerprint.temperature,
            "device": self.device,
            "attn": attn.__version__,
            "warnings": [self._fault] if self._fault else [],
        }

    def close(self) -> None:
        """Close the index."""
        self._now.store.close()

    def _opened(self) -> _Open:
        set_threads(self._options.threads)
        stamp = stamp_of(self.index)  # before the index is read: what changes meanwhile is seen next time
        store = open_store(self.index)
        try:
            own = SearchOptions(device=self._options.device, allow_download=self._options.allow_download)
            encoder = encoder_of(encoder_options(fingerprint_of(self.index, store.header.fingerprint), own))
            check_fingerprint(self.index, store.header.fingerprint, encoder)
        except BaseException:
            store.close()
            raise
        return _Open(store, encoder, stamp)

    def _refresh(self) -> None:
        """Open the index again if it changed; while it cannot be opened, what was open before goes on answering."""
        stamp = stamp_of(self.index)
        if stamp == self._now.stamp:
            return
        old = self._now
        try:
            self._now = self._opened()
        except AttnError as error:
            self._now = _Open(old.store, old.encoder, stamp)  # tried again when it changes again
            self._fault = f"{error} (answers are of the index as it was before)"
            self._told(f"warning: {self._fault}")
            return
        self._photos.clear()
        self._fault = ""
        old.store.close()

    def _embedded(self, texts: Sequence[str]) -> Sequence[Vector]:
        return list(self._now.encoder.encode_texts(texts, side="query").vectors) if texts else []

    def _photo(self, data: str | bytes) -> Vector:
        """The vector of a photo's file. Raises ``InputError`` that names it ``PHOTO``."""
        assert isinstance(data, bytes)
        with tempfile.TemporaryDirectory() as folder:
            file = Path(folder, PHOTO)
            file.write_bytes(data)
            try:
                pixels = read_picture(file, MAX_SIDE)
            except InputError as error:
                raise InputError(PHOTO, error.what, error.fix) from error
        vector: Vector = self._now.encoder.encode_images([pixels]).vectors[0]
        return vector

    def _nearest(self, vectors: Sequence[Vector], wanted: Sequence[Wanted], options: SimilarOptions) -> list[Reply]:
        began = time.perf_counter()
        found = nearest(self._now.store, np.stack(vectors), options.top, where=options.where, exact=options.exact)
        ms = 1000 * (time.perf_counter() - began) / len(vectors)
        return [
            self._reply(one, one.kind, str(one.content) if one.kind == "text" else PHOTO, hits, ms)
            for one, hits in zip(wanted, found, strict=True)
        ]

    def _like(self, one: Wanted) -> Reply:
        """Entries like one that the index has."""
        entries, failed = entries_of(self._now.store, [str(one.content)], self.index, one.places)
        if failed:
            raise UnknownEntry(f"{one.content!s}: {failed[0].error}")
        (entry,) = entries
        began = time.perf_counter()
        (hits,) = neighbours(self._now.store, entries, one.options)
        ms = 1000 * (time.perf_counter() - began)
        return self._reply(one, entry.id, title(entry.id, one.places.found(entry.meta)), hits, ms)

    def _reply(self, one: Wanted, key: str, query: str, hits: Sequence[Hit], ms: float) -> Reply:
        there = [Hit(hit.id, hit.score, one.places.found(hit.meta)) for hit in hits]
        for hit in there:
            self._remember(hit.id, hit.meta.get("path"))
        return Reply(Result(key, query, there, ms, one.kind == "text"), self._fault)

    def _remember(self, name: str, path: Any) -> None:
        """Where the photo of a hit is, for its thumbnail, which is asked for next."""
        if is_photo(path):
            self._photos[name] = path
            self._photos.move_to_end(name)
            while len(self._photos) > REMEMBERED:
                self._photos.popitem(last=False)


def is_photo(path: Any) -> TypeGuard[str]:
    """Whether a hit's ``path`` is a file with a photo's suffix."""
    return isinstance(path, str) and "://" not in path and Path(path).suffix.lower() in PHOTO_SUFFIXES


def in_json(error: OptionError) -> str:
    """What is wrong with a request, with the names that it has there."""
    return error.named(lambda field: {"top": "k"}.get(field, field))
