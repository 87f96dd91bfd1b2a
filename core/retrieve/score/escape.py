"""Ids in tables whose columns are parted by blanks or tabs: written as in a URL where they must be, and read back."""

from __future__ import annotations

import re
from collections.abc import Iterable
from urllib.parse import quote

from ...errors import UsageError


class Escape:
    """Writes some characters as in a URL, and reads only those back; all other ids stay as they are.

    A percent sign is escaped where it would otherwise be read as an escape: ``a%20b`` -> ``a%2520b``.
    """

    def __init__(self, characters: Iterable[str]) -> None:
        self.codes = {character: quote(character, safe="") for character in characters} | {"%": "%25"}
        self.characters = {code: character for character, code in self.codes.items()}
        pattern = "|".join(self.characters)
        blanks = "".join(map(re.escape, self.codes.keys() - {"%"}))
        self._written = re.compile(f"[{blanks}]|%(?={'|'.join(code[1:] for code in self.characters)})")
        self._read = re.compile(pattern)

    def write(self, text: str) -> str:
        return self._written.sub(lambda match: self.codes[match[0]], text)

    def read(self, text: str) -> str:
        return self._read.sub(lambda match: self.characters[match[0]], text)


_CONTROLS = {chr(i) for i in (*range(0x20), *range(0x7F, 0xA0))}
"""What steers a terminal, to which tables are often piped (``| head``), and parts lines and columns."""
BLANKS = Escape(sorted(_CONTROLS | {chr(i) for i in range(0x3001) if chr(i).isspace()}))
TABS = Escape(sorted(_CONTROLS))


def column(text: str) -> str:
    if not text:
        raise UsageError("an empty id cannot be written in a TREC file")
    return BLANKS.write(text)
