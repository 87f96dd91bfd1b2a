"""One benchmark run: options checked, inputs made, everything measured, the report put together.

Every number of a report was measured in the run that wrote it, except those called ``predicted``.
Specification: methods/attention-bench.md.
"""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch

import attn

from .. import memory
from ..device import pick_device, pick_dtype, set_threads
from ..errors import InputError, did_you_mean
from ..options import OptionError
from ..progress import Bars, Watcher
from ..report.canvas import check_figure_path
from ..report.model import Item, Report, summarise
from ..report.sections import Facts, Section, Table
from ..sizes import show_bytes, show_size
from . import machine
from .candidates import choose
from .inputs import GENERATORS, AttentionInputs, check_captured, generate, load_captured
from .measure import PILOT, Row, Setup, collected, measure, pilot_length, prepare
from .options import BenchOptions
from .result import Measurement, add_speedups, fit_table, item
from .terminal import machine_line, overview, short_fits

MOST_JOBS = 10_000


def run(options: BenchOptions, *, watcher: Watcher | None = None, arguments: Mapping[str, Any] | None = None) -> Report:
    """Measure what ``options`` ask for.

    Raises
    ------
    UsageError
        For unknown operators, options that do not go together, or more memory than the machine has.
    InputError
        For files of q, k, v that cannot be used.
    """
    started = time.monotonic()
    device, dtype = pick_device(options.device), pick_dtype(options.dtype)
    threads = set_threads(options.threads)
    needs = _check(options, dtype)
    names, left_out = choose(options)
    load_before = machine.load()
    ceilings = machine.ceilings(device, tuple(dict.fromkeys((torch.float32, dtype))))
    watcher = watcher or Bars()
    setup = Setup(options, tuple(names), device, dtype, threads, ceilings, started + options.seconds, watcher)
    measured: list[Measurement] = []
    used: list[dict[str, Any]] = []
    jobs = [(n, s, options.seed + i) for n in options.lengths for s in options.inputs for i in range(options.seeds)]
    left: list[str] = []
    reached = 0
    try:
        for done, (length, source, seed) in enumerate(jobs, 1):
            if needs[length, source] > memory.budget():
                for result in _too_large(names, needs[length, source], length, source, seed):
                    measured.append(result)
                    watcher.item(result, done, len(jobs))
                reached = done
                continue
            late: list[str] = []
            with collected(late):
                rows, inputs, made = _measured(setup, source, length, seed)
                new = [item(row, inputs, setup) for row in rows]
            shown = {text for result in new for text in result.warnings}
            if new and (rest := tuple(text for text in late if text not in shown)):
                new[0] = replace(new[0], warnings=(*new[0].warnings, *rest))
            hashed = {"sha256": inputs.sha256, **inputs.params} if made else {"made": False}
            used.append({"inputs": inputs.name, "seq_len": length, "seed": seed, **hashed})
            for result in add_speedups(new):
                measured.append(result)
                watcher.item(result, done, len(jobs))
            del inputs, rows  # before the next ones are made
            reached = done
    except KeyboardInterrupt:
        left = [f"{source}, {length} tokens, seed {seed}" for length, source, seed in jobs[reached:]]
    fits = fit_table(measured)
    items = [*measured, *(Item(name, None, "skipped", 0.0, error=reason) for name, reason in left_out.items())]
    if options.plot is not None and items:
        from .plot import draw

        draw(options.plot, measured)
        items[0] = replace(items[0], files={"plot": str(options.plot)})
    counts = {key: value for key, value in summarise(items).items() if not key.startswith("mean_")}
    about = {**machine.describe(device), "load_before": load_before, "load_after": machine.load()}
    scaled = Table("scaling", fits, short_fits(fits), title="scaling: time ~ length ^ exponent")
    sections: list[Section] = [
        *([scaled] if fits else []),
        Facts("machine", about, machine_line(about, ceilings)),
        Facts("ceilings", ceilings, detail=True),
        Table("inputs", used, detail=True),
    ]
    return Report(
        "bench", attn.__version__, dict(arguments or {}), str(device), time.monotonic() - started, tuple(items), counts,
        sections=tuple(sections), left=tuple(left) if left else None, gate=any(i.gate_failed for i in measured),
        overview=overview(items),
    )  # fmt: skip


def _measured(setup: Setup, source: str, length: int, seed: int) -> tuple[list[Row], AttentionInputs, bool]:
    """The rows of one job, the inputs they are about, and whether these have the full length.

    Generated inputs are made short first, and long ones only where an operator may run on them within the budget.
    """

    def make(size: int) -> AttentionInputs:
        return make_inputs(source, size, seed, setup.options, setup.dtype, setup.device)

    if source not in GENERATORS or setup.options.grid is not None or length <= PILOT:
        inputs = make(length)
        rows = prepare(setup, inputs, length)
        measure(setup, inputs, rows)
        return rows, inputs, True
    start = time.perf_counter()
    short = make(pilot_length(length))
    making = (time.perf_counter() - start) * length / short.k.shape[2]
    rows = prepare(setup, short, length, making)
    if not any(row.runs for row in rows):
        return rows, short, False
    inputs = make(length)
    measure(setup, inputs, rows)
    return rows, inputs, True


def _too_large(names: Sequence[str], need: int, length: int, source: str, seed: int) -> list[Measurement]:
    """What stands in the report for operators whose tensors the budget of memory does not hold."""
    reason = f"q, k, v and results need about {show_bytes(need)}, the budget of memory is {show_bytes(memory.budget())}"
    name = Path(source).name
    return [
        Measurement(
            f"{label} @ {show_size(length)} {name}", None, "skipped", 0.0, error=f"skipped ({reason}. {memory.FIX})",
            metrics={"seq_len": float(length)},
            details={"operator": label, "label": label, "inputs": name, "seed": seed, "causal": None},
            operator=label, label=label, source=name, seed=seed,
        )
        for label in names
    ]  # fmt: skip


def make_inputs(
    source: str, length: int, seed: int, options: BenchOptions, dtype: torch.dtype, device: torch.device
) -> AttentionInputs:
    """q, k, v of one generator or file at one length."""
    if source in GENERATORS:
        made = generate(
            source,
            batch=options.batch,
            num_heads=options.num_heads,
            num_kv_heads=options.num_kv_heads,
            len_q=1 if options.mode == "decode" else length,
            len_k=length,
            head_dim=options.head_dim,
            seed=seed,
            dtype=dtype,
        )
    else:
        made = load_captured(source, heads=options.captured_heads, seq=length, tile=options.tile, dtype=dtype)
    q = made.q[:, :, -1:] if options.mode == "decode" else made.q
    return replace(made, q=q.to(device), k=made.k.to(device), v=made.v.to(device))


def _file_sizes(source: str, options: BenchOptions) -> tuple[int, int, int, int]:
    """Batch, heads, key/value heads and head_dim of a file. Raises ``InputError``, also for others than asked for."""
    sizes = check_captured(source, heads=options.captured_heads, lengths=options.lengths, tile=options.tile)
    for name, size in zip(("batch", "num_heads", "num_kv_heads", "head_dim"), sizes, strict=True):
        if name in options.asked and getattr(options, name) != size:
            what = f"has {name.replace('num_', '').replace('_', ' ')} {size}, asked for {getattr(options, name)}"
            raise InputError(source, what, "Leave that size out: a file has its own")
    return sizes


def _check(options: BenchOptions, dtype: torch.dtype) -> dict[tuple[int, str], int]:
    """Bytes that each length and source needs. ``UsageError`` or ``InputError`` for what cannot be measured.

    All that can be refused is refused here, before ceilings are measured and anything is compiled.
    """
    if options.seeds * len(options.lengths) * len(options.inputs) > MOST_JOBS:
        raise OptionError(
            f"{{seeds}} {options.seeds} at these lengths and inputs makes more than {MOST_JOBS} measurements."
        )
    if options.mode == "decode" and options.backward:
        raise OptionError("{backward} and {mode} decode exclude each other: decoding has no backward pass.")
    if options.plot is not None:
        check_figure_path(options.plot)
    for source in options.inputs:
        if source not in GENERATORS and not source.endswith(".npz"):
            hint = did_you_mean(source, GENERATORS) or f"Known: {', '.join(GENERATORS)}, or a FILE.npz."
            raise OptionError(f"{{inputs}}: no generator named {source!r}. {hint}")
    files = [source for source in options.inputs if source not in GENERATORS]
    generated = len(files) < len(options.inputs)
    if not files and (options.captured_heads is not None or options.tile):
        name = "tile" if options.captured_heads is None else "captured_heads"
        raise OptionError(f"{{{name}}} is about .npz files, and {{inputs}} names none.")
    if not generated and options.seeds > 1:
        raise OptionError(f"{{seeds}} {options.seeds}: files are the same for every seed. Leave it out.")
    heads, kv = options.num_heads, options.num_kv_heads or options.num_heads
    if heads % kv:
        raise OptionError(f"{{num_kv_heads}} {kv} does not divide {{num_heads}} {heads}.")
    if options.head_dim % 8:
        raise OptionError(
            f"{{head_dim}} {options.head_dim}: head dimensions are multiples of 8, such as 64, 80 or 128."
        )
    length = max(options.lengths)
    if options.grid is not None and options.grid[0] * options.grid[1] != length:
        raise OptionError(f"{{grid}} {options.grid[0]}x{options.grid[1]} has not {show_size(length)} tokens.")
    shapes = {
        source: (options.batch, heads, kv, options.head_dim) if source in GENERATORS else _file_sizes(source, options)
        for source in options.inputs
    }
    itemsize, available = torch.empty((), dtype=dtype).itemsize, machine.available_bytes()
    needs = {}
    for source, (batch, heads, kv, dim) in shapes.items():
        for length in options.lengths:
            # q, k, v and the output, the float64 draft of the widest of them, and as much again for the operators
            queries = batch * heads * dim * (1 if options.mode == "decode" else length)
            draft = batch * heads * dim * length * 8
            need = 2 * itemsize * (2 * queries + 2 * batch * kv * dim * length) + draft
            needs[length, source] = need
            if available is not None and need > available:
                raise OptionError(
                    f"{{lengths}} {show_size(length)} with {heads} heads of {dim} needs about {show_bytes(need)}; "
                    f"{show_bytes(available)} are free. Use a smaller {{lengths}}, {{num_heads}} or {{head_dim}}."
                )
    return needs
