"""One benchmark run: options checked, inputs made, everything measured, the report put together.

Every number of a report was measured in the run that wrote it, except those called ``predicted``.
Specification: methods/attention-bench.md.
"""

from __future__ import annotations

import time
from collections.abc import Mapping
from dataclasses import replace
from typing import Any

import torch

import attn

from ..batch import Silent, Watcher
from ..device import pick_device, pick_dtype, set_threads
from ..errors import UsageError, did_you_mean
from ..io.figure_canvas import check_figure_path
from ..io.report import Item, Report, summarise
from ..sizes import show_bytes, show_size
from . import machine
from .candidates import choose
from .inputs import GENERATORS, Inputs, generate, load_captured
from .measure import Setup, measure
from .options import BenchOptions
from .result import add_speedups, fit_table, item


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
    _check(options, dtype)
    names, left_out = choose(options)
    load_before = machine.load()
    ceilings = machine.ceilings(device, tuple(dict.fromkeys((torch.float32, dtype))))
    watcher = watcher or Silent()
    setup = Setup(options, tuple(names), device, dtype, threads, ceilings, started + options.budget, watcher)
    items: list[Item] = []
    used: list[dict[str, Any]] = []
    jobs = [(n, s, options.seed + i) for n in options.lengths for s in options.inputs for i in range(options.seeds)]
    for done, (length, source, seed) in enumerate(jobs, 1):
        inputs = make_inputs(source, length, seed, options, dtype, device)
        used.append({"inputs": inputs.name, "seq_len": length, "seed": seed, "sha256": inputs.sha256, **inputs.params})
        rows = measure(setup, inputs)
        for found in add_speedups([item(row, inputs, setup) for row in rows]):
            items.append(found)
            watcher.item(found, done, len(jobs))
        del inputs, rows  # before the next ones are made
    items += [Item(name, None, "skipped", 0.0, error=reason) for name, reason in left_out.items()]
    fits = fit_table(items)
    if options.plot is not None:
        from .plot import draw

        draw(options.plot, items)
        items[0] = replace(items[0], files={"plot": str(options.plot)})
    counts = {key: value for key, value in summarise(items).items() if not key.startswith("mean_")}
    summary = {
        **counts,
        "machine": {**machine.describe(device), "load_before": load_before, "load_after": machine.load()},
        "ceilings": ceilings,
        "inputs": used,
        **({"scaling": fits} if fits else {}),
    }
    seconds = time.monotonic() - started
    return Report("bench", attn.__version__, dict(arguments or {}), str(device), seconds, tuple(items), summary)


def make_inputs(
    source: str, length: int, seed: int, options: BenchOptions, dtype: torch.dtype, device: torch.device
) -> Inputs:
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


def _check(options: BenchOptions, dtype: torch.dtype) -> None:
    """Raise ``UsageError`` for what cannot be measured, before anything is allocated."""
    if options.mode == "decode" and options.backward:
        raise UsageError("--backward and --mode decode exclude each other: decoding has no backward pass.")
    if options.plot is not None:
        check_figure_path(options.plot)
    for source in options.inputs:
        if source not in GENERATORS and not source.endswith(".npz"):
            hint = did_you_mean(source, GENERATORS) or f"Known: {', '.join(GENERATORS)}, or a FILE.npz."
            raise UsageError(f"--inputs: no generator named {source!r}. {hint}")
    heads, kv = options.num_heads, options.num_kv_heads or options.num_heads
    if heads % kv:
        raise UsageError(f"--kv-heads {kv} does not divide --heads {heads}.")
    if options.head_dim % 8:
        raise UsageError(f"--dim {options.head_dim}: head dimensions are multiples of 8, such as 64, 80 or 128.")
    length = max(options.lengths)
    if options.grid is not None and options.grid[0] * options.grid[1] != length:
        raise UsageError(f"--grid {options.grid[0]}x{options.grid[1]} has not {show_size(length)} tokens.")
    itemsize = torch.empty((), dtype=dtype).itemsize
    # q, k, v and the output, the float64 draft of the widest of them, and as much again for the operators
    elements = options.batch * length * options.head_dim
    need = elements * (2 * heads + 2 * kv) * itemsize * 2 + elements * heads * 8
    available = machine.available_bytes()
    if available is not None and need > available:
        raise UsageError(
            f"--seq {show_size(length)} with {heads} heads of {options.head_dim} needs about {show_bytes(need)}; "
            f"{show_bytes(available)} are free. Use a smaller --seq, --heads or --dim."
        )
