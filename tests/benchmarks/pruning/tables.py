"""Tables of the study as Markdown, and its bars as lines that pass or fail."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np

from attn.core.prune.measure.statistics import Estimate, area_under, difference, mcnemar

from .budget import RANDOMS
from .tally import Tally

Rows = Sequence[Sequence[object]]


def table(header: Sequence[str], rows: Rows) -> str:
    """A Markdown table."""
    lines = ["| " + " | ".join(header) + " |", "| " + " | ".join("---" for _ in header) + " |"]
    return "\n".join([*lines, *("| " + " | ".join(map(str, row)) + " |" for row in rows)])


def percent(found: Estimate) -> str:
    """``78.2 [76.4, 79.9]``."""
    return f"{100 * found.value:.1f} [{100 * found.low:.1f}, {100 * found.high:.1f}]"


def names_of(tally: Tally) -> dict[str, tuple[str, ...]]:
    """Lines of a table: the seeds of random are one."""
    lines: dict[str, tuple[str, ...]] = {}
    for name in tally.values:
        if name in RANDOMS:
            lines["random"] = RANDOMS
        else:
            lines[name] = (name,)
    return lines


def accuracy_table(tallies: Mapping[str, Tally]) -> str:
    """Methods down, tasks across: accuracy in percent with 95 % intervals, and the counted share."""
    first = next(iter(tallies.values()))
    rows = []
    for line, names in names_of(first).items():
        share = np.mean([first.shares[name] for name in names])
        rows.append([line, f"{share:.3f}", *(percent(tally.accuracy(*names)) for tally in tallies.values())])
    return table(["method", "R", *tallies], rows)


def recall_table(tallies: Mapping[str, Tally]) -> str:
    """Evidence recall in percent, with 95 % intervals of the mean."""
    lines = [line for line in names_of(next(iter(tallies.values()))) if line != "full"]
    first = names_of(next(iter(tallies.values())))
    rows = [[line, *(percent(tally.mean("recall", *first[line])) for tally in tallies.values())] for line in lines]
    return table(["method", *tallies], rows)


def pooled(tallies: Sequence[Tally]) -> Tally:
    """Several tasks as one."""
    values = {
        name: {
            field: np.concatenate([tally.values[name][field] for tally in tallies]) for field in tallies[0].values[name]
        }
        for name in tallies[0].values
    }
    return Tally(sum(tally.count for tally in tallies), values, tallies[0].shares)


def against_random(tallies: Mapping[str, Tally]) -> str:
    """Differences to random in points: that of the means over its seeds, and McNemar's test against its first seed."""
    first = names_of(next(iter(tallies.values())))
    rows = []
    for line, names in first.items():
        if line in ("random", "full"):
            continue
        cells = []
        for tally in tallies.values():
            own, chance = tally.group(names, "right"), tally.group(RANDOMS, "right")
            gap = difference(own, chance)
            test = mcnemar(own > 0.5, tally.values[RANDOMS[0]]["right"] > 0.5)
            cells.append(f"{100 * gap.value:+.1f} [{100 * gap.low:+.1f}, {100 * gap.high:+.1f}], p {test.p_value:.2g}")
        rows.append([line, *cells])
    return table(["method", *tallies], rows)


def curve_table(by_share: Mapping[float, Tally]) -> str:
    """Accuracy at each share, and the area under it over log R; of all tasks together."""
    first = names_of(next(iter(by_share.values())))
    rows = []
    for line, names in first.items():
        if line == "full" or any(names[0] not in tally.values for tally in by_share.values()):
            continue
        values = [tally.accuracy(*names).value for tally in by_share.values()]
        whole = next(iter(by_share.values())).accuracy("full").value
        area = area_under([1.0, *by_share], [whole, *values])
        rows.append([line, *(f"{100 * value:.1f}" for value in values), f"{100 * area:.1f}"])
    return table(["method", *(f"{100 * share:g} %" for share in by_share), "area"], rows)


def verdict(text: str, passed: bool, measured: str) -> str:
    """A bar: what is asked for, whether it is met, and what was measured."""
    return f"- **{'pass' if passed else 'FAIL'}** {text}: {measured}"
