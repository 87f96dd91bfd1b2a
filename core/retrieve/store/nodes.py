"""The tree of a where expression."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any, Literal, TypeAlias

Kind: TypeAlias = Literal["text", "number", "flag"]


Value: TypeAlias = str | int | float | bool


@dataclass(frozen=True, slots=True)
class Column:
    name: str


@dataclass(frozen=True, slots=True)
class Compare:
    """``left op right``; op is one of = <> < <= > >=. At least one side is a column."""

    op: str
    left: Column | Value
    right: Column | Value


@dataclass(frozen=True, slots=True)
class In:
    """``column IN values``, all of one kind."""

    column: Column
    values: tuple[Value, ...]
    negated: bool = False


@dataclass(frozen=True, slots=True)
class Like:
    column: Column
    pattern: str
    negated: bool = False


@dataclass(frozen=True, slots=True)
class IsNull:
    column: Column
    negated: bool = False


@dataclass(frozen=True, slots=True)
class All:
    parts: tuple[Node, ...]


@dataclass(frozen=True, slots=True)
class Some:
    parts: tuple[Node, ...]


Node: TypeAlias = Compare | In | Like | IsNull | All | Some


_INVERSE = {"=": "<>", "<>": "=", "<": ">=", ">=": "<", ">": "<=", "<=": ">"}


def kind_of(value: Any) -> Kind | None:
    """What a value can be compared with; None for None."""
    match value:
        case bool():
            return "flag"
        case str():
            return "text"
        case int() | float():
            return "number"
    return None


def negate(node: Node) -> Node:
    """NOT, pushed down to the conditions."""
    match node:
        case All(parts):
            return Some(tuple(negate(part) for part in parts))
        case Some(parts):
            return All(tuple(negate(part) for part in parts))
        case Compare(op, left, right):
            return Compare(_INVERSE[op], left, right)
    return replace(node, negated=not node.negated)
