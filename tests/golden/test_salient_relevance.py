"""LRP and context-aware saliency against the released layer classes, captum and zennit: methods/salient-relevance.md,
section 10."""

from __future__ import annotations

from functools import partial
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from attn.core.probe.relevance.chain import chain_of
from attn.core.probe.relevance.composites import PropagationRules, rules_of
from attn.core.probe.relevance.propagate import propagate
from attn.core.probe.relevance.regions import heat_map
from attn.core.probe.relevance.rules import changed, passed, positive, same, stabilised, winner
from attn.core.probe.relevance.saliency import SaliencySettings, context_saliency

VECTORS = Path(__file__).parent / "vectors" / "salient-relevance"
V = dict(np.load(VECTORS / "lrp.npz"))
S = dict(np.load(VECTORS / "context_saliency.npz"))


def net() -> nn.Sequential:
    def weighted(name: str) -> nn.Module:
        weight = torch.from_numpy(V[f"{name}.weight"]).double()
        made = nn.Conv2d(weight.shape[1], len(weight), 3, padding=1) if weight.ndim == 4 else nn.Linear(
            weight.shape[1], len(weight)
        )  # fmt: skip
        made.weight = nn.Parameter(weight)
        made.bias = nn.Parameter(torch.from_numpy(V[f"{name}.bias"]).double())
        return made

    pools = [nn.MaxPool2d(int(V["pool_kernel"]), int(V["pool_stride"])) for _ in range(2)]
    return nn.Sequential(
        weighted("conv0"), nn.ReLU(), pools[0], weighted("conv1"), nn.ReLU(), pools[1], nn.Flatten(),
        weighted("fc0"), nn.ReLU(), weighted("fc1"),
    )  # fmt: skip


def found(rules: PropagationRules) -> np.ndarray:
    links, x = chain_of(net()), torch.from_numpy(V["x"]).double()
    maps = [propagate(links, rules, x[i : i + 1], int(target)).pixels for i, target in enumerate(V["target"])]
    return torch.stack(maps).numpy()


def captum_plus(module: nn.Module, x: Tensor, relevance: Tensor) -> Tensor:
    """captum's Alpha1_Beta0_Rule: positive weights, whole bias, the input as it is."""
    z, back = passed(changed(module, positive, same), x)
    return x * back(relevance / stabilised(z, 1e-9))


BOUNDS = tuple(torch.tensor(V[name]).double().reshape(-1, 1, 1) for name in ("box_low", "box_high"))


@pytest.mark.parametrize(
    ("name", "rules", "tolerance"),
    [
        ("R_official", rules_of("official"), 1e-4),
        ("R_captum_eps", rules_of("epsilon", epsilon=1e-9), 1e-4),
        ("R_captum_a1b0", PropagationRules(*[captum_plus] * 4, winner, 1e-9), 1e-4),
        ("R_zennit_eps_plus_flat", rules_of("epsilon-plus"), 1e-3),
        ("R_zennit_eps_a2b1", rules_of("alpha2beta1"), 1e-3),
        ("R_zennit_eps_gamma_box", rules_of("gamma-box", bounds=(BOUNDS[0], BOUNDS[1])), 1e-3),
    ],
)
def test_relevance_of_the_pixels(name: str, rules: PropagationRules, tolerance: float) -> None:
    wanted = V[name]
    np.testing.assert_allclose(found(rules), wanted, rtol=0, atol=tolerance * np.abs(wanted).max())


def test_every_layer_of_the_official_rules() -> None:
    """The relevance that reaches each layer, seen through rules that note it."""
    seen: list[Tensor] = []
    rules = rules_of("official")

    def noting(rule, module, x, relevance):
        seen.append(rule(module, x, relevance))
        return seen[-1]

    class Noted(PropagationRules):
        def of(self, module: nn.Module, *, first: bool):
            return partial(noting, super().of(module, first=first))

    noted = Noted(rules.linear, rules.convolution, rules.first, rules.average, rules.largest, rules.epsilon)
    x = torch.from_numpy(V["x"]).double()
    propagate(chain_of(net()), noted, x[:1], int(V["target"][0]))
    for number, values in enumerate(seen, 1):
        wanted = V[f"R_step{number}"][0]
        np.testing.assert_allclose(values[0].numpy(), wanted, rtol=0, atol=1e-4 * np.abs(wanted).max())
    assert len(seen) == 10


def test_the_official_picture() -> None:
    for relevance, picture in zip(V["R_official"], V["heat_u8"], strict=True):
        made = heat_map(torch.from_numpy(relevance).double()).astype(int)
        assert np.abs(made - picture).max() <= 1  # float32 in the file, where a value is truncated
        assert (made == picture).mean() > 0.99


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_context_aware_saliency(dtype: torch.dtype) -> None:
    settings = SaliencySettings(
        int(S["max_side"]), int(S["patch"]), int(S["stride"]), int(S["K"]), float(S["c"]), tuple(S["scales"].tolist())
    )
    rgb = torch.from_numpy(S["rgb_u8"]).permute(2, 0, 1).to(dtype) / 255
    made = context_saliency(rgb, settings)
    for number, (patches, values) in enumerate(zip(made.patch_maps, made.scale_maps, strict=True)):
        np.testing.assert_allclose(patches, S[f"patch_map{number}"], atol=2e-3)
        np.testing.assert_allclose(values, S["scale_maps"][number], atol=2e-3)
    np.testing.assert_allclose(made.mean, S["mean"], atol=2e-3)
    np.testing.assert_allclose(made.final, S["final"], atol=2e-3)
