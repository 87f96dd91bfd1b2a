"""Heads of image transformers taken out from their layer on, against whole passes without them."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from small_models import IMAGES, build
from torch.utils.flop_counter import FlopCounterMode

from attn.core.errors import UsageError
from attn.core.models.hooks import edit
from attn.core.nets.vit import VisionTransformer, ViTShape
from attn.core.probe.vit.importance import agreement, context_means, gate_gradients, importance, ranked
from attn.core.probe.vit.restart import Ablation, HeadSite


def classifier(depth: int = 4) -> Any:
    """Ours, under the names of timm, with weights that make a difference."""
    torch.manual_seed(0)
    net = VisionTransformer(ViTShape(32, 4, num_classes=6, dim=32, depth=depth, num_heads=4)).eval()
    for parameter in net.parameters():
        parameter.data = 0.3 * torch.randn_like(parameter) if parameter.ndim > 1 else parameter.data
    return net


@pytest.mark.parametrize("name", IMAGES)
def test_a_pass_from_the_middle_is_a_whole_pass(name: str) -> None:
    model = build(name)
    site, pixels = HeadSite(model), torch.randn(2, 3, 16, 16)
    state = {key: value.clone() for key, value in model.state_dict().items()}
    with torch.inference_mode():
        before, plain = site.plain(pixels)
        means = context_means(plain)
        for ablation in ("zero", "uniform", "mean"):
            how: Ablation = ablation  # type: ignore[assignment]
            for layer in range(site.depth):
                rows = torch.tensor([[True, False], [True, True]])
                found = site.without(plain, layer, rows, how, means).feature.view(2, 2, -1)
                for row, feature in zip(rows, found, strict=True):
                    heads = torch.zeros(site.depth, site.heads, dtype=torch.bool)
                    heads[layer] = row
                    with site.ablated(heads, how, means):
                        whole = site.says(pixels).feature
                    torch.testing.assert_close(feature, whole, atol=1e-5, rtol=1e-4)
                    assert not torch.allclose(whole, before.feature, atol=1e-4)
        assert torch.equal(site.says(pixels).feature, before.feature)
    assert all(torch.equal(value, state[key]) for key, value in model.state_dict().items())


def test_importance_costs_less_than_whole_passes() -> None:
    """Counted by torch: the passes that the specification asks for, whole, against ours."""
    site, pixels = HeadSite(classifier()), torch.randn(1, 3, 32, 32)
    with torch.inference_mode(), FlopCounterMode(display=False) as ours:
        importance(site, pixels)
    with torch.inference_mode(), FlopCounterMode(display=False) as one:
        site.says(pixels)
    passes = 1 + site.depth * site.heads + site.depth  # plain, each head, each layer
    assert passes * one.get_total_flops() / ours.get_total_flops() > 1.7


def test_metrics_of_a_classifier_and_of_a_backbone() -> None:
    site, pixels = HeadSite(classifier(2)), torch.randn(3, 3, 32, 32)
    with torch.inference_mode():
        found = importance(site, pixels)
        labelled = importance(site, pixels, labels=torch.tensor([5, 0, 1]))
        backbone = importance(HeadSite(build("dinov2")), torch.randn(1, 3, 16, 16))
    assert found.target is not None
    assert list(backbone.heads) == ["cos"]
    assert backbone.target is None
    assert found.heads["jsd"].shape == (2, 4, 3)
    assert found.layers["jsd"].shape == (2, 3)
    assert (found.heads["jsd"] >= 0).all()
    assert (found.heads["jsd"] <= np.log(2)).all()
    assert np.array_equal(found.heads["jsd"], labelled.heads["jsd"])
    assert not np.array_equal(found.heads["dprob"], labelled.heads["dprob"])
    means = {name: values.mean(-1) for name, values in found.heads.items()}
    rows = {str(row["metric"]): row for row in agreement(means | {"flat": np.zeros((2, 4))})}
    assert rows["jsd"]["jsd"] == pytest.approx(1)
    assert rows["jsd"]["flat"] is None
    order = ranked(means["jsd"])
    assert (np.diff(means["jsd"].ravel()[order]) >= 0).all()


def test_gradient_of_a_head_is_that_of_its_factor() -> None:
    net = classifier(2).double()
    site, pixels, y = HeadSite(net), torch.randn(1, 3, 32, 32, dtype=torch.float64), torch.tensor([2])
    found = gate_gradients(site, pixels, y)
    small, factors = 1e-5, torch.ones(4, dtype=torch.float64)
    with torch.no_grad():
        scores = []
        for sign in (1, -1):
            moved = factors.clone()
            moved[3] += sign * small
            with edit(net, heads={1: moved}):
                scores.append(net(pixels).logits.log_softmax(-1)[0, 2])
    assert found[1, 3, 0] == pytest.approx(abs(float(scores[0] - scores[1])) / 2 / small, rel=1e-4)


def test_models_that_cannot_be_taken_apart() -> None:
    with pytest.raises(UsageError, match="has no attention"):
        HeadSite(torch.nn.Conv2d(3, 3, 1))
    with pytest.raises(UsageError, match="several towers"):
        HeadSite(torch.nn.ModuleDict({"a": build("vit"), "b": build("clip")}))
    broken = build("dinov2")
    next(iter(broken.parameters())).data.fill_(float("nan"))
    with torch.inference_mode(), pytest.raises(UsageError, match=r"^model: .*not finite"):
        importance(HeadSite(broken), torch.randn(1, 3, 16, 16))
