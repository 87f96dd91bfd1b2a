"""HiP, Superlinear and Lightning on the processors that this one may not be: the same result, the same rules."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
import torch
from other_cpus import PROCESSORS
from qkv import assert_as_accurate_as_eager, random_qkv

from attn.core.attention import attention
from attn.core.attention.lightning.operator import OPERATOR as LIGHTNING
from attn.core.attention.registry import OPERATORS
from attn.core.attention.tile_cpu import multiplies_pairs
from attn.core.cpu import cpu_as

HIP = {"mask_k": 32, "block_size_q": 16, "sliding_window": 24, "sink": 5}
SUPERLINEAR = {"sw_index": 3}
PARAMETERS = {"hip": HIP, "superlinear": SUPERLINEAR, "lightning": {}}


@pytest.fixture(params=["amd", "avx2"])  # with products of bfloat16 pairs, if this machine has them, and without
def processor(request: pytest.FixtureRequest) -> Iterator[str]:
    with cpu_as(PROCESSORS[request.param]):
        yield request.param


@pytest.mark.parametrize("dims", [(32, 32), (33, 17), (80, 128)], ids=str)  # odd, and no multiple of a register
@pytest.mark.parametrize("name", PARAMETERS)
def test_bfloat16_is_as_accurate_everywhere(processor: str, name: str, dims: tuple[int, int]) -> None:
    q, k, _ = random_qkv((1, 4, 2, 150, 217, dims[0]), torch.bfloat16)
    v = random_qkv((1, 2, 2, 1, 217, dims[1]), torch.bfloat16, seed=1)[2]
    out = attention(name, q, k, v, causal=True, **PARAMETERS[name])
    reference = OPERATORS[name].resolve().reference
    assert_as_accurate_as_eager(out, reference, q, k, v, causal=True, **PARAMETERS[name])


@pytest.mark.parametrize("name", ["hip", "superlinear"])
def test_the_choice_is_that_of_float32(processor: str, name: str) -> None:
    q, k, _ = random_qkv((1, 2, 1, 300, 300, 40), torch.bfloat16)
    select = OPERATORS[name].resolve().select
    rows = torch.arange(300)
    ours, plain = (select(*x, causal=True, **PARAMETERS[name]).mask(rows) for x in ((q, k), (q.float(), k.float())))
    assert torch.equal(ours, plain)


@pytest.mark.parametrize("name", ["hip", "superlinear"])
def test_nan_shows_in_the_rows_that_see_it_and_in_no_others(processor: str, name: str) -> None:
    q, k, v = random_qkv((1, 1, 1, 200, 200, 32), torch.bfloat16)
    operator = OPERATORS[name].resolve()
    seen = operator.select(q, k, causal=True, **PARAMETERS[name]).mask(torch.arange(200))[0, 0, :, 150]
    v[0, 0, 150, 3] = torch.nan
    out = attention(name, q, k, v, causal=True, **PARAMETERS[name])
    assert torch.equal(out.isnan().any(-1)[0, 0], seen)


@pytest.mark.parametrize("scale", [1e-3, -0.4, 30.0])
def test_any_scale(processor: str, scale: float) -> None:
    q, k, v = random_qkv((1, 1, 1, 120, 120, 32), torch.bfloat16)
    reference = OPERATORS["superlinear"].resolve().reference
    out = attention("superlinear", q, k, v, causal=True, scale=scale, **SUPERLINEAR)
    assert_as_accurate_as_eager(out, reference, q, k, v, causal=True, scale=scale, **SUPERLINEAR)


def test_lightning_takes_products_of_float32_where_those_of_bfloat16_are_emulated() -> None:
    q, k, v = random_qkv((1, 2, 2, 400, 400, 32), torch.bfloat16)
    truth = LIGHTNING.reference(*(x.double() for x in (q, k, v)))
    errors = {}
    for name in ("amd", "avx2"):
        with cpu_as(PROCESSORS[name]):
            errors[name] = (LIGHTNING.blocked(q, k, v).double() - truth).norm() / truth.norm()
    assert errors["avx2"] < 2**-8 < 2 * errors["amd"]  # one rounding of the result; roundings of the scores, too


def test_pairs_are_for_processors_that_have_them() -> None:
    with cpu_as(PROCESSORS["avx2"]):
        assert not multiplies_pairs()
