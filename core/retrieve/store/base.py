"""What every vector store promises: the header, what goes in, what comes out, and in which order.

Specification: methods/retrieval-peers.md, sections 4 and 9. Vectors are unit rows, the score is their dot product
(cosine similarity, larger is nearer), equal scores are ordered by id.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from typing import Any, Literal, NamedTuple, Protocol, TypeAlias
from urllib.parse import unquote

import numpy as np
from numpy.typing import NDArray

from ...errors import InputError, UsageError
from ...options import OptionError

FLAT_ITEMS = 100_000
"""More items than this want an index."""
SCHEMA = 1
"""Written into every header. Raise it when older versions of attn could not read what we write."""

Scalar: TypeAlias = str | int | float | bool | None
Meta: TypeAlias = Mapping[str, Scalar]
AddMode: TypeAlias = Literal["upsert", "strict"]

MOST_DIM = 2**20
"""Dimensions of a vector; a header that names more was forged."""
SLACK = 1e-5
"""How far a float32 score of unit vectors may be from the true one; candidates within it are scored again."""
BLOCK_ITEMS = 4_096
"""Items that ``VectorStore.blocks`` gives at a time."""


@dataclass(frozen=True, slots=True)
class Header:
    """What a store is about; fixed when it is created.

    Parameters
    ----------
    fingerprint : mapping
        Of the encoder (``Fingerprint.to_dict``). Vectors and queries of another encoder do not belong here.
    dim : int
    metric : {"cosine"}
    schema : int
        Version of the format.
    attn : str
        Version of attn that created the store.
    created : str
        ISO 8601, UTC.
    store : str
        Back end: "flat", "lance" or "qdrant". Filled in by ``create``.
    """

    fingerprint: Mapping[str, Any]
    dim: int
    metric: Literal["cosine"] = "cosine"
    schema: int = SCHEMA
    attn: str = ""
    created: str = ""
    store: str = ""

    @classmethod
    def new(cls, fingerprint: Mapping[str, Any], dim: int) -> Header:
        """A header of now and of this version of attn."""
        from attn import __version__

        if dim < 1:
            raise UsageError(f"vectors need at least one dimension, not {dim}")
        return cls(dict(fingerprint), dim, attn=__version__, created=datetime.now(UTC).isoformat(timespec="seconds"))

    def to_dict(self) -> dict[str, Any]:
        return asdict(self)

    @classmethod
    def from_dict(cls, values: Any, place: str) -> Header:
        """The header found at ``place``. Raises ``InputError`` if it is damaged, ``UsageError`` if it is too new."""
        if not isinstance(values, Mapping):
            raise damaged(place, "its header is no object")
        schema = values.get("schema")
        if type(schema) is int and schema > SCHEMA:
            raise OptionError(
                f"{place}: written by attn {values.get('attn', '?')} in schema {schema}; this version reads up to "
                f"{SCHEMA}. Update attn, or build the index again ({{rebuild}})."
            )
        try:
            header = cls(**{name: values[name] for name in cls.__dataclass_fields__})
        except (KeyError, TypeError) as error:
            raise damaged(place, "its header is incomplete") from error
        if header.metric != "cosine" or type(header.dim) is not int or not 1 <= header.dim <= MOST_DIM:
            raise damaged(place, f"its header names metric {str(header.metric)[:40]} and dim {str(header.dim)[:40]}")
        texts = (header.attn, header.created, header.store)
        if type(schema) is not int or schema < 0 or not isinstance(header.fingerprint, Mapping):
            raise damaged(place, "its header has a schema or a fingerprint of the wrong type")
        if not all(isinstance(text, str) for text in texts):
            raise damaged(place, "its header has a name or a date of the wrong type")
        return header


@dataclass(frozen=True, slots=True)
class Hit:
    """One result: ``score`` is the cosine similarity."""

    id: str
    score: float
    meta: Mapping[str, Any]


class StoredBlock(NamedTuple):
    """Some items of a store.

    Parameters
    ----------
    ids : list of n str
    vectors : ndarray, shape (n, dim), float32
        As they are stored: unit rows, up to rounding where the store keeps float16.
    meta : list of n mappings
    """

    ids: list[str]
    vectors: NDArray[np.float32]
    meta: list[Meta]


class VectorStore(Protocol):
    """Vectors with string ids and flat metadata. Not for use by several threads at once."""

    header: Header

    def __len__(self) -> int: ...

    def add(
        self, ids: Sequence[str], vectors: NDArray[np.float32], meta: Sequence[Meta], mode: AddMode = "upsert"
    ) -> None:
        """Store items; when it returns they are on disk, when it raises or is killed none or all of them are.

        Parameters
        ----------
        ids : sequence of n str
        vectors : ndarray, shape (n, dim), float32
            Unit rows.
        meta : sequence of n mappings
            Flat: str, int (64 bits), float (finite), bool or None by name.
        mode : {"upsert", "strict"}
            An id that is there already (or twice in ``ids``): the last one wins, or nothing is stored.

        Raises
        ------
        UsageError
            If the arguments do not fit or another process is writing; in mode "strict" if an id is there already.
        InputError
            If the store cannot be written.
        """
        ...

    def delete(self, ids: Sequence[str]) -> int:
        """Forget items; returns how many of ``ids`` were there."""
        ...

    def search(
        self, queries: NDArray[np.float32], k: int, *, where: str | None = None, exact: bool = False
    ) -> list[list[Hit]]:
        """The ``k`` items most similar to each query, best first, ties by id.

        Parameters
        ----------
        queries : ndarray, shape (q, dim), float32
            Unit rows.
        k : int
            Fewer come back where fewer items match.
        where : str, optional
            Which items count: see ``where.parse``.
        exact : bool
            Compare with every item even where there is an index.

        Raises
        ------
        UsageError
            If the queries do not fit, or ``where`` cannot be understood.
        """
        ...

    def entries(self) -> dict[str, Meta]:
        """Metadata of all items by id."""
        ...

    def blocks(self, *, where: str | None = None, size: int = BLOCK_ITEMS) -> Iterator[StoredBlock]:
        """All items with their vectors, a block at a time, so that memory does not grow with the store.

        Parameters
        ----------
        where : str, optional
            Which items: see ``where.parse``.
        size : int
            Most items in a block; blocks may be smaller, never empty.

        Yields
        ------
        StoredBlock. Each item once, in an order that is the store's own.

        Raises
        ------
        UsageError
            If ``where`` cannot be understood.
        InputError
            If the store cannot be read.
        """
        ...

    def compact(self) -> dict[str, Any]:
        """Give back the room of deleted items, bring an index up to date where there is one; returns ``stats()``."""
        ...

    def stats(self) -> dict[str, Any]:
        """Counts, sizes in bytes and settings, as a report can hold them."""
        ...

    def close(self) -> None:
        """Release files and the right to write. Nothing is lost without it."""
        ...


def made_anew(place: object) -> UsageError:
    """The error of a writer whose index another one replaced before it wrote."""
    return OptionError(f"{place}: another process made this index anew meanwhile ({{rebuild}}). Start again.")


def damaged(place: object, what: str) -> InputError:
    """The error for a store that cannot be trusted any more."""
    return InputError(str(place), what, "Build the index again: --rebuild")


def unique_rows(ids: Sequence[str], mode: AddMode) -> list[int]:
    """Rows of a batch that count: the last one of each id. Raises ``UsageError`` for a repeated id if "strict"."""
    last = {name: row for row, name in enumerate(ids)}
    if mode == "strict" and len(last) < len(ids):
        seen: set[str] = set()
        twice = next(name for name in ids if name in seen or seen.add(name))  # type: ignore[func-returns-value]
        raise UsageError(f"id {twice!r} is given twice")
    return sorted(last.values())


def sound_item(place: object, key: Any, meta: Any) -> tuple[str, Meta]:
    """Id and metadata as a store gave them. Raises ``InputError`` if they are none that ``check_items`` let in."""
    try:
        good = isinstance(key, str) and key.encode() and isinstance(meta, dict)
        if good and all(isinstance(value, str | int | float | bool | None) for value in meta.values()):
            return key, meta
    except UnicodeEncodeError:
        pass
    raise damaged(place, f"holds an entry that is none ({str(key)[:40]!r})")


def already_there(name: str) -> UsageError:
    """The error of mode "strict"."""
    return UsageError(f"id {name!r} is in the store already. Delete it first, or let new items replace old ones.")


def escape(key: str) -> str:
    """A metadata name as engines take it for a column: they give dots, quotes and brackets a meaning."""
    return re.sub(r"[^\w -]", lambda match: "".join(f"%{byte:02X}" for byte in match[0].encode()), key)


def unescape(name: str) -> str:
    """The metadata name that ``escape`` made ``name`` of."""
    return unquote(name)
