"""Times the tiles that kernels' tables name, on the GPU at hand, and says which are the fastest.

    python tests/gpu/tune.py --device cuda --seconds 60 --out tune

For each line of a table ``TILES``: every cut that the table names for the same kernel, whatever the chip or dtype it
was named for. A cut that does not compile or does not fit is a row that says so. Writes OUT.json; the fastest of a line
is what the table should hold. Tables of the form of ``blocks.TILES`` are found through the registry of kernels.
"""

from __future__ import annotations

import argparse
import importlib
import json
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import torch

from attn.core.attention.blocks.runs_triton import runs_of
from attn.core.attention.dense import Everything
from attn.kernels import blocks, halo, hip, registry

DTYPES = {2: torch.bfloat16, 4: torch.float32}


def call_of_blocks(kernel: str, itemsize: int, width: int, length: int, device: torch.device) -> Callable[[], Any]:
    """Causal attention of 8 heads (2 of keys) over all keys; ``q`` and ``kv`` are timed in the whole backward pass."""
    heads, kv_heads = (8, 2) if device.type == "cuda" else (2, 1)
    generator = torch.Generator(device).manual_seed(0)
    shapes = (heads, length, width), (kv_heads, length, width), (kv_heads, length, width), (heads, length, width)
    q, k, v, grad = (
        torch.randn(1, *shape, device=device, generator=generator).to(DTYPES[itemsize]) for shape in shapes
    )
    kept = runs_of(Everything(512, 1024, length, length, True), device)
    if kernel == "forward":
        return lambda: blocks.forward(q, k, v, kept, width**-0.5)
    out, lse = blocks.forward(q, k, v, kept, width**-0.5)
    nothing = torch.zeros_like(lse)
    return lambda: blocks.backward(q, k, v, out, lse, grad, nothing, kept, width**-0.5)


def call_of_halo(kernel: str, itemsize: int, width: int, length: int, device: torch.device) -> Callable[[], Any]:
    """Blocks of 8 x 8 with a halo of 3 and position terms on a square map of about ``length`` cells, 8 heads."""
    heads, side = (8, round(length**0.5 / 8) * 8) if device.type == "cuda" else (1, 8)
    generator, number, win = torch.Generator(device).manual_seed(0), side // 8, 14

    def drawn(*shape: int) -> torch.Tensor:
        return torch.randn(*shape, device=device, generator=generator).to(DTYPES[itemsize])

    q, grad = (drawn(heads * number**2, 64, width) for _ in range(2))
    k, v = (drawn(heads, side + 6, side + 6, width) for _ in range(2))
    terms = [drawn(len(q), 64, win) for _ in range(2)]
    rest = [number, number, 8, 3, side, side, win], width**-0.5, False
    if kernel == "forward":
        return lambda: halo.attend(q, k, v, *terms, *rest)
    out, lse = halo.attend(q, k, v, *terms, *rest)
    delta = (grad.float() * out.float()).sum(-1)
    return lambda: halo._attend_gradient(q, k, v, *terms, grad, lse, delta, *rest)


def call_of_hip(kernel: str, itemsize: int, width: int, length: int, device: torch.device) -> Callable[[], Any]:
    """Blocks of 64 queries over 256 keys in units of 8, a sink and a window; units are drawn, 8 heads (2 of keys)."""
    heads, kv_heads = (8, 2) if device.type == "cuda" else (1, 1)
    generator, blocks_of, units = torch.Generator(device).manual_seed(0), -(-length // 64), min(32, length // 8)
    q, k, v = (
        torch.randn(1, count, length, width, device=device, generator=generator).to(DTYPES[itemsize])
        for count in (heads, kv_heads, kv_heads)
    )
    drawn = torch.rand(1, heads, blocks_of, length // 8, device=device, generator=generator)
    starts = 8 * drawn.argsort(-1)[..., :units].sort(-1).values.int()
    count = torch.full((blocks_of,), units, device=device)
    return lambda: hip.attend(q, k, v, starts, count, width**-0.5, 32, 128, 8, 64, 0)


CALLS = {"blocks": call_of_blocks, "halo": call_of_halo, "hip": call_of_hip}
"""By file of kernels: (key of its TILES..., length, device) -> what to time. A file without one is under ``left``."""


def tables() -> Iterator[tuple[str, Any]]:
    """The files of kernels that have a table of tiles."""
    for name in registry.MODULES:
        module = importlib.import_module(f"attn.kernels.{name}")
        if hasattr(module, "TILES"):
            yield name, module


def candidates(table: dict[Any, dict[str, Any]], kernel: str) -> list[Any]:
    """Every cut that the table names for ``kernel``, once."""
    return list(dict.fromkeys(cut for key, cuts in table.items() if key[0] == kernel for cut in cuts.values()))


def milliseconds(call: Callable[[], Any], device: torch.device) -> float:
    """Median of a few runs."""
    if device.type == "cuda":
        from triton.testing import do_bench

        return float(do_bench(call, warmup=20, rep=60, return_mode="median"))
    start = time.perf_counter()
    call()
    return 1e3 * (time.perf_counter() - start)


def tune(device: torch.device, seconds: float, length: int, most: int | None = None) -> dict[str, Any]:
    """Times of all cuts; lines not reached within ``seconds`` are named under ``left``."""
    until = time.monotonic() + seconds
    rows, left = [], []
    for name, module in tables():
        for key in list(module.TILES)[:most]:
            line = f"{name} {' '.join(map(str, key))}"
            if name not in CALLS or time.monotonic() > until:
                left.append(line)
                continue
            named = module.TILES[key]
            measured = []
            try:
                for cut in candidates(module.TILES, key[0])[:most]:
                    module.TILES[key] = {"": cut}
                    row = {"table": line, "cut": str(cut), "named_for": [f or "all" for f in named if named[f] == cut]}
                    try:
                        call = CALLS[name](*key, length, device)
                        call()
                        row["measured_ms"] = milliseconds(call, device)
                        measured.append(row)
                    except Exception as error:  # too much shared memory, registers, or no such layout
                        row |= {"measured_ms": None, "why": f"{type(error).__name__}: {error}".split("\n")[0]}
                    rows.append(row)
            finally:
                module.TILES[key] = named
            if measured:
                min(measured, key=lambda row: row["measured_ms"])["fastest"] = True
    where = torch.cuda.get_device_name(device) if device.type == "cuda" else "CPU, Triton's interpreter: no real times"
    return {"device": where, "length": length, "rows": rows, "left": left}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--device", default="cuda")
    parser.add_argument("--seconds", type=float, default=60.0)
    parser.add_argument("--length", type=int, default=8192)
    parser.add_argument("--toy", action="store_true", help="32 tokens, two lines, two cuts")
    parser.add_argument("--out", type=Path, default=Path("tune"))
    given = parser.parse_args()
    length, most = (32, 2) if given.toy else (given.length, None)
    found = tune(torch.device(given.device), given.seconds, length, most)
    given.out.with_suffix(".json").write_text(json.dumps(found, indent=1) + "\n")
    for row in found["rows"]:
        print(row)
    print("left:", ", ".join(found["left"]) or "nothing")


if __name__ == "__main__":
    main()
