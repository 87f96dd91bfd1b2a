"""Long texts as passages that overlap: how they are cut, kept, and found as one document again.

A model reads some hundred tokens of a text; with ``--chunk`` the rest is embedded, too. Passages are entries of the
index called ``ID#1``, ``ID#2``, ... whose metadata ``passage_of`` is the ID. A document is found by its best passage.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from ..options import OptionError
from .store import Hit, VectorStore

if TYPE_CHECKING:
    from .encoders.base import Encoder

PASSAGE_OF = "passage_of"
"""Metadata of a passage: the id of its document."""
OVERLAP = 5
"""One part in so many of a passage is also in the next one."""
BATCH = 64
"""Queries that one pass over the vectors answers."""
LEAST = 8
"""Tokens of the shortest passages that one may ask for."""


def document_of(key: str, meta: Mapping[str, Any]) -> str:
    """The id of the document of an entry; its own where it is no passage."""
    return str(meta.get(PASSAGE_OF) or key)


def passage_tokens(wanted: str | None, encoder: Encoder) -> int:
    """Tokens of a passage of ``--chunk``, 0 for whole texts.

    Parameters
    ----------
    wanted : str or None
        ``auto``: as many as the model reads; ``off`` and None: no passages; else a number.
    encoder : Encoder

    Raises
    ------
    UsageError
        If it is none of these, more than the model reads, or the model does not say where its tokens are.
    """
    if wanted in (None, "off"):
        return 0
    tokeniser = _tokeniser(encoder)
    most = encoder.fingerprint.max_tokens
    if tokeniser is None or most is None:
        raise OptionError(
            f"{{chunk}}: {encoder.fingerprint.model} does not say where its tokens are: texts stay whole."
        )
    room = int(most - tokeniser.num_special_tokens_to_add())
    if wanted == "auto":
        return room
    if not str(wanted).isdecimal() or not LEAST <= int(str(wanted)[:9]) <= room:
        raise OptionError(f"{{chunk}}: {wanted!r} is not auto, off or a number of tokens from {LEAST} to {room}.")
    return int(str(wanted))


def _tokeniser(encoder: Any) -> Any:
    """The tokeniser that knows where its tokens are in the text; None where there is none."""
    tokeniser = getattr(getattr(encoder, "text", encoder), "tokeniser", None)
    return tokeniser if getattr(tokeniser, "is_fast", False) else None


def passages(text: str, tokens: int, encoder: Encoder) -> list[str]:
    """A text in passages of at most ``tokens`` tokens, cut between words where it can be; each overlaps the next."""
    spans = _tokeniser(encoder)(text, add_special_tokens=False, return_offsets_mapping=True, verbose=False)
    spans = [(begin, end) for begin, end in spans["offset_mapping"] if end > begin]
    parts: list[str] = []
    start = 0
    while True:
        stop = min(start + tokens, len(spans))
        if stop == len(spans):
            return [*parts, text[spans[start][0] :]] if parts else [text]
        stop = _word(text, spans, stop, start + 3 * tokens // 4)
        parts.append(text[spans[start][0] : spans[stop - 1][1]])
        start = _word(text, spans, max(start + 1, stop - tokens // OVERLAP), start + 1)


def _word(text: str, spans: Sequence[tuple[int, int]], at: int, least: int) -> int:
    """The last token not behind ``at`` that begins a word, else ``at``."""
    for place in range(at, least - 1, -1):
        if spans[place][0] and text[spans[place][0] - 1].isspace():
            return place
    return at


def nearest(
    store: VectorStore, queries: NDArray[np.float32], k: int, *, where: str | None = None, exact: bool = False
) -> list[list[Hit]]:
    """``VectorStore.search`` for documents: each is found once, by its best passage, which ``best_passage`` names."""
    limit = k
    while True:
        hits_of = store.search(queries, limit, where=where, exact=exact)
        if not any(PASSAGE_OF in hit.meta for hits in hits_of for hit in hits):
            return hits_of
        merged = [best_passages(hits)[:k] for hits in hits_of]
        if all(len(best) == k or len(hits) < limit for best, hits in zip(merged, hits_of, strict=True)):
            return merged
        limit *= 4


def best_passages(hits: Iterable[Hit]) -> list[Hit]:
    """One hit a document, best first; equal scores by id."""
    best: dict[str, Hit] = {}
    for hit in hits:
        key = document_of(hit.id, hit.meta)
        if key not in best or hit.score > best[key].score:
            meta = {name: value for name, value in hit.meta.items() if name != PASSAGE_OF}
            best[key] = Hit(key, hit.score, meta | {"best_passage": hit.id} if key != hit.id else hit.meta)
    return sorted(best.values(), key=lambda hit: (-hit.score, hit.id))
