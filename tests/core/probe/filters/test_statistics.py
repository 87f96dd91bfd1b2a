"""Statistics of filters against the slow, obvious way, and what has no meaning."""

from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor

from attn.core.probe.filters import statistics as module
from attn.core.probe.filters.statistics import largest_eigenvalue, singular_values, statistics


@pytest.mark.parametrize("shape", [(2, 2), (3, 3), (2, 5), (3, 7), (5, 5), (7, 4)])
def test_largest_eigenvalue(shape: tuple[int, int]) -> None:
    kernels = torch.randn(40, *shape, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    kernels[0], kernels[1] = 0, torch.eye(*shape)
    kernels[2] = torch.outer(torch.arange(shape[0]) + 1.0, torch.ones(shape[1]))
    exact = torch.linalg.svdvals(kernels)[:, 0].square()
    assert torch.allclose(largest_eigenvalue(kernels), exact, rtol=1e-9, atol=1e-12)


@pytest.mark.parametrize("sides", [(5,), (3, 3), (1, 7), (4, 4), (3, 3, 3)])
def test_frequency_is_that_of_the_padded_transform(sides: tuple[int, ...]) -> None:
    weights = torch.randn(3, 2, *sides, dtype=torch.float64, generator=torch.Generator().manual_seed(1))
    axes = tuple(range(-len(sides), 0))
    power = torch.fft.fftn(weights.flatten(0, 1), s=(32,) * len(sides), dim=axes).abs().square()
    line = torch.fft.fftfreq(32, dtype=torch.float64)
    distance = torch.stack(torch.meshgrid(*(line,) * len(sides), indexing="ij")).square().sum(0).sqrt()
    expected = (power * distance).flatten(1).sum(1) / power.flatten(1).sum(1)
    assert torch.allclose(statistics(weights).frequency_centroid, expected, rtol=1e-9)


def test_gram_and_svd_agree(monkeypatch: pytest.MonkeyPatch) -> None:
    matrix = torch.randn(20, 35, dtype=torch.float64, generator=torch.Generator().manual_seed(2))
    exact = torch.linalg.svdvals(matrix)
    monkeypatch.setattr(module, "GRAM", 1)
    assert torch.allclose(singular_values(matrix), exact, rtol=1e-9)
    assert torch.allclose(singular_values(matrix.T), exact, rtol=1e-9)
    matrix[3] = matrix[2]  # a Gram matrix would not tell the least from 0
    assert singular_values(matrix)[-1] < 1e-12


def test_cosines_in_chunks(monkeypatch: pytest.MonkeyPatch) -> None:
    weights = torch.randn(11, 2, 3, 3, generator=torch.Generator().manual_seed(3))
    weights[4] = 0
    whole = statistics(weights)
    monkeypatch.setattr(module, "CHUNK", 3)
    monkeypatch.setattr(module, "KERNELS", 5)
    parts = statistics(weights)
    assert torch.allclose(whole.cos_max, parts.cos_max)
    assert whole.orthogonality_defect == pytest.approx(parts.orthogonality_defect)
    assert whole.cos_mean == pytest.approx(parts.cos_mean)
    assert torch.equal(whole.separability, parts.separability)


def nothing(values: Tensor) -> bool:
    return bool(values.isnan().all())


def test_what_has_no_meaning_is_no_number() -> None:
    pointwise = statistics(torch.randn(6, 4, 1, 1))
    assert nothing(pointwise.separability)
    assert nothing(pointwise.centre_energy)
    assert nothing(pointwise.frequency_centroid)
    assert math.isnan(pointwise.variance_entropy)
    assert pointwise.effective_rank > 1
    line, volume, slim = (statistics(torch.randn(4, 2, *sides)) for sides in ((5,), (3, 3, 3), (1, 7)))
    assert nothing(line.separability)
    assert nothing(volume.separability)
    assert nothing(slim.separability)
    assert not line.energy_radius.isnan().any()
    assert torch.allclose(volume.centre_energy, torch.ones(8).double())
    assert torch.allclose(statistics(torch.randn(4, 2, 2, 2)).centre_energy, torch.ones(8).double())
    assert nothing(statistics(torch.randn(4, 2, 4, 4)).centre_energy)  # no middle
    single = statistics(torch.randn(1, 3, 3, 3))
    assert nothing(single.cos_max)
    assert math.isnan(single.orthogonality_defect)
    flat = statistics(torch.zeros(3, 2, 3, 3))
    assert (flat.effective_rank, flat.stable_rank, flat.duplicates) == (1.0, 0.0, 0)
    assert flat.dead.all()
    for shape in ((3, 4), (0, 3, 3, 3), (1, 1, 1, 1, 1, 1)):
        with pytest.raises(ValueError, match="no convolution filters"):
            statistics(torch.zeros(shape))


def test_filters_of_zeros_are_dead_also_where_most_are() -> None:
    """A thousandth of the median is no measure where the median is 0."""
    weight = torch.zeros(6, 3, 3, 3)
    assert statistics(weight).dead.all()
    weight[0] = 1.0
    assert statistics(weight).dead.tolist() == [False, True, True, True, True, True]
