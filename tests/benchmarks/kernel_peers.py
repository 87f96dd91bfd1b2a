"""Our kernels beside public Triton kernels of the same operator, without a GPU: compiled for one chip, and counted.

    pip install --no-deps --target PEERS flash-linear-attention fla-core einops
    python tests/benchmarks/kernel_peers.py --peers PEERS

Both are called through their public functions on the same tensors. Nothing runs on a GPU and nothing is timed:

- *compiled* for sm_90: every launch is compiled as Triton would there. Of a peer's tuned configurations the one that
  spills least counts, and of those the one with the largest tiles, which moves the fewest bytes.
  Matrix instructions stand where they are, one turn of a loop: that is a tile, of all kernels of the call.
- *counted* by Triton's interpreter: bytes of every load and store as the programs ask for them (caches spare some on a
  chip, on either side), and multiply-adds of every matrix product.
"""

from __future__ import annotations

import argparse
import gc
import json
import os
import re
import subprocess
import sys
import types
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

CHIP = 90
LENGTH, HEADS = 512, 2
PRODUCT = r"\b(wgmma|mma)(?:\.mma_async)?\.sync\.aligned\.(m\d+n\d+k\d+)"


def stand_in() -> None:
    """Triton and PyTorch believe in one GPU, and nothing is launched on it."""
    os.environ["FLA_CACHE_RESULTS"] = "0"  # nor is a choice of an earlier run taken, which measured nothing
    import torch
    import triton
    from triton.backends.compiler import GPUTarget

    driver = types.SimpleNamespace(
        get_current_target=lambda: GPUTarget("cuda", CHIP, 32),
        get_current_device=lambda: 0,
        get_current_stream=lambda device=0: 0,
        get_active_torch_device=lambda: torch.device("cpu"),
        get_device_interface=lambda: torch.cuda,
        get_benchmarker=lambda: lambda call, **_: (call(), [1.0] * 3)[1],
        map_python_to_cpp_type=lambda kind: kind,
        utils=types.SimpleNamespace(get_device_properties=lambda _: {"max_shared_mem": 232_448}),
    )
    triton.runtime.driver.set_active(driver)
    torch.cuda.get_device_name = lambda *_: "sm_90"
    torch.cuda.get_device_capability = lambda *_: (CHIP // 10, CHIP % 10)
    properties = types.SimpleNamespace(major=CHIP // 10, minor=CHIP % 10, multi_processor_count=132, name="sm_90")
    torch.cuda.get_device_properties = lambda *_: properties


def cases(width: int, peers: Path) -> Iterator[tuple[str, str, Callable[[], Any]]]:
    """Operator, whose, and a call; bfloat16, [1, heads, tokens, width] (the peers want tokens before heads)."""
    import torch

    sys.path.append(str(peers))
    from attn.core.attention.blocks.runs_triton import runs_of
    from attn.core.attention.dense import Everything
    from attn.kernels import blocks, lightning

    def of_the_chip(kernel: str, q: torch.Tensor, _: torch.Tensor) -> Any:
        cuts = blocks.TILES[kernel, q.itemsize, width]
        return cuts.get("hopper", cuts[""])

    blocks._tiles = of_the_chip  # it would ask the tensors, which are of the CPU here
    generator = torch.Generator().manual_seed(0)
    q, k, v, grad = (torch.randn(1, HEADS, LENGTH, width, generator=generator).to(torch.bfloat16) for _ in range(4))
    kept = runs_of(Everything(512, 1024, LENGTH, LENGTH, True), q.device)
    lse, slope = torch.zeros(1, HEADS, LENGTH), torch.tensor([0.1, 0.2])
    state = torch.zeros(1, HEADS, width, width)

    def lightning_backward() -> None:
        lightning.sweep(grad, v, k, slope, state)
        lightning.sweep(v, grad, q, slope, state, True)
        lightning.sweep(k, q, grad, slope, state, True)

    yield "dense forward", "attn", lambda: blocks.forward(q, k, v, kept, 0.1)
    yield "dense backward", "attn", lambda: blocks.backward(q, k, v, grad, lse, grad, lse, kept, 0.1)
    yield "lightning forward", "attn", lambda: lightning.sweep(q, k, v, slope, state)
    yield "lightning backward", "attn", lightning_backward

    from fla.ops.attn import parallel
    from fla.ops.simple_gla import chunk

    a, b, c, d = (x.transpose(1, 2).contiguous() for x in (q, k, v, grad))
    decay, lse_c = -slope, torch.zeros(1, LENGTH, HEADS)

    yield "dense forward", "fla", lambda: parallel.parallel_attn_fwd(a, b, c, None, None, 0.1, None)
    yield "dense backward", "fla", lambda: parallel.parallel_attn_bwd(a, b, c, d, None, lse_c, d, None, 0.1, None)
    yield "lightning forward", "fla", lambda: chunk.chunk_simple_gla_fwd(a, b, c, g_gamma=decay, scale=1.0)
    yield "lightning backward", "fla", lambda: chunk.chunk_simple_gla_bwd(a, b, c, None, decay, None, d, None, 1.0)


def compiled(width: int, peers: Path) -> dict[str, Any]:
    """By operator and whose: what the compiler says of each kernel of the call, and the configurations it is for."""
    stand_in()
    from triton.runtime.autotuner import Autotuner
    from triton.runtime.jit import JITFunction

    from attn.kernels import aot, launch

    launch.CPU_TOO = True
    launched: list[tuple[str, dict[str, Any], Any]] = []
    run = JITFunction.run

    def compile_only(self: Any, *args: Any, grid: Any, warmup: bool, **options: Any) -> Any:
        binary = run(self, *args, grid=grid, warmup=True, **options)
        launched.append((self.__name__, options, binary))
        return binary

    JITFunction.run = compile_only
    found: dict[str, Any] = {}
    for operator, whose, call in cases(width, peers):
        launched.clear()
        for tuned_kernel in (x for x in gc.get_objects() if issubclass(type(x), Autotuner)):
            tuned_kernel.cache.clear()  # every configuration is compiled for every call
        call()
        kernels: dict[str, dict[str, Any]] = {}
        for name, options, binary in launched:
            registers, spilled = aot._nvidia_usage(binary.asm["ptx"], f"sm_{CHIP}")
            mix = aot.instruction_mix(binary.asm["ptx"], f"sm_{CHIP}")
            products = Counter(
                re.findall(r"\b(wgmma|mma)(?:\.mma_async)?\.sync\.aligned\.(m\d+n\d+k\d+)", binary.asm["ptx"])
            )
            tuned = {key: value for key, value in options.items() if re.fullmatch(r"B[A-Z]{1,2}|num_\w+", key)}
            size = 1
            for key, value in tuned.items():
                size *= value if key.startswith("B") and isinstance(value, int) else 1
            row = {
                "registers": registers, "spilled": spilled, "shared": binary.metadata.shared,
                "products": {" ".join(kind): count for kind, count in products.items()}, "load_128": mix["load_128"],
                "loads": mix["load_global"] + mix["copy_async"], "tuned": tuned,
            }  # fmt: skip
            rank = (spilled, -size)
            if name not in kernels or rank < kernels[name]["rank"]:
                kernels[name] = {**row, "rank": rank}
        found[f"{operator}/{whose}"] = kernels
    return found


def counted(width: int, peers: Path, chosen: dict[str, Any]) -> dict[str, Any]:
    """By operator and whose: bytes that the programs load and store, and multiply-adds of products."""
    stand_in()
    import numpy as np
    import triton.language as tl
    from triton.runtime import autotuner, interpreter

    total = {"read": 0, "written": 0, "multiply_adds": 0}
    builder = interpreter.InterpreterBuilder
    load, store, dot = builder.create_masked_load, builder.create_masked_store, builder.create_dot

    def size(pointers: Any, mask: Any) -> int:
        return int(mask.data.sum()) * pointers.get_element_ty().primitive_bitwidth // 8

    def counting_load(self: Any, pointers: Any, mask: Any, *rest: Any) -> Any:
        total["read"] += size(pointers, mask)
        return load(self, pointers, mask, *rest)

    def counting_store(self: Any, pointers: Any, value: Any, mask: Any, *rest: Any) -> Any:
        total["written"] += size(pointers, mask)
        return store(self, pointers, value, mask, *rest)

    def counting_dot(self: Any, a: Any, b: Any, d: Any, *rest: Any) -> Any:
        total["multiply_adds"] += a.data.size * b.data.shape[-1]
        return dot(self, a, b, d, *rest)

    builder.create_masked_load, builder.create_masked_store = counting_load, counting_store
    builder.create_dot = counting_dot

    def tensors(*ends: Any) -> Iterator[Any]:
        """``range`` of a compiled kernel: its numbers are tensors, which the interpreter forgets."""
        for i in range(*(int(getattr(end, "handle", end).data[0]) if hasattr(end, "handle") else end for end in ends)):
            yield tl.core.tensor(interpreter.TensorHandle(np.array([i], np.int32), tl.int32), tl.int32)

    configured = {name: row["tuned"] for kernels in chosen.values() for name, row in kernels.items()}

    def the_one(self: Any, *_: Any, **__: Any) -> list[Any]:
        wanted = configured[self.base_fn.__name__]
        return [c for c in self.configs if all(wanted.get(k, v) == v for k, v in c.all_kwargs().items())][:1]

    autotuner.Autotuner.prune_configs = the_one
    found = {}
    for operator, whose, call in cases(width, peers):
        for name, module in list(sys.modules.items()):
            if name.startswith("fla.ops"):
                module.range = tensors
        total.update(dict.fromkeys(total, 0))
        call()
        found[f"{operator}/{whose}"] = dict(total)
    return found


def table(width: int, made: dict[str, Any], moved: dict[str, Any]) -> list[dict[str, Any]]:
    """One row for an operator and whose it is."""
    rows = []
    for name, kernels in sorted(made.items()):
        operator, whose = name.split("/")
        every = list(kernels.values())
        kinds = sum((Counter(row["products"]) for row in every), Counter())
        products = ", ".join(f"{count} {kind}" for kind, count in sorted(kinds.items(), reverse=True))
        rows.append(
            {
                "operator": operator, "width": width, "whose": whose, "kernels": len(every),
                "registers": max(row["registers"] for row in every), "spilled": sum(row["spilled"] for row in every),
                "shared KiB": f"{max(row['shared'] for row in every) / 1024:.0f}",
                "matrix instructions a tile": products,
                "128-bit loads": f"{sum(r['load_128'] for r in every)} of {sum(r['loads'] for r in every)}",
                "MB read": f"{moved[name]['read'] / 1e6:.2f}", "MB written": f"{moved[name]['written'] / 1e6:.2f}",
                "million multiply-adds": f"{moved[name]['multiply_adds'] / 1e6:.0f}",
            }
        )  # fmt: skip
    return rows


def markdown(rows: list[dict[str, Any]]) -> str:
    lines = [list(rows[0]), ["---"] * len(rows[0]), *([str(cell) for cell in row.values()] for row in rows)]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--peers", type=Path, required=True)
    parser.add_argument("--width", type=int, nargs="*", default=[64, 128])
    parser.add_argument("--count", type=Path, help="of the counting process: what was compiled")
    given = parser.parse_args()
    if not (given.peers / "fla").is_dir():
        sys.exit(f"{given.peers} holds no package fla. Install it there: the first lines of this file say how.")
    if given.count:
        print(json.dumps(counted(given.width[0], given.peers, json.loads(given.count.read_text()))))
        return
    import tempfile

    rows = []
    for width in given.width:
        made = compiled(width, given.peers)
        with tempfile.TemporaryDirectory() as folder:
            (place := Path(folder) / "compiled.json").write_text(json.dumps(made))
            command = [sys.executable, __file__, "--peers", given.peers, "--width", str(width), "--count", place]
            done = subprocess.run(command, env={**os.environ, "TRITON_INTERPRET": "1"}, capture_output=True, text=True)
        if done.returncode:
            sys.exit(f"counting failed:\n{done.stderr[-3000:]}")
        rows += table(width, made, json.loads(done.stdout.splitlines()[-1]))
    print(markdown(rows))


if __name__ == "__main__":
    main()
