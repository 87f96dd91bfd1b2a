"""``where`` as a filter of Qdrant, which compares text for equality only."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from typing import Any

from ...options import OptionError
from . import nodes
from .base import escape


def to_filter(node: nodes.Node) -> Any:
    """The expression as a ``models.Filter``. Raises ``UsageError`` for what Qdrant cannot do: LIKE, order of text."""
    from qdrant_client import models

    match node:
        case nodes.All(parts):
            return models.Filter(must=[to_filter(part) for part in parts])
        case nodes.Some(parts):
            return models.Filter(should=[to_filter(part) for part in parts])
        case nodes.IsNull(column, negated):
            empty = [_is_empty(_key(column))]
            return models.Filter(must_not=empty) if negated else models.Filter(must=empty)
        case nodes.In(column, values, negated):
            return _equals(column, values, negated)
        case nodes.Compare("=" | "<>" as op, nodes.Column() as column, value) if not isinstance(value, nodes.Column):
            return _equals(column, (value,), op == "<>")
        case nodes.Compare(op, nodes.Column() as column, int() | float() as value) if not isinstance(value, bool):
            bound = {"<": "lt", "<=": "lte", ">": "gt", ">=": "gte"}[op]
            condition = models.FieldCondition(key=_key(column), range=models.Range(**{bound: value}))
            return models.Filter(must=[condition])
    raise OptionError("{where}: Qdrant has no LIKE, no order of text and compares no two columns; use =, <> or IN.")


def _equals(column: nodes.Column, values: Sequence[nodes.Value], negated: bool) -> Any:
    """``column IN values``, or NOT IN among the values of the same kind."""
    from qdrant_client import models

    key, kind = _key(column), nodes.kind_of(values[0])
    number = models.FieldCondition(key=key, range=models.Range(gte=-sys.float_info.max))
    flags = [models.FieldCondition(key=key, match=models.MatchValue(value=flag)) for flag in (False, True)]
    same: list[Any]
    match kind:
        case "text":
            same = [models.FieldCondition(key=key, match=models.MatchAny(any=[str(value) for value in values]))]
            of_kind = models.Filter(must_not=[_is_empty(key), number, *flags])
        case "number":  # as ranges, because a match is for whole numbers only
            ranges = (models.Range(gte=float(value), lte=float(value)) for value in values)
            same = [models.FieldCondition(key=key, range=range_) for range_ in ranges]
            of_kind = models.Filter(must=[number])
        case _:
            same = [flags[bool(value)] for value in values]
            of_kind = models.Filter(should=list[Any](flags))
    return models.Filter(must=[of_kind], must_not=same) if negated else models.Filter(should=same)


def _is_empty(key: str) -> Any:
    from qdrant_client import models

    return models.IsEmptyCondition(is_empty=models.PayloadField(key=key))


def _key(column: nodes.Column) -> str:
    return "id" if column.name == "id" else f'meta."{escape(column.name)}"'
