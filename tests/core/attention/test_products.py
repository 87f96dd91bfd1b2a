"""Which product runs on which processor; the same numbers by all."""

from __future__ import annotations

import pytest
import torch

from attn.core.attention.products import bf16_is_native, float32_product, sdpa_is_fast
from attn.core.cpu import Cpu, cpu_as

AMD = Cpu("EPYC", "AuthenticAMD", "AVX512", avx2=True, avx512=True, avx512_bf16=True)
AVX2 = Cpu("EPYC", "AuthenticAMD", "AVX2", "AVX2", avx2=True)
XEON = Cpu("Xeon", "GenuineIntel", "AVX512", avx2=True, avx512=True, avx512_bf16=True, amx_bf16=True)
ARM = Cpu("Neoverse", "", "DEFAULT")


@pytest.mark.parametrize("cpu", [AMD, AVX2, XEON, ARM], ids=lambda cpu: cpu.name + cpu.onednn_isa)
def test_a_product_is_a_product(cpu: Cpu) -> None:
    torch.manual_seed(0)
    a, b, x = torch.randn(33, 70)[:, 3:], torch.randn(17, 67), torch.randn(67, 5)
    with cpu_as(cpu):
        product = float32_product()
    torch.testing.assert_close(product(a, b), a @ b.mT)
    torch.testing.assert_close(product(a, x.mT), a @ x)
    assert product(a[:0], b).shape == (0, 17)
    assert product(a, b[:0]).shape == (33, 0)


def test_mkl_is_for_intel_and_onednn_for_others() -> None:
    names = []
    for cpu in (AMD, AVX2, XEON, ARM):
        with cpu_as(cpu):
            names.append(float32_product().__name__)
    assert names == ["_onednn", "_onednn", "_mm", "_mm"]


def test_what_the_environment_switched_off_is_not_native() -> None:
    with cpu_as(AMD):
        assert bf16_is_native()
        assert not sdpa_is_fast(torch.bfloat16)
    with cpu_as(AVX2):
        assert not bf16_is_native()
    with cpu_as(XEON):
        assert sdpa_is_fast(torch.bfloat16)
        assert not sdpa_is_fast(torch.float16)
        assert not sdpa_is_fast(torch.float32)
