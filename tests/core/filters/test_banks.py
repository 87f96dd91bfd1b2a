"""Analytic banks: orthonormality, directions, sizes, colours and mixtures."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from scipy.fft import dctn
from scipy.linalg import hadamard as scipy_hadamard

from attn.core.errors import UsageError
from attn.core.filters import INITIALISERS, analytic
from attn.core.filters.banks import BANKS, bank, extend, rescale, to_channels


def gram(filters: torch.Tensor) -> torch.Tensor:
    return filters.flatten(1) @ filters.flatten(1).T


@pytest.mark.parametrize(
    ("name", "sizes"), [("dct", (1, 2, 3, 5, 8, 11)), ("haar", (2, 4, 8)), ("hadamard", (2, 4, 8))]
)
def test_orthonormal_sets(name, sizes):
    for size in sizes:
        whole = bank(name, size=size, zero_mean=False)
        torch.testing.assert_close(gram(whole), torch.eye(size**2), atol=1e-6, rtol=0)
        torch.testing.assert_close(whole[0], torch.full((size, size), 1 / size))
        if size > 1:
            assert torch.equal(bank(name, size=size), whole[1:])
            assert bank(name, size=size).sum((1, 2)).abs().max() < 1e-5


def test_dct_equals_scipy():
    x = np.random.default_rng(0).normal(size=(5, 5))
    _, index = analytic.separable(torch.eye(5))
    ours = (analytic.dct(5).numpy() * x).sum((1, 2))
    np.testing.assert_allclose(ours, dctn(x, norm="ortho")[index[:, 0], index[:, 1]], atol=1e-12)


def test_hadamard_holds_scipys_rows_by_sign_changes():
    rows = scipy_hadamard(8) / math.sqrt(8)
    ours = analytic.hadamard(8).sum(2)[[int(u * (u + 1) / 2) + u for u in range(8)]] / math.sqrt(8)  # (u, 0)
    assert [int((r[1:] * r[:-1] < 0).sum()) for r in ours] == list(range(8))
    assert {tuple(np.round(r, 6)) for r in rows} == {tuple(np.round(r, 6)) for r in ours.numpy()}


@pytest.mark.parametrize("name", [*BANKS, "fourier"])
@pytest.mark.parametrize("size", [3, 4, 7, 8, 11])
def test_every_bank_has_mean_0_and_norm_1(name, size):
    if name in ("haar", "hadamard") and size not in (4, 8):
        with pytest.raises(ValueError, match="2, 4, 8"):
            bank(name, size=size)
        return
    filters = bank(name, size=size, generator=torch.Generator().manual_seed(0))
    assert filters.shape[1:] == (size, size)
    assert filters.dtype == torch.float32
    assert len(filters) >= 1
    torch.testing.assert_close(filters.flatten(1).norm(dim=1), torch.ones(len(filters)), atol=1e-6, rtol=0)
    assert filters.sum((1, 2)).abs().max() < 1e-5


@pytest.mark.parametrize("name", ["dct", "gabor", "gaussian", "fourier"])
def test_kernels_of_one_tap_have_no_bank(name):
    with pytest.raises(ValueError, match="larger kernels"):
        bank(name, size=1)


@pytest.mark.parametrize("name", ["sobel", "laplacian"])
def test_three_by_three_banks_need_three(name):
    with pytest.raises(ValueError, match="do not fit into 2 x 2"):
        bank(name, size=2)


def test_gabor_answers_its_own_direction_and_wavelength():
    size, bank_, params = 11, analytic.gabor(11), analytic.gabor_parameters(11)
    x, y = analytic.grid(size)
    for i, (theta, wavelength, psi, _, _) in enumerate(params.tolist()):
        wave = torch.cos(2 * math.pi * (x * math.cos(theta) + y * math.sin(theta)) / wavelength + psi)
        answers = (bank_ * wave).sum((1, 2)).abs()
        assert answers.argmax() == i


def test_sobel_points_right_and_down():
    x, y = analytic.grid(5)
    answers = (analytic.sobel(5)[:, None] * torch.stack([x, y])).sum((2, 3))
    assert (answers[[0, 2], 0] > 0).all()
    assert answers[[0, 2], 1].abs().max() < 1e-12
    assert (answers[[1, 3], 1] > 0).all()
    assert answers[[1, 3], 0].abs().max() < 1e-12


def test_gaussian_derivatives_are_steerable():
    first = analytic.gaussian(9, [1.5])[1:3]  # d/dx, d/dy
    t, (x, y) = 0.7, analytic.grid(9)
    turned = -(x * math.cos(t) + y * math.sin(t)) * torch.exp(-(x**2 + y**2) / (2 * 1.5**2))
    mix = math.cos(t) * first[0] + math.sin(t) * first[1]
    torch.testing.assert_close(mix, analytic.unit(turned[None])[0], atol=1e-12, rtol=0)


def test_fewer_and_more_than_the_bank_has():
    whole = bank("dct", size=3)
    assert torch.equal(bank("dct", size=3, count=5), whole[:5])
    many = bank("dct", size=3, count=21, generator=torch.Generator().manual_seed(1))
    assert torch.equal(many[:8], whole)
    torch.testing.assert_close(
        gram(many[8:16]), torch.eye(8), atol=1e-6, rtol=0
    )  # orthogonal mixtures stay orthonormal
    assert (gram(many) - torch.eye(21)).abs().max() < 0.999  # and none repeats another
    assert torch.linalg.matrix_rank(many.flatten(1)) == 8
    again = bank("dct", size=3, count=21, generator=torch.Generator().manual_seed(1))
    assert torch.equal(many, again)


def test_channels():
    kernels = analytic.gabor(5)
    grey = to_channels(kernels, 4)
    assert grey.shape == (16, 4, 5, 5)
    torch.testing.assert_close(grey.flatten(1).norm(dim=1), torch.ones(16, dtype=torch.float64))
    torch.testing.assert_close(grey[:, 3] * 2, kernels)
    colour = to_channels(kernels, 3, "opponent")
    assert colour.shape == (48, 3, 5, 5)
    torch.testing.assert_close(colour.flatten(1).norm(dim=1), torch.ones(48, dtype=torch.float64))
    torch.testing.assert_close(gram(colour[:3]), torch.eye(3, dtype=torch.float64))
    assert bank("gabor", size=5, count=50, channels=3, colour="opponent").shape == (50, 3, 5, 5)
    with pytest.raises(ValueError, match="opponent takes 3"):
        to_channels(kernels, 4, "opponent")


def test_rescale_and_extend():
    filters = torch.randn(3, 2, 4, 4)
    torch.testing.assert_close(rescale(filters, 1.5).flatten(1).norm(dim=1), torch.full((3,), 1.5))
    assert rescale(torch.zeros(1, 2, 2), 1.0).isfinite().all()
    assert torch.equal(extend(filters, 3), filters)


def test_what_is_no_bank():
    with pytest.raises(UsageError, match="Did you mean gabor"):
        bank("gobor", size=5)
    with pytest.raises(ValueError, match="at least 1"):
        bank("gabor", size=5, count=0)
    with pytest.raises(ValueError, match="at least 1"):
        bank("gabor", size=0)


def test_every_bank_is_an_initialiser():
    assert {*BANKS, "fourier"} <= set(INITIALISERS)
