"""Every operator against PyTorch's attention on the kinds of processor that this one can be, as a Markdown table.

python tests/benchmarks/processors.py [--seq 32k] [--dim 128] [--runs 2] [OPERATOR ...]

One thread, CPU time, interleaved runs, the best of each: load on the machine changes the times, not the ratios. Each
kind is a process of its own: the processor as it is; with the environment that takes AVX-512 from PyTorch and oneDNN;
and, in bfloat16, as if it had AMX: the formulations of such a processor by the products of this one. What is lost there
is lost by gathering and masks, and weighs more where the products are faster: that column is no figure of AMX.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import time
from collections.abc import Callable
from contextlib import nullcontext
from dataclasses import replace
from typing import Any

LIMITS = {"ATEN_CPU_CAPABILITY": "avx2", "ONEDNN_MAX_CPU_ISA": "AVX2"}
KINDS: dict[str, tuple[dict[str, str], str]] = {
    "as it is, float32": ({}, "float32"),
    "as it is, bfloat16": ({}, "bfloat16"),
    "AVX2, float32": (LIMITS, "float32"),
    "AVX2, bfloat16": (LIMITS, "bfloat16"),
    "as with AMX, bfloat16": ({}, "bfloat16"),
}
OPERATORS = ("dense", "hip", "superlinear", "flux", "blocktopk", "window+sink", "lightning", "hisa", "dsa")
EXACT = ("sdpa", "dense")


def measure(kind: str, seq: int, dim: int, runs: int, operators: list[str]) -> dict[str, Any]:
    """Run in the child: seconds of each operator, the errors of the exact ones, and what the processor is."""
    import torch

    from attn.core.attention import attention
    from attn.core.attention.dense import sdpa
    from attn.core.bench import accuracy
    from attn.core.bench.inputs import generate
    from attn.core.cpu import cpu, cpu_as

    torch.set_num_threads(1)
    made = generate("lowrank", num_heads=1, len_q=seq, head_dim=dim, dtype=getattr(torch, KINDS[kind][1]))
    q, k, v = made.q, made.k, made.v
    calls: dict[str, Callable[[], torch.Tensor]] = {"sdpa": lambda: sdpa(q, k, v, causal=True)}
    for name in operators:
        calls[name] = lambda name=name: attention(name, q, k, v, causal=True)  # type: ignore[misc]
    other = cpu_as(replace(cpu(), amx_bf16=True)) if "with AMX" in kind else nullcontext()
    seconds: dict[str, float] = dict.fromkeys(calls, float("inf"))
    outputs = {}
    rows = accuracy.sample_rows(seq, 64, 0)
    with other, torch.no_grad():
        short = [x[:, :, :4096] for x in (q, k, v)]
        for name in operators:
            attention(name, *short, causal=True)  # compiles
        for _ in range(runs):
            for name, call in calls.items():
                start = time.process_time()
                out = call()
                seconds[name] = min(seconds[name], time.process_time() - start)
                outputs[name] = out[:, :, rows]
    figures = accuracy.measure(
        q, k, v, rows, {name: outputs[name] for name in EXACT if name in outputs}, {}, causal=True, scale=dim**-0.5,
        truths={},
    )  # fmt: skip
    errors = {name: figure["relative_error"] for name, figure in figures.items()}
    return {"seconds": seconds, "errors": errors, "name": cpu().name, "flags": " ".join(cpu().flags)}


def main() -> None:
    from attn.core.sizes import parse_size

    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("operators", nargs="*", default=list(OPERATORS))
    parser.add_argument("--seq", type=parse_size, default=32768)
    parser.add_argument("--dim", type=int, default=128)
    parser.add_argument("--runs", type=int, default=2)
    parser.add_argument("--child", choices=KINDS, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.child:
        found = measure(options.child, options.seq, options.dim, options.runs, options.operators)
        print(json.dumps(found))
        return
    results = {}
    for kind, (environment, _) in KINDS.items():
        command = [sys.executable, __file__, *sys.argv[1:], "--child", kind]
        done = subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True, env={**os.environ, **environment})
        results[kind] = json.loads(done.stdout)
    pairs = options.seq * (options.seq + 1) / 2
    print(f"{next(iter(results.values()))['name']}, {options.seq} tokens, D {options.dim}\n")
    print("| | " + " | ".join(results) + " |\n|---|" + "---|" * len(results))
    cells = {kind: f"{4 * options.dim * pairs / found['seconds']['sdpa'] / 1e9:.0f}" for kind, found in results.items()}
    print("| `sdpa`, GFLOP/s | " + " | ".join(cells.values()) + " |")
    for name in options.operators:
        ratios = [f"{found['seconds']['sdpa'] / found['seconds'][name]:.2f}" for found in results.values()]
        print(f"| `{name}`, × `sdpa` | " + " | ".join(ratios) + " |")
    for name in [name for name in EXACT if name in ("sdpa", *options.operators)]:
        print(f"| `{name}`, error | " + " | ".join(f"{found['errors'][name]:.1e}" for found in results.values()) + " |")
    print("| flags | " + " | ".join(found["flags"] for found in results.values()) + " |")


if __name__ == "__main__":
    main()
