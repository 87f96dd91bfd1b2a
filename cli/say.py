"""The one place of the command line that prints: what it prints cannot steer the terminal."""

from __future__ import annotations

import typer

from attn.core.text import printable


def say(text: str, *, err: bool = False) -> None:
    """Print lines on stdout, or with ``err`` on stderr, through ``printable``."""
    typer.echo(printable(text, keep="\t\n"), err=err)
