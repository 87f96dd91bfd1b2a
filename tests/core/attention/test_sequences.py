"""Lengths, padding and packed sequences: every causal operator gives what one call per sequence gives."""

import pytest
import torch
from qkv import random_qkv
from small_operators import NAMES, arguments

from attn.core.attention import attention
from attn.core.attention.registry import OPERATORS

CAUSAL = [
    pytest.param(name, marks=pytest.mark.slow) if OPERATORS[name].resolve().compiled else name
    for name in NAMES
    if arguments(name)["causal"]
]
DECODES = [name for name in CAUSAL if isinstance(name, str) and OPERATORS[name].resolve().decodes]
LENGTHS = [150, 0, 97, 150]
WITH_LSE = [name for name in NAMES if OPERATORS[name].resolve().returns_lse]


def spoiled(x, valid):
    """NaN where ``valid`` [B, L] is False."""
    return x.masked_fill(~valid[:, None, :, None], torch.nan)


def padded(len_q, len_k, padding):
    """q, k, v with NaN for padding, and which queries and keys are valid."""
    at = torch.arange(len_k)
    lengths = torch.tensor(LENGTHS)[:, None]
    keys = at < lengths if padding == "right" else at >= len_k - lengths
    q, k, v = random_qkv((len(LENGTHS), 4, 2, len_q, len_k, 32), seed=1)
    queries = keys[:, len_k - len_q :]
    return spoiled(q, queries), spoiled(k, keys), spoiled(v, keys), queries, keys


@pytest.mark.parametrize("name", CAUSAL)
@pytest.mark.parametrize("padding", ["left", "right"])
def test_padded_rows_are_calls_of_their_own(name, padding):
    q, k, v, queries, keys = padded(160, 160, padding)
    out = attention(name, q, k, v, **arguments(name), lengths=torch.tensor(LENGTHS), padding=padding)
    assert (out[~queries[:, None].expand(-1, 4, -1)] == 0).all()
    for row in (0, 2):
        alone = attention(name, *(x[row, None][:, :, keys[row]] for x in (q, k, v)), **arguments(name))
        torch.testing.assert_close(out[row, None][:, :, queries[row]], alone, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("name", DECODES)
@pytest.mark.parametrize("padding", ["left", "right"])
@pytest.mark.parametrize("len_q", [1, 40])
def test_the_queries_are_the_last_positions(name, padding, len_q):
    q, k, v, queries, keys = padded(len_q, 160, padding)
    out = attention(name, q, k, v, **arguments(name), lengths=LENGTHS, padding=padding)
    assert (out[~queries[:, None].expand(-1, 4, -1)] == 0).all()
    for row in (0, 2):
        if queries[row].any():
            own = q[row, None][:, :, queries[row]]
            alone = attention(name, own, *(x[row, None][:, :, keys[row]] for x in (k, v)), **arguments(name))
            torch.testing.assert_close(out[row, None][:, :, queries[row]], alone, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("name", CAUSAL)
def test_packed_sequences_are_calls_of_their_own(name):
    q, k, v = random_qkv((1, 4, 2, 160, 160, 32), seed=2)
    ends = [0, 70, 70, 90, 160]
    out = attention(name, q, k, v, **arguments(name), cu_seqlens=torch.tensor(ends, dtype=torch.int32))
    parts = (slice(0, 70), slice(70, 90), slice(90, 160))
    alone = [attention(name, *(x[:, :, part] for x in (q, k, v)), **arguments(name)) for part in parts]
    torch.testing.assert_close(out, torch.cat(alone, 2), rtol=1e-5, atol=1e-6)


def test_gradients_reach_what_is_valid_and_nothing_else():
    q, k, v, queries, keys = padded(160, 160, "left")
    leaves = [x.clone().requires_grad_() for x in (q, k, v)]
    out = attention("dense", *leaves, causal=True, lengths=LENGTHS, padding="left")
    found = torch.autograd.grad(out.sum(), leaves)
    for grad, valid in zip(found, (queries, keys, keys), strict=True):
        assert grad.isfinite().all()
        assert (grad[~valid[:, None].expand(-1, grad.shape[1], -1)] == 0).all()
    alone = [x[2, None][:, :, keys[2]].requires_grad_() for x in (q, k, v)]
    truth = torch.autograd.grad(attention("dense", *alone, causal=True).sum(), alone)
    for grad, own in zip(found, truth, strict=True):
        torch.testing.assert_close(grad[2, None][:, :, keys[2]], own)


@pytest.mark.parametrize("backend", ["torch", "cpu", "reference"])
def test_every_backend_takes_lengths(backend):
    q, k, v, _, _ = padded(160, 160, "right")
    given = {"causal": True, "window": 32, "lengths": LENGTHS, "padding": "right"}
    out = attention("window+sink", q, k, v, **given, backend=backend)
    torch.testing.assert_close(out, attention("window+sink", q, k, v, **given))
    assert out.isfinite().all()


def test_no_rows_and_no_valid_keys():
    q, k, v = random_qkv((2, 2, 2, 5, 5, 32))
    out = attention("hip", q, k, v, causal=True, lengths=[0, 0], padding="left")
    assert out.shape == q.shape
    assert not out.any()
    none = attention("hip", q[:0], k[:0], v[:0], causal=True, lengths=[], padding="left")
    assert none.shape == (0, 2, 5, 32)


def test_search_queries_of_their_own_are_cut_like_q():
    q, k, v, _, keys = padded(160, 160, "left")
    other = torch.randn(q.shape, generator=torch.Generator().manual_seed(4))
    given = arguments("superlinear")
    out = attention("superlinear", q, k, v, **given, q_search=other, lengths=LENGTHS, padding="left")
    alone = attention("superlinear", *(x[2, None][:, :, keys[2]] for x in (q, k, v)), **given,
                      q_search=other[2, None][:, :, keys[2]])  # fmt: skip
    torch.testing.assert_close(out[2, None][:, :, keys[2]], alone, rtol=1e-5, atol=1e-6)
    with pytest.raises(ValueError, match=r"q_search .* cannot be divided"):
        attention("superlinear", q, k, v, **given, q_search=other[:1], lengths=LENGTHS, padding="left")


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({"lengths": [5, 5]}, "padding='left' or 'right'"),
        ({"lengths": [5, 5], "padding": "both"}, "got both"),
        ({"lengths": [5], "padding": "left"}, "each of 2 rows"),
        ({"lengths": [5, 6], "padding": "left"}, "one of 0 to 5 keys"),
        ({"lengths": [5, -1], "padding": "left"}, "one of 0 to 5 keys"),
        ({"lengths": torch.tensor([2.0, 3.0]), "padding": "left"}, "int32 or int64"),
        ({"lengths": "5, 5", "padding": "left"}, "lengths is 5, 5: one row of whole numbers"),
        ({"lengths": [5, None], "padding": "left"}, r"lengths is \[5, None\]: one row"),
        ({"lengths": [5, 2**70], "padding": "left"}, "lengths is .*: one row of whole numbers"),
        ({"padding": "left"}, "needs lengths"),
        ({"cu_seqlens": [0, 5]}, "got batch 2"),
        ({"cu_seqlens": [0, 5], "lengths": [5, 5]}, "pass it alone"),
    ],
)
def test_what_does_not_fit_is_said(given, message):
    with pytest.raises(ValueError, match=message):
        attention("dense", *random_qkv((2, 2, 2, 5, 5, 32)), causal=True, **given)


@pytest.mark.parametrize("ends", [[], [0], [1, 5], [0, 4], [0, 4, 3, 5]])
def test_boundaries_rise_from_0_to_the_last_key(ends):
    with pytest.raises(ValueError, match="must rise from 0 to the 5 keys"):
        attention("dense", *random_qkv((1, 2, 2, 5, 5, 32)), causal=True, cu_seqlens=ends)


def test_only_causal_attention_takes_lengths():
    q, k, v = random_qkv((1, 2, 2, 16, 16, 32))
    for name, given in (("dense", {"causal": False}), ("halo", {"causal": False, "grid": (4, 4)})):
        with pytest.raises(ValueError, match=f"{name}: lengths and cu_seqlens are for causal attention"):
            attention(name, q, k, v, **given, lengths=[16], padding="left")


@pytest.mark.parametrize("name", WITH_LSE)
@pytest.mark.parametrize("len_q", [1, 40, 160])
def test_the_log_sum_exp_is_that_of_the_keys_attended_to(name, len_q):
    q, k, v = random_qkv((2, 4, 2, len_q, 160, 32), seed=6)
    out, lse = attention(name, q, k, v, **arguments(name), return_lse=True)
    torch.testing.assert_close(out, attention(name, q, k, v, **arguments(name)))
    operator = OPERATORS[name].resolve()
    mask = torch.ones(len_q, 160).tril(160 - len_q).bool()
    if operator.select is not None:
        mask = operator.select(q, k, scale=None, **arguments(name)).mask(torch.arange(len_q))
    scores = (q @ k.repeat_interleave(2, 1).mT) * 32**-0.5
    torch.testing.assert_close(lse, scores.masked_fill(~mask, -torch.inf).logsumexp(-1), rtol=1e-5, atol=1e-5)


def test_the_log_sum_exp_of_padding_is_minus_infinity():
    q, k, v, queries, _ = padded(160, 160, "left")
    out, lse = attention("dense", q, k, v, causal=True, return_lse=True, lengths=LENGTHS, padding="left")
    assert lse.shape == out.shape[:3]
    assert torch.equal(lse.isfinite(), queries[:, None].expand(-1, 4, -1))
    assert (lse[~lse.isfinite()] == -torch.inf).all()


def test_the_log_sum_exp_has_a_gradient():
    q, k, v = (x.double().requires_grad_() for x in random_qkv((1, 2, 2, 20, 20, 32), seed=6))
    _, lse = attention("window+sink", q, k, v, causal=True, window=8, return_lse=True)
    rows, cols = torch.arange(20)[:, None], torch.arange(20)
    mask = (cols <= rows) & ((cols > rows - 8) | (cols < 4))
    truth = ((q @ k.mT) * 32**-0.5).masked_fill(~mask, -torch.inf).logsumexp(-1)
    found, right = (torch.autograd.grad(x.sum(), (q, k)) for x in (lse, truth))
    torch.testing.assert_close(found, right)


def test_who_has_no_log_sum_exp_says_so():
    q, k, v = random_qkv((1, 2, 2, 16, 16, 32))
    with pytest.raises(ValueError, match="lightning has no log-sum-exp"):
        attention("lightning", q, k, v, causal=True, return_lse=True)
    with pytest.raises(ValueError, match="reference does not return"):
        attention("dense", q, k, v, causal=True, return_lse=True, backend="reference")


def test_a_graph_is_left_around_sequences():
    q, k, v, _, _ = padded(160, 160, "left")
    compiled = torch.compile(
        lambda q, k, v: attention("dense", q, k, v, causal=True, lengths=LENGTHS, padding="left") * 1.0, backend="eager"
    )
    torch.testing.assert_close(
        compiled(q, k, v), attention("dense", q, k, v, causal=True, lengths=LENGTHS, padding="left")
    )
