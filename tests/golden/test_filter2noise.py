"""Filter2Noise against vectors of the official functions: methods/filter2noise.md, section 10, and its tolerances."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor

from attn.core.denoise.base import FitOptions, Region
from attn.core.denoise.filter2noise.attention import attention
from attn.core.denoise.filter2noise.bilateral import bilateral_filter, radius_of, to_pixels
from attn.core.denoise.filter2noise.method import (
    Filter2Noise,
    Filter2NoiseFilter,
    downsample_pair,
    edge_kernel,
    edge_strength,
    local_shuffle,
    loss_terms,
    objective,
)
from attn.core.denoise.filter2noise.model import tokens
from attn.core.denoise.filter2noise.schedule import RECIPES, OneCycleAdamW

VECTORS = Path(__file__).parent / "vectors" / "filter2noise"
BACKENDS = ["reference", "cpu"]


def load(name: str) -> dict[str, Tensor]:
    with np.load(VECTORS / f"{name}.npz") as file:
        return {key: torch.from_numpy(np.asarray(file[key])) for key in file.files}


def model_of(vectors: dict[str, Tensor], prefix: str = "p.") -> Filter2Noise:
    state = {key.removeprefix(prefix): value for key, value in vectors.items() if key.startswith(prefix)}
    model = Filter2Noise(stages=1 + max(int(key.split(".")[1]) for key in state), patch_size=8)
    model.load_state_dict(state)
    return model


def maps_last(patch_sigma: Tensor) -> Tensor:
    """[B, 3, h, w] as the official code lays its maps out: [B, H, W, 3]."""
    return to_pixels(patch_sigma, 8).permute(0, 2, 3, 1)


def assert_within(actual: Tensor, expected: Tensor, tolerance: float) -> None:
    error = (actual.detach() - expected).abs().max().item()
    assert error <= tolerance, f"max error {error:.2e}, allowed {tolerance:.0e}"


def assert_gradients(model: torch.nn.Module, vectors: dict[str, Tensor], tolerance: float) -> None:
    """Each within ``tolerance`` of the largest gradient of that parameter.

    A key bias moves all logits of a row alike and softmax does not see it: its true gradient is 0 and both sides hold
    rounding noise only, so it is measured against the largest gradient of all parameters.
    """
    largest = max(value.abs().max().item() for key, value in vectors.items() if key.startswith("g."))
    for name, parameter in model.named_parameters():
        expected = vectors[f"g.{name}"]
        scale = largest if name.endswith("key.bias") else expected.abs().max().item()
        assert parameter.grad is not None
        error = (parameter.grad - expected).abs().max().item()
        assert error <= tolerance * scale, f"{name}: max error {error:.2e}, largest gradient {scale:.2e}"


def test_downsampler() -> None:
    v = load("downsampler")
    for x, expected in (("x", ("out1", "out2")), ("x_rgb", ("rgb1_per_channel", "rgb2_per_channel"))):
        for actual, name in zip(downsample_pair(v[x]), expected, strict=True):
            assert_within(actual, v[name], 1e-7)


@pytest.mark.parametrize(("x", "y"), [("x", "y"), ("x_rgb", "y_rgb"), ("x_ties", "y_ties")])
def test_els_is_exact(x: str, y: str) -> None:
    v = load("els")
    assert torch.equal(local_shuffle(v[x]), v[y])


def probabilities(q: Tensor, k: Tensor, backend: str) -> Tensor:
    """The rows of softmax, which no backend forms but all of them give for unit vectors as values: [B, N, N]."""
    eye = torch.eye(k.shape[1]).expand(len(k), -1, -1)
    return torch.cat([attention(q, k, part.contiguous(), backend=backend) for part in eye.split(8, -1)], -1)


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize("name", ["agbf_s1_init", "agbf_s1_wide"])
def test_one_stage_step_by_step(name: str, backend: str) -> None:
    v = load(name)
    predictor = model_of(v).predictors()[0]
    t = tokens(v["x"], 8)
    assert torch.equal(t, v["tokens"])
    assert_within(probabilities(predictor.query(t), predictor.key(t), backend), v["attn1"], 2e-6)
    features = attention(predictor.query(t), predictor.key(t), predictor.value(t), backend=backend)
    # the enlarged weights make features of up to 9, which the official float32 itself misses by 4e-6: relative here
    assert_within(features, v["feats"], 2e-6 * max(1.0, v["feats"].abs().max().item()))
    qkv = [layer(features) for layer in (predictor.sigma_query, predictor.sigma_key, predictor.sigma_value)]
    assert_within(probabilities(*qkv[:2], backend), v["attn2"], 5e-6)  # logits of up to 47
    assert_within(
        attention(*qkv, backend=backend), v["sigma_feats"], 2e-6 * max(1.0, v["sigma_feats"].abs().max().item())
    )
    sigma = predictor(v["x"])
    assert_within(sigma.flatten(2).mT, v["patch_sigmas"], 2e-6)
    assert_within(maps_last(sigma), v["sigmas"], 2e-6)
    assert 2 * radius_of(sigma) + 1 == v["kernel_size"]
    assert_within(bilateral_filter(v["x"], sigma, patch_size=8, backend=backend), v["y"], 2e-6)


def test_one_stage_gradients() -> None:
    v = load("agbf_s1_wide")
    model = model_of(v)
    x = v["x"].requires_grad_()
    (model(x) * v["grad_out"]).sum().backward()
    assert x.grad is not None
    assert_within(x.grad, v["grad_x"], 1e-3 * v["grad_x"].abs().max().item())
    assert_gradients(model, v, 1e-3)


def test_two_stages() -> None:
    v = load("agbf_s2")
    model = model_of(v)
    y, (first, second) = model.with_maps(v["x"])
    assert_within(model.stages[0](v["x"])[0], v["y_stage1"], 2e-6)
    assert_within(y, v["y"], 2e-6)
    assert_within(maps_last(first), v["sigmas_stage1"], 2e-6)
    assert_within(maps_last(second), v["sigmas_stage2"], 2e-6)
    (y * v["grad_out"]).sum().backward()
    assert_gradients(model, v, 1e-3)


@pytest.mark.parametrize("backend", BACKENDS)
def test_edited_maps(backend: str) -> None:
    v = load("sigma_edit")
    out = v["x"]
    for stage in ("sigmas_stage1", "sigmas_stage2"):  # the file holds the maps after the edit
        out = bilateral_filter(out, v[stage].permute(0, 3, 1, 2), patch_size=1, backend=backend)
    assert_within(out, v["y"], 2e-6)


def test_region_scales_the_maps_as_the_official_edit_does() -> None:
    v, before = load("sigma_edit"), load("agbf_s2")
    y0, x0, y1, x1 = v["box_y0x0y1x1"].tolist()
    fitted = Filter2NoiseFilter(model_of(before), FitOptions()).with_strength(1.0, [Region(x0, y0, x1, y1, 3.0)])
    edited, _ = fitted._edit(before["sigmas_stage1"].permute(0, 3, 1, 2)[:1, :, ::8, ::8].contiguous())
    assert_within(edited[0].permute(1, 2, 0), v["sigmas_stage1"][0], 2e-6)


def test_loss_terms_and_gradients() -> None:
    v = load("loss")
    model = model_of(v)
    n1, n2 = downsample_pair(v["x"])
    assert_within(n1, v["down1"], 1e-6)
    assert_within(n2, v["down2"], 1e-6)
    e1, e2 = local_shuffle(n1), local_shuffle(n2)
    assert_within(e1, v["els1"], 1e-6)
    assert_within(e2, v["els2"], 1e-6)
    assert_within(model(e1), v["den1"], 2e-6)
    assert_within(model(e2), v["den2"], 2e-6)
    assert_within(model(v["x"]), v["full"], 2e-6)
    assert_within(edge_kernel(), v["dog_kernel"], 1e-6 * v["dog_kernel"].abs().max().item() + 1e-9)
    assert_within(edge_strength(v["x"]), v["edges_noisy"].abs(), 1e-6)
    assert_within(edge_strength(v["full"]), v["edges_denoised"].abs(), 1e-6)
    terms = loss_terms(model, v["x"])()
    names = {"resolution": "resolution", "cross": "cross", "denoise": "denoise", "edge": "edge_unweighted"}
    for ours, official in names.items():
        assert_within(terms[ours], v[f"loss_{official}"], 1e-6)
    total = objective(terms, v["lam"].item())
    # lambda is 400: 1e-6 of the edge term is 4e-4 of the total, so the total is bound relative to itself
    assert_within(total, v["loss_total"], 1e-5 * v["loss_total"].item())
    total.backward()
    assert_gradients(model, v, 2e-3)


def test_thirty_steps_of_training() -> None:
    v = load("train30")
    model = model_of(v)
    optimiser = OneCycleAdamW(model.parameters(), RECIPES["paper"])
    terms = loss_terms(model, v["x"])
    losses, rates = [], []
    for _ in range(30):
        rates.append(optimiser.learning_rate(optimiser.taken))
        losses.append(optimiser.take_step(lambda: objective(terms(), v["lam"].item())))
    assert_within(torch.tensor(rates, dtype=torch.float64), v["lr"], 1e-12)
    relative = (torch.tensor(losses) / v["losses"] - 1).abs().max().item()
    assert relative <= 1e-3, f"losses differ by {relative:.1e}"
    with torch.no_grad():
        y, (first, second) = model.with_maps(v["x"])
    assert_within(y, v["y"], 1e-4)
    assert_within(maps_last(first), v["sigmas_stage1"], 1e-4)
    assert_within(maps_last(second), v["sigmas_stage2"], 1e-4)
    for name, value in model.state_dict().items():
        if not name.endswith("key.bias"):  # gradient 0 but for rounding noise, of which AdamW takes the sign
            assert_within(value, v[f"end.{name}"], 1e-4)


def test_learning_rates_of_all_steps() -> None:
    v = load("train30")
    optimiser = OneCycleAdamW([], RECIPES["paper"])
    rates = [optimiser.learning_rate(step) for step in range(500)]
    assert_within(torch.tensor(rates, dtype=torch.float64), v["lr_500"], 1e-12)
