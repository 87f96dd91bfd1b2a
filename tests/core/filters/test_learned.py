"""Patches and the filters learned from them."""

from __future__ import annotations

import pytest
import torch

from attn.core.errors import UsageError
from attn.core.filters import INITIALISERS, NEEDS_IMAGES
from attn.core.filters.learned import LEARNERS, learn_bank, sanger, spherical_kmeans
from attn.core.filters.patches import normalise, patches, pca, zca


def seeded(seed: int = 5) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


@pytest.fixture
def images() -> torch.Tensor:
    """Smooth noise, as photos have it: neighbouring pixels alike."""
    noise = torch.rand(6, 3, 40, 40, generator=seeded())
    return torch.nn.functional.avg_pool2d(noise, 3, stride=1)


class TestPatches:
    def test_order_and_stride(self):
        image = torch.arange(2 * 3 * 5 * 6.0).view(2, 3, 5, 6)
        x = patches(image, (2, 3), stride=3)
        assert x.shape == (2 * 2 * 2, 3 * 2 * 3)
        assert torch.equal(x[3], image[0, :, 3:5, 3:6].flatten().double())
        assert torch.equal(x[4], image[1, :, 0:2, 0:3].flatten().double())

    def test_limit_takes_different_windows_from_everywhere(self):
        image = torch.arange(20 * 20.0).view(2, 1, 20, 10)
        x = patches(image, 1, stride=1, limit=150, generator=seeded())
        assert x.shape == (150, 1)
        assert len(x.unique()) > 145
        assert (x[:, 0].diff() >= 0).all()
        assert x.min() < 8
        assert x.max() > 391
        assert torch.equal(x, patches(image, 1, stride=1, limit=150, generator=seeded()))
        assert not torch.equal(x, patches(image, 1, stride=1, limit=150, generator=seeded(6)))

    def test_flat_patches_stay_finite(self):
        x = normalise(torch.full((4, 9), 0.3, dtype=torch.float64))
        assert x.abs().max() < 1e-12

    @pytest.mark.parametrize(
        ("image", "size", "message"),
        [
            (torch.zeros(3, 8, 8), 3, r"\[N, C, H, W\]"),
            (torch.zeros(0, 3, 8, 8), 3, r"\[N, C, H, W\]"),
            (torch.zeros(1, 3, 8, 4), 5, "no 5 x 5 patch"),
            (torch.full((1, 1, 8, 8), torch.nan), 3, "NaN"),
        ],
    )
    def test_refused(self, image, size, message):
        with pytest.raises(ValueError, match=message):
            patches(image, size)


def test_whitened_patches_are_white():
    x = torch.randn(4000, 6, dtype=torch.float64, generator=seeded()) @ torch.randn(6, 6, generator=seeded(1)).double()
    y = zca(x, eps=0.0)(x)
    torch.testing.assert_close(y.T @ y / len(y), torch.eye(6, dtype=torch.float64), atol=1e-9, rtol=0)


def test_pca_sign_and_order():
    x = torch.randn(500, 5, dtype=torch.float64, generator=seeded()) * torch.tensor([1.0, 5.0, 2.0, 4.0, 3.0]).double()
    rows, values = pca(x)
    assert (values.diff() < 0).all()
    assert rows.abs().argmax(1).tolist() == [1, 3, 4, 2, 0]
    assert (rows.gather(1, rows.abs().argmax(1, keepdim=True)) > 0).all()


def test_kmeans_finds_directions_and_reseeds_empty_clusters():
    truth = torch.linalg.qr(torch.randn(8, 8, dtype=torch.float64, generator=seeded()))[0][:3]
    owner = torch.arange(600) % 3
    x = (
        truth[owner]
        * (1 + torch.rand(600, 1, dtype=torch.float64, generator=seeded()))
        * (1 - 2 * (owner[:, None] % 2))
    )
    # the third start is orthogonal to all patches: nothing belongs to it until a patch takes its place
    lost = torch.linalg.svd(truth, full_matrices=True)[2][-1:]
    start = torch.cat([truth[:2] + 0.1, lost]) @ torch.eye(8, dtype=torch.float64)
    found, errors = spherical_kmeans(x, start, generator=seeded(1))
    assert (found @ truth.T).abs().amax(0).min() > 0.999
    assert errors[-1] < 1e-3 < errors[0]
    torch.testing.assert_close(found.norm(dim=1), torch.ones(3, dtype=torch.float64))


def test_kmeans_of_flat_patches_stays_finite():
    found, _ = spherical_kmeans(torch.zeros(10, 4).double(), torch.randn(2, 4, generator=seeded()), generator=seeded())
    torch.testing.assert_close(found.norm(dim=1), torch.ones(2).double())


def test_sanger_tends_to_the_components():
    scales = torch.tensor([3.0, 2.0, 1.0, 0.5]).double()
    turn = torch.linalg.qr(torch.randn(4, 4, dtype=torch.float64, generator=seeded()))[0]
    x = torch.randn(8000, 4, dtype=torch.float64, generator=seeded()) * scales @ turn
    w = sanger(x, torch.randn(3, 4, generator=seeded(2)), eta=0.002)
    torch.testing.assert_close((w * turn[:3]).sum(1).abs(), torch.ones(3).double(), atol=0.03, rtol=0)


@pytest.mark.parametrize("method", LEARNERS)
@pytest.mark.parametrize(("size", "count"), [(3, 8), (5, 100), ((1, 3), 20)])
def test_learned_banks(method, size, count, images):
    filters = learn_bank(images, method=method, size=size, count=count, generator=seeded())
    assert filters.shape == (count, 3, *((size, size) if isinstance(size, int) else size))
    assert filters.dtype == torch.float32
    torch.testing.assert_close(filters.flatten(1).norm(dim=1), torch.ones(count), atol=1e-5, rtol=0)
    again = learn_bank(images, method=method, size=size, count=count, generator=seeded())
    assert torch.equal(filters, again)
    cosines = filters.flatten(1) @ filters.flatten(1).T - torch.eye(count)
    if isinstance(size, int):
        assert cosines.abs().max() < 0.999, "two filters are the same"


def test_pca_bank_spans_what_the_patches_hold(images):
    whole = learn_bank(images, method="pca", size=3, count=26)  # the 27th component is the mean, which patches lack
    torch.testing.assert_close(whole.flatten(1) @ whole.flatten(1).T, torch.eye(26), atol=1e-5, rtol=0)
    assert whole.sum((1, 2, 3)).abs().max() < 1e-4


def test_refused(images):
    with pytest.raises(ValueError, match="at least 150"):
        learn_bank(images[:1, :, :20, :20], method="pca", size=5, count=4)
    assert learn_bank(images[:1, :, :20, :20], method="pca", size=5, count=4, force=True).isfinite().all()
    with pytest.raises(ValueError, match="flat"):
        learn_bank(torch.full((4, 3, 30, 30), 0.4), method="zca-kmeans", size=3, count=4)
    with pytest.raises(UsageError, match="Did you mean sanger"):
        learn_bank(images, method="sangre", size=3, count=4)
    with pytest.raises(ValueError, match="at least 1"):
        learn_bank(images, method="pca", size=3, count=0)


def test_every_learner_is_an_initialiser_that_needs_images():
    assert set(LEARNERS) <= set(INITIALISERS)
    assert set(LEARNERS) | {"lsuv"} == NEEDS_IMAGES
