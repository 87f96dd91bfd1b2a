"""Interleaved timing: every candidate once per round, so that drift and other load hit all alike.

Specification: methods/attention-bench.md, section 5. Differs in the load check (5.2): the specification compares wall
with CPU time, which also condemns code with serial parts; here other processes' CPU time is read from the system.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

import torch

from ..device import available_cores, synchronise
from .machine import busy_seconds, median

MIN_SECONDS = 1.0
MAX_REPEATS = 5
SLOW = 2.0  # s; a run as long as this is not repeated for the sake of statistics alone
OTHERS = 0.1  # share of the cores that other processes may use
SPREAD = 0.25  # (max - min) / median


@dataclass
class Timing:
    """Seconds of one candidate's runs: wall time, CPU time of this process, and CPU time of everybody else."""

    wall: list[float] = field(default_factory=list)
    cpu: list[float] = field(default_factory=list)
    others: list[float] = field(default_factory=list)
    result: Any = None
    error: Exception | None = None

    @property
    def median(self) -> float:
        return median(self.wall)

    def seconds(self, device: torch.device) -> float:
        """Median of a run: processor time on a CPU, wall time on others. Raises what stopped it."""
        if self.error is not None:
            raise self.error
        return median(self.cpu if device.type == "cpu" else self.wall)

    @property
    def noise(self) -> str:
        """Why the figures should not be trusted; empty where they can be."""
        total = sum(self.wall)
        if self.others and total >= 0.2 and sum(self.others) / total > OTHERS * available_cores():
            return f"other processes used {sum(self.others) / total:.1f} cores meanwhile"
        if len(self.wall) > 1 and (max(self.wall) - min(self.wall)) / self.median > SPREAD:
            return f"runs differ by {100 * (max(self.wall) - min(self.wall)) / self.median:.0f} %"
        return ""


def run_once(timing: Timing, call: Callable[[], Any], device: torch.device, keep: Callable[[Any], Any]) -> None:
    """One timed run, appended to ``timing``; what ``keep`` makes of its result replaces the one before."""
    synchronise(device)
    busy, cpu, wall = busy_seconds(), time.process_time(), time.perf_counter()
    try:
        result = call()
        synchronise(device)
    except (RuntimeError, ValueError, MemoryError, NotImplementedError) as error:
        timing.error = error
        return
    timing.wall.append(time.perf_counter() - wall)
    timing.cpu.append(time.process_time() - cpu)
    after = busy_seconds()
    if busy is not None and after is not None:
        timing.others.append(max(0.0, after - busy - timing.cpu[-1]))
    timing.result = keep(result)


def time_interleaved(
    calls: Mapping[str, Callable[[], Any]],
    device: torch.device,
    *,
    repeat: int | None = None,
    deadline: float | None = None,
    slow: float = SLOW,
    step: Callable[[str, int, int], None] = lambda name, done, total: None,
    keep: Callable[[Any], Any] = lambda result: None,
) -> dict[str, Timing]:
    """Time ``calls`` round-robin (A B C A B C ...).

    Parameters
    ----------
    calls : mapping of label to callable
        Already warm: compiled, autotuned, inputs made.
    repeat : int, optional
        Runs of each. None: until 1 s or 5 runs, at least 3 where one takes less than 2 s, else 1.
    deadline : float, optional
        ``time.monotonic()`` after which no run is repeated.
    slow : float
        Seconds; a run as long as this is not repeated for the sake of statistics alone.
    step : callable (name, done, total)
        Told before each run.
    keep : callable
        What to keep of a run's result, after the clock has stopped: results of many operators together can be large.

    Returns
    -------
    dict of label to Timing
        ``result`` is what was kept of the last run.
    """
    timings = {label: Timing() for label in calls}
    for label, call in calls.items():  # fast candidates are warmed at full size: caches, page faults, clock rates
        trial = Timing()
        step(label, 0, repeat or MAX_REPEATS)
        run_once(trial, call, device, keep)
        if trial.error is not None or trial.wall[0] >= slow / 2:
            timings[label] = trial  # too long to throw away
        else:
            for _ in range(2 if trial.wall[0] < 0.1 else 0):
                run_once(Timing(), call, device, keep)
    pending = list(calls)
    while pending:
        for label in tuple(pending):
            timing = timings[label]
            if _enough(timing, repeat, deadline, slow):
                pending.remove(label)
                continue
            step(label, len(timing.wall), repeat or MAX_REPEATS)
            run_once(timing, calls[label], device, keep)
    return timings


def _enough(timing: Timing, repeat: int | None, deadline: float | None, slow: float) -> bool:
    count = len(timing.wall)
    if timing.error is not None:
        return True
    if count and deadline is not None and time.monotonic() > deadline:
        return True
    if repeat is not None:
        return count >= repeat
    if count and timing.median >= slow:
        return True
    return count >= MAX_REPEATS or (count >= 3 and sum(timing.wall) >= MIN_SECONDS)
