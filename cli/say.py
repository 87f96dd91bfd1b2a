"""The one place of the command line that prints: what it prints cannot steer the terminal.

What cannot be said is not lost in silence either: ``undelivered`` makes the exit code 1.
"""

from __future__ import annotations

import sys
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import typer

from attn.core.text import printable

if TYPE_CHECKING:
    from rich.console import Console

_undelivered = False


def say(text: str, *, err: bool = False, lines: bool = False) -> None:
    """Print one line on stdout, or with ``err`` on stderr, through ``printable``.

    ``lines``: the text is ours and of several lines (a document, help). Otherwise a line end in it, as a file's name
    may hold, is shown and not obeyed.
    """
    typer.echo(printable(text, keep="\t\n" if lines else "\t"), err=err)


def say_bytes(piece: bytes) -> None:
    """Write a piece of a file on stdout as it is: what the user asked for is for a program, not for a terminal."""
    sys.stdout.flush()
    sys.stdout.buffer.write(piece)
    sys.stdout.buffer.flush()


def say_above(console: Console, text: str) -> None:
    """``say`` on stderr above a progress bar."""
    console.print(printable(text, keep="\t"), markup=False, highlight=False, emoji=False, soft_wrap=True)


def say_coloured(pieces: Sequence[tuple[str, str]]) -> None:
    """Pieces of one line on stdout, each in its style of Rich; without colour where there is no terminal."""
    from rich.console import Console
    from rich.text import Text

    console = Console(highlight=False, markup=False, emoji=False)
    console.on_broken_pipe = _pipe_closed  # type: ignore[method-assign]  # its own exits with 1, which means failed
    text = Text()
    for piece, style in pieces:
        text.append(printable(piece, keep="\n"), style)
    console.print(text, soft_wrap=True)


def say_table(rows: Sequence[Mapping[str, str]], *, right: frozenset[str] = frozenset()) -> None:
    """A Rich table of rows of text; columns in the order in which keys first appear, those in ``right`` flush right."""
    from rich.console import Console
    from rich.table import Table

    keys = dict.fromkeys(key for row in rows for key in row)
    table = Table()
    for key in keys:
        table.add_column(printable(key), justify="right" if key in right else "left", overflow="fold")
    for row in rows:
        table.add_row(*(printable(row.get(key, "")) for key in keys))
    # a pipe has no width: 80 columns would fold every path, so give it room
    width = None if sys.stdout.isatty() else 200
    console = Console(width=width, highlight=False, markup=False, emoji=False)
    console.on_broken_pipe = _pipe_closed  # type: ignore[method-assign]  # its own exits with 1, which means failed
    console.print(table)


def _pipe_closed() -> Any:
    raise BrokenPipeError


def undelivered(now: bool | None = None) -> bool:
    """Whether something that the user asked for could not be said or written; with ``now``, from here on."""
    global _undelivered
    _undelivered = _undelivered if now is None else now
    return _undelivered
