"""``where``: which items count, in a small subset of SQL that means the same in every store.

The language is in ``parser.py``. Metadata may hold different types under one name, so the rule is SQL's for NULL: a
condition between values of different kinds (text, number, truth value), or on a missing one, is unknown, and so is its
negation: neither selects the item. That is why NOT is pushed down to the conditions while parsing, and nothing below
needs a third truth value.

Why a parser: sqlite3, DataFusion (Lance) and Qdrant each know a part of this and disagree on it (LIKE's case, "text" in
double quotes, 1 = '1', NOT on missing fields), Qdrant has no SQL, and what is parsed can only read.
"""

from __future__ import annotations

import operator
import re
from collections.abc import Callable, Collection, Mapping
from typing import Any

from ...errors import did_you_mean
from ...options import OptionError
from .base import Meta
from .nodes import All, Column, Compare, In, IsNull, Like, Node, Some, Value, kind_of

_OPERATORS: Mapping[str, Callable[[Any, Any], bool]] = {
    "=": operator.eq, "<>": operator.ne, "<": operator.lt, "<=": operator.le, ">": operator.gt, ">=": operator.ge,
}  # fmt: skip


def parse(text: str, known: Collection[str] = ()) -> Node:
    """The tree of an expression, without NOT: negation is in the conditions.

    Parameters
    ----------
    text : str
    known : collection of str
        Metadata names. Where there are any, the expression may use no others (and ``id``).

    Raises
    ------
    UsageError
        If the expression is not of the language, or names an unknown column.
    """
    from .parser import Parser

    node = Parser(text).whole()
    if known:
        for name in sorted(columns(node) - {"id", *known}):
            hint = did_you_mean(name, known)
            raise OptionError(f"{{where}}: no metadata called {name!r}. {hint} Known: id, {', '.join(sorted(known))}.")
    return node


def columns(node: Node) -> set[str]:
    """Names of all columns in the expression."""
    match node:
        case All(parts) | Some(parts):
            return set[str]().union(*(columns(part) for part in parts))
        case Compare(_, left, right):
            return {side.name for side in (left, right) if isinstance(side, Column)}
    return {node.column.name}


def selects(node: Node) -> Callable[[str, Meta], bool]:
    """The expression as a function of an item's id and metadata."""
    match node:
        case All(parts):
            every = [selects(part) for part in parts]
            return lambda name, meta: all(test(name, meta) for test in every)
        case Some(parts):
            some = [selects(part) for part in parts]
            return lambda name, meta: any(test(name, meta) for test in some)
        case Compare(op, left, right):
            first, second, holds = _getter(left), _getter(right), _OPERATORS[op]

            def compare(name: str, meta: Meta) -> bool:
                a, b = first(name, meta), second(name, meta)
                kind = kind_of(a)
                return kind is not None and kind == kind_of(b) and holds(a, b)

            return compare
        case In(column, values, negated):
            get, kind, wanted = _getter(column), kind_of(values[0]), frozenset(values)
            return lambda name, meta: kind_of(value := get(name, meta)) == kind and (value in wanted) is not negated
        case Like(column, pattern, negated):
            get, fits = _getter(column), like_pattern(pattern).fullmatch
            return lambda name, meta: (
                isinstance(value := get(name, meta), str) and (fits(value) is not None) is not negated
            )
        case IsNull(column, negated):
            get = _getter(column)
            return lambda name, meta: (get(name, meta) is None) is not negated


def _getter(operand: Column | Value) -> Callable[[str, Meta], Any]:
    if not isinstance(operand, Column):
        return lambda name, meta: operand
    column = operand.name
    return (lambda name, meta: name) if column == "id" else (lambda name, meta: meta.get(column))


def like_pattern(pattern: str) -> re.Pattern[str]:
    """A LIKE pattern as a regular expression."""
    parts = re.findall(r"\\.|\\$|[^\\]", pattern, re.DOTALL)
    wild = {"%": ".*", "_": "."}
    return re.compile("".join(wild.get(p) or re.escape(p[-1]) for p in parts), re.DOTALL)
