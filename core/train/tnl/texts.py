"""Which documents a run reads, which of them it trains on, and what of the others it has not read already."""

from __future__ import annotations

import ast
import hashlib
import importlib
import platform
import re
import sys
import sysconfig
import warnings
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import NamedTuple

import numpy as np

from ...errors import InputError
from ...io.records import whole_text
from ...io.walk import Passed, expand_inputs

SUFFIXES = (".txt", ".md", ".rst")
"""Files that a folder is searched for; a file that is named may have any."""
FEWEST_OF_PYTHON = 100
"""A library with fewer modules is there without its sources."""
FEWEST, PIECE = 20, 4096
"""Fewer documents than that are cut at blank lines into pieces of about so many characters."""
SHARES = {"test": 0.1, "val": 0.05}
"""Of all characters."""
PARAGRAPH = 40
"""Characters of the shortest paragraph that counts as said before; shorter ones are phrases of the language."""
_SALT = 2405_17381
"""Seed of which documents are held out: the same whatever the seed of a run."""
_OUTSIDE = {"test", "tests", "idle_test", "site-packages", "dist-packages", "pydoc_data"}


class Document(NamedTuple):
    """A text and what it is called."""

    name: str
    text: str


@dataclass(frozen=True, slots=True)
class Corpus:
    """The documents of a run.

    Parameters
    ----------
    name : str
        What they are, for people.
    train, val, test : tuple of Document
        No document is in two of them, and no paragraph of ``val`` or ``test`` is in ``train``.
    sha256 : str
        Of all documents in their order, before they were parted.
    notices : tuple of str
        What was left out or decided.
    """

    name: str
    train: tuple[Document, ...]
    val: tuple[Document, ...]
    test: tuple[Document, ...]
    sha256: str
    notices: tuple[str, ...]

    def counts(self) -> dict[str, int]:
        """Documents and bytes of each part."""
        found: dict[str, int] = {}
        for part in ("train", "val", "test"):
            documents: tuple[Document, ...] = getattr(self, part)
            found[f"{part}_documents"] = len(documents)
            found[f"{part}_bytes"] = sum(len(document.text.encode()) for document in documents)
        return found


def corpus(data: Sequence[str], output: Path) -> Corpus:
    """The user's texts, or those of Python's own documentation.

    Parameters
    ----------
    data : sequence of str
        Files and folders of texts; none: ``python_documents``.
    output : Path
        Of the run; passed by in a folder that is searched.

    Raises
    ------
    InputError
        If a file cannot be read, or there is too little to hold something out.
    UsageError
        If nothing is there.
    """
    if data:
        documents, notices = _own(data, output)
        name = ", ".join(Path(place).name or place for place in data)
    else:
        documents, notices = list(python_documents()), []
        name = f"documentation of Python {platform.python_version()}'s standard library"
    digest = hashlib.sha256()
    for document in documents:
        for part in document:
            digest.update(part.encode() + b"\0")
    train, val, test = _parted(name, documents)
    read = {said for document in train for said, _ in _paragraphs(document.text) if len(said) >= PARAGRAPH}
    val, left_of_val = _unread(val, read)
    test, left_of_test = _unread(test, read)
    if left := left_of_val + left_of_test:
        notices.append(f"{left} paragraphs of held-out documents are in training documents, too: not judged")
    if not val or not test:
        raise InputError(name, "repeats itself: all that was held out is also trained on", "Give other texts")
    return Corpus(name, tuple(train), tuple(val), tuple(test), digest.hexdigest(), tuple(notices))


@cache
def python_documents() -> tuple[Document, ...]:
    """What Python ships of its own documentation: language topics of ``pydoc``, and docstrings, a document a module.

    Sources are parsed, nothing is imported; modules written in C have none. Depends on the version of Python alone
    (and on what a distribution takes out of its library).

    Raises
    ------
    InputError
        If the library is not there as sources.
    """
    root = Path(sysconfig.get_path("stdlib"))
    topics: dict[str, str] = importlib.import_module("pydoc_data.topics").topics
    documents = [Document(f"topic {name}", topics[name].strip()) for name in sorted(topics)]
    for path in sorted(root.rglob("*.py")):
        parts = path.relative_to(root).with_suffix("").parts
        if _OUTSIDE.isdisjoint(parts) and parts[0] in sys.stdlib_module_names:
            name = ".".join(parts).removesuffix(".__init__")
            with warnings.catch_warnings():  # of escapes in old sources
                warnings.simplefilter("ignore")
                text = "\n\n".join(_docstrings(ast.parse(path.read_bytes()), name))
            if text:
                documents.append(Document(name, text))
    if len(documents) - len(topics) < FEWEST_OF_PYTHON:
        what = f"holds {len(documents) - len(topics)} modules of Python's library"
        raise InputError(root, what, "Name texts of your own, or use a Python with its sources")
    return tuple(documents)


def _docstrings(node: ast.Module | ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef, name: str) -> Iterator[str]:
    """Name, arguments and docstring of a module and all that is in it, in the order of the source."""
    if text := ast.get_docstring(node):
        called = f"({ast.unparse(node.args)})" if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef) else ""
        indented = "\n".join(f"    {line}".rstrip() for line in text.splitlines())
        yield f"{name}{called}\n{indented}".encode(errors="replace").decode()
    for child in node.body:
        if isinstance(child, ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef):
            yield from _docstrings(child, f"{name}.{child.name}")


def _own(data: Sequence[str], output: Path) -> tuple[list[Document], list[str]]:
    """Each file a document; a few are cut into pieces."""
    passed = Passed()
    documents, empty = [], []
    for item in expand_inputs(data, suffixes=SUFFIXES, output=output, passed=passed):
        if item.error is not None:
            raise item.error
        text = whole_text(item.path).strip()
        if text:
            documents.append(Document(item.name, text))
        else:
            empty.append(item.name)
    notices = [f"passed by, {row['why']}: {row['files']} ({row['names']})" for row in passed.rows()]
    if empty:
        notices.append(f"{len(empty)} empty files are left out: {', '.join(empty[:3])}")
    if len(documents) < FEWEST:
        whole, documents = documents, [piece for document in documents for piece in _pieces(document)]
        notices.append(
            f"{len(whole)} documents are cut at blank lines into {len(documents)}, some of which are held out"
        )
    return documents, notices


def _pieces(document: Document) -> Iterator[Document]:
    """Consecutive paragraphs, together at least ``PIECE`` characters."""
    number, text = 0, ""
    for _, paragraph in _paragraphs(document.text):
        text += ("\n\n" if text else "") + paragraph
        if len(text) >= PIECE:
            yield Document(f"{document.name} {number}", text)
            number, text = number + 1, ""
    if text:
        yield Document(f"{document.name} {number}", text)


def _paragraphs(text: str) -> list[tuple[str, str]]:
    """What stands between blank lines: its words, and itself."""
    return [(" ".join(part.split()), part) for part in re.split(r"\n\s*\n", text)]


def _unread(documents: Sequence[Document], read: set[str]) -> tuple[list[Document], int]:
    """The documents without paragraphs that were read in training, and how many those are."""
    found, left = [], 0
    for document in documents:
        parts = _paragraphs(document.text)
        kept = [part for said, part in parts if said not in read]
        left += len(parts) - len(kept)
        if kept:
            found.append(document._replace(text="\n\n".join(kept)))
    return found, left


def _parted(
    name: str, documents: Sequence[Document]
) -> tuple[list[Document], list[Document], list[Document]]:  # fmt: skip
    """Training, validation, test: documents in an order of chance go where they fit."""
    total = sum(len(document.text) for document in documents)
    room = {part: share * total for part, share in SHARES.items()}
    parts: dict[str, list[Document]] = {"train": [], "val": [], "test": []}
    for number in np.random.default_rng(_SALT).permutation(len(documents)):
        document = documents[number]
        part = next((part for part, left in room.items() if len(document.text) <= left), "train")
        parts[part].append(document)
        if part in room:
            room[part] -= len(document.text)
    if not all(parts.values()):
        what = f"has {len(documents)} documents, of {total} characters: too few to hold some out"
        raise InputError(name, what, "Add texts")
    return parts["train"], parts["val"], parts["test"]
