"""`attn retrieve search`: queries against an index."""

from __future__ import annotations

import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ...device import pick_device, set_threads
from ...errors import InputError
from ...io.tables import read_picture
from ...report.model import Item
from ..data.queries import Content
from ..encoders.base import Encoder, Fingerprint
from ..encoders.kept import MAX_SIDE, check_fingerprint, encoder_of, fingerprint_of
from ..options.encoder import EncoderOptions
from ..options.find import SearchOptions
from ..passages import BATCH, nearest
from ..places import Places
from ..score.results import Result
from ..store import open_store
from .explain import check_explains, explain
from .found import Explained, Found, blank_queries, found_of, placed


def search(
    index: str | Path,
    queries: Mapping[str, Content],
    options: SearchOptions = SearchOptions(),  # noqa: B008 - frozen
    *,
    arguments: Mapping[str, Any] | None = None,
) -> Found:
    """Rank an index's entries for each query.

    Parameters
    ----------
    index : str or Path
    queries : mapping of str to str or Path
        By id: a str is a text, a Path an image.
    options : SearchOptions
    arguments : mapping, optional
        What the report records as the call's arguments.

    Returns
    -------
    Found. Queries whose image cannot be read are failed items and have no result.

    Raises
    ------
    UsageError
        If the index is of another model, its model cannot be had or does not take such queries, or an option makes no
        sense.
    InputError
        If the index is damaged.
    """
    start = time.perf_counter()
    set_threads(options.threads)
    store = open_store(index)
    try:
        encoder = encoder_of(encoder_options(fingerprint_of(index, store.header.fingerprint), options))
        check_fingerprint(index, store.header.fingerprint, encoder)
        if options.explain:
            check_explains(encoder)
        vectors, items = embed_queries(queries, encoder)
        results: list[Result] = []
        ids = list(vectors)
        places = Places(index)
        for at in range(0, len(ids), BATCH):
            block = ids[at : at + BATCH]
            began = time.perf_counter()
            vectors_asked = np.stack([vectors[key] for key in block])
            hits_of = nearest(store, vectors_asked, options.top, where=options.where, exact=options.exact)
            ms = 1000 * (time.perf_counter() - began) / len(block)
            results += [
                Result(key, str(queries[key]), placed(hits, places), ms, isinstance(queries[key], str))
                for key, hits in zip(block, hits_of, strict=True)
            ]  # fmt: skip
        entries = len(store)
        explained: dict[str, Explained] = {}
        if options.explain:
            explained = {r.query_id: explain(r, encoder) for r in results if isinstance(queries[r.query_id], str)}
    finally:
        store.close()
    return found_of(
        results, items, index=index, entries=entries, model=encoder.fingerprint.model, start=start,
        device=str(pick_device(options.device)), engine=encoder.engine, explained=explained,
        arguments=arguments or {"verb": "search", "index": str(index)}, warnings=places.warnings(),
    )  # fmt: skip


def encoder_options(own: Fingerprint, options: SearchOptions) -> EncoderOptions:
    """The model and temperature that are asked for, the rest as the index has it."""
    model = own.model if options.model is None else options.model
    return EncoderOptions(
        model, own.temperature if options.temperature is None else options.temperature,
        own.max_tokens if model == own.model else None, options.device, allow_download=options.allow_download,
    )  # fmt: skip


def embed_queries(
    queries: Mapping[str, Content], encoder: Encoder
) -> tuple[dict[str, NDArray[np.float32]], list[Item]]:
    """Vectors by query id, and a failed item for each image that cannot be read."""
    texts = {key: query for key, query in queries.items() if isinstance(query, str) and query.strip()}
    vectors: dict[str, NDArray[np.float32]] = {}
    failed = blank_queries(queries)
    if texts:
        vectors |= dict(zip(texts, encoder.encode_texts(list(texts.values()), side="query").vectors, strict=True))
    for key, path in queries.items():
        if isinstance(path, str):
            continue
        try:
            pixels = read_picture(path, MAX_SIDE)
        except InputError as error:
            failed.append(Item(str(path), None, "failed", 0.0, error=error.reason))
            continue
        vectors[key] = encoder.encode_images([pixels]).vectors[0]
    return {key: vectors[key] for key in queries if key in vectors}, failed
