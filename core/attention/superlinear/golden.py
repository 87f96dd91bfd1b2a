"""Superlinear attention against the official package: comb tables, search, spans, gates, output."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import torch

from ..equations import positions
from ..golden import Arrays, Check, max_error
from .comb import comb
from .operator import OPERATOR, SELECT
from .settings import Settings

INDEX, SCORES, GATE, OUT = 0.0, 1e-4, 1e-5, 2e-5  # methods/superlinear.md, section 10


def check(stem: str, data: Arrays) -> Iterator[Check]:
    """``data`` is the file's content by array name."""
    if stem == "tables":
        yield from _tables(data)
        return
    _, _, len_q, _, sw_index, num_spans, inverse, _ = data["cfg"].tolist()
    backward_factor, forward_factor, span_power, power = (round(x, 6) for x in data["factors"].tolist())
    params: dict[str, Any] = {
        "sw_index": sw_index, "num_spans": num_spans, "inv_search_power_int": inverse or 2,
        "search_power": None if inverse else power, "span_power": span_power, "backward_factor": backward_factor,
        "forward_factor": forward_factor,
    }  # fmt: skip
    q_search, q, k, v = (torch.from_numpy(data[name]) for name in ("Q1", "Q2", "K", "V"))
    yield Check("cache_position", max_error(positions(len_q, k.shape[2]), data["cache_position"]), INDEX)
    spans = SELECT(q, k, settings=Settings(q_search=q_search, **params))
    anchored = data["qanchor"] >= 0
    yield Check("qanchor", max_error(spans.anchors, data["qanchor"]), INDEX)
    yield Check("qstart", max_error(spans.start.numpy()[anchored], data["qstart"][anchored]), INDEX)
    yield Check("qend", max_error(spans.stop.numpy()[anchored] - 1, data["qend"][anchored]), INDEX)
    yield Check("empty spans", float(((spans.stop - spans.start).numpy()[~anchored] != 0).sum()), INDEX)
    scores = spans.scores.numpy()
    yield Check("values", max_error(scores[anchored], data["values"][anchored]), SCORES)
    yield Check("values, missing", float((scores[~anchored] != data["values"][~anchored]).sum()), INDEX)
    gate = spans.scores.masked_fill(spans.anchors < 0, -1e9).softmax(-1)
    yield Check("gate", max_error(gate, data["gate"]), GATE)
    for name, run in (("blocked", OPERATOR.blocked), ("reference", OPERATOR.reference)):
        yield Check(f"out, {name}", max_error(run(q, k, v, q_search=q_search, **params), data["out"]), OUT)


def _tables(data: Arrays) -> Iterator[Check]:
    """``pos`` is the number of keys a query sees, c + 1."""
    for name, inverse, power in (("n2", 2, None), ("p054", 2, 0.54)):
        stripes = [len(comb(1, n, 0, inverse, power, 0.5, 2.0, 0.0).steps) for n in data["pos"].tolist()]
        yield Check(f"max_stripe_{name}", max_error(stripes, data[f"max_stripe_{name}"]), INDEX)
        windows = [comb(1, 100, w, inverse, power, 0.5, 2.0, 0.0).window for w in range(len(data[f"window_{name}"]))]
        yield Check(f"window_{name}", max_error(windows, data[f"window_{name}"]), INDEX)
