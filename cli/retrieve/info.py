"""`attn retrieve info`: parse, call core, show."""

from __future__ import annotations

from attn.core.retrieve.options.index import Index, InfoOptions

from ..build import command
from ..say import say


def _main(index: Index, options: InfoOptions) -> None:
    """Say what an index holds and which model made it. A damaged one is reported with the file that is damaged."""
    import json

    from attn.core.report.model import plain
    from attn.core.retrieve.store import open_store

    from ..show import print_rows

    store = open_store(index.index)
    try:
        facts = {"index": index.index, **store.header.to_dict(), "entries": len(store), **store.stats()}
    finally:
        store.close()
    if options.as_json:
        say(json.dumps(plain(facts), indent=2, ensure_ascii=False), lines=True)
    else:
        model = facts.pop("fingerprint")
        print_rows([{"what": name, "is": str(value)} for name, value in {**facts, **model}.items()], title=index.index)


main = command(_main)
