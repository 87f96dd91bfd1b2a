"""Processors that this machine may not be: with ``cpu_as`` every formulation runs on any machine."""

from __future__ import annotations

from attn.core.cpu import Cpu

AMD = Cpu("EPYC", "AuthenticAMD", "AVX512", avx2=True, avx512=True, avx512_bf16=True)
AVX2 = Cpu("EPYC", "AuthenticAMD", "AVX2", "AVX2", avx2=True)
INTEL = Cpu("Xeon", "GenuineIntel", "AVX512", avx2=True, avx512=True)
AMX = Cpu(
    "Xeon", "GenuineIntel", "AVX512", avx2=True, avx512=True, avx512_bf16=True, amx_bf16=True, amx_fp16=True,
    mkl_amx=True,
)  # fmt: skip
ARM = Cpu("Neoverse", "", "DEFAULT")
PROCESSORS = {"amd": AMD, "avx2": AVX2, "intel": INTEL, "amx": AMX, "arm": ARM}
