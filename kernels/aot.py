"""Compile registered kernels for chips that this machine does not have, and say whether they could run there.

Compiling succeeds even when the result spills its registers or wants more shared memory than a block may have; so
both are read back from the compiler and compared with the chip's limit. Needs no GPU, about half a second a variant.
The interpreter must be off in the process (PACKAGING.md, section 4).
"""

# mypy: disable-error-code="no-untyped-call"
from __future__ import annotations

import re
import subprocess
import tempfile
import time
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import triton
from triton.backends.compiler import GPUTarget
from triton.compiler import ASTSource
from triton.runtime.jit import JITFunction

from .chips import CHIPS, occupancy
from .registry import Kernel, Variant

TARGETS = tuple(CHIPS)

# One count per word of what matters for speed; static occurrences, not executions. PTX, then AMD assembly.
INSTRUCTIONS = {
    "mma": (r"\bmma\.sync", r"\bv_s?mfmac?_"),
    "wgmma": (r"\bwgmma\.mma_async", None),
    "tcgen05": (r"\btcgen05\.mma", None),
    "exp2": (r"\bex2\.", r"\bv_exp_f32"),
    "load_global": (r"\bld\.global", r"\b(?:global|buffer|flat)_load_"),
    "load_128": (  # of those and of the next: 128 bits a lane
        r"\bld\.global[\w.:]*\.v4\.[bfu]32|\bld\.global[\w.:]*\.v2\.[bfu]64|\bcp\.async\.cg[^;]*, 0x10\b",
        r"\b(?:global|buffer|flat)_load_dwordx4",
    ),
    "store_global": (r"\bst\.global", r"\b(?:global|buffer|flat)_store_"),
    "copy_async": (r"\bcp\.async\.c[ag]|\bcp\.async\.bulk", r"\b(?:global|buffer)_load_\w+[^\n]* lds\b"),
    "load_shared": (r"\bld\.shared|\bldmatrix", r"\bds_(?:read|load)"),
    "store_shared": (r"\bst\.shared|\bstmatrix", r"\bds_(?:write|store)"),
    "atomic": (r"\b(?:atom|red)\.(?:[\w:]+\.)*(?:add|and|or|xor|cas|exch|min|max|inc|dec)", r"\b\w+_atomic_"),
    "barrier": (r"\bbar\.sync|\bbarrier\.sync", r"\bs_barrier"),
}


@dataclass(frozen=True, slots=True)
class Compiled:
    """What the compiler made of one variant for one chip.

    Parameters
    ----------
    kernel, variant, target : str
    registers : int
        Per thread; on AMD vector registers (VGPR and AGPR together).
    spilled : int
        Bytes of spill stores and loads on NVIDIA, vector registers on AMD. Anything but 0 is a kernel to be changed.
    shared, limit : int
        Bytes of shared memory that a block uses and that it may use.
    occupancy : float
        Share of the chip's warps that can be resident; an upper bound.
    instructions : mapping of str to int
        Static occurrences in the assembly by the names of ``INSTRUCTIONS``.
    seconds : float
        Time to compile, or to find the result in Triton's cache.
    """

    kernel: str
    variant: str
    target: str
    registers: int
    spilled: int
    shared: int
    limit: int
    occupancy: float
    instructions: Mapping[str, int]
    seconds: float

    @property
    def fits(self) -> bool:
        """Whether it can run at full speed: no spills, and no more shared memory than there is."""
        return self.spilled == 0 and self.shared <= self.limit

    def row(self) -> dict[str, str | int | float | bool]:
        """The result as one flat row of a table, instructions included, under stable lower-case names."""
        return {
            "kernel": self.kernel,
            "variant": self.variant,
            "target": self.target,
            "registers": self.registers,
            "spilled": self.spilled,
            "shared_bytes": self.shared,
            "shared_limit_bytes": self.limit,
            "occupancy": round(self.occupancy, 3),
            **self.instructions,
            "fits": self.fits,
            "seconds": round(self.seconds, 2),
        }


def compile_kernel(kernel: Kernel, variant: Variant | str, target: str) -> Compiled:
    """Compile one variant of a registered kernel for one chip.

    Parameters
    ----------
    kernel : Kernel
        From ``registry.kernels()``.
    variant : Variant or str
        The variant, or its label.
    target : str
        One of ``TARGETS``: ``"sm_90"``, ``"gfx942"``, …

    Returns
    -------
    Compiled

    Raises
    ------
    ValueError
        For an unknown target or label, or when types and constants do not cover the kernel's arguments exactly.
    RuntimeError
        Where the interpreter has replaced the kernel, or where the compiler rejects it.
    """
    if target not in CHIPS:
        raise ValueError(f"no compile target {target!r}. Known: {', '.join(TARGETS)}.")
    if isinstance(variant, str):
        variant = kernel.variant(variant)
    if not isinstance(kernel.function, JITFunction):
        raise RuntimeError(f"kernel {kernel.name} is interpreted: unset TRITON_INTERPRET and start a new process.")
    start = time.perf_counter()
    options = {"num_warps": variant.num_warps, "num_stages": variant.num_stages, **(variant.options or {})}
    binary = triton.compile(_source(kernel, variant), target=_gpu(target), options=options)
    assembly: str = binary.asm["ptx" if target.startswith("sm_") else "amdgcn"]
    registers, spilled = _nvidia_usage(assembly, target) if target.startswith("sm_") else _amd_usage(assembly)
    return Compiled(
        kernel=kernel.name,
        variant=variant.label,
        target=target,
        registers=registers,
        spilled=spilled,
        shared=binary.metadata.shared,
        limit=CHIPS[target].block_shared,
        occupancy=occupancy(target, registers, binary.metadata.shared, variant.num_warps),
        instructions=instruction_mix(assembly, target),
        seconds=time.perf_counter() - start,
    )


def rows(kernels: Iterable[Kernel], targets: Iterable[str]) -> list[dict[str, str | int | float | bool]]:
    """Compile every variant that is meant for each target; one table row each. See ``Compiled.row``."""
    wanted = list(targets)
    return [
        compile_kernel(kernel, variant, target).row()
        for kernel in kernels
        for variant in kernel.variants
        for target in wanted
        if variant.is_for(target)
    ]


def instruction_mix(assembly: str, target: str) -> dict[str, int]:
    """How often each kind of ``INSTRUCTIONS`` stands in PTX (``target`` "sm_…") or AMD assembly; a loop counts once."""
    column = 0 if target.startswith("sm_") else 1
    patterns = {name: pair[column] for name, pair in INSTRUCTIONS.items()}
    return {name: len(re.findall(pattern, assembly)) if pattern else 0 for name, pattern in patterns.items()}


def _gpu(target: str) -> Any:
    """Triton's name of the chip."""
    return GPUTarget("cuda", int(target[3:]), 32) if target.startswith("sm_") else GPUTarget("hip", target, 64)


def _source(kernel: Kernel, variant: Variant) -> Any:
    """The kernel with its argument types, as the launcher would specialise it."""
    names: list[str] = kernel.function.arg_names
    given = {**variant.types, **variant.constants}
    if set(given) != set(names) or len(given) != len(variant.types) + len(variant.constants):
        raise ValueError(
            f"kernel {kernel.name}, variant {variant.label}: types and constants must name each argument once. "
            f"Missing {sorted(set(names) - set(given))}, unknown {sorted(set(given) - set(names))}."
        )
    types = {name: variant.types[name].partition(":") if name in variant.types else None for name in names}
    return ASTSource(
        kernel.function,
        signature={name: parts[0] if parts else "constexpr" for name, parts in types.items()},
        constexprs={(names.index(name),): value for name, value in variant.constants.items()},
        attrs={
            (names.index(name),): [["tt.divisibility", int(parts[2])]]
            for name, parts in types.items()
            if parts and parts[2]
        },
    )


def _nvidia_usage(ptx: str, target: str) -> tuple[int, int]:
    """Registers per thread and spilled bytes, from the assembler that Triton itself uses for the chip."""
    from triton.backends.nvidia.compiler import get_ptxas  # absent in builds without the NVIDIA backend

    chip = re.search(r"\.target (\w+)", ptx)
    if chip is None:
        raise RuntimeError(f"the PTX for {target} names no chip")
    with tempfile.TemporaryDirectory() as folder:
        (Path(folder) / "kernel.ptx").write_text(ptx)
        command = [get_ptxas(int(target[3:])).path, "-v", f"--gpu-name={chip[1]}", "kernel.ptx", "-o", "kernel.cubin"]
        done = subprocess.run(command, cwd=folder, capture_output=True, text=True)
    registers = re.search(r"Used (\d+) registers", done.stderr)
    spills = re.findall(r"(\d+) bytes spill (?:stores|loads)", done.stderr)
    if done.returncode or registers is None or not spills:
        raise RuntimeError(f"ptxas for {target} failed or reported no usage:\n{done.stderr}")
    return int(registers[1]), sum(map(int, spills))


def _amd_usage(assembly: str) -> tuple[int, int]:
    """Vector registers per lane and how many of them were spilled, from the code object's metadata."""
    found = {key: re.search(rf"\.{key}:\s+(\d+)", assembly) for key in ("vgpr_count", "vgpr_spill_count")}
    numbers = [int(match[1]) for match in found.values() if match]
    if len(numbers) != 2:
        raise RuntimeError("the AMD assembly holds no register counts")
    return numbers[0], numbers[1]
