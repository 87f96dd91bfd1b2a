"""Everything that is measured on one set of inputs: predictions, interleaved timing, phases, exactness, memory.

Specification: methods/attention-bench.md, sections 4 and 5.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor

from ..attention.base import shape_of
from ..batch import Watcher
from . import accuracy, memory, timing
from .candidates import BASELINE, Candidate, call, plan, warm
from .inputs import Inputs
from .options import BenchOptions

PILOT = 4096  # keys; the shortest length whose time predicts longer ones
PILOT_SHARE = 8  # a pilot is an eighth as long: dense attention takes a sixty-fourth of its time there,
PILOT_MAX = 16384  # ... but never longer than this
MEMORY_SECONDS = 10.0  # an operator slower than this is not run again in a child: its memory is read while it is timed
BACKWARD = 3.5  # forward and backward products, in units of the forward ones
GATE = {torch.float64: 1e-9, torch.float32: 1e-4, torch.float16: 1e-2, torch.bfloat16: 4e-2}
"""Largest relative error of an operator that claims to be exact, by dtype."""
EXACT = (BASELINE, "dense", "lightning")


@dataclass
class Row:
    """What is known of one candidate at one length on one input."""

    candidate: Candidate
    length: int
    arguments: Mapping[str, Any]
    predicted: float = 0.0
    timing: timing.Timing = field(default_factory=timing.Timing)
    backward: list[float] = field(default_factory=list)
    cold: float = 0.0
    phases: dict[str, float] = field(default_factory=dict)
    selection: Any = None
    metrics: dict[str, float] = field(default_factory=dict)
    warnings: list[str] = field(default_factory=list)
    skipped: str = ""
    gate: str = ""

    @property
    def label(self) -> str:
        return self.candidate.label


@dataclass(frozen=True)
class Setup:
    """What stays the same over a run."""

    options: BenchOptions
    names: tuple[str, ...]
    device: torch.device
    dtype: torch.dtype
    threads: int
    ceilings: Mapping[str, float]
    deadline: float
    watcher: Watcher

    @property
    def left(self) -> float:
        return self.deadline - time.monotonic()


def measure(setup: Setup, inputs: Inputs) -> list[Row]:
    """Everything about one set of inputs."""
    options = setup.options
    q, k, v = inputs.q, inputs.k, inputs.v
    shape = shape_of(q, k, v, causal=options.causal is not False, grid=options.grid)
    scale = inputs.scale if inputs.scale is not None else q.shape[-1] ** -0.5
    candidates = plan(setup.names, options, shape)
    rows = [Row(candidate, k.shape[2], candidate.arguments(scale, options.grid)) for candidate in candidates]
    for row in rows:
        _prepare(setup, row, q, k, v)
    _spend(setup, rows)
    calls = {row.label: _call(setup, row, q, k, v) for row in rows if not row.skipped and row.timing.error is None}
    sampled = accuracy.sample_rows(q.shape[2], options.rows, options.seed)
    timed = timing.time_interleaved(
        calls, setup.device, repeat=options.repeat, deadline=setup.deadline, step=setup.watcher.step,
        keep=lambda out: out[:, :, sampled],
    )  # fmt: skip
    for row in rows:
        row.timing = timed.get(row.label, row.timing)
    _exactness(setup, rows, inputs, sampled, scale)
    if options.memory and options.mode == "prefill" and not options.backward:
        _memory(setup, rows, q, k, v)
    return rows


def _prepare(setup: Setup, row: Row, q: Tensor, k: Tensor, v: Tensor) -> None:
    """Warm a candidate on few tokens (that is the cold time) and predict its time from a pilot."""
    options, candidate = setup.options, row.candidate
    function = call(candidate.name)
    setup.watcher.step(f"{row.label}: warm-up", 0, 1)
    try:
        start = time.perf_counter()
        warm(function, q, k, v, row.arguments)
        row.cold = time.perf_counter() - start
        if k.shape[2] <= PILOT or options.mode == "decode" or candidate.operator.grid:
            return  # quick enough; vision operators are linear in the map
        length = min(max(PILOT, k.shape[2] // PILOT_SHARE), PILOT_MAX)
        small = tuple(t[:, :, :length] for t in (q, k, v))
        start = time.perf_counter()
        function(*small, **row.arguments)
        pilot = time.perf_counter() - start
        costs = [candidate.cost(shape_of(*t, causal=candidate.causal)).flops for t in ((q, k, v), small)]
        factor = BACKWARD if options.backward else 1.0
        row.predicted = factor * pilot * costs[0] / max(costs[1], 1.0)
    except (RuntimeError, ValueError, NotImplementedError, MemoryError) as error:
        row.timing.error = error


def _spend(setup: Setup, rows: list[Row]) -> None:
    """Skip what is predicted to outrun the budget, dearest first."""
    left = setup.left
    for row in sorted(rows, key=lambda row: row.predicted):
        if row.timing.error is not None:
            continue
        if row.predicted > left and row.predicted > timing.SLOW:
            row.skipped = f"predicted {row.predicted:.0f} s, {max(left, 0):.0f} s of the budget left"
            continue
        runs = setup.options.repeat or (1 if row.predicted >= timing.SLOW / 2 else 3)
        again = row.predicted if row.candidate.operator.select is not None else 0.0
        left -= runs * row.predicted + again + (row.predicted + 4 if row.predicted < MEMORY_SECONDS else 0)


def _call(setup: Setup, row: Row, q: Tensor, k: Tensor, v: Tensor) -> Callable[[], Any]:
    """What is timed."""
    candidate, options, arguments = row.candidate, setup.options, dict(row.arguments)
    operator = candidate.operator
    if options.mode == "decode" and operator.decoder is not None and candidate.name != BASELINE:
        arguments.pop("causal")
        return operator.decoder(q, k, v, **arguments)
    function = call(candidate.name)
    if not options.backward:
        if options.memory and row.predicted >= MEMORY_SECONDS:
            return memory.watched(lambda: function(q, k, v, **arguments), row.metrics)
        return lambda: function(q, k, v, **arguments)

    def forward_and_backward() -> Tensor:
        leaves = [t.detach().requires_grad_() for t in (q, k, v)]
        out = function(*leaves, **arguments)
        gradient = torch.ones_like(out)
        start = time.perf_counter()
        torch.autograd.grad(out, leaves, gradient)
        row.backward.append(time.perf_counter() - start)
        return out.detach()

    return forward_and_backward


def _exactness(setup: Setup, rows: list[Row], inputs: Inputs, sampled: Tensor, scale: float) -> None:
    """Errors and recall of everything that ran, on sampled rows; the search and attention phases on the way."""
    q, k, v = inputs.q, inputs.k, inputs.v
    for causal in (True, False):
        group = [row for row in rows if row.timing.wall and row.candidate.causal is causal]
        outputs, truths = {}, {}
        for row in group:
            setup.watcher.step(f"{row.label}: exactness", 0, 1)
            outputs[row.label] = row.timing.result
            _phases(setup, row, q, k, v)
            if row.candidate.operator.rows is not None:
                truths[row.label] = row.candidate.operator.rows(q, k, v, sampled, **row.arguments)
        if not group:
            continue
        found = accuracy.measure(
            q, k, v, sampled, outputs, {row.label: row.selection for row in group if row.selection is not None},
            causal=causal, scale=scale, truths=truths, needles=inputs.arrays.get("needles"),
            against={row.label: "dsa" for row in group if row.candidate.name == "hisa"},
        )  # fmt: skip
        for row in group:
            row.metrics.update(found.get(row.label, {}))
            error = row.metrics["relative_error"]
            if row.candidate.name in EXACT and not error <= GATE[q.dtype]:
                row.gate = f"exactness gate: relative error {error:.1e}, allowed {GATE[q.dtype]:.0e}"


def _phases(setup: Setup, row: Row, q: Tensor, k: Tensor, v: Tensor) -> None:
    """Search and attention apart, once each; keeps the selection for the recall."""
    candidate = row.candidate
    operator = candidate.operator
    if operator.select is None or operator.attend is None or candidate.name == BASELINE:
        return
    if row.timing.median > timing.SLOW and row.timing.median > setup.left:
        row.warnings.append("no budget left to measure the search and its recall")
        return
    with torch.no_grad():
        start = time.perf_counter()
        row.selection = operator.select(q, k, **row.arguments)
        row.phases["select"] = time.perf_counter() - start
        if row.timing.median < timing.SLOW:
            taken = {name: value for name, value in row.arguments.items() if name in operator.attend_parameters}
            start = time.perf_counter()
            operator.attend(q, k, v, row.selection, **taken)
            row.phases["attend"] = time.perf_counter() - start


def _memory(setup: Setup, rows: list[Row], q: Tensor, k: Tensor, v: Tensor) -> None:
    """Peak memory of each candidate that is quick enough, in a child process of its own."""
    if setup.device.type != "cpu":
        _device_memory(setup, rows, q, k, v)
        return
    quick = {row.label: row for row in rows if row.timing.wall and row.timing.median < MEMORY_SECONDS}
    calls = {label: (row.candidate.name, row.arguments) for label, row in quick.items()}
    for done, (label, peak) in enumerate(memory.peaks(q, k, v, calls, setup.threads), 1):
        quick[label].metrics["peak_bytes"] = peak
        setup.watcher.step("memory", done, len(quick))
        if setup.left < -setup.options.budget / 4:
            return


def _device_memory(setup: Setup, rows: list[Row], q: Tensor, k: Tensor, v: Tensor) -> None:
    """Peak memory on a CUDA device above the inputs."""
    if setup.device.type != "cuda":
        return
    for row in rows:
        if row.timing.wall:
            torch.cuda.reset_peak_memory_stats(setup.device)
            before = torch.cuda.memory_allocated(setup.device)
            call(row.candidate.name)(q, k, v, **row.arguments)
            row.metrics["peak_bytes"] = float(torch.cuda.max_memory_allocated(setup.device) - before)
