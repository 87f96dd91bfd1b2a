"""The language of ``where``: text to tree.

    expression := all { OR all }        all := term { AND term }        term := NOT term | ( expression ) | condition
    condition  := operand (= | == | <> | != | < | <= | > | >=) operand
                | column [NOT] IN ( literal { , literal } )
                | column [NOT] LIKE 'pattern'
                | column [NOT] BETWEEN literal AND literal
                | column IS [NOT] NULL

A column is a metadata name or ``id``; odd names go in double quotes or backquotes. Literals: 'text' (quotes doubled),
numbers, TRUE, FALSE. Keywords in any case; names and text are compared case-sensitively. LIKE: % any run, _ any
character, a backslash takes the next character as it is.
"""

from __future__ import annotations

import math
import re
from collections.abc import Iterator

from ...errors import UsageError
from ...options import OptionError
from .nodes import All, Column, Compare, In, IsNull, Like, Node, Some, Value, kind_of, negate

_TOKEN = re.compile(
    r"""\s*(?:
        (?P<text>'(?:[^']|'')*')
      | (?P<quoted>"(?:[^"]|"")+"|`(?:[^`]|``)+`)
      | (?P<number>[+-]?(?:\d+\.?\d*|\.\d+)(?:[eE][+-]?\d+)?(?!\w))
      | (?P<word>[^\W\d]\w*(?:\.\w+)*)
      | (?P<op><>|!=|<=|>=|==|[=<>(),])
    )""",
    re.VERBOSE,
)
_KEYWORDS = frozenset("AND OR NOT IN LIKE IS NULL BETWEEN TRUE FALSE".split())
_MIRROR = {"=": "=", "<>": "<>", "<": ">", ">": "<", "<=": ">=", ">=": "<="}
MAX_DEPTH = 50


class Parser:
    """Recursive descent over the grammar; one token of look-ahead."""

    def __init__(self, text: str) -> None:
        self.text = text
        self.tokens = [*self._tokens(), ("end", "")]
        self.at = self.depth = 0

    def _tokens(self) -> Iterator[tuple[str, str]]:
        at, end = 0, len(self.text.rstrip())
        while at < end:
            match = _TOKEN.match(self.text, at)
            if not match:
                raise self._error(f"cannot read {self.text[at:].strip()[:20]!r}")
            kind = str(match.lastgroup)
            word = match[kind]
            if kind == "word" and word.upper() in _KEYWORDS:
                kind, word = "keyword", word.upper()
            yield kind, word
            at = match.end()

    def _error(self, what: str) -> UsageError:
        return OptionError(f"{{where}} {self.text!r}: {what}. Write for example: width > 800 AND lang IN ('en', 'de')")

    def _accept(self, *words: str) -> str:
        kind, word = self.tokens[self.at]
        if kind in ("keyword", "op") and word in words:
            self.at += 1
            return word
        return ""

    def _expect(self, word: str) -> None:
        if not self._accept(word):
            raise self._error(f"expected {word} before {self.tokens[self.at][1] or 'the end'}")

    def whole(self) -> Node:
        node = self._some()
        if self.tokens[self.at][0] != "end":
            raise self._error(f"{self.tokens[self.at][1]!r} is not expected there")
        return node

    def _some(self) -> Node:
        parts = [self._all()]
        while self._accept("OR"):
            parts.append(self._all())
        return parts[0] if len(parts) == 1 else Some(tuple(parts))

    def _all(self) -> Node:
        parts = [self._term()]
        while self._accept("AND"):
            parts.append(self._term())
        return parts[0] if len(parts) == 1 else All(tuple(parts))

    def _term(self) -> Node:
        self.depth += 1
        if self.depth > MAX_DEPTH:
            raise self._error("it is nested too deeply")
        if self._accept("NOT"):
            node = negate(self._term())
        elif self._accept("("):
            node = self._some()
            self._expect(")")
        else:
            node = self._condition()
        self.depth -= 1
        return node

    def _condition(self) -> Node:
        left = self._operand()
        if op := self._accept("=", "==", "<>", "!=", "<", "<=", ">", ">="):
            op = {"==": "=", "!=": "<>"}.get(op, op)
            right = self._operand()
            if isinstance(left, Column):
                return Compare(op, left, right)
            if isinstance(right, Column):
                return Compare(_MIRROR[op], right, left)
            raise self._error("a comparison needs a column")
        if not isinstance(left, Column):
            raise self._error(f"expected a comparison after {left!r}")
        if self._accept("IS"):
            negated = bool(self._accept("NOT"))
            self._expect("NULL")
            return IsNull(left, negated)
        inverted = bool(self._accept("NOT"))
        node: Node
        if self._accept("IN"):
            node = In(left, self._values())
        elif self._accept("LIKE"):
            pattern = self._literal()
            if not isinstance(pattern, str):
                raise self._error("LIKE needs a pattern in quotes")
            node = Like(left, pattern)
        elif self._accept("BETWEEN"):
            low = self._literal()
            self._expect("AND")
            node = All((Compare(">=", left, low), Compare("<=", left, self._literal())))
        else:
            raise self._error(f"expected a comparison after {left.name}")
        return negate(node) if inverted else node

    def _values(self) -> tuple[Value, ...]:
        self._expect("(")
        values = [self._literal()]
        while self._accept(","):
            values.append(self._literal())
        self._expect(")")
        if len({kind_of(value) for value in values}) > 1:
            raise self._error("the values of IN must be all text, all numbers or all truth values")
        return tuple(values)

    def _literal(self) -> Value:
        value = self._operand()
        if isinstance(value, Column):
            raise self._error(f"expected a value, found the name {value.name} (text goes in single quotes)")
        return value

    def _operand(self) -> Column | Value:
        kind, word = self.tokens[self.at]
        self.at += 1
        match kind, word:
            case "text", _:
                return word[1:-1].replace("''", "'")
            case "quoted", _:
                return Column(word[1:-1].replace(word[0] * 2, word[0]))
            case "word", _:
                return Column(word)
            case "number", _:
                return self._number(word)
            case "keyword", "TRUE" | "FALSE":
                return word == "TRUE"
            case "keyword", "NULL":
                raise self._error("NULL equals nothing, write IS NULL or IS NOT NULL")
        self.at -= 1
        raise self._error(f"expected a name or a value before {word or 'the end'}")

    def _number(self, word: str) -> int | float:
        if len(word) > 400:  # Python reads whole numbers of some thousand digits only
            raise self._error(f"a number of {len(word)} digits is too large")
        value = float(word) if set(word) & set(".eE") else int(word)
        if not (math.isfinite(value) and (isinstance(value, float) or -(2**63) <= value < 2**63)):
            raise self._error(f"{word} is too large")
        return value
