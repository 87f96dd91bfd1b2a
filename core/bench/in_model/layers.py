"""Which operator really ran in which layer."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from itertools import groupby
from typing import Any

from ...attention.in_models import Ran


def newest(ran: Iterable[Ran]) -> dict[tuple[str, int], Ran]:
    """Of each phase and layer the last call."""
    return {(call.phase, call.layer): call for call in ran if isinstance(call.layer, int)}


def show_layers(layers: Sequence[int]) -> str:
    """``0,1,2,5`` as ``0-2,5``; ascending."""
    runs = [[layer for _, layer in run] for _, run in groupby(enumerate(layers), lambda at: at[1] - at[0])]
    return ",".join(str(run[0]) if len(run) == 1 else f"{run[0]}-{run[-1]}" for run in runs)


def layer_rows(calls: Mapping[tuple[str, int], Ran]) -> list[dict[str, Any]]:
    """One row a phase and way: which layers, what ran there, by which formulation, and why not what was asked for."""
    ways: dict[tuple[str, str, str, str], list[int]] = {}
    for (phase, layer), call in sorted(calls.items(), key=lambda entry: entry[0][1]):
        ways.setdefault((phase, call.operator, call.formulation, call.why), []).append(layer)
    return [
        {"phase": phase, "layers": show_layers(layers), "ran": operator, "formulation": formulation, "why": why}
        for (phase, operator, formulation, why), layers in ways.items()
    ]
