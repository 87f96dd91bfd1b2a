"""What an evaluation needs, whatever file format it came in."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Literal

from ...io.tables import StoredImage
from ..score.metrics import Qrels

Content = str | Path | StoredImage
"""A text, or an image: its path, or its place in a table."""


@dataclass(frozen=True, slots=True)
class EvalSet:
    """Documents, queries and which belong together.

    Parameters
    ----------
    name : str
    kind : str
        Format it was read from (``formats.KINDS``).
    split : str
        Part that was read; empty where the format has none.
    documents, queries : mapping of str to Content
        By id, in the order of the file: a str is the text itself, the rest are images. All of one sort.
    qrels : Qrels
        Query id -> document id -> relevance. May name documents that are not there: they are relevant and never found.
    warnings : tuple of str
        What the user should know about this data, with counts.
    licence : str
        What its authors allow, where that is known.
    """

    name: str
    kind: str
    split: str
    documents: Mapping[str, Content]
    queries: Mapping[str, Content]
    qrels: Qrels
    warnings: tuple[str, ...] = ()
    licence: str = ""

    @property
    def modalities(self) -> tuple[Literal["text", "image"], Literal["text", "image"]]:
        """Of the documents, and of the queries."""
        return _modality(self.documents), _modality(self.queries)

    def reversed(self) -> EvalSet:
        """The other direction: documents ask, queries are found (image to text instead of text to image)."""
        qrels: dict[str, dict[str, int]] = {document: {} for document in self.documents}
        for query, judgements in self.qrels.items():
            for document, level in judgements.items():
                if document in qrels:
                    qrels[document][query] = level
        return replace(self, documents=self.queries, queries=self.documents, qrels=qrels)


def _modality(contents: Mapping[str, Content]) -> Literal["text", "image"]:
    return "text" if isinstance(next(iter(contents.values()), ""), str) else "image"


def counted(count: int, single: str, many: str) -> str:
    """'1 query is ...' or '3 queries are ...'."""
    return f"1 {single}" if count == 1 else f"{count:,} {many}"


def empty_texts(contents: Iterable[Content], what: str) -> list[str]:
    """A warning if texts are empty; ``what`` names one of them."""
    plural = f"{what[:-1]}ies" if what.endswith("y") else f"{what}s"
    empty = sum(isinstance(text, str) and not text.strip() for text in contents)
    kept = "kept: embedded as the empty text"
    return [counted(empty, f"{what} is empty ({kept})", f"{plural} are empty ({kept})")] if empty else []


def repeated_texts(contents: Mapping[str, Content], owner: Mapping[str, str]) -> list[str]:
    """A warning if texts of different owners are the same: finding the other one counts as an error."""
    owners: dict[str, set[str]] = {}
    for key, text in contents.items():
        if isinstance(text, str):
            owners.setdefault(text, set()).add(owner[key])
    repeated = sum(len(who) for who in owners.values() if len(who) > 1)
    if not repeated:
        return []
    return [
        f"{repeated:,} captions are word for word those of other images: finding the other image counts as an error"
    ]
