"""The two options of groups and lists, which take no options dataclass."""

from __future__ import annotations

from typing import Annotated

import typer

ListOption = Annotated[bool, typer.Option("--list", help="List the methods and leave.")]
JsonOption = Annotated[bool, typer.Option("--json", help="Print one JSON document on stdout and nothing else.")]
