"""HiP's attention in Triton against dense attention under the selection's mask, in float64; decode; what it refuses."""

from __future__ import annotations

import pytest
import torch
from qkv import assert_near_truth

from attn.core.attention import attention
from attn.core.attention.equations import masked_attention
from attn.core.attention.hip import attend_triton
from attn.core.attention.hip.operator import ATTEND, SELECT, HipDecoder
from attn.core.attention.hip.settings import Settings
from attn.core.choose import choices
from attn.kernels import hip

SMALL = {"block_size_q": 16, "block_size_k": 2, "block_size_k_group": 2, "mask_k": 16, "sliding_window": 16, "sink": 4}
CASES = {  # batch, heads, key heads, queries, keys, D, Dv, settings
    "several-blocks": (1, 2, 1, 70, 70, 16, 16, SMALL),
    "fewer-queries-than-keys": (2, 2, 2, 21, 90, 24, 40, SMALL),
    "dense-first": (1, 1, 1, 60, 60, 16, 16, SMALL | {"dense_queries": 20, "sink": 0}),
    "one-query": (1, 4, 2, 1, 100, 32, 16, SMALL),
    "wide-sink": (1, 1, 1, 40, 48, 16, 16, SMALL | {"sink": 30, "sliding_window": 40}),
}


@pytest.fixture
def kernels(device, monkeypatch):
    """The chooser takes the kernel, as on a GPU."""
    if device.type == "cpu":
        monkeypatch.setattr(attend_triton, "needs_triton", lambda _: None)
    return device


def drawn(case, device, dtype=torch.float32):
    batch, heads, kv_heads, len_q, len_k, dim, value_dim, _ = case
    generator = torch.Generator().manual_seed(0)
    sizes = (heads, len_q, dim), (kv_heads, len_k, dim), (kv_heads, len_k, value_dim)
    return [torch.randn(batch, *size, generator=generator).to(device, dtype) for size in sizes]


@pytest.mark.interpret
@pytest.mark.parametrize("dtype", [torch.float32, torch.float16])
@pytest.mark.parametrize("name", CASES)
def test_matches_dense_attention_under_the_mask(name, dtype, kernels, launches):
    launched, case = launches(hip, "hip_attend_kernel"), CASES[name]
    q, k, v = drawn(case, kernels, dtype)
    settings = Settings(**case[7])
    selection = SELECT(q, k, causal=True, settings=settings)
    with choices() as taken:
        out = ATTEND(q, k, v, selection, causal=True, settings=settings)
    assert [formulation.backend for _, formulation in taken] == ["triton"]
    assert launched == ["hip_attend_kernel"]
    mask = selection.mask(torch.arange(q.shape[2], device=kernels))
    truth = masked_attention(q.double(), k.double(), v.double(), mask)
    eager = masked_attention(q, k, v, mask)
    assert_near_truth(out, eager, truth, name)


@pytest.mark.interpret
def test_a_decoder_takes_it(kernels, launches):
    launched = launches(hip, "hip_attend_kernel")
    decoder, plain = (HipDecoder(settings=Settings(**SMALL, mask_refresh=2)) for _ in range(2))
    _, k, v = drawn((1, 4, 2, 1, 60, 16, 16, None), kernels)
    for length in (58, 59, 60):
        q = torch.randn(1, 4, 1, 16, generator=torch.Generator().manual_seed(length)).to(kernels)
        out = decoder.step(q, k[:, :, :length], v[:, :, :length])
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(attend_triton, "needs_triton", lambda _: "is not asked")
            torch.testing.assert_close(out, plain.step(q, k[:, :, :length], v[:, :, :length]), rtol=1e-5, atol=1e-5)
    assert launched == ["hip_attend_kernel"] * 3


@pytest.mark.interpret
def test_a_number_that_is_none_stays_in_the_rows_that_see_it(kernels):
    q, k, v = drawn(CASES["several-blocks"], kernels)
    v[0, 0, 69] = torch.nan
    out = attention("hip", q, k, v, causal=True, **SMALL)
    assert out[:, :, 69].isnan().all()
    assert out[:, :, :69].isfinite().all()


@pytest.mark.interpret
def test_what_is_not_taken_says_why(kernels):
    q, k, v = drawn(CASES["several-blocks"], kernels)
    short = Settings(**SMALL | {"sliding_window": 4})
    selection = SELECT(q, k, causal=True, settings=short)
    assert "windows of a query block at least" in attend_triton.refuses(q, k, v, selection)
    assert attend_triton.refuses(q.requires_grad_(), k, v) == "has no gradients"
    wide = torch.zeros(1, 1, 4, 256, device=kernels)
    assert hip.refuses(wide, wide) == "takes heads of up to 64 channels in torch.float32, not 256"
    empty = torch.zeros(0, dtype=torch.int32, device=kernels)
    with pytest.raises(ValueError, match=r"hip in Triton takes windows of a block \(16\) at least, not 4\.$"):
        hip.attend(v, v, v, empty.view(1, 1, 0, 0), empty.long(), 1.0, 0, 4, 4, 16, 0)
