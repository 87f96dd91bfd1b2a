"""Text that is not ours: names of files, values of headers, words of libraries. Shown so that it can steer nothing.

Every message and every cell goes through ``printable`` on its way to a terminal, and through ``csv_text`` on its way
into a CSV file.
"""

from __future__ import annotations

import csv
import io
import re
from collections.abc import Iterable
from typing import Any

_FORMULA = re.compile(r"^'*\s*[=+\-@\t\r]")  # with quotes before it, so that csv_value gives back each text
_OBJECT = re.compile(r" ?<(?:[A-Za-z_][\w.]*\.)?[A-Za-z_]\w* (?:object|name=)[^\n]*>")
_ADVICE = re.compile(r" ?Please (?:build|see <|check `)[^\n]*")


def printable(text: str, *, keep: str = "") -> str:
    """``text`` without characters that steer a terminal or turn it around: they become pictures or escapes.

    Parameters
    ----------
    text : str
        Bytes of a file name that are no UTF-8 may stand in it as lone surrogates (``os.fsdecode``).
    keep : str
        Of ``"\\t\\n"`` those that stay.

    Returns
    -------
    str. Control characters as ``␛``, undecodable bytes as ``\\xff``, what else cannot be seen (direction marks, lone
    surrogates, private use) as ``\\u202e``.
    """
    if text.isprintable():
        return text
    return "".join(letter if letter.isprintable() or letter in keep else _picture(letter) for letter in text)


def _picture(letter: str) -> str:
    code = ord(letter)
    if code < 32:
        return chr(0x2400 + code)
    if code == 0x7F:
        return "\u2421"
    if 0xDC80 <= code <= 0xDCFF:  # a byte that was no UTF-8
        return f"\\x{code - 0xDC00:02x}"
    return f"\\x{code:02x}" if code < 256 else f"\\u{code:04x}" if code < 0x10000 else f"\\U{code:08x}"


def one_line(text: str) -> str:
    """``printable`` of a text whose white space, line ends too, is a single blank each."""
    return printable(" ".join(text.split()))


def library_words(message: object) -> str:
    """A library's message without what is meant for its own developers: objects of Python, advice on building it."""
    return _ADVICE.sub("", _OBJECT.sub("", str(message)))


def first_line(message: object) -> str:
    """The first line of a library's message (and the second after a colon), shortened, without a full stop."""
    lines = library_words(message).strip().splitlines() or [""]
    text = f"{lines[0]} {lines[1].strip()}" if len(lines) > 1 and lines[0].endswith(":") else lines[0]
    text = text.strip().rstrip(".")
    return one_line(text if len(text) <= 160 else text[:157] + "...")


def reason_of(error: BaseException) -> str:
    """``first_line`` of what a library raised, or the name of its type where it says nothing."""
    return first_line(error) or type(error).__name__


def csv_cell(value: Any) -> Any:
    """A cell that a spreadsheet takes for text and never for a formula: ``'`` before what begins with = + - @.

    Numbers, also those written as text (``"-5"``), stay.
    """
    if not isinstance(value, str) or not _FORMULA.match(value):
        return value
    try:
        float(value)
    except ValueError:
        return "'" + value
    return value


def csv_value(text: str) -> str:
    """The text that ``csv_cell`` made a cell of."""
    return text[1:] if text.startswith("'") and csv_cell(text[1:]) == text else text


def csv_text(rows: Iterable[Iterable[Any]], *, delimiter: str = ",", line_end: str = "\r\n") -> str:
    """Rows as CSV, every cell through ``csv_cell``; None is an empty cell."""
    text = io.StringIO()
    writer = csv.writer(text, delimiter=delimiter, lineterminator=line_end)
    writer.writerows([csv_cell(value) for value in row] for row in rows)
    return text.getvalue()
