"""Data sets of MTEB as they lie on a hub: parquet files of the configurations ``corpus``, ``queries`` and ``default``.

Format: methods/retrieval-peers.md, section 6. A configuration is a folder of parquet files or one such file; the
judgements are called ``qrels``, ``default`` or ``data``. Rows of corpus and queries may hold a picture.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

from ...errors import InputError
from ...io.records import identifier
from ...io.tables import TablePicture, read_parquet
from ..score.qrels import add_judgement
from .beir import choose_split, document_text, judged
from .evalset import Content, EvalSet, counted

JUDGEMENTS = ("qrels", "default", "data")


def parts(folder: Path, name: str) -> list[Path]:
    """The parquet files of a configuration, in order; none where it is not there."""
    file = folder / f"{name}.parquet"
    return [file] if file.is_file() else sorted((folder / name).glob("*.parquet"))


def is_mteb(folder: Path) -> bool:
    """Whether a folder holds such a data set."""
    return bool(parts(folder, "corpus"))


def rows(files: list[Path]) -> Iterator[tuple[Path, int, dict[str, Any]]]:
    """File, row number from 0 and cells, through all files of a configuration."""
    for path in files:
        for row, cells in read_parquet(path):
            yield path, row, cells


def read_mteb(folder: Path, split: str | None = None) -> EvalSet:
    """Read one split; only the queries that it judges.

    Parameters
    ----------
    folder : Path
    split : str, optional
        By default ``test``, or the only one there is.

    Raises
    ------
    InputError
        If a configuration is missing or malformed.
    UsageError
        If there is no such split.
    """
    judgements = next((files for name in JUDGEMENTS if (files := parts(folder, name))), [])
    if not judgements:
        raise InputError(folder, "has no judgements", f"Put them into {folder}/qrels/test.parquet")
    split = choose_split(folder, split, sorted({_split(path) for path in judgements}))
    if not (query_files := parts(folder, "queries")):
        raise InputError(folder, "has no queries", f"Put them into {folder}/queries/test.parquet")
    warnings: list[str] = []
    documents = _contents(_of_split(parts(folder, "corpus"), split), "document", warnings)
    queries = _contents(_of_split(query_files, split), "query", warnings)
    qrels: dict[str, dict[str, int]] = {}
    for path, row, cells in rows([path for path in judgements if _split(path) == split]):
        place = f"row {row + 1}"
        query, document = (identifier(path, place, cells, f"{name}-id", f"{name}_id") for name in ("query", "corpus"))
        add_judgement(qrels, path, place, query, document, cells.get("score", 1))
    if not qrels:
        raise InputError(folder, f"judges nothing in {split!r}", "Name another --split")
    return judged(folder, "mteb", split, documents, queries, qrels, warnings)


def _split(path: Path) -> str:
    """``test`` of ``test-00000-of-00001.parquet`` or ``test.parquet``."""
    return path.stem.split("-0")[0]


def _of_split(files: list[Path], split: str) -> list[Path]:
    """Those named after the split, where any are; else all: most data sets have one corpus for all splits."""
    return [path for path in files if _split(path) == split] or files


def _contents(files: list[Path], what: str, warnings: list[str]) -> dict[str, Content]:
    """Pictures or texts by id. Raises ``InputError`` for an id that occurs twice, or where both sorts are mixed."""
    contents: dict[str, Content] = {}
    both = 0
    for path, row, cells in rows(files):
        place = f"row {row + 1}"
        key = identifier(path, place, cells, "_id", "id")
        if key in contents:
            raise InputError(path, f"{place}: the id {key!r} was there before", "Every id must occur once")
        picture = cells.get("image")
        if isinstance(picture, TablePicture) and "image" in (cells.get("modality") or "image"):
            both += bool(cells.get("text"))
            contents[key] = picture.image
        else:
            contents[key] = document_text(path, place, cells)
    if not contents:
        raise InputError(files[0], "holds no rows", "Download it again")
    if len({isinstance(content, str) for content in contents.values()}) > 1:
        raise InputError(files[0].parent, "mixes texts and pictures", "Split it: one sort at a time can be scored")
    if both:
        plural = "queries have" if what == "query" else f"{what}s have"
        warnings.append(counted(both, f"{what} has", plural) + " a text beside the picture: the picture was taken")
    return contents
