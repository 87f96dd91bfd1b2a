"""Filter2Noise as a denoiser: fitting, applying, editing, files. Parity with the official code is in tests/golden."""

from __future__ import annotations

import json
import os
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import save_file
from torch import Tensor

from attn.core.denoise.base import FitOptions, Region
from attn.core.denoise.filter2noise.method import Filter2Noise, Filter2NoiseFilter, fit, local_shuffle, loss_terms
from attn.core.errors import InputError
from attn.core.io.weights import read_tensors


def noisy_disc(height: int = 48, width: int = 64, seed: int = 0) -> tuple[Tensor, Tensor]:
    """A bright disc with a darker one inside, clean and with noise of 0.03."""
    y, x = torch.meshgrid(torch.arange(height) - height / 2, torch.arange(width) - width / 2, indexing="ij")
    distance = (x**2 + y**2).sqrt()
    clean = 0.2 + 0.4 * (distance < height * 0.4) - 0.2 * (distance < height * 0.15)
    return clean, clean + 0.03 * torch.randn(height, width, generator=torch.Generator().manual_seed(seed))


def rms(x: Tensor) -> float:
    return x.square().mean().sqrt().item()


@pytest.fixture(scope="module")
def fitted() -> Filter2NoiseFilter:
    return fit(noisy_disc()[1], FitOptions(quality="fast", steps=15, edge_weight=400.0))


def test_fitting_lowers_the_loss_and_the_error(fitted: Filter2NoiseFilter) -> None:
    clean, noisy = noisy_disc()
    assert len(fitted.losses) == fitted.steps == 15
    assert fitted.losses[-1] < fitted.losses[0]
    assert rms(fitted(noisy) - clean) < 0.7 * rms(noisy - clean)
    assert fitted.parameters == 2 * 1819
    json.dumps(dict(fitted.settings))


def test_progress_is_told_every_step() -> None:
    seen: list[tuple[int, int]] = []
    fit(noisy_disc()[1], FitOptions(steps=3, edge_weight=400.0), lambda done, total: seen.append((done, total)))
    assert seen == [(1, 3), (2, 3), (3, 3)]


def test_same_seed_gives_same_bits_whatever_the_threads() -> None:
    noisy = noisy_disc()[1]
    before = torch.get_num_threads()
    state = torch.get_rng_state()
    results = []
    try:
        for threads in (1, 2, 2):
            torch.set_num_threads(threads)
            results.append(fit(noisy, FitOptions(steps=3, edge_weight=400.0))(noisy))
            assert torch.get_num_threads() == threads
    finally:
        torch.set_num_threads(before)
    assert torch.equal(results[0], results[1])
    assert torch.equal(results[1], results[2])
    assert not torch.equal(results[0], fit(noisy, FitOptions(steps=3, seed=78, edge_weight=400.0))(noisy))
    assert torch.equal(torch.get_rng_state(), state), "the caller's random state must not move"


@pytest.mark.parametrize("shape", [(1, 1), (5, 3), (1, 40), (7, 7), (17, 33), (50, 16)])
def test_any_size(shape: tuple[int, int]) -> None:
    image = torch.rand(shape, generator=torch.Generator().manual_seed(1))
    out = fit(image, FitOptions(steps=2))(image)
    assert out.shape == image.shape
    assert out.dtype == torch.float32
    assert bool((out >= image.min() - 1e-6).all())
    assert bool((out <= image.max() + 1e-6).all())


@pytest.mark.parametrize("patch_size", [2, 4, 16])
@pytest.mark.parametrize("stages", [1, 3])
def test_patch_sizes_and_stages(patch_size: int, stages: int) -> None:
    image = noisy_disc(40, 24)[1]
    fitted = fit(image, FitOptions(steps=2, patch_size=patch_size, stages=stages))
    assert fitted(image).shape == image.shape
    assert len(fitted.sigma_maps(image)) == stages


def test_constant_image_comes_back_unchanged(fitted: Filter2NoiseFilter) -> None:
    image = torch.full((20, 30), 0.123)
    own = fit(image, FitOptions())
    assert own.steps == 0
    assert torch.equal(own(image), image)
    assert torch.equal(fitted(image), image)


@pytest.mark.parametrize(
    ("image", "message"),
    [
        (torch.zeros(0, 5), "empty"),
        (torch.zeros(2, 3, 4), r"\[H, W\]"),
        (torch.zeros(4, 4, dtype=torch.int32), "floating-point"),
        (
            torch.tensor([[0.0, 1.0], [float("nan"), 2.0]]),
            "1 values that are NaN or infinite, the first at row 1, column 0",
        ),
    ],
)
def test_refuses(image: Tensor, message: str, fitted: Filter2NoiseFilter) -> None:
    with pytest.raises(ValueError, match=message):
        fit(image, FitOptions())
    with pytest.raises(ValueError, match=message):
        fitted(image)


def test_maps(fitted: Filter2NoiseFilter) -> None:
    noisy = noisy_disc(50, 60)[1]
    by_pixel, by_patch = fitted.sigma_maps(noisy), fitted.patch_maps(noisy)
    assert [tuple(m.shape) for m in by_pixel] == [(3, 50, 60)] * 2
    assert [tuple(m.shape) for m in by_patch] == [(3, 8, 8)] * 2  # 64 x 64 after padding
    for pixel, patch in zip(by_pixel, by_patch, strict=True):
        assert torch.equal(pixel[:, 17, 42], patch[:, 17 // 8, 42 // 8])
        assert bool((pixel > 0).all())


def test_strength_scales_the_range_sigma_only(fitted: Filter2NoiseFilter) -> None:
    noisy = noisy_disc()[1]
    stronger = fitted.with_strength(2.0)
    for before, after in zip(fitted.sigma_maps(noisy), stronger.sigma_maps(noisy), strict=True):
        assert torch.equal(before[:2], after[:2])
        torch.testing.assert_close(after[2], 2 * before[2])
    removed = [rms(fitted.with_strength(s)(noisy) - noisy) for s in (0.0, 0.5, 1.0, 2.0)]
    assert removed == sorted(removed)
    assert removed[0] < 1e-6
    assert torch.equal(fitted.with_strength(1.0)(noisy), fitted(noisy))


def test_regions_act_where_they_are(fitted: Filter2NoiseFilter) -> None:
    noisy = noisy_disc()[1]
    edited = fitted.with_strength(1.0, [Region(10, 5, 30, 20, 0.0), Region(20, 5, 30, 20, 1.0)])
    map_before, map_after = fitted.sigma_maps(noisy)[0], edited.sigma_maps(noisy)[0]
    assert bool((map_after[2, 5:20, 10:20] == 1e-6).all())
    outside = torch.ones(noisy.shape, dtype=torch.bool)
    outside[5:20, 10:20] = False  # the second region took its part back
    assert torch.equal(map_after[2][outside], map_before[2][outside])
    plain, out = fitted(noisy), edited(noisy)
    torch.testing.assert_close(out[5:20, 10:20], noisy[5:20, 10:20], atol=1e-6, rtol=0)
    # two stages reach at most two radii beyond the region; stages keep the widths predicted before the edit
    torch.testing.assert_close(out[:, 40:], plain[:, 40:], atol=1e-6, rtol=0)


@pytest.mark.parametrize(
    ("strength", "regions", "message"),
    [
        (-1.0, [], "at least 0"),
        (float("nan"), [], "at least 0"),
        (1.0, [Region(0, 0, 4, 4, -2.0)], "at least 0"),
        (1.0, [Region(4, 0, 4, 4, 1.0)], "x0 < x1"),
    ],
)
def test_refuses_edits(fitted: Filter2NoiseFilter, strength: float, regions: list[Region], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        fitted.with_strength(strength, regions)


def test_save_and_load(fitted: Filter2NoiseFilter, tmp_path: Path) -> None:
    path = tmp_path / "größe filter.safetensors"
    fitted.save(path)
    fitted.save(path)  # again, over the first
    again = Filter2NoiseFilter.load(path)
    noisy = noisy_disc(30, 70, seed=3)[1]
    assert torch.equal(again(noisy), fitted(noisy))
    assert again.options == fitted.options
    assert (again.parameters, again.steps) == (fitted.parameters, fitted.steps)
    assert [p.name for p in tmp_path.iterdir()] == [path.name], "no temporary file stays"


def test_save_failure_leaves_nothing(
    fitted: Filter2NoiseFilter, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(*_: object) -> None:
        raise OSError("disk full")

    monkeypatch.setattr(os, "replace", fail)
    with pytest.raises(InputError, match=r"cannot be written \(disk full\)"):
        fitted.save(tmp_path / "f.safetensors")
    assert list(tmp_path.iterdir()) == []


def test_load_refuses_other_files(fitted: Filter2NoiseFilter, tmp_path: Path) -> None:
    text, other, wrong = tmp_path / "a.txt", tmp_path / "b.safetensors", tmp_path / "c.safetensors"
    text.write_text("no filter")
    save_file({"weight": torch.zeros(3)}, other)
    save_file({"weight": torch.zeros(3)}, wrong, {"method": "filter2noise", "stages": "2"})
    fitted.save(tmp_path / "d.safetensors")
    cut = tmp_path / "e.safetensors"
    cut.write_bytes((tmp_path / "d.safetensors").read_bytes()[:-100])
    for path, message in [
        (text, "not a safetensors file"),
        (other, "not a filter of filter2noise"),
        (wrong, "do not match"),
        (cut, "damaged"),
        (tmp_path / "missing", "no such file"),
        (tmp_path, "not a safetensors file"),
    ]:
        with pytest.raises(InputError, match=message) as caught:
            Filter2NoiseFilter.load(path)
        assert str(path) in str(caught.value)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"stages": "9" * 5000}, "do not match"),
        ({"stages": "3"}, "do not match"),
        ({"patch_size": "-8"}, "do not match"),
        ({"lambda": "nan"}, "do not match"),
        ({"quality": "perfect"}, "do not match"),
        ({"method": "\x1b[2J"}, "not a filter of filter2noise"),
    ],
    ids=str,
)
def test_load_refuses_forged_descriptions(
    fitted: Filter2NoiseFilter, change: dict, message: str, tmp_path: Path
) -> None:
    path = tmp_path / "f.safetensors"
    fitted.save(path)
    metadata, state = read_tensors(path)
    save_file(state, path, metadata | change)
    with pytest.raises(InputError, match=message):
        Filter2NoiseFilter.load(path)


@pytest.mark.parametrize("sick", [torch.nan, torch.inf])
def test_load_refuses_weights_that_are_not_finite(fitted: Filter2NoiseFilter, sick: float, tmp_path: Path) -> None:
    path = tmp_path / "f.safetensors"
    fitted.save(path)
    metadata, state = read_tensors(path)
    name = sorted(state)[0]
    state[name].view(-1)[0] = sick
    save_file(state, path, metadata)
    with pytest.raises(InputError, match=rf"NaN or infinite weights \({name}\)"):
        Filter2NoiseFilter.load(path)
    del state[name]
    save_file(state, path, metadata)
    with pytest.raises(InputError, match="do not match"):
        Filter2NoiseFilter.load(path)


def test_shuffle_keeps_every_block_and_needs_even_sides() -> None:
    x = torch.rand(1, 2, 6, 8, generator=torch.Generator().manual_seed(0))
    y = local_shuffle(x)
    for data in (x, y):
        assert data.shape == (1, 2, 6, 8)
    blocks = [t.unfold(2, 2, 2).unfold(3, 2, 2).flatten(-2).sort(-1).values for t in (x, y)]
    assert torch.equal(*blocks)
    assert not torch.equal(x, y)
    with pytest.raises(ValueError, match="even sides"):
        local_shuffle(x[..., :7])


def test_start_is_the_official_one(data_dir: Path) -> None:
    """Seed 77 on the Mayo slice: loss 0.009350 before the first step (methods/filter2noise.md, section 6)."""
    with np.load(data_dir / "ct" / "mayo_slice_pair.npz") as pair:
        noisy = torch.from_numpy(pair["noisy"])[None, None]
    model = Filter2Noise(seed=77)
    with torch.no_grad():
        terms = loss_terms(model, noisy)()
    total = terms["resolution"] + terms["cross"] + terms["denoise"] + 400 * terms["edge"]
    assert total.item() == pytest.approx(0.009350, abs=1e-6)
