"""A new operator is its own file and one row: everything that goes over the registry knows it, nothing else changes."""

import json
from dataclasses import dataclass

import pytest
import torch
from qkv import random_qkv

from attn.cli.methods import list_methods
from attn.core.attention import attention, operators
from attn.core.attention.contract import Cost, Operator, Shape, shape_of
from attn.core.attention.equations import masked_attention
from attn.core.attention.registry import OPERATORS
from attn.core.bench.candidates import choose as candidates
from attn.core.bench.options import BenchOptions, convert, parse_setting
from attn.core.choose import Formulation, Phase
from attn.core.registry import Method

RAN = []


@dataclass(frozen=True)
class Settings:
    """Every query sees every ``step``-th key."""

    step: int = 2

    def __post_init__(self):
        if self.step < 1:
            raise ValueError(f"toy: step is {self.step}; it must be at least 1.")


def reference(q, k, v, *, causal, scale=None, settings):
    return masked_attention(q, k, v, torch.arange(k.shape[2]) % settings.step == 0, scale=scale)


def strided(q, k, v, *, causal, scale=None, settings):
    RAN.append("torch")
    return masked_attention(q, k[:, :, :: settings.step], v[:, :, :: settings.step], None, scale=scale)


def kernel(q, k, v, *, causal, scale=None, settings):
    """Stands for a launch; a real one is a file of ``attn.kernels``."""
    RAN.append("triton")
    return masked_attention(q, k[:, :, :: settings.step], v[:, :, :: settings.step], None, scale=scale)


def refuses(q, k, v, **_):
    return None if q.dtype == torch.float16 else f"takes float16, not {q.dtype}"


def cost(shape: Shape, *, settings):
    pairs = shape.pairs / settings.step
    return Cost(4.0 * shape.head_dim * pairs, 8.0 * shape.head_dim * shape.len_k, 0.0, shape.len_k / settings.step)


OPERATOR = Operator(
    settings=Settings,
    reference=reference,
    phases=(
        Phase(
            "toy",
            (
                Formulation("a kernel", "triton", f"{__name__}:kernel", refuses),
                Formulation("strides", "torch", f"{__name__}:strided"),
            ),
        ),
    ),
    cost=cost,
    causal=(False,),
    small={"step": 3},
)
ROW = Method("toy", home=f"{__name__}:OPERATOR", summary="every other key", paper="this test", year=2026)


@pytest.fixture(autouse=True)
def _toy():
    RAN.clear()
    with OPERATORS.extended(ROW):
        yield


def test_the_door_knows_it():
    assert operators()[-1] == "toy"
    q, k, v = random_qkv((1, 2, 1, 64, 64, 16), torch.float32)
    out = attention("toy", q, k, v, causal=False, step=4)
    torch.testing.assert_close(out, attention("toy", q, k, v, causal=False, step=4, backend="reference"))
    with pytest.raises(ValueError, match=r"toy has no parameter 'stop'\. Did you mean step\?"):
        attention("toy", q, k, v, causal=False, stop=4)
    with pytest.raises(ValueError, match="step is 0"):
        attention("toy", q, k, v, causal=False, step=0)
    with pytest.raises(ValueError, match="toy is not causal"):
        attention("toy", q, k, v, causal=True)


@pytest.mark.parametrize(
    ("dtype", "backend", "ran"),
    [
        (torch.float16, "auto", "triton"), (torch.float16, "triton", "triton"), (torch.float32, "auto", "torch"),
        (torch.float16, "blocked", "torch"), (torch.float16, "torch", "torch"),
    ],
)  # fmt: skip
def test_its_kernel_is_chosen_where_it_can_run(dtype, backend, ran):
    attention("toy", *random_qkv((1, 2, 1, 64, 64, 16), dtype), causal=False, backend=backend)
    assert RAN == [ran]


@pytest.mark.parametrize(
    ("backend", "message"),
    [
        ("triton", r"toy cannot run with backend='triton': a kernel takes float16, not torch\.float32\."),
        ("cpu", "no CPU kernel for toy yet"),
    ],
)
def test_a_backend_that_cannot_be_forced_says_why(backend, message):
    with pytest.raises(ValueError, match=message):
        attention("toy", *random_qkv((1, 2, 1, 64, 64, 16)), causal=False, backend=backend)


def test_a_graph_holds_it():
    q, k, v = random_qkv((1, 2, 1, 64, 64, 16))
    run = torch.compile(lambda *x: attention("toy", *x, causal=False, step=3), backend="eager")
    assert torch.equal(run(q, k, v), attention("toy", q, k, v, causal=False, step=3))


def test_the_bench_knows_it(capsys):
    list_methods("bench", as_json=True)
    assert "toy" in [row["method"] for row in json.loads(capsys.readouterr().out)]
    assert convert(*parse_setting("toy.step=3")[:2], "3") == 3
    assert candidates(BenchOptions(operators=("toy",), settings={"toy": {"step": 3}}))[0] == ["toy"]
    q, k, v = random_qkv((1, 2, 1, 64, 64, 16))
    operator = OPERATORS["toy"].resolve()
    assert operator.cost(shape_of(q, k, v, causal=False), step=4).attended == 16
    assert operator.cost(shape_of(q, k, v, causal=False)).attended == 32
