"""The adaptive method's kernels against NumPy: ``pytest tests/benchmarks --benchmark-only -k adaptive``.

One slice of 512 x 512, float32, one thread: the pilot of the noise model, the six heads of a slice, and what one
neighbour adds to the three heads of a series. The whole slice and a whole slice of a series are timed too.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from scipy.ndimage import gaussian_filter

from attn.core.denoise.adaptive import bilateral, mixture, neighbours, volume
from attn.core.denoise.adaptive.noise_model import estimate

Array = NDArray[Any]
SIZE, NEIGHBOURS = 512, 6
PRESET = mixture.PRESETS["default"]
WHICH = pytest.mark.parametrize("which", ["attn", "reference"])


@pytest.fixture(autouse=True)
def one_thread() -> Iterator[None]:
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


def slice_like(seed: int = 0) -> Array:
    """An ellipse with structures under noise that neighbouring pixels share."""
    y, x = np.meshgrid(*(np.linspace(-1, 1, SIZE),) * 2, indexing="ij")
    body = 0.3 + 0.25 * ((x / 0.9) ** 2 + (y / 0.7) ** 2 < 1) + 0.05 * np.sin(9 * x) * np.cos(7 * y)
    noise = gaussian_filter(np.random.default_rng(seed).standard_normal(body.shape), 0.6)
    return np.asarray(body + 0.03 / noise.std() * noise, np.float32)


def heads(which: str, x: Array, level: Array) -> Array:
    if which == "attn":
        return mixture.filtered(x, level)
    planes = [
        bilateral.reference(
            x, gaussian_filter(x, head.guide) if head.guide else x, level, (head.kappa,), spatial_sigma=head.sigma,
            radius=head.radius, patch=head.patch, bias=head.bias,
        )
        for head in mixture.HEADS
    ]  # fmt: skip
    return np.concatenate(planes)


def one_neighbour(which: str, x: Array, y: Array, level: Array) -> Array:
    """[3, H, W]: the sums of the series' heads, as one neighbour makes them."""
    accumulate = bilateral.accumulate if which == "attn" else bilateral.accumulate_reference
    planes = []
    for head in volume.SERIES_HEADS:
        out, total = np.stack([x] * len(head.kappas)), np.ones((len(head.kappas), *x.shape), np.float32)
        accumulate(
            out, total, y, x, y, level, head.kappas, x, y, 3 * level, bias=head.bias, low_bias=2.0,
            radius=volume.NEAR, patch=head.patch, weight=0.9,
        )  # fmt: skip
        planes.append(out / total)
    return np.concatenate(planes)


def test_both_agree() -> None:
    """Also run without --benchmark-only: what is compared below is the same thing."""
    x, y = slice_like()[:64, 100:190], slice_like(1)[:64, 100:190]
    level = np.full(x.shape, 0.03, np.float32)
    np.testing.assert_allclose(heads("attn", x, level), heads("reference", x, level), rtol=0, atol=5e-6)
    ours, plain = (one_neighbour(which, x, y, level) for which in ("attn", "reference"))
    np.testing.assert_allclose(ours, plain, rtol=0, atol=5e-6)


def timed(benchmark: Any, which: str, function: Callable[[], object]) -> None:
    benchmark.pedantic(function, rounds=5 if which == "attn" else 1, warmup_rounds=1 if which == "attn" else 0)


@WHICH
@pytest.mark.benchmark(group="adaptive: pilot 512x512")
def test_pilot(which: str, benchmark: Any) -> None:
    x = slice_like()
    if which == "attn":
        timed(benchmark, which, lambda: bilateral.patch_bilateral(x, x, 0.03, bias=1.0))
    else:
        timed(benchmark, which, lambda: bilateral.reference(x, x, 0.03, (1.0,), bias=1.0))


@WHICH
@pytest.mark.benchmark(group="adaptive: six heads 512x512")
def test_heads(which: str, benchmark: Any) -> None:
    x = slice_like()
    timed(benchmark, which, lambda: heads(which, x, np.full(x.shape, 0.03, np.float32)))


@WHICH
@pytest.mark.benchmark(group="adaptive: one neighbour of a series 512x512")
def test_one_neighbour(which: str, benchmark: Any) -> None:
    x, y = slice_like(), slice_like(1)
    timed(benchmark, which, lambda: one_neighbour(which, x, y, np.full(x.shape, 0.03, np.float32)))


@pytest.mark.benchmark(group="adaptive: whole slice 512x512")
def test_whole_slice(benchmark: Any) -> None:
    x = slice_like()
    timed(benchmark, "attn", lambda: mixture.denoise_slice(x, estimate(x), PRESET))


@functools.cache
def series() -> Sequence[neighbours.Slice]:
    return [volume.slicewise(slice_like(seed), None, PRESET, seed) for seed in range(1 + NEIGHBOURS)]


@pytest.mark.benchmark(group="adaptive: slice of a series with six neighbours 512x512, slice-wise part beside it")
def test_slice_of_a_series(benchmark: Any) -> None:
    own, *others = series()
    timed(benchmark, "attn", lambda: volume.denoise_with(own, [(other, (0, 0)) for other in others], PRESET))
