"""`attn bench --kernels`: every registered Triton kernel, compiled for chips that this machine need not have.

Registers, spills, shared memory, occupancy and instructions are the compiler's. A time is none that was measured: it is
the operator's stated work at the chips' published ceilings, called ``predicted``, and stands beside no measured one.
"""

from __future__ import annotations

import importlib.util
import os
import time
from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

import attn

from ...kernels.chips import CHIPS
from ...kernels.registry import Kernel, Variant, kernels
from ..attention.contract import Cost, Shape
from ..attention.registry import OPERATORS
from ..options import OptionError
from ..progress import Bars, Watcher
from ..report.model import Item, Report, summarise
from ..report.sections import Table
from ..sizes import show_size
from .terminal import significant

LENGTH, HEADS, KV_HEADS = 32_768, 32, 8
PREDICTED = (
    "Nothing here was run: predicted_ms is the stated work at the chip's published ceilings (products or memory, "
    "whichever takes longer), which no kernel reaches. Compare it with no measured time."
)


class Work(NamedTuple):
    """Work that a time is predicted for: what it is in words, operations and bytes of one launch."""

    words: str
    flops: float
    bytes: float
    itemsize: int


def _work_of(operator: str, factor: float, more_heads: int = 0) -> Callable[[Variant], Work]:
    """The cost of a call of ``operator`` at the variant's head width; a kernel does ``factor`` of its products.

    Every tensor is moved once; ``more_heads`` of a tensor of q's length are moved beside q, k, v and the output.
    """

    def stated(variant: Variant) -> Work:
        width, causal = variant.constants["width"], variant.constants.get("causal", True)
        itemsize = 4 if "*fp32:16" in {variant.types.get("q_ptr"), variant.types.get("k_ptr")} else 2
        shape = Shape(1, HEADS, KV_HEADS, LENGTH, LENGTH, width, width, causal, itemsize)
        cost: Cost = OPERATORS[operator].resolve().cost(shape)
        words = f"{operator}, 1 x {HEADS} heads ({KV_HEADS} of keys) x {show_size(LENGTH)} x {width}"
        moved = cost.bytes + more_heads * LENGTH * width * itemsize
        return Work(words + ", causal" * causal, factor * cost.flops, moved, itemsize)

    return stated


WORK: dict[str, Callable[[Variant], Work]] = {
    "blocks_forward": _work_of("dense", 1.0),  # q kᵀ and p v
    "blocks_backward_q": _work_of("dense", 1.5, HEADS),  # q kᵀ, dO vᵀ, dS k; the gradient of q
    "blocks_backward_kv": _work_of("dense", 2.0, 2 * KV_HEADS),  # k qᵀ, v dOᵀ, pᵀ dO, dSᵀ q; those of k and v
}
"""Kernels whose work an operator's cost states, by name. Any other has no predicted time."""


def check_compiler() -> None:
    """Raise ``OptionError`` where kernels cannot be compiled."""
    if importlib.util.find_spec("triton") is None:
        raise OptionError("{kernels} needs the package triton (Linux): pip install triton.")
    if os.environ.get("TRITON_INTERPRET", "0").lower() in ("1", "true", "on", "yes", "y"):
        raise OptionError("{kernels} compiles, and TRITON_INTERPRET is set: unset it.")


def run(
    targets: Sequence[str], *, watcher: Watcher | None = None, arguments: Mapping[str, Any] | None = None
) -> Report:
    """Compile every variant of every kernel for each of ``targets``; one item each.

    Raises
    ------
    OptionError
        Where triton is missing, or its interpreter stands in for the compiler.
    """
    check_compiler()
    started = time.monotonic()
    watcher = watcher or Bars()
    jobs = [
        (kernel, variant, target)
        for kernel in kernels().values()
        for variant in kernel.variants
        for target in targets
        if variant.is_for(target)
    ]
    items: list[Item] = []
    left: list[str] = []
    try:
        for done, (kernel, variant, target) in enumerate(jobs):
            watcher.step(_name(kernel, variant, target), done, len(jobs))
            items.append(_item(kernel, variant, target))
            watcher.item(items[-1], done + 1, len(jobs))
    except KeyboardInterrupt:
        left = [_name(*job) for job in jobs[len(items) :]]
    counts = {name: value for name, value in summarise(items).items() if not name.startswith("mean_")}
    chips = [{"target": name, **_published(name)} for name in targets]
    return Report(
        "bench", attn.__version__, dict(arguments or {}), "none: compiled ahead of time", time.monotonic() - started,
        tuple(items), counts, notices=(PREDICTED,), sections=(Table("ceilings", chips, title="published ceilings"),),
        left=tuple(left) or None, gate=True, overview=[_columns(item) for item in items],
    )  # fmt: skip


def _name(kernel: Kernel, variant: Variant, target: str) -> str:
    return f"{kernel.name} {variant.label} @ {target}"


def _published(target: str) -> dict[str, Any]:
    chip = CHIPS[target]
    return {
        "product": chip.product, "matrix_tflops": chip.matrix_tflops, "fp32_tflops": chip.fp32_tflops,
        "bandwidth_gbs": chip.bandwidth_gbs, "shared_limit_bytes": chip.block_shared,
    }  # fmt: skip


def _item(kernel: Kernel, variant: Variant, target: str) -> Item:
    """One compiled variant; failed where it could not run at full speed, or does not compile."""
    from ...kernels import aot

    name, details = _name(kernel, variant, target), {"kernel": kernel.name, "variant": variant.label, "target": target}
    try:
        made = aot.compile_kernel(kernel, variant, target)
    except Exception as error:  # of the compiler, which has no class of its own for all it may find
        return Item(name, None, "failed", 0.0, error=f"does not compile: {error}".split("\n")[0], details=details)
    row = made.row()
    metrics = {key: float(value) for key, value in row.items() if key not in {*details, "fits", "seconds"}}
    work = WORK[kernel.name](variant) if kernel.name in WORK else None
    if work is not None:
        chip = CHIPS[target]
        needed = max(work.flops / chip.ceiling(work.itemsize), work.bytes / (1e9 * chip.bandwidth_gbs))
        metrics |= {"intensity": work.flops / work.bytes, "predicted_ms": 1e3 * needed}
    fault = f"spills {made.spilled}" if made.spilled else f"wants {made.shared} of {made.limit} bytes of shared memory"
    return Item(
        name, None, "ok" if made.fits else "failed", made.seconds, error=None if made.fits else fault, metrics=metrics,
        details={**details, "warps": variant.num_warps, "stages": variant.num_stages, "work": work and work.words},
    )  # fmt: skip


def _columns(item: Item) -> dict[str, Any]:
    """What a terminal shows of an item."""
    m = item.metrics
    if not m:
        return {"kernel": item.input, "status": item.status}
    products = sum(m[unit] for unit in ("mma", "wgmma", "tcgen05"))
    return {
        "kernel": item.input,
        "registers": f"{m['registers']:.0f}",
        "spilled": f"{m['spilled']:.0f}",
        "shared KiB": significant(m["shared_bytes"] / 1024),
        "occupancy": f"{100 * m['occupancy']:.0f}%",
        "products": f"{products:.0f}",
        "loads": f"{m['load_global'] + m['copy_async']:.0f}",
        "of 128 bits": f"{m['load_128']:.0f}",
        "flop/byte": significant(m.get("intensity")),
        "predicted ms": significant(m.get("predicted_ms")),
        "status": item.status,
    }
