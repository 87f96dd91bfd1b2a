"""Filter2Noise against its plain PyTorch formulation: ``pytest tests/benchmarks --benchmark-only -k filter2noise``.

One slice of 512 x 512, a filter that was fitted to it (radii 2 and 1, as on the Mayo slice), all of torch's threads on
both sides. A start that was never fitted would flatter us: its attention logits are tiny, and the series takes them.
Values and gradients are compared before anything is timed. Memory is ``python tests/benchmarks/peak_memory.py``.
"""

from __future__ import annotations

import functools
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from torch import Tensor, nn

from attn.core.denoise.base import FitOptions
from attn.core.denoise.filter2noise.method import Filter2Noise, fit, loss_terms, objective
from attn.core.denoise.filter2noise.schedule import RECIPES, OneCycleAdamW
from attn.core.threads import kernels_own_the_threads

sys.path.insert(0, str(Path(__file__).parent))
import unfold_reference as unfold
from peak_memory import peak_above_mb

SIZE, EDGE_WEIGHT = 512, 400.0


def slice_like() -> Tensor:
    """[1, 1, 512, 512]: an ellipse with structures and as much noise as on the Mayo slice."""
    generator = torch.Generator().manual_seed(0)
    y, x = torch.meshgrid(*(torch.linspace(-1, 1, SIZE),) * 2, indexing="ij")
    body = 0.25 * ((x / 0.9) ** 2 + (y / 0.7) ** 2 < 1) + 0.05 * torch.sin(9 * x) * torch.cos(7 * y)
    return body.clamp_min(0)[None, None] + 0.02 * torch.randn(1, 1, SIZE, SIZE, generator=generator)


@functools.cache
def fitted_state() -> dict[str, Tensor]:
    fitted = fit(slice_like()[0, 0], FitOptions(quality="fast", edge_weight=EDGE_WEIGHT))
    radii = [int(m[:2].max().ceil()) for m in fitted.patch_maps(slice_like()[0, 0])]
    assert radii == [2, 1], radii
    return fitted.model.state_dict()


def models() -> tuple[Filter2Noise, unfold.UnfoldFilter2Noise]:
    ours, plain = Filter2Noise(), unfold.UnfoldFilter2Noise()
    for model in (ours, plain):
        model.load_state_dict(fitted_state())
    return ours, plain


def test_both_agree() -> None:
    """Also run without --benchmark-only: what is compared below is the same thing."""
    image = slice_like()[..., :128, :128]
    ours, plain = models()
    with torch.no_grad():
        torch.testing.assert_close(ours(image), plain(image), atol=1e-6, rtol=0)
    values = objective(loss_terms(ours, image)(), EDGE_WEIGHT), unfold.loss(plain, image, EDGE_WEIGHT)
    torch.testing.assert_close(*values, rtol=1e-5, atol=0)
    for value in values:
        torch.autograd.backward(value)
    largest = max(p.grad.abs().max().item() for p in plain.parameters() if p.grad is not None)
    for p, q in zip(ours.parameters(), plain.parameters(), strict=True):
        torch.testing.assert_close(p.grad, q.grad, rtol=2e-3, atol=1e-5 * largest)


@pytest.mark.benchmark(group="filter2noise: training step 512x512")
@pytest.mark.parametrize("which", ["attn", "unfold"])
def test_training_step(which: str, benchmark: Callable[..., object]) -> None:
    image, (ours, plain) = slice_like(), models()
    model: nn.Module = ours if which == "attn" else plain
    optimiser = OneCycleAdamW(model.parameters(), RECIPES["paper"])
    terms = loss_terms(ours, image)
    loss = (
        (lambda: objective(terms(), EDGE_WEIGHT))
        if which == "attn"
        else (lambda: unfold.loss(plain, image, EDGE_WEIGHT))
    )

    def step() -> None:
        if which == "attn":
            with kernels_own_the_threads():
                optimiser.take_step(loss)
        else:
            optimiser.take_step(loss)

    benchmark.pedantic(step, rounds=5, warmup_rounds=1)  # type: ignore[attr-defined]


@pytest.mark.benchmark(group="filter2noise: apply 512x512")
@pytest.mark.parametrize("which", ["attn", "unfold"])
def test_apply(which: str, benchmark: Callable[..., object]) -> None:
    image, (ours, plain) = slice_like(), models()

    @torch.no_grad()
    def apply() -> Tensor:
        if which == "unfold":
            out: Tensor = plain(image)
            return out
        with kernels_own_the_threads():
            return ours(image)

    with torch.no_grad():
        torch.testing.assert_close(apply(), plain(image), atol=1e-6, rtol=0)
    benchmark.pedantic(apply, rounds=10 if which == "attn" else 4, warmup_rounds=1)  # type: ignore[attr-defined]


@pytest.mark.slow
@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="reads /proc/self/status")
def test_fit_needs_less_than_half_a_gigabyte() -> None:
    measured = peak_above_mb("attn", SIZE, 2)
    assert float(measured["peak_above_mb"]) < 500, measured
