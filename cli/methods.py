"""`attn methods`: every implemented system with its command, paper, year and status."""

from __future__ import annotations

from typing import Any

from attn.core.registry import Registry

from .options import JsonOption
from .say import say

EXAMPLES = (
    ("attn methods", "All methods as a table."),
    ("attn methods --json", "The same for scripts."),
)


def rows(registries: list[Registry]) -> list[dict[str, Any]]:
    """One flat row a method, as tables and JSON show it."""
    return [
        {
            "method": method.name,
            "command": table.command,
            "summary": method.summary,
            "paper": method.paper,
            "year": method.year,
            "status": method.status,
            "needs": ", ".join(need.package for need in method.needs),
            "missing": ", ".join(method.missing()),
            "note": method.note,
        }
        for table in registries
        for method in table.values()
    ]


def list_methods(command: str, *, as_json: bool) -> None:
    """What ``attn COMMAND --list`` prints."""
    from attn.core.catalogue import listed

    _print(rows(listed(command)), as_json=as_json, title=f"methods of attn {command}")


def _print(table: list[dict[str, Any]], *, as_json: bool, title: str) -> None:
    if as_json:
        import json

        say(json.dumps(table, indent=2, ensure_ascii=False), lines=True)
    else:
        from .show import print_rows

        print_rows(table, title=title)


def main(as_json: JsonOption = False) -> None:
    """List the methods that are implemented, with command, paper, year and status.

    Status: faithful = parity with the official implementation is tested; differs = implemented, and the note says
    how it differs; baseline = a well-kept library's method under the same command.
    """
    from attn.core.catalogue import registries

    _print(rows(registries()), as_json=as_json, title="implemented methods")
