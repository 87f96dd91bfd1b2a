"""Runs of other programs, and our own result files, read."""

from __future__ import annotations

from collections.abc import Iterator
from os import PathLike
from pathlib import Path
from typing import Any

from ...errors import InputError
from ...io.records import json_lines, lines
from .escape import BLANKS, TABS
from .metrics import Run
from .qrels import number_of
from .results import TSV_HEADER


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
        value = number_of(path, place, score)
        if document in run.setdefault(query, {}):
            what = f"{place}: query {query!r} has document {document!r} twice"
            raise InputError(path, what, "Keep one line for each query and document")
        run[query][document] = value
    if not run:
        raise InputError(path, "holds no results", "Write 'qid Q0 docid rank score tag' on each line")
    return run


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
