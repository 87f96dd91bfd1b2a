"""The Markdown of what ``check.sh`` wrote: ``tables.py FOLDER`` prints bench.json and tune.json as tables."""

from __future__ import annotations

import json
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

BENCH = ("median_ms", "speedup", "gflops_useful", "keys_attended", "relative_error")


def table(rows: Sequence[dict[str, Any]]) -> str:
    """Rows as Markdown, columns in the order in which they first appear."""
    names = list(dict.fromkeys(name for row in rows for name in row))
    lines = [names, ["---"] * len(names)]
    lines += [[_cell(row.get(name)) for name in names] for row in rows]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines) + "\n"


def _cell(value: Any) -> str:
    return "–" if value is None else f"{value:.4g}" if isinstance(value, float) else str(value)


def bench(document: dict[str, Any]) -> list[dict[str, Any]]:
    """One row an operator; what failed or was skipped says why."""
    return [
        {"operator": item["input"], "status": item["status"], **{name: item["metrics"].get(name) for name in BENCH}}
        | ({"why": item["error"]} if item["error"] else {})
        for item in document["items"]
    ]


def main(folder: Path) -> None:
    for title, name, read in (("Operators", "bench.json", bench), ("Tiles", "tune.json", lambda found: found["rows"])):
        print(f"## {title}\n")
        if (folder / name).exists():
            print(table(read(json.loads((folder / name).read_text()))))
        else:
            print(f"{name} was not written: its step failed.\n")


if __name__ == "__main__":
    main(Path(sys.argv[1]))
