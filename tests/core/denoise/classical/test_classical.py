"""The methods without training: the specification's rows, parameters from the noise alone, any image."""

import subprocess
import sys

import numpy as np
import pytest
import torch
from scipy.ndimage import gaussian_filter

from attn.core.denoise import METHODS
from attn.core.denoise.base import FitOptions
from attn.core.denoise.classical.bilateral import COLOR_FACTOR
from attn.core.denoise.classical.tv import WEIGHT_FACTOR
from attn.core.denoise.metrics import psnr
from attn.core.denoise.noise import noise_std

CLASSICAL = [
    pytest.param(name, marks=pytest.mark.skipif(bool(method.missing()), reason="optional package is not installed"))
    for name, method in METHODS.items()
    if "sigma" in method.options
]


def image(height: int = 48, width: int = 40, std: float = 0.05, seed: int = 0) -> torch.Tensor:
    """A dark and a bright half under white noise."""
    generator = torch.Generator().manual_seed(seed)
    clean = torch.where(torch.arange(width) < width / 2, 0.3, 0.7).expand(height, width)
    return clean + std * torch.randn(height, width, generator=generator)


def mayo(data_dir) -> tuple[torch.Tensor, np.ndarray]:
    pair = np.load(data_dir / "ct" / "mayo_slice_pair.npz")
    return torch.from_numpy(pair["noisy"]), pair["clean"]


def finest(noisy: torch.Tensor, factor: float) -> FitOptions:
    """The specification's rules start from the finest band's estimate; ours have another factor to their own."""
    return FitOptions(sigma=factor * noise_std(noisy.numpy()))


@pytest.mark.parametrize(
    ("name", "factor", "expected"),
    [("bilateral", 2 / COLOR_FACTOR, 37.297), ("nlm", 1, 38.150), ("tv", 1 / WEIGHT_FACTOR, 38.489)],
)
def test_row_of_the_specification(data_dir, name: str, factor: float, expected: float) -> None:
    """methods/filter2noise.md, section 6, "Fair (no reference)", on the Mayo slice pair."""
    noisy, clean = mayo(data_dir)
    result = METHODS[name].resolve()(noisy, finest(noisy, factor))(noisy)
    assert psnr(result.numpy(), clean) == pytest.approx(expected, abs=0.02)


@pytest.mark.parametrize(
    ("name", "reached"), [("bilateral", 37.23), ("nlm", 38.29), ("tv", 38.55), ("wavelet", 37.108)]
)
def test_our_rules_on_the_specifications_slice(data_dir, name: str, reached: float) -> None:
    noisy, clean = mayo(data_dir)
    result = METHODS[name].resolve()(noisy, FitOptions())(noisy)
    assert psnr(result.numpy(), clean) == pytest.approx(reached, abs=0.02)


@pytest.mark.parametrize("name", ["bilateral", "nlm", "tv"])
def test_correlated_noise_is_taken_away(name: str) -> None:
    """The finest band holds next to nothing of such noise, and rules that start from it leave the image as it is."""
    clean = image(128, 128, std=0)
    noise = gaussian_filter(np.random.default_rng(0).standard_normal((128, 128)), 1.2)
    noisy = clean + torch.from_numpy(0.03 * noise / noise.std()).float()
    fit = METHODS[name].resolve()
    ours, white = (
        psnr(fit(noisy, options)(noisy).numpy(), clean.numpy()) for options in (FitOptions(), finest(noisy, 1))
    )
    assert ours > white + 1


@pytest.mark.slow
def test_row_of_the_specification_bm3d(data_dir) -> None:
    """As above, at 1.5 estimates: ``options.sigma`` is taken as it is."""
    pytest.importorskip("bm3d", reason="optional package bm3d is not installed")
    noisy, clean = mayo(data_dir)
    result = METHODS["bm3d"].resolve()(noisy, finest(noisy, 1.5))(noisy)
    assert psnr(result.numpy(), clean) == pytest.approx(38.407, abs=0.02)


@pytest.mark.parametrize("name", CLASSICAL)
def test_takes_noise_away_and_keeps_the_edge(name: str) -> None:
    noisy, clean = image(), image(std=0)
    result = METHODS[name].resolve()(noisy, FitOptions())(noisy)
    assert result.shape == noisy.shape
    assert result.dtype == noisy.dtype
    assert psnr(result.numpy(), clean.numpy()) > psnr(noisy.numpy(), clean.numpy()) + 3


@pytest.mark.parametrize("name", CLASSICAL)
def test_parameters_come_from_the_fitted_image_alone(name: str) -> None:
    """Parameters are chosen once: the filter of one slice treats another slice as any slice."""
    fit = METHODS[name].resolve()
    size = (128, 128)
    fitted = fit(image(*size), FitOptions())
    assert fitted.settings == fit(image(*size), FitOptions()).settings
    assert fitted.settings["noise_std"] == pytest.approx(0.05, rel=0.15)
    assert fitted.parameters == fitted.steps == 0
    assert torch.equal(fitted(image(seed=1)), fitted(image(seed=1)))
    assert fit(image(*size, std=0.1), FitOptions()).settings["noise_std"] == pytest.approx(0.1, rel=0.15)


@pytest.mark.parametrize("name", CLASSICAL)
def test_sigma_overrides_the_estimate(name: str) -> None:
    fit, noisy = METHODS[name].resolve(), image()
    weak, strong = (fit(noisy, FitOptions(sigma=sigma)) for sigma in (0.01, 0.1))
    assert (weak.settings["noise_std"], strong.settings["noise_std"]) == (0.01, 0.1)
    assert (strong(noisy) - noisy).std() > 1.5 * (weak(noisy) - noisy).std()
    assert torch.equal(fit(noisy, FitOptions(sigma=0.0))(noisy), noisy)


@pytest.mark.parametrize("name", CLASSICAL)
@pytest.mark.parametrize("shape", [(1, 1), (1, 9), (2, 3), (8, 8), (17, 4), (33, 21)])
def test_any_size(name: str, shape: tuple[int, int]) -> None:
    noisy = torch.rand(shape, generator=torch.Generator().manual_seed(0)) - 0.3  # also below 0
    result = METHODS[name].resolve()(noisy, FitOptions(sigma=0.1))(noisy)
    assert result.shape == shape
    assert torch.isfinite(result).all()


@pytest.mark.parametrize("name", CLASSICAL)
@pytest.mark.parametrize("level", [0.0, 0.1, 1.0])
def test_a_constant_image_stays(name: str, level: float) -> None:
    flat = torch.full((20, 24), level)
    assert torch.equal(METHODS[name].resolve()(flat, FitOptions())(flat), flat)


@pytest.mark.parametrize("name", CLASSICAL)
def test_a_shift_changes_nothing(name: str) -> None:
    noisy = image()
    fitted = METHODS[name].resolve()(noisy, FitOptions())
    torch.testing.assert_close(fitted(noisy - 0.5), fitted(noisy) - 0.5, rtol=0, atol=2e-3)


@pytest.mark.parametrize("name", CLASSICAL)
def test_images_and_options_that_make_no_sense(name: str) -> None:
    fit = METHODS[name].resolve()
    for bad, message in ((torch.zeros(2, 4, 4), r"\[H, W\]"), (torch.zeros(0, 4), "empty"), (image() / 0, "NaN")):
        with pytest.raises(ValueError, match=message):
            fit(bad, FitOptions())
    with pytest.raises(ValueError, match="sigma"):
        fit(image(), FitOptions(sigma=-1.0))


def test_the_table_is_complete_and_honest() -> None:
    assert list(METHODS) == ["adaptive", "filter2noise", "zs-n2n", "bm3d", "nlm", "bilateral", "tv", "wavelet"]
    for method in METHODS.values():
        assert method.summary
        assert method.paper
        assert method.year > 1990
    assert "non-commercial" in METHODS["bm3d"].note
    assert METHODS["bm3d"].needs == (("bm3d", "bm3d", "bm3d"),)


def test_listing_imports_neither_torch_nor_scikit_image() -> None:
    code = "import sys, attn.core.denoise; sys.exit(bool({'torch', 'skimage', 'numpy'} & set(sys.modules)))"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
