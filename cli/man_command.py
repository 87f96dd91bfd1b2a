"""`attn man DIR` (hidden): write the man pages that are kept in man/."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from .say import say


def main(
    directory: Annotated[Path, typer.Argument(metavar="DIR", help="Where the pages go; made if missing.")],
) -> None:
    """Write attn.1 and one page per command into a directory."""
    from .man import write_man_pages

    for path in write_man_pages(directory):
        say(str(path))
