"""Rankings as result files: JSONL, TREC run, TSV or paths.

Formats: methods/retrieval-peers.md, section 6. Hits are ranked by score, equal scores by id, as the metrics do
(trec_eval takes equal scores by *descending* id: see ``apart``). TREC columns are parted by blanks, so blanks inside an
id are written as in a URL (``a b`` -> ``a%20b``) and read back; other ids stay as they are.
"""

from __future__ import annotations

import json
import os
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from os import PathLike
from typing import Any, Protocol

import numpy as np

from ...errors import UsageError, did_you_mean
from ...io.atomic import atomic_path
from ..options.find import Hits
from .escape import TABS, column
from .metrics import Run

FORMATS = Hits.FORMS
TSV_HEADER = "query_id\trank\tid\tscore"


class RankedDocument(Protocol):
    """What a store returns for a query: an id, a score, and metadata with the ``path`` of files."""

    @property
    def id(self) -> str: ...
    @property
    def score(self) -> float: ...
    @property
    def meta(self) -> Mapping[str, Any]: ...


@dataclass(frozen=True, slots=True)
class Result:
    """Hits of one query.

    Parameters
    ----------
    query_id, query : str
        Its id, and its text or the path of its image.
    hits : sequence of RankedDocument
        In any order.
    ms : float or None
        Time of the search, in ms.
    sentence : bool
        The query is words, even where they look like the name of a file ("cat.jpg").
    """

    query_id: str
    query: str
    hits: Sequence[RankedDocument]
    ms: float | None = None
    sentence: bool = False

    @property
    def ranked(self) -> list[RankedDocument]:
        """The hits, best first: by score, then id."""
        return sorted(self.hits, key=lambda hit: (-hit.score, hit.id))


def render(results: Iterable[Result], form: str, *, tag: str = "attn") -> Iterator[bytes]:
    """Results as bytes, a piece per query (TSV: and the header).

    Parameters
    ----------
    results : iterable of Result
    form : {"jsonl", "trec", "tsv", "paths0"}
        JSONL: an object per query, {"query_id", "query", "hits": [{"id", "rank", "score", "path", "meta"}], "ms"}.
        TREC: ``qid Q0 docid rank score tag``. TSV: query_id, rank, id, score, below a header. paths0: paths of the
        hits, each ended by NUL, for ``xargs -0``. Ranks count from 1; scores have all their digits.
    tag : str
        Last column of a TREC run.

    Raises
    ------
    UsageError
        If the format is unknown, an id or the tag is empty in a TREC run, or a hit has no path for paths0.
    """
    if form not in FORMATS:
        hint = did_you_mean(form, FORMATS)
        raise UsageError(f"no result format named {form!r}. {hint} There are: {', '.join(FORMATS)}".replace("  ", " "))
    if form == "trec" and not tag:
        raise UsageError("the tag of a TREC run must not be empty")
    if form == "tsv":
        yield f"{TSV_HEADER}\n".encode()
    for result in results:
        if form == "jsonl":
            yield _json_line(result)
        elif form == "paths0":
            yield b"".join(_path0(hit) for hit in result.ranked)
        else:
            row = _trec_row if form == "trec" else _tsv_row
            rows = (row(result.query_id, rank, hit, tag) for rank, hit in enumerate(result.ranked, 1))
            yield "".join(rows).encode("utf-8", "surrogateescape")


def write_results(path: str | PathLike[str], results: Iterable[Result], form: str, *, tag: str = "attn") -> None:
    """Write results to a file, whole or not at all.

    Raises
    ------
    UsageError
        As ``render``.
    InputError
        If the file cannot be written.
    """
    with atomic_path(path) as temporary, temporary.open("wb") as file:
        for piece in render(results, form, tag=tag):
            file.write(piece)


def apart(results: Iterable[Result]) -> Iterator[Result]:
    """Results whose equal scores are told apart in the last digits of a float32, in the order of their ranks.

    trec_eval ignores ranks and takes equal scores by descending id: of a run written so it gives our figures.
    """
    for result in results:
        hits, last = list[RankedDocument](), np.float32(np.inf)
        for hit in result.ranked:
            score = np.float32(hit.score)
            if score < last:
                hits.append(hit)
            else:
                score = np.nextafter(last, np.float32(-np.inf))
                hits.append(_Moved(hit.id, float(score), hit.meta))
            last = score
        yield replace(result, hits=hits)


@dataclass(frozen=True, slots=True)
class _Moved:
    id: str
    score: float
    meta: Mapping[str, Any]


def as_run(results: Iterable[Result]) -> Run:
    """Results as the metrics take them."""
    return {result.query_id: {hit.id: float(hit.score) for hit in result.hits} for result in results}


def as_object(result: Result) -> dict[str, Any]:
    """A result as JSON has it: {"query_id", "query", "hits": [{"id", "rank", "score", "path", "meta"}], "ms"}."""
    hits = []
    for rank, hit in enumerate(result.ranked, 1):
        meta = {name: value for name, value in hit.meta.items() if name != "path"}
        hits.append({"id": hit.id, "rank": rank, "score": float(hit.score), "path": hit.meta.get("path"), "meta": meta})
    return {"query_id": result.query_id, "query": result.query, "hits": hits, "ms": result.ms}


def _json_line(result: Result) -> bytes:
    whole = as_object(result)
    try:
        return (json.dumps(whole, ensure_ascii=False, default=_plain) + "\n").encode()
    except UnicodeEncodeError:  # a file name that is no UTF-8: only escapes can hold it
        return (json.dumps(whole, default=_plain) + "\n").encode()


def _plain(value: Any) -> Any:
    """NumPy numbers as numbers, the rest (paths, dates) as text."""
    return value.item() if hasattr(value, "item") else str(value)


def _path0(hit: RankedDocument) -> bytes:
    path = hit.meta.get("path")
    if not path:
        raise UsageError(f"paths0: {hit.id!r} is no file of its own. Use jsonl, tsv or trec for texts of a corpus")
    return os.fsencode(str(path)) + b"\0"


def _trec_row(query: str, rank: int, hit: RankedDocument, tag: str) -> str:
    return f"{column(query)} Q0 {column(hit.id)} {rank} {float(hit.score)!r} {column(tag)}\n"


def _tsv_row(query: str, rank: int, hit: RankedDocument, tag: str) -> str:
    return f"{TABS.write(query)}\t{rank}\t{TABS.write(hit.id)}\t{float(hit.score)!r}\n"
