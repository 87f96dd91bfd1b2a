"""Peak memory of one call, measured in a child process that runs nothing else.

tracemalloc does not see tensors, and a process that has run other operators keeps freed memory: so a fresh child loads
the inputs, resets the system's high-water mark and makes the one call (methods/attention-bench.md, section 6).
"""

from __future__ import annotations

import contextlib
import json
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

TIMEOUT = 300.0  # s
_CLEAR = Path("/proc/self/clear_refs")  # writing 5 resets the high-water mark


def resident(field: str) -> int:
    """Bytes of ``VmRSS`` (now) or ``VmHWM`` (highest) of this process. Raises ``OSError`` without /proc."""
    for line in Path("/proc/self/status").read_text().splitlines():
        if line.startswith(f"{field}:"):
            return int(line.split()[1]) * 1024
    raise OSError(f"no {field} in /proc/self/status")


def peaks(
    q: Tensor, k: Tensor, v: Tensor, calls: Mapping[str, tuple[str, Mapping[str, Any]]], threads: int
) -> Iterator[tuple[str, float]]:
    """Peak memory of each call above what was there before it: its output and everything it allocates meanwhile.

    Parameters
    ----------
    q, k, v : Tensor
    calls : mapping of label to (operator name, keyword arguments)
        Arguments must be plain values: they travel to the child as JSON.
    threads : int
        CPU threads of the child.

    Yields
    ------
    label, bytes
        One call after the other, so that the caller may stop. NaN where a call failed or was killed for memory. Nothing
        where the system cannot tell (no /proc).
    """
    if not calls or not _CLEAR.exists():
        return
    with tempfile.TemporaryDirectory(prefix="attn-bench-") as folder:
        path = Path(folder) / "qkv.pt"
        torch.save((q, k, v), path)
        for label, (name, arguments) in calls.items():
            job = json.dumps({"path": str(path), "name": name, "arguments": arguments, "threads": threads})
            try:
                done = subprocess.run(
                    [sys.executable, "-m", __name__], input=job, capture_output=True, text=True, timeout=TIMEOUT,
                    check=False,
                )  # fmt: skip
                ok = done.returncode == 0
            except subprocess.TimeoutExpired:
                ok = False
            yield label, float(done.stdout.strip().splitlines()[-1]) if ok else float("nan")


def watched(call: Callable[[], Any], metrics: dict[str, float]) -> Callable[[], Any]:
    """``call``, with its peak memory put into ``metrics["peak_bytes"]``; for calls too slow to repeat in a child.

    Memory that this process freed but kept may be used again unseen, so the figure is a lower bound; it is never below
    the result's own bytes.
    """

    def run() -> Any:
        with contextlib.suppress(OSError):
            _CLEAR.write_text("5")
            before = resident("VmRSS")
        result = call()
        with contextlib.suppress(OSError):
            made = result.nbytes if isinstance(result, Tensor) else 0
            metrics["peak_bytes"] = float(max(made, resident("VmHWM") - before))
        return result

    return run


def _child() -> None:
    """Read one job on stdin, print the bytes."""
    job = json.load(sys.stdin)
    torch.set_num_threads(job["threads"])
    q, k, v = torch.load(job["path"])
    from . import candidates

    arguments = candidates.from_plain(job["arguments"])
    call = candidates.call(job["name"])
    candidates.warm(call, q, k, v, arguments)  # compiled kernels and thread stacks are not the call's memory
    before = resident("VmRSS")
    _CLEAR.write_text("5")
    out = call(q, k, v, **arguments)
    print(max(0, resident("VmHWM") - before), flush=True)
    del out


if __name__ == "__main__":
    _child()
