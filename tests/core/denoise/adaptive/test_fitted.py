"""A fitted mixture: the slice it was fitted on and others, strength and regions, maps, and the file it is kept in."""

from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import save_file
from scipy.ndimage import gaussian_filter

import attn
import attn.core.denoise.adaptive.fitted as fitted_module
from attn.core.denoise.adaptive.fitted import AdaptiveFilter, correlation_length
from attn.core.denoise.adaptive.method import STEPS, fit
from attn.core.denoise.adaptive.mixture import HEADS, PRESETS, kept
from attn.core.denoise.adaptive.noise_model import LAGS
from attn.core.denoise.base import FitOptions, PresetName, Region
from attn.core.denoise.metrics import psnr
from attn.core.errors import InputError, UsageError
from attn.core.io.weights import read_tensors

SHAPE = (72, 60)


def noisy(seed: int = 0, std: float = 0.03, shape: tuple[int, int] = SHAPE) -> tuple[torch.Tensor, np.ndarray]:
    """A disc under noise that neighbouring pixels share, and the disc."""
    rows, columns = np.mgrid[: shape[0], : shape[1]]
    clean = np.where(np.hypot(rows - shape[0] / 2, columns - shape[1] / 2) < 20, 0.6, 0.4).astype(np.float32)
    noise = gaussian_filter(np.random.default_rng(seed).standard_normal(shape), 0.8)
    return torch.from_numpy(clean + (std * noise / noise.std()).astype(np.float32)), clean


@pytest.fixture(scope="module")
def image() -> torch.Tensor:
    return noisy()[0]


@pytest.fixture(scope="module")
def fitted(image: torch.Tensor) -> AdaptiveFilter:
    return fit(image, FitOptions())


def test_progress_settings_and_result(image: torch.Tensor) -> None:
    told: list[tuple[int, int]] = []
    fitted = fit(image, FitOptions(), lambda done, total: told.append((done, total)))
    assert told == [(k, STEPS) for k in range(1, STEPS + 1)]
    settings = dict(fitted.settings)
    shares = [settings.pop(f"head_{k}_share") for k in range(len(HEADS))]
    assert sum(shares) == pytest.approx(1, abs=1e-4)
    assert set(settings) == {"noise_std", "correlation_length", "gamma", "keep", "seed"}
    assert settings["noise_std"] == pytest.approx(0.03, rel=0.2)
    assert 0.7 < settings["correlation_length"] < 2.5
    assert (settings["gamma"], settings["keep"]) == (1.4, 0.05)
    result = fitted(image)
    assert (result.shape, result.dtype) == (image.shape, image.dtype)
    assert psnr(result.numpy(), noisy()[1]) > psnr(image.numpy(), noisy()[1]) + 6
    assert fitted(image.double()).dtype == torch.float64


def test_the_preset_changes_gamma_and_keep(image: torch.Tensor, fitted: AdaptiveFilter) -> None:
    grain = fit(image, FitOptions(preset="full-dose"))
    assert grain.preset == PRESETS["full-dose"]
    assert (grain(image) - image).std() < (fitted(image) - image).std()
    assert set(PRESETS) == set(PresetName.__args__)  # type: ignore[attr-defined]


def test_its_own_slice_is_not_filtered_again(
    image: torch.Tensor, fitted: AdaptiveFilter, monkeypatch: pytest.MonkeyPatch
) -> None:
    again = fitted.released()(image)
    assert torch.equal(again, fitted(image))
    for name in ("denoise_slice", "filtered"):
        monkeypatch.setattr(fitted_module, name, None)
    first = fitted(image)
    first += 1  # what it returns is not what it keeps
    assert torch.equal(fitted(image.clone()), again)


def test_another_slice_keeps_the_level_and_is_weighed_by_its_own_risk(fitted: AdaptiveFilter) -> None:
    other, clean = noisy(seed=5)
    result = fitted(other)
    assert psnr(result.numpy(), clean) > psnr(other.numpy(), clean) + 6
    maps = fitted.maps(other)
    np.testing.assert_array_equal(maps["noise_level"], fitted.model.level)
    assert fitted.weights is not None
    assert not np.array_equal(maps["weights"], fitted.weights)
    with pytest.raises(ValueError, match="for slices of 72 x 60 pixels, this one has 60 x 72"):
        fitted(other.T)


def test_strength_scales_the_widths_alone(image: torch.Tensor, fitted: AdaptiveFilter) -> None:
    assert torch.equal(fitted.with_strength(0)(image), image)
    removed = [float((fitted.with_strength(s)(image) - image).std()) for s in (0.25, 0.5, 1, 2, 4)]
    assert removed == sorted(removed)
    assert torch.equal(fitted.with_strength(1.0)(image), fitted(image))
    before, after = fitted.maps(image), fitted.with_strength(2).maps(image)
    for name in ("noise_level", "sigma_s", "weights"):
        np.testing.assert_array_equal(before[name], after[name])
    np.testing.assert_allclose(after["sigma_r"], 2 * before["sigma_r"], rtol=1e-6)


def test_regions_change_what_is_in_them(image: torch.Tensor, fitted: AdaptiveFilter) -> None:
    edited = fitted.with_strength(
        1, [Region(0, 0, 30, 20, 0.5), Region(10, 10, 30, 20, 0.0), Region(50, 60, 99, 99, 2)]
    )
    result, plain = edited(image), fitted(image)
    assert torch.equal(result[10:20, 10:30], image[10:20, 10:30])
    assert torch.equal(result[20:60, :], plain[20:60, :])
    assert (result - image)[:10, :30].std() < (plain - image)[:10, :30].std()
    assert not torch.equal(result[60:, 50:], plain[60:, 50:])
    for strength, regions in ((-1, ()), (float("nan"), ()), (1, [Region(3, 3, 3, 5, 1)])):
        with pytest.raises(ValueError, match=r"strength|region"):
            fitted.with_strength(strength, regions)


def test_how_much_of_the_slice_stays_in() -> None:
    assert [float(kept(0.05, s)) for s in (0, 0.01, 0.5, 1, 5)] == pytest.approx([1, 1, 0.1, 0.05, 0.01])
    assert kept(0.0, 0.0) == 0


def test_correlation_length_is_where_it_falls_to_half() -> None:
    lags = np.hypot(*np.mgrid[-LAGS : LAGS + 1, -LAGS : LAGS + 1])
    assert correlation_length(np.where(lags == 0, 1.0, 0.0)) == 0.5
    assert correlation_length(np.exp2(-lags / 3)) == pytest.approx(3, abs=1e-9)
    assert correlation_length(np.ones_like(lags)) == LAGS


def test_a_kept_filter_does_the_same(image: torch.Tensor, fitted: AdaptiveFilter, tmp_path: Path) -> None:
    fitted.save(tmp_path / "f.safetensors")
    again = AdaptiveFilter.load(tmp_path / "f.safetensors")
    assert torch.equal(again(image), fitted(image))
    assert again.settings == fitted.settings
    other = noisy(seed=3)[0]
    assert torch.equal(again(other), fitted(other))
    assert torch.equal(again.with_strength(0.7)(image), fitted.with_strength(0.7)(image))
    light = fitted.released()
    light.save(tmp_path / "g.safetensors")
    assert torch.equal(AdaptiveFilter.load(tmp_path / "g.safetensors")(image), fitted(image))


@pytest.mark.parametrize(
    "change",
    [
        {"form": "2"}, {"form": "9" * 5000}, {"gamma": "nan"}, {"keep": "2"}, {"seed": "-1"}, {"shares": "1 2"},
        {"shares": "0.5 x"}, {"method": "\x1b[2J"}, {"method": "filter2noise"},
    ],
    ids=str,
)  # fmt: skip
def test_forged_descriptions_are_refused(change: dict[str, str], fitted: AdaptiveFilter, tmp_path: Path) -> None:
    path = tmp_path / "f.safetensors"
    fitted.save(path)
    metadata, state = read_tensors(path)
    save_file(state, path, metadata | change)
    with pytest.raises(InputError, match="not a filter of adaptive" if "method" in change else "do not match"):
        AdaptiveFilter.load(path)


@pytest.mark.parametrize(
    "sick",
    ["level", "faint", "loud", "strong", "flat", "correlation", "weights", "more", "gone", "short", "type", "nan"],
)
def test_forged_contents_are_refused(sick: str, fitted: AdaptiveFilter, tmp_path: Path) -> None:
    path = tmp_path / "f.safetensors"
    fitted.save(path)
    metadata, state = read_tensors(path)
    changed = {
        "level": {"level": -state["level"]}, "faint": {"pilot_level": state["level"] * 1e-30},
        "loud": {"level": state["level"] * 1e30}, "strong": {"correlation": state["correlation"] * 1e30},
        "flat": {"flat": state["flat"].float()},
        "correlation": {"correlation": state["correlation"][1:].contiguous()},
        "weights": {"weights": 2 * state["weights"]},
        "more": {"other": state["level"].clone()}, "gone": {}, "short": {"weights": state["weights"][:2].contiguous()},
        "type": {"residual": state["residual"].double()}, "nan": {"raw": state["raw"] * torch.nan},
    }  # fmt: skip
    state |= changed[sick]
    if sick == "gone":
        del state["raw"]
    save_file(state, path, metadata)
    with pytest.raises(InputError, match="NaN" if sick == "nan" else "do not match"):
        AdaptiveFilter.load(path)


@pytest.mark.parametrize("shape", [(1, 1), (1, 9), (2, 3), (8, 8), (17, 4)])
def test_any_size(shape: tuple[int, int]) -> None:
    tiny = torch.rand(shape, generator=torch.Generator().manual_seed(0))
    fitted = fit(tiny, FitOptions())
    result = fitted(tiny)
    assert result.shape == shape
    assert torch.isfinite(result).all()
    assert torch.equal(fitted.with_strength(0)(tiny), tiny)
    assert np.isfinite(list(fitted.settings.values())).all()


@pytest.mark.parametrize("value", [0.0, 0.1, 1.0])
def test_a_constant_image_stays(value: float) -> None:
    flat = torch.full((20, 24), value)
    assert torch.equal(fit(flat, FitOptions())(flat), flat)


def test_images_that_make_no_sense(image: torch.Tensor, fitted: AdaptiveFilter) -> None:
    for bad, message in ((torch.zeros(2, 4, 4), r"\[H, W\]"), (torch.zeros(0, 4), "empty"), (image / 0, "NaN")):
        with pytest.raises(ValueError, match=message):
            fit(bad, FitOptions())
        with pytest.raises(ValueError, match=message):
            fitted(bad)


def test_where_nothing_can_be_measured_it_says_so(fitted: AdaptiveFilter) -> None:
    checks = torch.from_numpy(np.indices((24, 24)).sum(0) % 2).float()
    other = fit(checks, FitOptions())
    assert "no place to measure the noise on" in other.warnings[0]
    torch.testing.assert_close(other(checks), checks, rtol=0, atol=1e-4)
    assert fitted.warnings == ()


def test_the_library_takes_presets_and_refuses_what_is_not_read(image: torch.Tensor) -> None:
    pixels = 1000 * image.numpy()
    window, valid = (0.0, 1000.0), np.ones(SHAPE, bool)
    plain, grain = (attn.denoise(pixels, window=window, preset=preset) for preset in PRESETS)
    assert plain.filters[0].settings["gamma"] == 1.4
    assert np.abs(grain.pixels - pixels).mean() < np.abs(plain.pixels - pixels).mean()
    again = attn.denoise(pixels, window=window, valid=valid, aspect=1.0)
    np.testing.assert_array_equal(again.pixels, plain.pixels)
    for unread in ({"quality": "fast"}, {"steps": 3}, {"sigma": 0.1}):
        with pytest.raises(UsageError, match="works with method"):
            attn.denoise(pixels, **unread)  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({"image": [[1.0, 2.0]]}, "expected an array of real numbers, got a list"),
        ({"image": np.ones((4, 4), complex)}, "got an array of complex128"),
        ({"valid": np.ones(SHAPE, np.uint8)}, "valid must be an array of bool"),
        ({"valid": np.ones((4, 4), bool)}, "valid must be an array of bool"),
        ({"window": (5.0, 5.0)}, "low < high"),
        ({"window": (9.0, 5.0)}, "low < high"),
        ({"window": (float("nan"), 5.0)}, "low < high"),
        ({"window": (0.0, float("inf"))}, "do not reach as far as the window"),
        ({"image": np.array([[-3e38, 3e38]], np.float32)}, "do not reach as far as the window"),
        ({"device": "tpu"}, "device: no device named 'tpu'"),
    ],
)
def test_the_library_refuses_what_makes_no_sense(given: dict[str, object], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        attn.denoise(**{"image": np.zeros(SHAPE, np.float32), **given})  # type: ignore[arg-type]


def test_padding_is_not_taken_for_noise() -> None:
    """A filter is shown 0 where padding is; the mask says that it is not measured there."""
    image, _ = noisy()
    valid = np.ones(SHAPE, bool)
    valid[:, :20] = False
    padded = image * torch.from_numpy(valid)
    settings = fit(padded, FitOptions(), valid=valid).settings
    assert settings["noise_std"] == pytest.approx(0.03, rel=0.25)


def test_seeds_draw_other_noise_and_change_little(image: torch.Tensor, fitted: AdaptiveFilter) -> None:
    other = fit(image, FitOptions(seed=1))
    assert torch.equal(fit(image, FitOptions())(image), fitted(image))
    assert not torch.equal(other(image), fitted(image))
    assert (other(image) - fitted(image)).std() < 0.1 * (fitted(image) - image).std()
