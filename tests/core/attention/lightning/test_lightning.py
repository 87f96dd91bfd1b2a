"""Lightning attention: quadratic, block and recurrent forms are one operator; the gradient; states; what is refused."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from qkv import DTYPES, SHAPES, LargestTensor, assert_as_accurate_as_eager, random_qkv

from attn.core.attention import attention
from attn.core.attention.contract import shape_of
from attn.core.attention.lightning.decay import slopes
from attn.core.attention.lightning.operator import OPERATOR as method
from attn.core.attention.lightning.operator import decode_step, lightning_attention, recurrent

blocked, decoder = method.blocked, method.decoder


def relative(a, b):
    return ((a - b).abs().max() / b.abs().max().clamp(min=1e-300)).item() if b.numel() else 0.0


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("shape", SHAPES, ids=str)
def test_blocked_matches_reference(shape, dtype):
    q, k, v = random_qkv(shape, dtype)
    out = attention("lightning", q, k, v, causal=True)
    assert_as_accurate_as_eager(out, method.reference, q, k, v)


@pytest.mark.parametrize("dim", [32, 64, 80, 96, 128, 256])
def test_head_dimensions(dim):
    q, k, v = random_qkv((1, 2, 1, 150, 170, dim))
    assert_as_accurate_as_eager(blocked(q, k, v), method.reference, q, k, v)


@settings(max_examples=40, deadline=None)
@given(
    len_q=st.integers(0, 70), past=st.integers(0, 40), group=st.integers(1, 3), kv_heads=st.integers(1, 2),
    batch=st.integers(0, 2), dims=st.tuples(st.integers(1, 9), st.integers(1, 9)), block=st.integers(1, 40),
    slope=st.sampled_from([0.0, 1e-6, 0.01, 0.7, 400.0]), scale=st.sampled_from([None, 0.3]),
)  # fmt: skip
def test_blocked_equals_reference_in_float64(len_q, past, group, kv_heads, batch, dims, block, slope, scale):
    q, k, _ = random_qkv((batch, group * kv_heads, kv_heads, len_q, len_q + past, dims[0]), torch.float64)
    v = random_qkv((batch, kv_heads, kv_heads, 0, len_q + past, dims[1]), torch.float64, seed=1)[2]
    params = {"decay": "custom", "slope": slope * torch.arange(1, group * kv_heads + 1), "scale": scale}
    out = blocked(q, k, v, block_size=block, **params)
    truth = method.reference(q, k, v, **params)
    assert out.shape == truth.shape
    assert relative(out, truth) < 1e-12


def test_a_slow_decay_does_not_drift_over_many_blocks():
    q, k, v = random_qkv((1, 1, 1, 8192, 8192, 8))
    v += 1  # values with a mean, so that what is far still counts
    params = {"decay": "custom", "slope": torch.tensor([1e-5])}
    out = blocked(q, k, v, block_size=8, **params)[:, :, -64:]  # 1024 blocks
    truth = method.rows(q.double(), k.double(), v.double(), torch.arange(8128, 8192), **params)
    assert relative(out.double(), truth) < 5e-6


def test_gradients():
    q, k, v = (x.requires_grad_() for x in random_qkv((2, 2, 1, 7, 7, 2), torch.float64))
    state = torch.randn(2, 2, 2, 2, dtype=torch.float64, requires_grad=True)
    slope = slopes(2).double()

    def run(*inputs):
        return lightning_attention(*inputs[:3], slope, state=inputs[3], return_state=True, block_size=3, scale=0.7)

    assert torch.autograd.gradcheck(run, (q, k, v, state))


def test_gradients_reach_the_keys_before_the_first_query():
    q, k, v = (x.requires_grad_() for x in random_qkv((1, 2, 1, 3, 9, 2), torch.float64))
    assert torch.autograd.gradcheck(lambda *x: blocked(*x, block_size=2), (q, k, v))


def test_gradients_are_those_of_the_reference_in_float32():
    q, k, v = (x.requires_grad_() for x in random_qkv((1, 4, 2, 300, 300, 16)))
    grad = torch.randn(1, 4, 300, 16)
    ours = torch.autograd.grad(blocked(q, k, v), (q, k, v), grad)
    truth = torch.autograd.grad(method.reference(q.double(), k.double(), v.double()), (q, k, v), grad.double())
    assert max(relative(a.double(), b.double()) for a, b in zip(ours, truth, strict=True)) < 1e-5


def test_three_forms_are_equal():
    q, k, v = random_qkv((2, 4, 2, 77, 77, 16), torch.float64)
    slope = slopes(4, layer=1, num_layers=3)
    out, state = lightning_attention(q, k, v, slope, return_state=True, block_size=16)
    step_out, step_state = recurrent(q, k, v, slope)
    assert relative(step_out, out) < 1e-12
    assert relative(step_state, state) < 1e-12
    assert relative(method.reference(q, k, v, decay="code", layer=1, num_layers=3), out) < 1e-12


@settings(max_examples=20, deadline=None)
@given(cut=st.integers(0, 60), block=st.integers(1, 40))
def test_prefill_then_decode(cut, block):
    q, k, v = random_qkv((1, 4, 2, 60, 60, 8), torch.float64)
    whole, last = lightning_attention(q, k, v, slopes(4), return_state=True)
    head, state = lightning_attention(
        q[:, :, :cut], k[:, :, :cut], v[:, :, :cut], slopes(4), return_state=True, block_size=block
    )
    tail, state = recurrent(q[:, :, cut:], k[:, :, cut:], v[:, :, cut:], slopes(4), state)
    assert relative(torch.cat([head, tail], 2), whole) < 1e-12
    assert relative(state, last) < 1e-12


@pytest.mark.parametrize("layer", [0, 31])
def test_decoding_does_not_drift(layer):
    """4096 tokens at the slowest head of the first and of the last layer, one at a time, against float64."""
    slope = slopes(32, layer=layer, num_layers=32).min()[None]
    q, k, v = random_qkv((1, 1, 1, 4096, 4096, 16), seed=4)
    state = torch.zeros(1, 1, 16, 16)
    for t in range(4096):
        out, state = decode_step(q[:, :, t, None], k[:, :, t, None], v[:, :, t, None], slope, state)
    age = torch.arange(4095, -1, -1, dtype=torch.float64)[:, None]
    true = (k[0, 0].double() * torch.exp(-slope.double() * age)).T @ v[0, 0].double()
    assert (state[0, 0] - true).norm() <= 5e-5 * true.norm()
    last = q[0, 0, -1:].double() @ true
    assert (out[0, 0] - last).norm() <= 5e-5 * last.norm()


def test_decode_step_leaves_the_state_alone():
    q, k, v = random_qkv((1, 2, 1, 1, 1, 8), torch.bfloat16)
    state = torch.ones(1, 2, 8, 8)
    out, after = decode_step(q, k, v, slopes(2), state)
    assert out.dtype == torch.bfloat16
    assert after.dtype == torch.float32
    assert torch.equal(state, torch.ones(1, 2, 8, 8))


def test_decoder_and_rows_agree_with_the_operator():
    q, k, v = random_qkv((1, 4, 2, 20, 5000, 16))
    params = {"decay": "paper", "layer": 2, "num_layers": 4}
    truth = method.reference(q.double(), k.double(), v.double(), **params)
    chosen = torch.tensor([0, 7, 19])
    assert relative(method.rows(q, k, v, chosen, **params).double(), truth[:, :, chosen]) < 1e-5
    step = decoder(q, k, v, **params)
    assert relative(step().double(), truth[:, :, -1:]) < 1e-5
    assert torch.equal(step(), step())


def test_packed_sequences_do_not_see_each_other():
    lengths = [5, 0, 130, 1]
    q, k, v = random_qkv((1, 2, 2, 136, 136, 8), torch.float64)
    out = lightning_attention(q, k, v, slopes(2), lengths=lengths)
    alone = [
        lightning_attention(*part, slopes(2)) for part in zip(*(x.split(lengths, 2) for x in (q, k, v)), strict=True)
    ]
    assert torch.equal(out, torch.cat(alone, 2))


def test_left_padding_counts_as_nothing():
    q, k, v = random_qkv((2, 2, 1, 40, 40, 8), torch.float64)
    mask = torch.arange(40) >= torch.tensor([[13], [0]])
    k[0, :, :13] = torch.nan
    out, state = lightning_attention(q, k, v, slopes(2), mask=mask, return_state=True)
    alone, alone_state = lightning_attention(q[:1, :, 13:], k[:1, :, 13:], v[:1, :, 13:], slopes(2), return_state=True)
    assert relative(out[:1, :, 13:], alone) < 1e-12
    assert relative(state[:1], alone_state) < 1e-12


def test_slopes():
    assert slopes(8)[0] == 0.5
    assert slopes(8, layer=23, num_layers=24)[0] == pytest.approx(0.5e-5)
    assert slopes(12)[8:].tolist() == pytest.approx([2**-0.5, 2**-1.5, 2**-2.5, 2**-3.5])
    assert slopes(4, layer=1, num_layers=2, decay="paper").tolist() == [1, 2, 3, 4]
    assert slopes(3, decay="none").tolist() == [0, 0, 0]
    assert len({*slopes(7).tolist()}) == 7


@pytest.mark.parametrize(
    ("params", "message"),
    [
        ({"layer": 3, "num_layers": 2}, "0 <= layer < num_layers"),
        ({"decay": "custom"}, "pass both or neither"),
        ({"slope": torch.ones(2)}, "pass both or neither"),
        ({"decay": "custom", "slope": torch.ones(3)}, "one slope per query head"),
        ({"decay": "custom", "slope": torch.tensor([1.0, -1.0])}, "not negative"),
        ({"decay": "linear"}, "code, paper or none"),
        ({"block_size": 0}, "at least 1"),
    ],
)
def test_bad_parameters(params, message):
    q, k, v = random_qkv((1, 2, 1, 8, 8, 4))
    with pytest.raises(ValueError, match=message):
        attention("lightning", q, k, v, causal=True, **params)


def test_bad_arguments():
    q, k, v = random_qkv((1, 2, 1, 8, 8, 4))
    with pytest.raises(ValueError, match="only causal"):
        attention("lightning", q, k, v, causal=False)
    with pytest.raises(ValueError, match=r"\[1, 2, 4, 4\] is needed"):
        lightning_attention(q, k, v, state=torch.zeros(1, 1, 4, 4))
    with pytest.raises(ValueError, match="must sum to 8"):
        lightning_attention(q, k, v, lengths=[3, 4])
    with pytest.raises(ValueError, match=r"bool \[1, 8\]"):
        lightning_attention(q, k, v, mask=torch.ones(1, 7, dtype=torch.bool))
    with pytest.raises(ValueError, match="8 queries but 5 keys"):
        lightning_attention(q, k[:, :, :5], v[:, :, :5])


def test_no_tensor_is_larger_than_an_input_or_a_band():
    q, k, v = random_qkv((1, 2, 1, 8192, 8192, 8))
    with LargestTensor() as made:
        attention("lightning", q, k, v, causal=True)
    assert made.bytes <= max(q.nbytes, 16 * 128 * 128 * 4)


def test_bits_do_not_depend_on_threads_or_layout():
    q, k, v = random_qkv((1, 4, 2, 1000, 1000, 64))
    before = torch.get_num_threads()
    try:
        torch.set_num_threads(1)
        one = blocked(q, k, v)
        torch.set_num_threads(2)
        two = blocked(q, k, v)
    finally:
        torch.set_num_threads(before)
    assert torch.equal(one, two)
    apart = (x.transpose(1, 2).contiguous().transpose(1, 2) for x in (q, k, v))
    assert torch.equal(blocked(*apart), one)


def test_cost_counts_the_products():
    q, k, v = random_qkv((1, 2, 1, 256, 384, 16))
    cost = method.cost(shape_of(q, k, v, causal=True), block_size=64)
    assert cost.flops == 2 * (256 * (2 * 64 * 32 + 2 * 16 * 16) + 384 * 2 * 16 * 16)
    assert cost.bytes == 4 * (2 * 2 * 256 * 16 + 2 * 384 * 16)
    step = method.cost(shape_of(q[:, :, -1:], k, v, causal=True))  # a decode step does not depend on the past
    assert step.flops == 2 * 4 * 16 * 16
    assert step.bytes == 4 * (2 * 2 * 16 + 2 * 16 + 2 * 2 * 16 * 16)
