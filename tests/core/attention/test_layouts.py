"""Tensors that lie anywhere: results are those of fresh ones, over the registry."""

import pytest
import torch
from other_cpus import AMD, AMX
from qkv import random_qkv
from small_operators import NAMES, arguments

from attn.core.attention import attention
from attn.core.attention.oracle.operator import OPERATOR as ORACLE
from attn.core.cpu import cpu_as


def at_an_odd_place(x):
    """Contiguous, from the second item of its storage: bfloat16 that no 32-bit word holds in pairs."""
    room = x.new_empty(x.numel() + 1)
    room[1:] = x.flatten()
    return room[1:].view(x.shape)


def with_odd_steps(x):
    """Dimensions of one have any stride in PyTorch, and are contiguous nevertheless."""
    return x.as_strided(
        x.shape, [step if count > 1 else 12345 for count, step in zip(x.shape, x.stride(), strict=True)]
    )


@pytest.mark.parametrize("processor", [AMD, AMX], ids=["amd", "amx"])
@pytest.mark.parametrize("name", NAMES)
def test_pairs_of_bfloat16_wherever_they_lie(name, processor):
    for layout in (at_an_odd_place, with_odd_steps):
        q, k, v = random_qkv((1, 1, 1, 256, 256, 32), torch.bfloat16)
        with cpu_as(processor):
            truth = attention(name, q, k, v, **arguments(name))
            assert torch.equal(attention(name, *(layout(x) for x in (q, k, v)), **arguments(name)), truth)


@pytest.mark.parametrize("name", ["dsa", "hisa", "oracle", "hip", "superlinear"])
def test_a_chunk_of_one_query_of_strided_heads(name):
    """257 queries in chunks of 256, whose rows are an odd number of items apart."""
    q, k, v = (torch.cat((x, x[..., :1]), -1)[..., :-1] for x in random_qkv((1, 1, 1, 257, 257, 32), torch.bfloat16))
    with cpu_as(AMD):
        truth = attention(name, *(x.contiguous() for x in (q, k, v)), **arguments(name))
        assert torch.equal(attention(name, q, k, v, **arguments(name)), truth)


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_values_that_the_oracle_hides_in_plain_torch(value):
    """Rows that see fewer keys than ``top_k`` are cut at minus infinity, the score of what is hidden."""
    q, k, v = random_qkv((1, 1, 1, 40, 40, 32))
    v[0, 0, 25] = value
    out = ORACLE.blocked(q, k, v, causal=True, top_k=100, backend="torch")
    assert out[0, 0, :25].isfinite().all()
    assert not out[0, 0, 25:].isfinite().any()
