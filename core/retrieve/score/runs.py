"""Result files: rankings out as JSONL, TREC run, TSV or paths; runs and judgements in.

Formats: methods/retrieval-peers.md, section 6. Hits are ranked by score, equal scores by id, as the metrics do
(trec_eval takes equal scores by *descending* id: see ``apart``). TREC columns are parted by blanks, so blanks inside an
id are written as in a URL (``a b`` -> ``a%20b``) and read back; other ids stay as they are.
"""

from __future__ import annotations

import json
import math
import os
import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from os import PathLike
from pathlib import Path
from typing import Any, Protocol
from urllib.parse import quote

import numpy as np

from ...errors import InputError, UsageError, did_you_mean
from ...io.atomic import atomic_path
from ...io.records import json_lines, lines
from ..options.find import Hits
from .metrics import Qrels, Run

FORMATS = Hits.FORMS
TSV_HEADER = "query_id\trank\tid\tscore"
_NUMBER = re.compile(r"[+-]?([0-9]+\.?[0-9]*|\.[0-9]+)([eE][+-]?[0-9]+)?")
_HEADER = re.compile(r"(?!(nan|inf|infinity)$)[a-z_ -]+", re.IGNORECASE)
"""What the column of judgements is called in a header, and no judgement gone wrong."""
_MOST_RELEVANT = 2**31


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


class Escape:
    """Writes some characters as in a URL, and reads only those back; all other ids stay as they are.

    A percent sign is escaped where it would otherwise be read as an escape: ``a%20b`` -> ``a%2520b``.
    """

    def __init__(self, characters: Iterable[str]) -> None:
        self.codes = {character: quote(character, safe="") for character in characters} | {"%": "%25"}
        self.characters = {code: character for character, code in self.codes.items()}
        found = "|".join(self.characters)
        blanks = "".join(map(re.escape, self.codes.keys() - {"%"}))
        self._written = re.compile(f"[{blanks}]|%(?={'|'.join(code[1:] for code in self.characters)})")
        self._read = re.compile(found)

    def write(self, text: str) -> str:
        return self._written.sub(lambda match: self.codes[match[0]], text)

    def read(self, text: str) -> str:
        return self._read.sub(lambda match: self.characters[match[0]], text)


_CONTROLS = {chr(i) for i in (*range(0x20), *range(0x7F, 0xA0))}
"""What steers a terminal, to which tables are often piped (``| head``), and parts lines and columns."""
BLANKS = Escape(sorted(_CONTROLS | {chr(i) for i in range(0x3001) if chr(i).isspace()}))
TABS = Escape(sorted(_CONTROLS))


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
                hits.append(_Told(hit.id, float(score), hit.meta))
            last = score
        yield replace(result, hits=hits)


@dataclass(frozen=True, slots=True)
class _Told:
    id: str
    score: float
    meta: Mapping[str, Any]


def as_run(results: Iterable[Result]) -> Run:
    """Results as the metrics take them."""
    return {result.query_id: {hit.id: float(hit.score) for hit in result.hits} for result in results}


def read_run(path: str | PathLike[str]) -> Run:
    """Read a run: TREC, or JSONL or TSV as ``render`` writes them, told by content.

    Ranks in the file are ignored; scores count, as in trec_eval.

    Raises
    ------
    InputError
        If a line is malformed, a score is no number, a document occurs twice for a query, or the file is empty.
    """
    path = Path(path)
    run: dict[str, dict[str, float]] = {}
    for place, query, document, score in _run_rows(path):
        value = _number(path, place, score)
        if document in run.setdefault(query, {}):
            what = f"{place}: query {query!r} has document {document!r} twice"
            raise InputError(path, what, "Keep one line for each query and document")
        run[query][document] = value
    if not run:
        raise InputError(path, "holds no results", "Write 'qid Q0 docid rank score tag' on each line")
    return run


def read_qrels(path: str | PathLike[str]) -> dict[str, dict[str, int]]:
    """Read judgements: TREC (``qid 0 docid rel``) or BEIR (``query-id corpus-id score`` with tabs, header optional).

    Raises
    ------
    InputError
        If a line is malformed, a relevance is no whole number, a pair has two different ones, or the file is empty.
    """
    path = Path(path)
    qrels: dict[str, dict[str, int]] = {}
    for number, text in lines(path, errors="surrogateescape"):
        place, cells = f"line {number}", text.split("\t")
        if len(cells) == 3:
            query, document, level = (cell.strip() for cell in cells)
            if number == 1 and _HEADER.fullmatch(level):
                continue
        elif len(cells := text.split()) == 4:
            query, document, level = BLANKS.read(cells[0]), BLANKS.read(cells[2]), cells[3]
        else:
            what = f"{place} has {len(cells)} columns"
            raise InputError(path, what, "Judgements are 'qid 0 docid rel', or query-id, corpus-id, score with tabs")
        add_judgement(qrels, path, place, query, document, _number(path, place, level))
    if not qrels:
        raise InputError(path, "holds no judgements", "Write 'qid 0 docid rel' on each line")
    return qrels


def add_judgement(
    qrels: dict[str, dict[str, int]], path: Path, place: str, query: str, document: str, level: Any
) -> None:
    """Put a judgement into ``qrels``. Raises ``InputError`` if it is malformed, or another of the pair is there."""
    if not query or not document:
        raise InputError(path, f"{place}: an id is empty", "A judgement is a query, a document and a whole number")
    if isinstance(level, bool):  # a column of yes and no
        level = int(level)
    if not _is_number(level) or not float(level).is_integer() or abs(level) > _MOST_RELEVANT:
        what = f"{place}: {_short(level)} is no whole number below {_MOST_RELEVANT:,}"
        raise InputError(path, what, "A judgement is a query, a document and a whole number")
    if qrels.setdefault(query, {}).setdefault(document, int(level)) != int(level):
        what = f"{place}: query {query!r} and document {document!r} were judged otherwise before"
        raise InputError(path, what, "Keep one judgement of each pair")


def write_qrels(path: str | PathLike[str], qrels: Qrels) -> None:
    """Write judgements as TREC does: ``qid 0 docid rel``. Raises ``UsageError`` if an id is empty."""
    with atomic_path(path) as temporary, temporary.open("wb") as file:
        for query, judgements in qrels.items():
            for document, level in judgements.items():
                row = f"{_column(query)} 0 {_column(document)} {int(level)}\n"
                file.write(row.encode("utf-8", "surrogateescape"))


def _json_line(result: Result) -> bytes:
    hits = []
    for rank, hit in enumerate(result.ranked, 1):
        meta = {name: value for name, value in hit.meta.items() if name != "path"}
        hits.append({"id": hit.id, "rank": rank, "score": float(hit.score), "path": hit.meta.get("path"), "meta": meta})
    whole = {"query_id": result.query_id, "query": result.query, "hits": hits, "ms": result.ms}
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


def _column(text: str) -> str:
    if not text:
        raise UsageError("an empty id cannot be written in a TREC file")
    return BLANKS.write(text)


def _trec_row(query: str, rank: int, hit: RankedDocument, tag: str) -> str:
    return f"{_column(query)} Q0 {_column(hit.id)} {rank} {float(hit.score)!r} {_column(tag)}\n"


def _tsv_row(query: str, rank: int, hit: RankedDocument, tag: str) -> str:
    return f"{TABS.write(query)}\t{rank}\t{TABS.write(hit.id)}\t{float(hit.score)!r}\n"


def _run_rows(path: Path) -> Iterator[tuple[str, str, str, Any]]:
    """Place, query, document and score (still as written) of each hit in a run file."""
    first = next((text for _, text in lines(path, errors="surrogateescape")), "")
    if first.lstrip().startswith("{") and first.split()[1:2] != ["Q0"]:  # a query of a TREC run may be called "{"
        for place, record in json_lines(path):
            hits = record.get("hits")
            if not isinstance(record.get("query_id"), str) or not isinstance(hits, list):
                raise InputError(
                    path, f"{place} is no result", 'Each line has "query_id" (a string) and "hits" (a list)'
                )
            for hit in hits:
                if not isinstance(hit, dict) or not isinstance(hit.get("id"), str):
                    raise InputError(path, f"{place} has a hit without 'id'", 'A hit has "id" and "score"')
                yield place, record["query_id"], hit["id"], hit.get("score")
        return
    table = first == TSV_HEADER
    for number, text in lines(path, errors="surrogateescape"):
        cells = text.split("\t") if table else text.split()
        if len(cells) != (4 if table else 6):
            fix = f"Columns are {TSV_HEADER.split()}" if table else "A TREC run has 'qid Q0 docid rank score tag'"
            raise InputError(path, f"line {number} has {len(cells)} columns", fix)
        if table and text != TSV_HEADER:
            yield f"line {number}", TABS.read(cells[0]), TABS.read(cells[2]), cells[3]
        elif not table:
            yield f"line {number}", BLANKS.read(cells[0]), BLANKS.read(cells[2]), cells[4]


def _number(path: Path, place: str, text: Any) -> float:
    """A number that can be ranked. Raises ``InputError`` for anything else, NaN and infinity included."""
    if not _is_number(text):
        what = f"{place}: {_short(repr(text))} is no number"
        raise InputError(path, what, "Scores and judgements are plain numbers, below 1e308")
    return float(text)


def _is_number(text: Any) -> bool:
    """Whether it is a finite number, as JSON has it or as text. Python's own spellings (1_000) are none."""
    if isinstance(text, str):
        return bool(_NUMBER.fullmatch(text.strip())) and math.isfinite(float(text))
    try:
        return isinstance(text, int | float) and not isinstance(text, bool) and math.isfinite(float(text))
    except OverflowError:
        return False


def _short(value: Any) -> str:
    text = f"{value}"
    return text if len(text) <= 60 else f"{text[:50]}... ({len(text)} characters)"
