"""Judgements read and written, as TREC and BEIR have them."""

from __future__ import annotations

import math
import re
from os import PathLike
from pathlib import Path
from typing import Any

from ...errors import InputError
from ...io.atomic import atomic_path
from ...io.records import lines
from .escape import BLANKS, column
from .metrics import Qrels

_NUMBER = re.compile(r"[+-]?([0-9]+\.?[0-9]*|\.[0-9]+)([eE][+-]?[0-9]+)?")
_HEADER = re.compile(r"(?!(nan|inf|infinity)$)[a-z_ -]+", re.IGNORECASE)
"""What the column of judgements is called in a header, and no judgement gone wrong."""
_MOST_RELEVANT = 2**31


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
        add_judgement(qrels, path, place, query, document, number_of(path, place, level))
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
        what = f"{place}: {_short(level)} is no whole number of at most {_MOST_RELEVANT:,}"
        raise InputError(path, what, "A judgement is a query, a document and a whole number")
    if qrels.setdefault(query, {}).setdefault(document, int(level)) != int(level):
        what = f"{place}: query {query!r} and document {document!r} were judged otherwise before"
        raise InputError(path, what, "Keep one judgement of each pair")


def write_qrels(path: str | PathLike[str], qrels: Qrels) -> None:
    """Write judgements as TREC does: ``qid 0 docid rel``. Raises ``UsageError`` if an id is empty."""
    with atomic_path(path) as temporary, temporary.open("wb") as file:
        for query, judgements in qrels.items():
            for document, level in judgements.items():
                row = f"{column(query)} 0 {column(document)} {int(level)}\n"
                file.write(row.encode("utf-8", "surrogateescape"))


def number_of(path: Path, place: str, text: Any) -> float:
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
