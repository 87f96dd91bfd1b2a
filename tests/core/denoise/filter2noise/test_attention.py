"""Filter2Noise's attention: kernel, power series and SDPA against the equation in float64, values and gradients."""

from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor

from attn.core.denoise.filter2noise import attention_centred
from attn.core.denoise.filter2noise.attention import attention
from attn.core.denoise.filter2noise.attention_series import LARGEST, Monomials, coefficients

pytest.importorskip("numba")


def problem(batch: int, seq_len: int, spread: float, offset: float, dtype: torch.dtype) -> tuple[Tensor, ...]:
    """q, k, v and the output's gradient, tokens ``spread`` around a common ``offset``."""
    generator = torch.Generator().manual_seed(seq_len)
    parts = [torch.randn(batch, seq_len, 8, generator=generator) * spread for _ in range(3)]
    shifts = [torch.randn(8, generator=generator) * offset for _ in range(3)]
    grad = torch.randn(batch, seq_len, 8, generator=generator)
    return *((p + s).to(dtype) for p, s in zip(parts, shifts, strict=True)), grad.to(dtype)


def outputs(backend: str, dtype: torch.dtype, *shape: float) -> list[Tensor]:
    *qkv, grad = problem(*shape, dtype)  # type: ignore[arg-type]
    leaves = [t.requires_grad_() for t in qkv]
    out = attention(*leaves, backend=backend)
    torch.autograd.backward(out, grad)
    return [out.detach(), *(t.grad for t in leaves if t.grad is not None)]


@pytest.mark.parametrize("backend", ["cpu", "torch"])
@pytest.mark.parametrize(
    "shape",
    [
        (1, 600, 0.5, 0.5),  # several tiles of keys, the last one not full
        (2, 255, 0.5, 1.0),
        (1, 257, 3.0, 3.0),  # logits beyond the bound: exact row maximum
        (1, 100, 0.01, 1.0),  # the series
        (2, 300, 0.003, 2.0),
        (1, 100, 0.03, 1.0),
        (1, 1, 1.0, 1.0),
        (3, 4, 0.7, 0.1),
    ],
    ids=str,
)
def test_as_accurate_as_eager(shape: tuple[float, ...], backend: str) -> None:
    truth = outputs("reference", torch.float64, *shape)
    eager = outputs("reference", torch.float32, *shape)
    ours = outputs(backend, torch.float32, *shape)
    for name, t, e, o in zip(("out", "grad q", "grad k", "grad v"), truth, eager, ours, strict=True):
        largest = max(1.0, t.abs().max().item())  # the absolute term is meant for values of order 1
        error, allowed = (o - t).abs().max().item(), 2 * (e - t).abs().max().item() + 1e-5 * largest
        print(f"{name}: error {error:.2e}, allowed {allowed:.2e}, largest {largest:.2e}")
        assert error <= allowed


def test_chooses_the_series_only_below_its_bound(monkeypatch: pytest.MonkeyPatch) -> None:
    used = []
    series = attention_centred.attention_series
    monkeypatch.setattr(attention_centred, "attention_series", lambda *qkv: used.append(1) or series(*qkv))
    for spread, expected in ((1e-3, 1), (1.0, 1)):
        *qkv, _ = problem(1, 64, spread, 1.0, torch.float32)
        attention(*qkv, backend="cpu")
        assert len(used) == expected


@pytest.mark.parametrize("degree", [2, 3])
def test_series_error_at_its_bound(degree: int) -> None:
    """All logits at plus or minus the limit, the worst the bound allows, in float64: what the missing powers cost."""
    q = torch.zeros(1, 64, 8, dtype=torch.float64)
    q[:, ::2, 3], q[:, 1::2, 3] = 1, -1
    k, v = q * LARGEST[degree], q.roll(1, 1) + q.roll(2, 2)
    truth = (q @ k.mT).softmax(-1) @ v
    error = (attention_centred.attention_series(q, k, v, degree) - truth).abs().max().item()
    remainder = LARGEST[degree] ** (degree + 1) / math.factorial(degree + 1)
    # v is ±1, so a weight's error enters numerator and denominator
    assert error <= 2.2 * remainder
    assert remainder < 2**-24


@pytest.mark.parametrize(("degree", "count"), [(2, 45), (3, 165)])
def test_monomials(degree: int, count: int) -> None:
    x = torch.randn(2, 8, 2, dtype=torch.float64, generator=torch.Generator().manual_seed(0)).requires_grad_()
    y = torch.randn(2, 8, 2, dtype=torch.float64, generator=torch.Generator().manual_seed(1))
    weights = torch.tensor(coefficients(8, degree), dtype=torch.float64)
    of_x, of_y = Monomials.apply(x, degree), Monomials.apply(y, degree)
    assert of_x.shape == (2, count, 2)
    s = (x * y).sum(1)
    torch.testing.assert_close((of_x * of_y * weights[:, None]).sum(1), 1 + s + s**2 / 2 + (degree == 3) * s**3 / 6)
    assert torch.autograd.gradcheck(Monomials.apply, (x, degree))


def test_same_bits_with_any_number_of_threads() -> None:
    before = torch.get_num_threads()
    try:
        results = []
        for threads in (1, 2, 3):
            torch.set_num_threads(threads)
            results.append(outputs("cpu", torch.float32, 1, 300, 0.5, 0.5))
    finally:
        torch.set_num_threads(before)
    for other in results[1:]:
        assert all(torch.equal(a, b) for a, b in zip(results[0], other, strict=True))


def test_refuses_what_it_cannot_take() -> None:
    q = torch.zeros(1, 4, 8)
    with pytest.raises(ValueError, match="float32 CPU tensors"):
        attention(q.double(), q.double(), q.double(), backend="cpu")
    with pytest.raises(ValueError, match="backend is one of"):
        attention(q, q, q, backend="flash")
