"""Debiasing against recorded vectors: methods/attention-debias.md, section 10."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from numpy.typing import NDArray

from attn.core.prune.debias.calibrate import ScoreMean
from attn.core.prune.debias.modifier import debias
from attn.core.prune.debias.padding import valid_patches
from attn.core.prune.debias.trend import bias_strength, fit_trend
from attn.core.prune.methods.base import top

SIZES = range(5)


@pytest.fixture(scope="module")
def v() -> dict[str, NDArray[Any]]:
    with np.load(Path(__file__).parent / "vectors" / "attention-debias" / "debias.npz") as file:
        return {name: file[name] if file[name].ndim else file[name].item() for name in file.files}


def test_trend(v: dict[str, NDArray[Any]]) -> None:
    linear, log = fit_trend(v["mean_attn"]), fit_trend(v["mean_attn"], "log")
    assert [linear.mu, linear.sigma] == pytest.approx([v["mu"], v["sigma"]], rel=1e-4)
    assert [np.log(log.mu), log.sigma] == pytest.approx([v["log_mu"], v["log_sigma"]], rel=1e-4)
    x = np.arange(576) / 576
    assert 1 / linear.shape(x) == pytest.approx(v["weight"], rel=1e-5)
    assert linear.sigma == pytest.approx(v["sigma_attn"], abs=1e-3)
    assert bias_strength(v["mean_attn"] * v["weight"]) == pytest.approx(v["sigma_attn_debiased"], abs=1e-3)


def test_mean_over_pictures(v: dict[str, NDArray[Any]]) -> None:
    mean = ScoreMean()
    for scores in v["calib_attn"]:
        mean.add(scores)
    assert mean.count == len(v["calib_attn"])
    assert mean.mean == pytest.approx(v["mean_attn"], rel=1e-5)


@pytest.mark.parametrize("name", ["raw", "debiased"])
def test_strength_of_kept_positions(v: dict[str, NDArray[Any]], name: str) -> None:
    assert bias_strength(v[f"freq_{name}"]) == pytest.approx(v[f"sigma_freq_{name}"], abs=1e-3)


@pytest.mark.parametrize("number", SIZES)
def test_padding(v: dict[str, NDArray[Any]], number: int) -> None:
    width, height = v[f"size{number}"].tolist()
    size, grid = (height, width), int(v["grid"])
    for threshold, name in ((0.5, "t05"), (0.01, "t001")):
        masked = valid_patches(size, grid, threshold=threshold).numpy()
        np.testing.assert_array_equal(masked, v[f"pad_mask_{name}_{number}"].astype(bool))
    np.testing.assert_array_equal(
        valid_patches(size, grid, rule="rows").numpy(), v[f"unpad_rowcol_{number}"].astype(bool)
    )


@pytest.mark.parametrize("number", SIZES)
def test_what_is_kept(v: dict[str, NDArray[Any]], number: int) -> None:
    raw = torch.from_numpy(v["attn_heads"]).mean(0)
    valid = torch.from_numpy(v[f"pad_mask_t05_{number}"].astype(bool)).flatten()
    places = torch.arange(576)
    score = debias(raw, places, 576, float(v["sigma"]), valid)
    torch.testing.assert_close(score, torch.from_numpy(v[f"score_debiased_{number}"]), rtol=1e-5, atol=1e-9)
    kept = top(score.masked_fill(~valid, -torch.inf), places, int(v["k"])).keep
    assert kept.tolist() == v[f"keep_debiased_{number}"].tolist()
    assert top(raw, places, int(v["k"])).keep.tolist() == v[f"keep_raw_{number}"].tolist()
