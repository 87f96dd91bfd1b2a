"""What a run over a set leaves on disk as it goes: who it is, and a file of records for each part of the set.

``OUT/run.json`` names the run; ``OUT/records/00000.jsonl`` holds, for the first part of the set, a line for each
sample, method and share. A part's file appears whole or not at all: a run that was killed goes on behind the last one.
"""

from __future__ import annotations

import json
import shutil
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any

from ...errors import InputError
from ...io.atomic import remove_stale, write_text
from ...io.records import json_file, json_lines
from ...options import OptionError
from ...report.model import plain

RUN, RECORDS = "run.json", "records"


def part_path(folder: Path, number: int) -> Path:
    """The file of a part of the set."""
    return folder / RECORDS / f"{number:05d}.jsonl"


def begin(folder: Path, identity: Mapping[str, Any], *, overwrite: bool) -> None:
    """Make a folder ready for a run: it is new, it holds this very run, or all that is in it is given up.

    Raises
    ------
    OptionError
        If it holds another run: names what differs.
    InputError
        If it cannot be written.
    """
    mine = json.loads(json.dumps(plain(dict(identity))))
    if (folder / RUN).exists() and not overwrite:
        theirs = json_file(folder / RUN)
        names = theirs if isinstance(theirs, dict) else {}
        if differing := [name for name in mine if name not in names or names[name] != mine[name]]:
            was, now = (json.dumps(run.get(differing[0])) for run in (names, mine))
            raise OptionError(
                f"{folder} holds a run with other settings ({differing[0]} was {was}, now {now}). Name another "
                "{output}, or give {overwrite} to begin anew."
            )
        remove_stale(folder / RECORDS)
        return
    if (folder / RECORDS).exists():
        if not overwrite:
            raise OptionError(f"{folder} holds {RECORDS} but no {RUN}. Name another {{output}}, or give {{overwrite}}.")
        shutil.rmtree(folder / RECORDS)
    try:
        (folder / RECORDS).mkdir(parents=True)
    except OSError as error:
        raise InputError(folder, f"cannot be made ({error.strerror or error})", "Name another folder") from error
    write_text(folder / RUN, json.dumps(mine, indent=2) + "\n")


def write_lines(path: Path, rows: Iterable[Mapping[str, Any]]) -> None:
    """One JSON object a line; what is not finite is null."""
    write_text(path, "".join(json.dumps(plain(row), allow_nan=False) + "\n" for row in rows))


def read_parts(folder: Path) -> Iterator[dict[str, Any]]:
    """All records, part by part. Raises ``InputError`` if a file is damaged."""
    for path in sorted((folder / RECORDS).glob("*.jsonl")):
        for _, record in json_lines(path):
            yield record
