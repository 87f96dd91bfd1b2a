"""`attn bench --selftest`: every golden file, and the generators against their published table."""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from typing import Any

import attn

from ..attention import golden as parity
from ..attention.registry import OPERATORS
from ..errors import InputError
from ..options import OptionError
from ..progress import Bars, Watcher
from ..report.model import Item, Report, summarise
from ..report.sections import Table


def run(
    operators: Sequence[str] = (), *, watcher: Watcher | None = None, arguments: Mapping[str, Any] | None = None
) -> Report:
    """Compare ours with the golden files of ``operators`` (none: all, and the generators); one item a file.

    Raises
    ------
    UsageError
        If an operator has no golden vectors.
    InputError
        If the golden vectors were not installed.
    """
    started = time.monotonic()
    watcher = watcher or Bars()
    if not parity.golden_dir().is_dir():
        raise InputError(str(parity.golden_dir()), "the golden vectors are not here", "Install attn from its wheel.")
    rows = {name: OPERATORS[name] for name in operators}
    golden = {name: None if row.missing() else row.resolve().golden for name, row in rows.items()}
    if without := sorted(name for name, its in golden.items() if its is None):
        known = ", ".join(parity.vectors())
        raise OptionError(f"{{selftest}}: {', '.join(without)} has no golden vectors. Known: {known}.")
    wanted = {its.folder for its in golden.values() if its is not None}
    items: list[Item] = []
    jobs = [(folder, stem) for folder, stem in parity.files() if not wanted or folder in wanted]
    for done, (folder, stem) in enumerate(jobs):
        watcher.step(f"{folder}/{stem}", done, len(jobs))
        start = time.perf_counter()
        checks: list[parity.Check] = []
        try:
            checks = list(parity.check(folder, stem))
            wrong = [c for c in checks if not c.ok]
            error = "; ".join(f"{c.quantity}: error {c.error:.2e}, tolerance {c.tolerance:.0e}" for c in wrong) or None
        except InputError as fault:  # of this file: the others are still compared
            wrong, error = [], f"the vectors cannot be used: it {fault.reason}"
        item = Item(
            f"{folder}/{stem}", None, "failed" if error else "ok", time.perf_counter() - start, error=error,
            metrics={"quantities": float(len(checks)), "failed": float(len(wrong))},
            sections=(Table("checks", [_compared(check) for check in checks], detail=True),),
        )  # fmt: skip
        items.append(item)
        watcher.item(item, done + 1, len(jobs))
    if not wanted:
        items.append(_generators(watcher, len(jobs)))
    return Report(
        "bench", attn.__version__, dict(arguments or {}), "cpu", time.monotonic() - started, tuple(items),
        summarise(items), gate=True,
    )  # fmt: skip


def _compared(check: parity.Check) -> dict[str, Any]:
    return {"quantity": check.quantity, "error": check.error, "tolerance": check.tolerance}


def _generators(watcher: Watcher, done: int) -> Item:
    """The generators against the table of methods/attention-bench.md, section 3: ten seeds, means inside its ranges."""
    from .budget import check_table

    watcher.step("generators, ten seeds", done, done + 1)
    start = time.perf_counter()
    rows = check_table()
    wrong = [row for row in rows if not row["ok"]]
    error = "; ".join(f"{r['inputs']} {r['column']}: {r['mean']:.3f}, range {r['low']}-{r['high']}" for r in wrong)
    return Item(
        "generators/budgets", None, "failed" if wrong else "ok", time.perf_counter() - start, error=error or None,
        metrics={"quantities": float(len(rows)), "failed": float(len(wrong))}, 
        sections=(Table("comparison", rows, detail=True),),
    )  # fmt: skip
