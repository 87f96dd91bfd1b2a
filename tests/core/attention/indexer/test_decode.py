"""Step by step with an index that grows: the same as a search of the whole cache in every step."""

import pytest
import torch
from qkv import random_qkv

from attn.core.attention import attention
from attn.core.attention.registry import OPERATORS

SMALL = {
    "dsa": {"top_k": 24},
    "hisa": {"top_k": 24, "block_size": 16, "top_blocks": 3},
    "hisa, from 60 keys on": {"top_k": 24, "block_size": 16, "top_blocks": 3, "min_seq": 60},
    "hisa, eight bits": {"top_k": 24, "block_size": 16, "top_blocks": 3, "quant": "fp8"},
}


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float64])
@pytest.mark.parametrize("kind", SMALL)
def test_every_step_is_a_call_of_its_own(kind, dtype):
    name = kind.split(",")[0]
    q, k, v = random_qkv((2, 4, 2, 80, 80, 32), dtype, seed=9)
    decoder = OPERATORS[name].resolve().session(scale=0.2, **SMALL[kind])
    for length in (50, 51, 53, 59, 60, 64, 65, 80):  # several keys at once, too; a block ends at 64
        query, keys, values = q[:, :, length - 1 : length], k[:, :, :length], v[:, :, :length]
        truth = attention(name, query, keys, values, causal=True, scale=0.2, **SMALL[kind])
        tolerance = 2e-2 if dtype == torch.bfloat16 else 1e-5
        torch.testing.assert_close(decoder.step(query, keys, values), truth, rtol=tolerance, atol=tolerance)
