"""BEIR folders: ``corpus.jsonl``, ``queries.jsonl``, ``qrels/SPLIT.tsv``, each also as ``.gz``.

Format: methods/retrieval-peers.md, section 6. The text of a document is its title, a blank and its text.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from ...errors import InputError, UsageError, did_you_mean
from ...io.records import identifier, json_lines, text_field
from ...options import OptionError
from ..score.metrics import Qrels
from ..score.qrels import read_qrels
from .evalset import Content, EvalSet, counted, empty_texts


def find(folder: Path, name: str) -> Path | None:
    """``name`` or ``name.gz`` in a folder, if it is there."""
    return next((path for path in (folder / name, folder / f"{name}.gz") if path.is_file()), None)


def read_corpus(path: Path) -> Iterator[tuple[str, str, str]]:
    """Id, text and ``"line 7"`` of every document of ``corpus.jsonl``, or of every query of ``queries.jsonl``.

    Raises
    ------
    InputError
        If a line is malformed, an id occurs twice, or there is no document at all.
    """
    seen: dict[str, str] = {}
    for place, record in json_lines(path):
        key = identifier(path, place, record, "_id", "id")
        if key in seen:
            what = f"{place}: the id {key!r} is that of {seen[key]}, too"
            raise InputError(path, what, "Every id must occur once: rename or remove one")
        seen[key] = place
        yield key, document_text(path, place, record), place
    if not seen:
        raise InputError(path, "holds no lines", 'Write {"_id": "...", "text": "..."} on each line')


def document_text(path: str | Path, place: str, record: Mapping[str, Any]) -> str:
    """Title, a blank and text. Raises ``InputError`` where there is neither."""
    if "text" not in record and "title" not in record:
        raise InputError(path, f"{place} has no 'text'", "Add a text; it may be empty")
    parts = (text_field(path, place, record, name) for name in ("title", "text"))
    return " ".join(part for part in parts if part)


def splits(folder: Path) -> dict[str, Path]:
    """Name -> file of the judgements in ``qrels/``."""
    paths: dict[str, Path] = {}
    for path in sorted((folder / "qrels").glob("*.tsv*")):
        if path.name.endswith((".tsv", ".tsv.gz")):
            paths.setdefault(path.name.split(".tsv")[0], path)
    return paths


def read_beir(folder: Path, split: str | None = None) -> EvalSet:
    """Read a BEIR folder; only the queries that this split judges.

    Parameters
    ----------
    folder : Path
    split : str, optional
        By default ``test``, or the only one there is.

    Raises
    ------
    InputError
        If a file is missing or malformed.
    UsageError
        If there is no such split.
    """
    files = {name: find(folder, f"{name}.jsonl") for name in ("corpus", "queries")}
    for name, path in files.items():
        if path is None:
            raise InputError(folder, f"has no {name}.jsonl", "A BEIR folder has corpus.jsonl, queries.jsonl and qrels/")
    corpus, query_file = files["corpus"], files["queries"]
    assert corpus is not None
    assert query_file is not None
    judgements = splits(folder)
    if not judgements:
        raise InputError(folder, "has no judgements", "Put them into qrels/test.tsv: query-id, corpus-id, score")
    split = choose_split(folder, split, list(judgements))
    documents: dict[str, Content] = {key: text for key, text, _ in read_corpus(corpus)}
    queries: dict[str, Content] = {key: text for key, text, _ in read_corpus(query_file)}
    return judged(folder, "beir", split, documents, queries, read_qrels(judgements[split]), [])


def judged(
    folder: Path, kind: str, split: str, documents: Mapping[str, Content], queries: Mapping[str, Content], qrels: Qrels,
    warnings: list[str],
) -> EvalSet:  # fmt: skip
    """The queries that are judged, with what should be known of the rest. Raises ``InputError`` if there are none."""
    warnings = warnings + empty_texts(documents.values(), "document")
    unknown = sum(document not in documents for levels in qrels.values() for document in levels)
    if unknown:
        warnings.append(
            counted(unknown, "judgement names a document", "judgements name documents")
            + " that the corpus does not hold: relevant ones count as not found"
        )
    strange = [query for query in qrels if query not in queries]
    if strange:
        warnings.append(
            counted(len(strange), "judged query is", "judged queries are")
            + f" not among the queries (such as {strange[0]!r}): left out"
        )
    kept = {query: levels for query, levels in qrels.items() if query in queries}
    if not kept:
        raise InputError(folder, f"judges none of its queries in {split!r}", "Check that the ids are the same")
    if silent := len(queries) - len(kept):
        warnings.append(counted(silent, "query has", "queries have") + f" no judgement in {split!r}: left out")
    chosen = {query: queries[query] for query in kept}
    warnings += empty_texts(chosen.values(), "query")
    return EvalSet(folder.resolve().name, kind, split, documents, chosen, kept, tuple(warnings))


def choose_split(path: Path, wanted: str | None, names: list[str]) -> str:
    """The split asked for; by default ``test``, or the only one. Raises ``UsageError`` that lists what is there."""
    listed = ", ".join(names)
    if wanted is None:
        if "test" in names:
            return "test"
        if len(names) == 1:
            return names[0]
        raise OptionError(f"{path} has no split 'test'. Choose with {{split}}: {listed}")
    if wanted not in names:
        hint = did_you_mean(wanted, names)
        raise UsageError(f"{path} has no split {wanted!r}. {hint} There are: {listed}".replace("  ", " "))
    return wanted
