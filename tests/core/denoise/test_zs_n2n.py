import pytest
import torch

from attn.core.denoise.base import FitOptions
from attn.core.denoise.zs_n2n import BAND_ROWS, RECIPES, Network, ZeroShotFilter, apply, fit, random_crop


def image(height: int = 24, width: int = 31, seed: int = 0) -> torch.Tensor:
    """A smooth ramp under white noise of 0.1."""
    generator = torch.Generator().manual_seed(seed)
    ramp = torch.linspace(0.2, 0.8, width).expand(height, width)
    return (ramp + 0.1 * torch.randn(height, width, generator=generator)).clamp(0, 1)


@pytest.mark.parametrize("quality", RECIPES)
@pytest.mark.parametrize("shape", [(4, 4), (5, 7), (31, 24)])
def test_any_size_and_report(quality, shape: tuple[int, int]) -> None:
    steps = []
    fitted = fit(image(*shape), FitOptions(quality=quality, steps=2), lambda done, total: steps.append((done, total)))
    result = fitted(image(*shape))
    assert result.shape == shape
    assert result.dtype == torch.float32
    assert steps == [(1, 2), (2, 2)]
    assert (fitted.parameters, fitted.steps, len(fitted.losses)) == (21313, 2, 2)
    assert fitted.settings["learning_rate"] == RECIPES[quality].learning_rate


def test_takes_noise_away() -> None:
    clean = torch.linspace(0.2, 0.8, 32).expand(32, 32)
    noisy = image(32, 32)
    fitted = fit(noisy, FitOptions(quality="fast", steps=100, learning_rate=1e-2))
    assert fitted.losses[-1] < 0.7 * fitted.losses[0]
    assert (fitted(noisy) - clean).square().mean() < 0.7 * (noisy - clean).square().mean()


def test_same_seed_same_bits_and_the_callers_generator_is_left_alone() -> None:
    torch.manual_seed(1)
    expected = torch.rand(3)
    torch.manual_seed(1)
    first = fit(image(), FitOptions(steps=3))(image())
    assert torch.equal(torch.rand(3), expected)
    assert torch.equal(fit(image(), FitOptions(steps=3))(image()), first)
    assert not torch.equal(fit(image(), FitOptions(steps=3, seed=78))(image()), first)


def test_no_steps_is_the_start() -> None:
    fitted = fit(image(), FitOptions(steps=0))
    assert fitted.steps == 0
    assert fitted.losses == []


@pytest.mark.parametrize("height", [BAND_ROWS - 1, BAND_ROWS, BAND_ROWS + 1, 2 * BAND_ROWS + 3])
def test_bands_equal_the_whole(height: int) -> None:
    network, x = Network(), image(height, 9)[None, None]
    whole = (x - network(x)).clamp(0, 1)
    torch.testing.assert_close(apply(network, x), whole.detach(), rtol=0, atol=1e-6)


def test_crops_stay_inside_and_reach_the_ends() -> None:
    x = torch.arange(35.0).reshape(1, 1, 5, 7)
    generator = torch.Generator().manual_seed(0)
    crops = [random_crop(x, 4, generator) for _ in range(200)]
    assert {tuple(crop.shape) for crop in crops} == {(1, 1, 4, 4)}
    assert {crop[0, 0, 0, 0].item() for crop in crops} == {row * 7 + column for row in range(2) for column in range(4)}
    assert random_crop(x, 64, generator).shape == x.shape


def test_applies_to_other_images_and_dtypes() -> None:
    fitted = fit(image(), FitOptions(steps=1))
    result = fitted(image(1, 3).double())
    assert result.shape == (1, 3)
    assert result.dtype == torch.float64
    assert isinstance(fitted, ZeroShotFilter)


@pytest.mark.parametrize("channels", [1, 3])
def test_channels_go_through_one_network(channels: int) -> None:
    noisy = torch.rand(channels, 12, 15)
    fitted = fit(noisy, FitOptions(steps=2, seed=3))
    assert fitted(noisy).shape == noisy.shape
    assert fitted.parameters == (channels * 9 + 1) * 48 + (48 * 9 + 1) * 48 + (48 + 1) * channels
    whole = noisy - fitted.network(noisy[None])[0]
    torch.testing.assert_close(fitted(noisy), whole.clamp(0, 1), rtol=1e-5, atol=1e-6)
    if channels == 1:
        assert torch.equal(fitted(noisy)[0], fit(noisy[0], FitOptions(steps=2, seed=3))(noisy[0]))
    with pytest.raises(ValueError, match=f"the filter was made for {channels}"):
        fitted(torch.rand(channels + 1, 8, 8))


@pytest.mark.parametrize(
    ("bad", "message"),
    [
        (torch.zeros(3, 9), "at least 4 x 4"),
        (torch.zeros(1, 1, 8, 8), r"\[H, W\]"),
        (torch.full((8, 8), torch.nan), "NaN"),
        (torch.zeros(0, 8), "empty"),
    ],
)
def test_images_that_cannot_be_fitted(bad: torch.Tensor, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        fit(bad, FitOptions(steps=1))
