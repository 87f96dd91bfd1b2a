"""Metadata as typed columns of a Lance table, and ``where`` as its SQL.

A table needs one type a column, metadata may hold several under one name. So the first type takes the name, any other
gets a column of its own (``width``, ``width#text``), and each value stands in the column of its type.
The column ``meta`` holds every item's metadata as JSON, which is what is given back.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from typing import Any

import pyarrow as pa  # type: ignore[import-untyped]

from . import nodes
from .base import Header, Meta, escape, unescape

OWN = ("id", "vector", "meta")
TYPES = {"text": pa.string(), "int": pa.int64(), "float": pa.float64(), "flag": pa.bool_()}


def empty_schema(header: Header) -> pa.Schema:
    """The schema of a table without metadata columns; the header is in the schema's own metadata, as JSON."""
    fields = [("id", pa.string()), ("vector", pa.list_(pa.float32(), header.dim)), ("meta", pa.string())]
    return pa.schema(fields, metadata={"attn": json.dumps(header.to_dict())})


def column_type(value: Any) -> str | None:
    """Key of ``TYPES`` for a value; None for None."""
    match nodes.kind_of(value):
        case "number":
            return "int" if isinstance(value, int) else "float"
        case kind:
            return kind


def names(schema: pa.Schema) -> set[str]:
    """Metadata names for which there are columns."""
    return {unescape(name.partition("#")[0]) for name in schema.names if name not in OWN}


def columns_of(key: str, schema: pa.Schema) -> dict[str, str]:
    """The columns of a metadata name by type."""
    if key == "id":
        return {"text": "id"}
    wanted, columns = escape(key), {}
    for field in schema:
        if field.name not in OWN and field.name.partition("#")[0] == wanted:
            columns[next(kind for kind, type_ in TYPES.items() if type_ == field.type)] = field.name
    return columns


def missing_fields(meta: Sequence[Meta], schema: pa.Schema) -> list[pa.Field]:
    """Columns that these items need and the table lacks."""
    needed = dict.fromkeys(
        (key, kind) for record in meta for key, value in record.items() if (kind := column_type(value))
    )
    fields: list[pa.Field] = []
    for key, kind in needed:
        if kind not in columns_of(key, pa.schema([*schema, *fields])):
            plain = escape(key)
            free = plain not in {*schema.names, *(field.name for field in fields), *OWN} and not plain.startswith("_")
            fields.append(pa.field(plain if free else f"{plain}#{kind}", TYPES[kind]))
    return fields


def table(ids: Sequence[str], vectors: Any, meta: Sequence[Meta], schema: pa.Schema) -> pa.Table:
    """Items as rows of ``schema``; ``vectors`` [n, dim] float32."""
    documents = [json.dumps(dict(fields), allow_nan=False) for fields in meta]
    data: dict[str, Any] = {
        "id": pa.array(ids, pa.string()),
        "vector": pa.FixedSizeListArray.from_arrays(pa.array(vectors.ravel()), vectors.shape[1]),
        "meta": pa.array(documents, pa.string()),
    }
    for key in names(schema):
        for kind, column in columns_of(key, schema).items():
            values = [value if column_type(value := fields.get(key)) == kind else None for fields in meta]
            data[column] = pa.array(values, TYPES[kind])
    return pa.Table.from_arrays([data[name] for name in schema.names], schema=schema)


def sql(node: nodes.Node, schema: pa.Schema) -> str:
    """The expression for DataFusion; true for exactly the items that ``where.selects`` accepts."""
    match node:
        case nodes.All(parts):
            return "(" + " AND ".join(sql(part, schema) for part in parts) + ")"
        case nodes.Some(parts):
            return "(" + " OR ".join(sql(part, schema) for part in parts) + ")"
        case nodes.Compare(op, left, right):
            pairs = [
                _pair(op, a, b)
                for a in _sides(left, schema)
                for b in _sides(right, schema)
                if a[0] == b[0] or {a[0], b[0]} == {"int", "float"}
            ]
            return _any(pairs)
        case nodes.In(column, values, negated):
            word, kind = ("NOT IN" if negated else "IN"), nodes.kind_of(values[0])
            columns = columns_of(column.name, schema)
            lists = []
            for type_ in ("int", "float") if kind == "number" else (str(kind),):
                if type_ in columns:
                    as_int = type_ == "int" and all(isinstance(value, int) for value in values)
                    name = _quoted(columns[type_]) if as_int or type_ != "int" else _double(_quoted(columns[type_]))
                    items = values if as_int or kind != "number" else [float(value) for value in values]
                    lists.append(f"{name} {word} ({', '.join(map(_literal, items))})")
            return _any(lists)
        case nodes.Like(column, pattern, negated):
            columns = columns_of(column.name, schema)
            word = "NOT LIKE" if negated else "LIKE"
            return f"({_quoted(columns['text'])} {word} {_literal(pattern)})" if "text" in columns else "FALSE"
        case nodes.IsNull(column, negated):
            here = [_quoted(name) for name in columns_of(column.name, schema).values()]
            if negated:
                return _any([f"{name} IS NOT NULL" for name in here])
            return "(" + " AND ".join(f"{name} IS NULL" for name in here) + ")" if here else "TRUE"


def _sides(side: nodes.Column | nodes.Value, schema: pa.Schema) -> list[tuple[str, str, bool]]:
    """What one side of a comparison can be: type, SQL, whether it is a column."""
    if isinstance(side, nodes.Column):
        return [(kind, _quoted(name), True) for kind, name in columns_of(side.name, schema).items()]
    return [(str(column_type(side)), _literal(side), False)]


def _pair(op: str, left: tuple[str, str, bool], right: tuple[str, str, bool]) -> str:
    if left[0] == right[0]:
        return f"{left[1]} {op} {right[1]}"
    # int64 with double: the engine refuses to read 0.5 as a whole number
    a, b = (_double(text) if kind == "int" else text for kind, text, _ in (left, right))
    return f"{a} {op} {b}"


def _double(text: str) -> str:
    return f"CAST({text} AS DOUBLE)"


def _any(parts: list[str]) -> str:
    return "(" + " OR ".join(parts) + ")" if parts else "FALSE"


def _quoted(name: str) -> str:
    return f"`{name}`"  # ``escape`` leaves no backquote in it


def _literal(value: nodes.Value) -> str:
    match value:
        case bool():
            return "TRUE" if value else "FALSE"
        case str():
            return "'" + value.replace("'", "''") + "'"
        case float():
            return repr(value)
    return str(value)
