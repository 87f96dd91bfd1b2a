"""Filter initialisers against reference vectors: methods/filter-design.md, section 10, and its tolerances."""

from __future__ import annotations

from dataclasses import fields
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from attn.core.filters import analytic, structured
from attn.core.filters.layers import fans
from attn.core.filters.learned import sanger, spherical_kmeans
from attn.core.filters.lsuv import unit_variance_
from attn.core.filters.patches import normalise, patches, pca, zca
from attn.core.filters.rules import RULES, TORCH_DEFAULT, he_gain
from attn.core.probe.filters.statistics import statistics

VECTORS = Path(__file__).parent / "vectors" / "filter-design"


def load(name: str) -> dict[str, Tensor]:
    with np.load(VECTORS / f"{name}.npz") as file:
        return {key: torch.from_numpy(np.asarray(file[key])) for key in file.files}


def assert_within(actual: Tensor, expected: Tensor, tolerance: float) -> None:
    assert actual.shape == expected.shape
    error = (actual.double() - expected.double()).abs().max().item()
    assert error <= tolerance, f"max error {error:.2e}, allowed {tolerance:.0e}"


def test_analytic_banks() -> None:
    v = load("analytic_banks")
    size = int(v["size"])
    dct = analytic.dct(size)
    assert_within(dct, v["dct"], 1e-6)
    rows = dct.flatten(1).double()
    assert (rows @ rows.T - torch.eye(len(rows))).abs().max().item() <= float(v["dct_ortho_error"]) + 1e-6
    assert torch.equal(analytic.separable(torch.eye(size))[1], v["dct_index"])
    assert_within(analytic.gabor_parameters(size), v["gabor_params"], 1e-6)
    assert_within(analytic.gabor(size), v["gabor"], 1e-6)


def test_patches_whitening_and_components() -> None:
    v = load("data_driven")
    x = patches(v["images"].permute(0, 3, 1, 2), int(v["size"]))
    assert_within(x, v["patches"], 1e-4)
    x = normalise(x)
    assert_within(x, v["patches_norm"], 1e-4)
    whitening = zca(x)
    assert_within(whitening.mean, v["mean"], 1e-4)
    assert_within(whitening.matrix, v["zca"], 1e-4)
    assert_within(whitening(x), v["whitened"], 1e-4)
    rows, values = pca(x)
    assert_within(values, v["eigvals"], 1e-4)
    expected = v["pca"].flatten(1).double()
    assert_within(rows * (rows * expected).sum(1, keepdim=True).sign(), expected, 1e-4)  # up to sign


def test_spherical_kmeans() -> None:
    v = load("data_driven")
    centroids, errors = spherical_kmeans(v["whitened"].double(), v["kmeans_init"], iterations=10)
    assert_within(centroids, v["kmeans"], 1e-3)
    assert_within((centroids @ v["zca"].double()).view(-1, 3, 5, 5), v["kmeans_filters"], 1e-3)
    assert_within(torch.tensor(errors, dtype=torch.float64), v["kmeans_err"], 1e-3)


def test_sanger() -> None:
    v = load("sanger")
    assert_within(sanger(v["x"].double(), v["w0"], float(v["eta"])), v["w"], 1e-5)


def test_lsuv() -> None:
    v = load("lsuv")
    net = nn.Sequential(
        nn.Conv2d(3, 8, 5, padding=2, bias=False), nn.ReLU(), nn.Conv2d(8, 8, 3, padding=1, bias=False), nn.ReLU(),
        nn.AdaptiveAvgPool2d(2), nn.Flatten(), nn.Linear(32, 5, bias=False),
    ).double()  # fmt: skip
    net.load_state_dict({f"{i}.weight": v[f"w{i}"] for i in (0, 2, 6)})
    done = unit_variance_(net, v["x"].double(), tol=float(v["tol"]), iterations=int(v["max_iter"]))
    assert [one.name for one in done] == ["0", "2", "6"]
    assert [one.iterations for one in done] == v["iterations"].tolist()
    for one in done:
        assert_within(net.get_parameter(f"{one.name}.weight").detach(), v[f"w{one.name}_end"], 1e-5)
        assert abs(one.after - float(v[f"var{one.name}"])) <= 1e-5


def test_variance_rules() -> None:
    v = load("variance_rules")
    fan_in, fan_out = fans(v["shape"].tolist())
    assert (fan_in, fan_out) == (int(v["fan_in"]), int(v["fan_out"]))
    ours = {
        "lecun_normal_std": RULES["lecun"].std(fan_in, fan_out),
        "xavier_normal_std": RULES["xavier"].std(fan_in, fan_out),
        "xavier_uniform_bound": RULES["xavier-uniform"].bound(fan_in, fan_out),
        "he_normal_std_relu": RULES["he"].std(fan_in, fan_out),
        "he_uniform_bound_relu": RULES["he-uniform"].bound(fan_in, fan_out),
        "he_normal_std_leaky02": RULES["he"].std(fan_in, fan_out, he_gain(0.2)),
        "he_fan_out_std": RULES["he-fan-out"].std(fan_in, fan_out),
        "torch_default_bound": TORCH_DEFAULT.bound(fan_in, fan_out),
    }
    assert set(ours) == set(v) - {"shape", "fan_in", "fan_out"}
    for name, value in ours.items():
        assert value == pytest.approx(float(v[name]), abs=1e-9, rel=0), name


def test_structured() -> None:
    v = load("structured")
    assert torch.equal(structured.icnr(v["icnr_base"], 2), v["icnr"])
    assert torch.equal(structured.dirac(12, 3, (5, 5)), v["dirac"])
    assert_within(structured.at_centre(v["delta_q"][:, :3], (5, 5)), v["delta_orthogonal"], 1e-6)


def test_statistics() -> None:
    v = load("statistics")
    found = statistics(v["weight"])
    names = set(v) - {"weight"}
    assert names == {field.name for field in fields(found)} - {"least", "most"}
    for name in sorted(names - {"cond"}):
        actual = torch.as_tensor(getattr(found, name)).double()
        assert torch.allclose(actual, v[name].double(), rtol=1e-4, atol=1e-7), name
    assert 0.1 < found.cond / float(v["cond"]) < 10  # the least singular value is 0 up to rounding
    assert found.duplicates == 2
