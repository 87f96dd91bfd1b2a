"""The machine that a benchmark ran on, as far as its figures depend on it: ceilings, load, memory, versions.

Specification: methods/attention-bench.md, sections 5 and 6.
"""

from __future__ import annotations

import os
import platform
import statistics
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch

from ..cpu import cpu
from ..device import available_cores, synchronise

MATMULS = ((512, 512, 128), (2048, 2048, 2048))  # rows, inner, columns: probabilities times values, and a square
COPY_BYTES = 256 * 2**20
LONG = 1.0  # s; a product that takes longer (float16 on most CPUs) is left out


def ceilings(device: torch.device, dtypes: tuple[torch.dtype, ...]) -> dict[str, float]:
    """Measured peaks: ``gflops_DTYPE`` of a matrix product, ``copy_gb_s`` of a 256 MiB copy (read + write).

    The best of several runs and of two shapes: a ceiling is what the machine can do, not what it does on average, and
    libraries do not reach it on every shape (the 2048^2 product of the specification was the slower one here).
    """
    measured = {}
    for dtype in dtypes:
        rates: list[float] = []
        for rows, inner, columns in MATMULS:
            if rates and 2 * rows * inner * columns / rates[0] / 1e9 > LONG:
                break
            a = torch.randn(rows, inner, device=device).to(dtype)
            b = torch.randn(inner, columns, device=device).to(dtype)
            out = torch.empty(rows, columns, device=device, dtype=dtype)
            seconds = _best(lambda a=a, b=b, out=out: torch.mm(a, b, out=out), device, 10)  # type: ignore[misc]
            rates.append(2 * rows * inner * columns / seconds / 1e9)
        measured[f"gflops_{_short(dtype)}"] = max(rates)
    source = torch.ones(COPY_BYTES // 4, device=device)
    target = torch.ones_like(source)  # written before: page faults are not bandwidth
    seconds = _best(lambda: target.copy_(source), device, 5)
    measured["copy_gb_s"] = 2 * COPY_BYTES / seconds / 1e9
    return measured


def _short(dtype: torch.dtype) -> str:
    return str(dtype).removeprefix("torch.")


def _best(call: Callable[[], Any], device: torch.device, runs: int) -> float:
    call()
    seconds: list[float] = []
    for _ in range(runs):
        synchronise(device)
        start = time.perf_counter()
        call()
        synchronise(device)
        seconds.append(time.perf_counter() - start)
    return min(seconds)


def load() -> float | None:
    """Mean number of runnable processes over the last minute, None where the system does not tell."""
    return os.getloadavg()[0] if hasattr(os, "getloadavg") else None


def busy_seconds() -> float | None:
    """CPU seconds that all processes of this machine have used since it started, None where /proc does not tell."""
    try:
        fields = Path("/proc/stat").read_text().split("\n", 1)[0].split()[1:]
    except OSError:
        return None
    user, nice, system, _idle, _iowait, irq, softirq, steal = (int(field) for field in fields[:8])
    return (user + nice + system + irq + softirq + steal) / os.sysconf("SC_CLK_TCK")


def available_bytes() -> int | None:
    """Memory that can be had without swapping, None where the system does not tell."""
    try:
        for line in Path("/proc/meminfo").read_text().splitlines():
            if line.startswith("MemAvailable:"):
                return int(line.split()[1]) * 1024
    except OSError:
        pass
    return None


def describe(device: torch.device) -> dict[str, Any]:
    """Processor and what of it may be used now, device, versions and threads, for the report."""
    from importlib.metadata import PackageNotFoundError, version

    processor = cpu()
    description: dict[str, Any] = {
        "cpu": processor.name,
        "cpu_flags": " ".join(processor.flags),
        "cores": available_cores(),
        "threads": torch.get_num_threads(),
        "torch": torch.__version__,
        "python": platform.python_version(),
    }
    for name in ("triton", "numba"):
        try:
            description[name] = version(name)
        except PackageNotFoundError:
            description[name] = None
    if device.type == "cuda":
        description["gpu"] = torch.cuda.get_device_name(device)
    return description


def median(values: list[float]) -> float:
    """The median; NaN of nothing."""
    return statistics.median(values) if values else float("nan")
