"""Everything that is measured on one set of inputs: predictions, interleaved timing, phases, exactness, memory.

Specification: methods/attention-bench.md, sections 4 and 5.
"""

from __future__ import annotations

import contextlib
import time
import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor

from ..attention.contract import Shape, shape_of
from ..attention.equations import accumulator, repeat_kv
from ..progress import Watcher
from ..text import one_line
from . import accuracy, memory, timing
from .candidates import BASELINE, Candidate, call, plan, warm
from .inputs import AttentionInputs
from .options import BenchOptions

PILOT = 4096  # keys; the shortest length whose time predicts longer ones
PILOT_SHARE = 8  # a pilot is an eighth as long: dense attention takes a sixty-fourth of its time there,
PILOT_MAX = 16384  # ... but never longer than this
MEMORY_SECONDS = 10.0  # an operator slower than this is not run again in a child: its memory is read while it is timed
BACKWARD = 3.5  # forward and backward products, in units of the forward ones
GATE = {torch.float64: 1e-9, torch.float32: 1e-4, torch.float16: 1e-2, torch.bfloat16: 4e-2}
"""Largest relative error of an operator that claims to be exact, by dtype."""
LARGE_SCORE = 100.0  # softmax of such scores shows their rounding


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

    @property
    def runs(self) -> bool:
        """Whether it is still to be measured."""
        return not self.skipped and self.timing.error is None


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

    @property
    def peak(self) -> float:
        """FLOP/s that this machine was measured to reach at most."""
        return 1e9 * max(rate for name, rate in self.ceilings.items() if name.startswith("gflops_"))


def pilot_length(length: int) -> int:
    """Keys of the run that predicts the time at ``length``."""
    return min(length, max(PILOT, length // PILOT_SHARE), PILOT_MAX)


@contextlib.contextmanager
def collected(texts: list[str], known: Sequence[str] = ()) -> Iterator[None]:
    """Python's warnings into ``texts``, each once, instead of onto stderr; not those of ``known``."""
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        yield
    for warning in caught:
        text = one_line(str(warning.message))
        if text not in texts and text not in known:
            texts.append(text)


def prepare(setup: Setup, inputs: AttentionInputs, length: int, making: float = 0.0) -> list[Row]:
    """What is to be measured at ``length``, with predictions; what would outrun the budget says so in ``skipped``.

    Parameters
    ----------
    inputs : AttentionInputs
        Of that length, or shorter.
    making : float, s
        Predicted for making those of full length.
    """
    options = setup.options
    q, k, v = inputs.q, inputs.k, inputs.v
    shape = shape_of(q, k, v, causal=options.causal is not False, grid=options.grid)
    shape = shape._replace(len_k=length, len_q=1 if options.mode == "decode" else length)
    scale = inputs.scale if inputs.scale is not None else q.shape[-1] ** -0.5
    rows = [
        Row(candidate, length, candidate.arguments(scale, options.grid))
        for candidate in plan(setup.names, options, shape)
    ]
    for row in rows:
        with collected(row.warnings):
            _prepare(setup, row, shape, q, k, v)
    left = setup.left
    if making > left and making > timing.SLOW:
        for row in rows:
            row.skipped = row.skipped or f"making the inputs is {_outruns('', making, left)}"
    _spend(setup, rows, making)
    return rows


def _outruns(least: str, seconds: float, left: float) -> str:
    return f"predicted {least}{seconds:.0f} s, {max(left, 0):.0f} s of the budget left"


def measure(setup: Setup, inputs: AttentionInputs, rows: list[Row]) -> None:
    """Everything about one set of inputs, into ``rows`` from ``prepare``."""
    options = setup.options
    q, k, v = inputs.q, inputs.k, inputs.v
    scale = inputs.scale if inputs.scale is not None else q.shape[-1] ** -0.5
    late: list[str] = []
    with collected(late, known=[text for row in rows for text in row.warnings]):
        calls = {row.label: _call(setup, row, q, k, v) for row in rows if row.runs}
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
    if rows:
        rows[0].warnings += late


def _prepare(setup: Setup, row: Row, shape: Shape, q: Tensor, k: Tensor, v: Tensor) -> None:
    """Warm a candidate on few tokens (that is the cold time) and predict its time at ``shape`` from a pilot."""
    options, candidate = setup.options, row.candidate
    function = call(candidate.name)
    setup.watcher.step(f"{row.label}: warm-up", 0, 1)
    try:
        least = candidate.cost(shape._replace(causal=candidate.causal)).flops / setup.peak
        if options.mode == "prefill" and not candidate.operator.grid and least > max(setup.left, timing.SLOW):
            row.predicted = least
            row.skipped = _outruns("at least ", least, setup.left)  # by the machine's own ceiling: not even warmed
            return
        start = time.perf_counter()
        warm(function, q, k, v, row.arguments)
        row.cold = time.perf_counter() - start
        if shape.len_k <= PILOT or options.mode == "decode" or candidate.operator.grid:
            return  # quick enough; vision operators are linear in the map
        length = pilot_length(shape.len_k)
        small = tuple(t[:, :, :length] for t in (q, k, v))
        start = time.perf_counter()
        function(*small, **row.arguments)
        pilot = time.perf_counter() - start
        shapes = (shape._replace(causal=candidate.causal), shape_of(*small, causal=candidate.causal))
        costs = [candidate.cost(each).flops for each in shapes]
        factor = BACKWARD if options.backward else 1.0
        row.predicted = factor * pilot * costs[0] / max(costs[1], 1.0)
    except (RuntimeError, ValueError, NotImplementedError, MemoryError) as error:
        row.timing.error = error


def _spend(setup: Setup, rows: list[Row], making: float) -> None:
    """Skip what is predicted to outrun the budget, dearest first."""
    left = setup.left - making
    for row in sorted(rows, key=lambda row: row.predicted):
        if not row.runs:
            continue
        if row.predicted > left and row.predicted > timing.SLOW:
            row.skipped = _outruns("", row.predicted, left)
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


def _exactness(setup: Setup, rows: list[Row], inputs: AttentionInputs, sampled: Tensor, scale: float) -> None:
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
        figures = accuracy.measure(
            q, k, v, sampled, outputs, {row.label: row.selection for row in group if row.selection is not None},
            causal=causal, scale=scale, truths=truths, needles=inputs.arrays.get("needles"),
            against={row.label: ("dsa", row.candidate.settings.pool) for row in group if row.candidate.name == "hisa"},
        )  # fmt: skip
        for row in group:
            row.metrics.update(figures.get(row.label, {}))
            error = row.metrics["relative_error"]
            if row.candidate.operator.exact and not error <= GATE[q.dtype]:
                fault = _beyond(q, k, v, sampled, scale, error)
                if fault:
                    row.warnings.append(f"{inputs.name}: {fault}; no operator can be judged on it")
                else:
                    row.gate = f"exactness gate: relative error {error:.1e}, allowed {GATE[q.dtype]:.0e}"


def _beyond(q: Tensor, k: Tensor, v: Tensor, rows: Tensor, scale: float, error: float) -> str:
    """Why ``error`` is the fault of these tensors, not of an operator; empty where it is not."""
    chosen, keys = q[:, :, rows].double(), repeat_kv(k, q.shape[1]).mT
    products = [chosen @ keys[..., i : i + 4096].double() for i in range(0, k.shape[2], 4096)]
    reach = max((part.abs().max().item() for part in products), default=0.0)
    kind = str(q.dtype).removeprefix("torch.")
    info = torch.finfo(accumulator(q.dtype))
    if reach * max(1.0, k.shape[2] * v.abs().max().item()) > info.max:
        return f"its products reach {reach:.1e}, which overflows {kind}"
    largest = reach * abs(scale)
    if largest > LARGE_SCORE and not error > 100 * torch.finfo(q.dtype).eps * largest:
        return f"its scores reach {largest:.1e}, and {kind} rounds them by more than softmax can bear"
    return ""


def _phases(setup: Setup, row: Row, q: Tensor, k: Tensor, v: Tensor) -> None:
    """Search and attention apart, once each; keeps the selection for the recall."""
    candidate = row.candidate
    operator = candidate.operator
    if operator.select is None or candidate.name == BASELINE:
        return
    if row.timing.median > timing.SLOW and row.timing.median > setup.left:
        row.warnings.append("no budget left to measure the search and its recall")
        return
    with torch.no_grad():
        start = time.perf_counter()
        row.selection = operator.select(q, k, **row.arguments)
        row.phases["select"] = time.perf_counter() - start
        if row.timing.median < timing.SLOW:
            start = time.perf_counter()
            operator.attend(q, k, v, row.selection, **row.arguments)
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
        if setup.left < -setup.options.seconds / 4:
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
