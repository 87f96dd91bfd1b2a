"""CARVE against the official functions on synthetic maps: methods/carve.md, section 10."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from attn.core.models.geometry import Geometry, PatchGrid
from attn.core.prune.carve.complexity import colour_complexity, texture_complexity
from attn.core.prune.carve.maps import attention_entropy, contrast, fused
from attn.core.prune.carve.mask import box_of, mask_of, refined_size
from attn.core.prune.carve.settings import Rank, Steps
from attn.core.prune.sheets import smooth_on_pixels

V = dict(np.load(Path(__file__).parent / "vectors" / "carve" / "carve.npz"))
SIZE = V["image"].shape[:2]
SETTINGS: list[tuple[str, float, int, Rank]] = [
    ("p20_k3_attention_sum", 0.2, 3, "attention"),
    ("p40_k2_attention_sum", 0.4, 2, "attention"),
    ("p20_k3_size", 0.2, 3, "size"),
    ("p20_k3_remove_small", 0.2, 3, "remove-small"),
]


def ratio() -> np.ndarray:
    return contrast(V["query_maps"], V["general_maps"])


def resized(grid: np.ndarray, size: tuple[int, int]) -> np.ndarray:
    geometry = Geometry(size, 0, 0, (PatchGrid(0, grid.shape, (0.0, 0.0, float(size[0]), float(size[1]))),))
    return smooth_on_pixels(geometry, grid.ravel(), size)


def fused_map(mode: Steps) -> np.ndarray:
    return resized(fused(ratio()[:, V["layers"]], mode).reshape(V["grid"]), SIZE)


def test_contrast() -> None:
    np.testing.assert_allclose(ratio(), V["contrast"], rtol=1e-5)


@pytest.mark.parametrize("mode", ["all", "first"])
def test_fused(mode: Steps) -> None:
    np.testing.assert_allclose(fused_map(mode), V[f"fused_{mode}"], rtol=1e-4)


@pytest.mark.parametrize("mode", ["all", "first"])
def test_fused_once_is_fused_layer_by_layer(mode: Steps) -> None:
    steps = ratio()[:, V["layers"]]
    each = [sum(resized(layer.reshape(V["grid"]), SIZE) for layer in step) for step in steps]
    weights = np.arange(1, 5) if mode == "all" else [1, 0, 0, 0]
    np.testing.assert_allclose(fused_map(mode), np.einsum("s,shw->hw", weights, each), rtol=1e-6)


@pytest.mark.parametrize("mode", ["all", "first"])
@pytest.mark.parametrize(("name", "share", "count", "rank"), SETTINGS)
def test_mask(mode: Steps, name: str, share: float, count: int, rank: Rank) -> None:
    mask = mask_of(fused_map(mode), share, count, rank=rank)
    assert np.array_equal(mask, V[f"mask_{mode}_{name}"] > 0)
    assert list(box_of(mask)) == V[f"bbox_{mode}_{name}"].tolist()
    assert list(refined_size(box_of(mask), SIZE)) == V[f"refined_size_{mode}_{name}"].tolist()


def test_entropy() -> None:
    raw, normalised = attention_entropy(V["query_maps"][-1])
    np.testing.assert_allclose(raw, V["entropy_raw_last_step"], rtol=1e-5)
    np.testing.assert_allclose(normalised, V["entropy_norm_last_step"], rtol=1e-5)


def test_complexity() -> None:
    assert texture_complexity(V["image"]) == V["texture_complexity_canny100_200"]
    assert colour_complexity(V["image"]) == pytest.approx(float(V["color_complexity"]), rel=1e-6)
