"""Which product runs on which processor; the same numbers by all."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from other_cpus import AVX2, PROCESSORS

from attn.core.attention.products import bf16_is_native, float32_product, sdpa_is_fast, sdpa_leads
from attn.core.cpu import cpu_as


def on_each(question):
    answers = set()
    for name, processor in PROCESSORS.items():
        with cpu_as(processor):
            if question():
                answers.add(name)
    return answers


@pytest.mark.parametrize("name", PROCESSORS)
def test_a_product_is_a_product(name: str) -> None:
    torch.manual_seed(0)
    a, b, x = torch.randn(33, 70)[:, 3:], torch.randn(17, 67), torch.randn(67, 5)
    with cpu_as(PROCESSORS[name]):
        product = float32_product()
    torch.testing.assert_close(product(a, b), a @ b.mT)
    torch.testing.assert_close(product(a, x.mT), a @ x)
    assert product(a[:0], b).shape == (0, 17)
    assert product(a, b[:0]).shape == (33, 0)


def test_mkl_is_for_intel_and_onednn_for_others() -> None:
    assert on_each(lambda: float32_product().__name__ == "_onednn") == {"amd", "avx2"}


def test_what_is_native() -> None:
    assert on_each(bf16_is_native) == {"amd", "amx"}


def test_pytorchs_attention_is_fast_by_amx() -> None:
    assert on_each(lambda: sdpa_is_fast(torch.bfloat16)) == on_each(lambda: sdpa_is_fast(torch.float16)) == {"amx"}
    assert not on_each(lambda: sdpa_is_fast(torch.float32))


def test_pytorchs_attention_leads_where_it_has_the_same_products() -> None:
    for dtype in (torch.float32, torch.bfloat16):
        assert on_each(lambda dtype=dtype: sdpa_leads(dtype, 4096)) == {"intel", "amx", "arm"}
        assert on_each(lambda dtype=dtype: sdpa_leads(dtype, 4095)) == {"intel", "amx", "arm", "avx2"}
        assert on_each(lambda dtype=dtype: sdpa_leads(dtype, 511)) == set(PROCESSORS)


def test_a_limit_of_onednn_is_none_of_mkl() -> None:
    with cpu_as(replace(AVX2, name="Xeon", vendor="GenuineIntel", mkl_amx=True)):
        assert sdpa_is_fast(torch.bfloat16)
        assert not sdpa_is_fast(torch.float16)
        assert not bf16_is_native()
