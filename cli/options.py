"""Options and value parsers that several commands share, each defined once."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Annotated

import typer


def complete_methods(command: str) -> Callable[[str], list[tuple[str, str]]]:
    """Shell completion of a command's method names, from the table alone (no torch)."""

    def complete(incomplete: str) -> list[tuple[str, str]]:
        from attn.core.catalogue import registry

        return [(name, method.summary) for name, method in registry(command).items() if name.startswith(incomplete)]

    return complete


ListOption = Annotated[bool, typer.Option("--list", help="List the methods and leave.")]
JsonOption = Annotated[bool, typer.Option("--json", help="Print one JSON document on stdout and nothing else.")]
ReportOption = Annotated[
    Path | None, typer.Option("--report", metavar="FILE", help="Write the report too: .json, .csv, .md or .html.")
]
QuietOption = Annotated[bool, typer.Option("--quiet", "-q", help="Print errors only.")]
VerboseOption = Annotated[bool, typer.Option("--verbose", "-v", help="Say more; show where a failure came from.")]
DeviceOption = Annotated[
    str, typer.Option("--device", metavar="DEVICE", envvar="ATTN_DEVICE", help="auto, cpu, cuda, cuda:N or mps.")
]
SeedOption = Annotated[
    int, typer.Option("--seed", metavar="N", min=0, max=2**32 - 1, help="Seed of everything random.")
]
ThreadsOption = Annotated[
    int | None,
    typer.Option(
        "--threads",
        metavar="N",
        min=1,
        max=1024,
        envvar="ATTN_THREADS",
        help="CPU threads per process.",
        show_default="all cores",
    ),
]
