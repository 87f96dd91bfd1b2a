"""Rules against loops, chains of several packages' classes, saliency, regions, and what a map is worth."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from attn.core.errors import UsageError
from attn.core.models.load import load_model
from attn.core.models.loaded import Loaded
from attn.core.options import OptionError
from attn.core.probe.relevance import saliency
from attn.core.probe.relevance.chain import Added, chain_of, forward, walked
from attn.core.probe.relevance.composites import COMPOSITES, pixel_bounds, rules_of
from attn.core.probe.relevance.look import Looker, check_classifier, class_of
from attn.core.probe.relevance.propagate import gradient_times_input, propagate
from attn.core.probe.relevance.regions import regions_of
from attn.core.probe.relevance.rules import alpha_beta, box, flat, gamma, ratio, winner, winner_overwritten
from attn.core.probe.relevance.saliency import SaliencySettings, context_saliency
from attn.core.probe.relevance.scenes import points_at, share_inside
from attn.core.probe.trust.randomised import randomised
from attn.core.prune.shapes.labelled import labelled_set


def layer() -> tuple[nn.Linear, Tensor, Tensor]:
    torch.manual_seed(3)
    return nn.Linear(4, 3).double(), torch.randn(1, 4).double(), torch.randn(1, 3).double()


def by_loops(share: object) -> Tensor:
    """R_i = sum_j share(i, j, all z of j, bias of j) R_j of ``layer``."""
    linear, x, relevance = layer()
    z = x.T * linear.weight.T
    out = [sum(share(i, z[:, j], linear.bias[j]) * relevance[0, j] for j in range(3)) for i in range(4)]  # type: ignore[operator]
    return torch.stack(out)[None].detach()


def test_rules_against_loops() -> None:
    linear, x, relevance = layer()
    given = (linear, x, relevance)
    close = torch.testing.assert_close
    close(ratio(*given, epsilon=1e-6), by_loops(lambda i, z, b: z[i] / (z.sum() + b + 1e-6 * torch.sign(z.sum() + b))))

    def parted(i: int, z: Tensor, b: Tensor) -> Tensor:
        up, down = z.clamp(min=0), z.clamp(max=0)
        takes = down[i] / (down.sum() + b.clamp(max=0) - 1e-12)
        return 2 * up[i] / (up.sum() + b.clamp(min=0) + 1e-12) - takes

    close(alpha_beta(*given, alpha=2.0, beta=1.0, epsilon=1e-12), by_loops(parted))
    close(flat(*given), by_loops(lambda i, z, b: torch.tensor(0.25).double()))
    low, high = torch.full((4,), -3.0), torch.full((4,), 3.0)
    weight = linear.weight.detach()
    parts = x.T * weight.T + 3 * weight.T.clamp(min=0) - 3 * weight.T.clamp(max=0)
    wanted = (parts / parts.sum(0) * relevance).sum(1)[None]
    close(box(*given, bounds=(low, high), epsilon=1e-12), wanted)
    favoured = nn.Linear(4, 3).double()
    with torch.no_grad():
        favoured.weight.copy_(weight + 0.25 * weight.clamp(min=0))
        favoured.bias.copy_(linear.bias + 0.25 * linear.bias.clamp(min=0))
    close(gamma(*given, rate=0.25, epsilon=1e-6), ratio(favoured, x, relevance, epsilon=1e-6))


def test_flat_does_not_count_padding() -> None:
    convolution = nn.Conv2d(1, 1, 3, padding=1)
    given = torch.rand(1, 1, 4, 5)
    out = flat(convolution, given, torch.ones(1, 1, 4, 5))
    torch.testing.assert_close(out.sum(), torch.tensor(20.0))


def test_overlapping_windows_that_pick_one_cell() -> None:
    x = torch.zeros(1, 1, 5, 5)
    x[0, 0, 2, 2] = 4.0
    pool, relevance = nn.MaxPool2d(3, 2), torch.ones(1, 1, 2, 2)
    assert float(winner(pool, x, relevance)[0, 0, 2, 2]) == 4.0
    assert float(winner_overwritten(pool, x, relevance, epsilon=1e-9).sum()) == pytest.approx(1.0)


def resnet(kind: str) -> nn.Module:
    from transformers import ResNetConfig, ResNetForImageClassification

    config = ResNetConfig(
        embedding_size=8,
        hidden_sizes=[8, 16],
        depths=[1, 2],
        layer_type=kind,
        num_labels=5,
        downsample_in_first_stage=True,
    )
    return statistics(ResNetForImageClassification(config))


def statistics(model: nn.Module) -> nn.Module:
    """Running statistics that are not those of a new model."""
    torch.manual_seed(1)
    for module in model.modules():
        if isinstance(module, nn.BatchNorm2d):
            module.running_mean.uniform_(-0.2, 0.2)  # type: ignore[union-attr, operator]
            module.running_var.uniform_(0.5, 1.5)  # type: ignore[union-attr, operator]
    return model.eval()


class BasicBlock(nn.Module):
    """As torchvision has it."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.conv1, self.bn1 = nn.Conv2d(width, width, 3, padding=1, bias=False), nn.BatchNorm2d(width)
        self.conv2, self.bn2 = nn.Conv2d(width, width, 3, padding=1, bias=False), nn.BatchNorm2d(width)
        self.relu, self.downsample = nn.ReLU(inplace=True), None

    def forward(self, x: Tensor) -> Tensor:
        return self.relu(x + self.bn2(self.conv2(self.relu(self.bn1(self.conv1(x))))))


def residual() -> nn.Module:
    blocks = (BasicBlock(6), nn.AvgPool2d(2), BasicBlock(6))
    net = nn.Sequential(
        nn.Conv2d(3, 6, 3), nn.BatchNorm2d(6), nn.ReLU(inplace=True), *blocks, nn.AdaptiveAvgPool2d(1), nn.Flatten(),
        nn.Linear(6, 5),
    )  # fmt: skip
    return statistics(net)


@pytest.mark.parametrize("make", [lambda: resnet("basic"), lambda: resnet("bottleneck"), residual])
def test_residual_networks(make: object) -> None:
    model = make()  # type: ignore[operator]
    links, x = chain_of(model), torch.randn(1, 3, 33, 33)
    with torch.no_grad():
        output = model(x.clone())
        torch.testing.assert_close(forward(links, x), getattr(output, "logits", output), rtol=1e-4, atol=1e-5)
    assert any(isinstance(link, Added) for link in links)
    assert not any(isinstance(one.module, nn.BatchNorm2d) for one in walked(links))
    found = propagate(links, rules_of("epsilon", epsilon=1e-9), x)
    for one in found.layers:  # a sum alone keeps everything; what layers with biases lose is theirs
        if one.kind in ("ReLU", "Flatten", "Identity", "MaxPool2d", "AvgPool2d", "AdaptiveAvgPool2d"):
            assert one.below == pytest.approx(one.above, rel=1e-3, abs=1e-5)


def test_the_parts_of_timms_vgg() -> None:
    """Its classes by their names: a head of convolutions, a pooling of its own, and a linear layer."""

    def named(name: str, **parts: nn.Module) -> nn.Module:
        def run(self: nn.Module, x: Tensor) -> Tensor:
            for part in parts:
                x = getattr(self, part)(x)
            return x

        made = type(name, (nn.Module,), {"forward": run})()
        for part, module in parts.items():
            setattr(made, part, module)
        return made

    pool = named("FastAdaptiveAvgPool")
    pool.flatten = True  # type: ignore[assignment]
    type(pool).forward = lambda self, x: x.mean((2, 3))  # type: ignore[method-assign]
    whole = named("SelectAdaptivePool2d", pool=pool, flatten=nn.Identity())
    torch.manual_seed(0)
    model = named(
        "VGG",
        features=nn.Sequential(nn.Conv2d(3, 4, 3, padding=1), nn.ReLU(), nn.MaxPool2d(2)),
        pre_logits=named(
            "ConvMlp", fc1=nn.Conv2d(4, 6, 2), act1=nn.ReLU(), drop=nn.Dropout(), fc2=nn.Conv2d(6, 6, 1), act2=nn.ReLU()
        ),
        head=named("ClassifierHead", global_pool=whole, drop=nn.Dropout(), fc=nn.Linear(6, 5), flatten=nn.Identity()),
    ).eval()
    links, x = chain_of(model), torch.randn(1, 3, 10, 12)
    torch.testing.assert_close(forward(links, x), model(x))
    assert propagate(links, rules_of("stable"), x).pixels.shape == (3, 10, 12)


@pytest.mark.parametrize("composite", COMPOSITES)
def test_without_biases_nothing_is_lost(composite: str) -> None:
    torch.manual_seed(0)
    net = nn.Sequential(
        nn.Conv2d(3, 8, 3, bias=False), nn.ReLU(), nn.MaxPool2d(2), nn.Conv2d(8, 8, 3, bias=False), nn.ReLU(),
        nn.AvgPool2d(2), nn.Flatten(), nn.Linear(8 * 4, 6, bias=False),
    ).double().eval()  # fmt: skip
    bounds = pixel_bounds((0.5,) * 3, (0.25,) * 3)
    x = torch.rand(1, 3, 14, 14).double() * 4 - 2
    found = propagate(chain_of(net), rules_of(composite, bounds=bounds), x)
    assert found.conserved == pytest.approx(1.0, abs=1e-3)
    if composite == "epsilon":  # ReLU networks without biases: relevance is gradient times input
        torch.testing.assert_close(
            found.pixels, gradient_times_input(chain_of(net), x, found.target), rtol=1e-3, atol=1e-5
        )


@pytest.mark.parametrize(
    ("model", "said"),
    [
        (nn.Sequential(nn.Conv2d(3, 4, 3), nn.GELU(), nn.Flatten(), nn.Linear(4, 2)), "1 is GELU"),
        (nn.Sequential(nn.BatchNorm2d(3), nn.Conv2d(3, 4, 3)), "0 is batch norm that follows no"),
        (nn.Sequential(nn.ReLU(), nn.Flatten()), "no convolution or linear layer"),
        (nn.Sequential(nn.Conv2d(3, 4, 3), nn.Upsample(scale_factor=2)), "1 is Upsample"),
    ],
)
def test_modules_without_a_rule(model: nn.Module, said: str) -> None:
    with pytest.raises(UsageError, match=said):
        chain_of(model)


def test_models_that_are_none() -> None:
    vit = load_model("shapes-vit", "classifier")
    with pytest.raises(UsageError, match=r"has attention .*the kinds vit and distance"):
        check_classifier(vit)
    cnn = load_model("shapes-cnn", "classifier")
    odd = Loaded(_Twice(cnn.model), cnn.processor, "x", "x")
    with pytest.raises(UsageError, match="something else than the chain"):
        check_classifier(odd)
    headless = Loaded(cnn.model.features, cnn.processor, "x", "x")
    with pytest.raises(UsageError, match="has no classes"):
        check_classifier(headless)


class _Twice(nn.Sequential):
    def forward(self, x: Tensor) -> Tensor:
        return 2 * super().forward(x)


def test_classes_by_name_and_number() -> None:
    cnn = load_model("shapes-cnn", "classifier")
    assert class_of(None, cnn) is None
    assert class_of("Red Ring", cnn) == 32
    assert class_of("7", cnn) == 7
    with pytest.raises(OptionError, match=r"no class named 'red rnig'\. Near: red ring"):
        class_of("red rnig", cnn)
    with pytest.raises(OptionError, match="48 classes"):
        class_of("48", cnn)
    with pytest.raises(OptionError, match=r"no names\. Give a number from 0 to 47"):
        class_of("ring", Loaded(cnn.model, cnn.processor, "x", "x"))


def test_saliency_of_maps_that_are_small_or_flat(monkeypatch: pytest.MonkeyPatch) -> None:
    settings = SaliencySettings(max_side=64)
    assert float(context_saliency(torch.full((3, 20, 30), 0.4), settings).final.abs().max()) == 0.0
    assert context_saliency(torch.rand(3, 1, 1), settings).final.shape == (64, 64)
    assert context_saliency(torch.rand(3, 2, 90), settings).final.shape == (7, 64)
    odd = torch.zeros(3, 64, 64)
    odd[0, 40:50, 10:20] = torch.rand(10, 10)
    whole = context_saliency(odd, settings).final
    y, x = divmod(int(whole.argmax()), 64)
    assert (36 <= y < 54, 6 <= x < 24) == (True, True)
    monkeypatch.setattr(saliency, "ROWS", 7)
    torch.testing.assert_close(context_saliency(odd, settings).final, whole, rtol=0, atol=1e-4)


def test_regions() -> None:
    values, relevance = np.zeros((6, 8)), np.ones((6, 8))
    values[0, 0] = values[1, 1] = 0.9  # neighbours across a corner are one region
    values[4:6, 5:8] = 0.7
    first, second = regions_of(values, relevance)
    assert (first.box, second.box) == ((5, 4, 8, 6), (0, 0, 2, 2))
    assert (first.area, first.relevance) == (6 / 48, 6 / 48)
    assert first.saliency + second.saliency == pytest.approx(1.0)
    assert regions_of(np.zeros((4, 4)), np.zeros((4, 4))) == []
    assert points_at(values, (0, 0, 2, 2))
    assert share_inside(values, (5, 4, 8, 6)) == pytest.approx(first.saliency)


@pytest.fixture(scope="module")
def looker() -> Looker:
    return Looker(load_model("shapes-cnn", "classifier"), settings=SaliencySettings(max_side=64), seed=5)


def pixels(looker: Looker, number: int) -> Tensor:
    scenes, images = labelled_set(12), looker.loaded.processor.images
    assert images is not None
    return images(scenes.pictures[number].transpose(2, 0, 1).astype(np.float32) / 255)


def test_a_map_is_believed_of_the_trained_model_alone(looker: Looker) -> None:
    picture = pixels(looker, 3)
    found = looker.look(picture)
    assert [line.passed for line in found.lines] == [True, True]
    assert found.removals["relevance"].gap > 0.3
    assert set(found.removals) == {"relevance", "salient", "gradient"}
    with randomised(looker.loaded.model, 99):
        blind = looker.look(picture)
    assert [line.passed for line in blind.lines] == [False, False]
    assert float(np.ptp(blind.signed)) > 0  # it has a map: it is not believed, not absent
    again = looker.look(picture)
    assert np.array_equal(again.signed, found.signed)
