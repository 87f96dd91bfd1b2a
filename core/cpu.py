"""What this processor can do, as far as torch and oneDNN may use it now: the one place that asks.

Formulations choose by it ("which product, which engine"), reports print it. ``cpu_as`` puts another processor in its
place, so that every path can be tested on any machine.
"""

from __future__ import annotations

import contextlib
import functools
import os
import platform
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

_VARIABLES = ("ONEDNN_MAX_CPU_ISA", "DNNL_MAX_CPU_ISA")
# oneDNN's names (its page "CPU dispatcher control"), each with what it may use; ascending, as its own comparison is.
_ISAS: Mapping[str, frozenset[str]] = {
    "SSE41": frozenset(),
    "AVX": frozenset(),
    "AVX2": frozenset({"avx2"}),
    "AVX2_VNNI": frozenset({"avx2"}),
    "AVX2_VNNI_2": frozenset({"avx2"}),
    "AVX512_CORE": frozenset({"avx2", "avx512"}),
    "AVX512_CORE_VNNI": frozenset({"avx2", "avx512"}),
    "AVX512_CORE_BF16": frozenset({"avx2", "avx512", "avx512_bf16"}),
    "AVX512_CORE_FP16": frozenset({"avx2", "avx512", "avx512_bf16"}),
    "AVX10_1_512": frozenset({"avx2", "avx512", "avx512_bf16"}),
    "AVX512_CORE_AMX": frozenset({"avx2", "avx512", "avx512_bf16", "amx_bf16"}),
    "AVX10_1_512_AMX": frozenset({"avx2", "avx512", "avx512_bf16", "amx_bf16"}),
    "AVX512_CORE_AMX_FP16": frozenset({"avx2", "avx512", "avx512_bf16", "amx_bf16", "amx_fp16"}),
    "AVX10_1_512_AMX_FP16": frozenset({"avx2", "avx512", "avx512_bf16", "amx_bf16", "amx_fp16"}),
}
_MKL_WITH_AMX = ("AVX512_E4", "AVX512_E5")  # its names for processors with AMX: Sapphire Rapids, Granite Rapids


@dataclass(frozen=True)
class Cpu:
    """A processor, and what of it may be used now.

    Parameters
    ----------
    name, vendor : str
        As the system prints them: "AMD EPYC", "AuthenticAMD"; the empty string where it does not tell.
    torch_capability : str
        What PyTorch's own kernels are compiled for, of those that ran: "AVX512", "AVX2", "DEFAULT", ...
        (``ATEN_CPU_CAPABILITY`` lowers it).
    onednn_isa : str
        The limit that ``ONEDNN_MAX_CPU_ISA`` sets for oneDNN, which computes the products; "ALL" without one.
    avx2, avx512, avx512_bf16, amx_bf16, amx_fp16 : bool
        What the processor has and oneDNN may use.
    mkl_amx : bool
        Whether MKL, which computes what PyTorch's attention does not pack, multiplies bfloat16 by AMX: on Intel's
        processors that have it, unless ``MKL_ENABLE_INSTRUCTIONS`` says otherwise. No limit of oneDNN's holds for it.
    l2_bytes : int or None
        Second-level cache of a core; None where nothing tells.
    """

    name: str
    vendor: str
    torch_capability: str
    onednn_isa: str = "ALL"
    avx2: bool = False
    avx512: bool = False
    avx512_bf16: bool = False
    amx_bf16: bool = False
    amx_fp16: bool = False
    mkl_amx: bool = False
    l2_bytes: int | None = None

    @property
    def intel(self) -> bool:
        """Whether MKL takes its best instructions: on other processors it stays with AVX2."""
        return "Intel" in self.vendor or "Intel" in self.name

    @property
    def flags(self) -> tuple[str, ...]:
        """For reports: what may be used, and after it what the environment limits."""
        names = ("avx2", "avx512", "avx512_bf16", "amx_bf16", "amx_fp16", "mkl_amx")
        limit = () if self.onednn_isa == "ALL" else (f"oneDNN<={self.onednn_isa}",)
        return (*(name for name in names if getattr(self, name)), *limit, f"torch={self.torch_capability}")


_instead: list[Cpu] = []


def cpu() -> Cpu:
    """This processor, asked once."""
    return _instead[-1] if _instead else _detected()


@contextlib.contextmanager
def cpu_as(other: Cpu) -> Iterator[None]:
    """Let ``cpu`` return ``other`` within, in all threads: formulations are chosen as on that processor."""
    _instead.append(other)
    try:
        yield
    finally:
        _instead.pop()


@functools.cache
def _detected() -> Cpu:
    import torch

    has = _capabilities()
    limit = next((os.environ[name] for name in _VARIABLES if os.environ.get(name)), "ALL").upper()
    allowed = _ISAS.get(limit)  # oneDNN ignores a word it does not know
    usable = {name for name, here in has.items() if here and (allowed is None or name in allowed)}
    name = _first_of_cpuinfo("model name") or platform.processor() or platform.machine()
    vendor = _first_of_cpuinfo("vendor_id") or platform.processor()
    for_mkl = os.environ.get("MKL_ENABLE_INSTRUCTIONS", _MKL_WITH_AMX[0]).upper() in _MKL_WITH_AMX
    return Cpu(
        name=name,
        vendor=vendor,
        torch_capability=torch.backends.cpu.get_cpu_capability(),
        onednn_isa="ALL" if allowed is None else limit,
        mkl_amx=has["amx_bf16"] and for_mkl and torch._C.has_mkl and "Intel" in vendor + name,
        l2_bytes=_l2_bytes(),
        **{name: name in usable for name in has},
    )


def _capabilities() -> dict[str, bool]:
    """What the processor has, by torch's answers; AMX only where the system lets this process use its registers."""
    import torch

    own: Any = torch.cpu
    amx = own._is_amx_tile_supported() and own._init_amx()
    return {
        "avx2": own._is_avx2_supported(),
        "avx512": own._is_avx512_supported(),
        "avx512_bf16": own._is_avx512_bf16_supported(),
        "amx_bf16": amx,
        "amx_fp16": amx and own._is_amx_fp16_supported(),
    }


def _l2_bytes() -> int | None:
    import torch

    capabilities: Callable[[], Mapping[str, Any]] | None = getattr(torch.cpu, "get_capabilities", None)
    answer = capabilities().get("l2_cache_size") if capabilities else None  # versions of torch before it have none
    return int(answer) if answer else None


def _first_of_cpuinfo(key: str) -> str:
    """The value of the first line ``key`` of /proc/cpuinfo, "" where there is none."""
    try:
        for line in Path("/proc/cpuinfo").read_text().splitlines():
            if line.startswith(key):
                return line.split(":", 1)[1].strip()
    except OSError:
        pass
    return ""
