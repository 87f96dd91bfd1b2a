"""`attn retrieve serve`: parse, call core, show."""

from __future__ import annotations

import os
import sys
from collections.abc import Mapping
from typing import Any

from attn.core.retrieve.options.index import Index
from attn.core.retrieve.options.serve import ServeOptions

from ..build import command
from ..say import say


def _main(index: Index, options: ServeOptions) -> None:
    """Keep an index and its model open for searches: a page in the browser, JSON for programs, `search --server`.

    It answers this machine only (127.0.0.1), by names of this machine only, and pages of other sites not at all. The
    index is opened again when it changes on disk. Ctrl-C or SIGTERM ends it, once what was asked is answered: exit
    code 130.

    GET /search?text=a+bear&k=5&where=... or POST it as JSON ("text", or several "texts"); /similar takes an id, or a
    photo as the body; /thumbnail?id=...; /info; /health. Errors are JSON: {"error": "one line"}. Who comes when too
    many ask is told to come again (503, Retry-After). Sentences that wait at the same time are embedded together,
    which may change the last digits of scores (by 1e-7).
    """
    # before NumPy is imported: threads of OpenBLAS spin while they wait for each other. On two cores with other work,
    # 16 queries over 100 000 vectors took 240 ms of CPU with two of them, and 21 ms with one
    os.environ.setdefault("OPENBLAS_NUM_THREADS", "1")
    from attn.core.retrieve.serve.run import serve

    def ready(address: str, about: Mapping[str, Any]) -> None:
        say(f"{about['index']}: {about['entries']} entries, {about['model']} on {about['device']}; Ctrl-C ends it")
        say(address)
        sys.stdout.flush()  # for who reads the address from a pipe

    serve(index.index, options, ready=ready, told=lambda line: say(f"attn: {line}", err=True))


main = command(_main)
