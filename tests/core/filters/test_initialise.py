"""The door: every name, every kind of layer, and what it refuses."""

from __future__ import annotations

import math
import subprocess
import sys

import pytest
import torch
from torch import Tensor, nn
from torch.nn.utils.parametrizations import weight_norm

from attn.core.errors import UsageError
from attn.core.filters import INITIALISERS, NEEDS_IMAGES
from attn.core.filters.initialise import initialise
from attn.core.filters.layers import find_layers


def seeded(seed: int = 1) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


class Block(nn.Module):
    def __init__(self, dim: int) -> None:
        super().__init__()
        self.a, self.b = nn.Conv2d(dim, dim, 3, padding=1, groups=dim), nn.Conv2d(dim, dim, 1)

    def forward(self, x: Tensor) -> Tensor:
        out: Tensor = x + self.b(torch.relu(self.a(x)))
        return out


def small(kernel: int = 4) -> nn.Sequential:
    """All that initialisers look for: a bank's kernel, depthwise, grouped, transposed, a branch, a shuffle, a head."""
    return nn.Sequential(
        nn.Conv2d(3, 12, kernel), nn.BatchNorm2d(12), nn.ReLU(), Block(12), nn.Conv2d(12, 8, 3, groups=4, dilation=2),
        nn.ReLU(), nn.Conv2d(8, 16, (1, 3)), nn.PixelShuffle(2), nn.ConvTranspose2d(4, 6, 2, stride=2, groups=2),
        nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(6, 2),
    )  # fmt: skip


@pytest.fixture
def images() -> Tensor:
    return nn.functional.avg_pool2d(torch.rand(6, 3, 34, 34, generator=seeded()), 3, stride=1)


@pytest.mark.parametrize("name", [name for name in INITIALISERS if name != "zeros"])
def test_every_name(name, images):
    net, other = small(), small()
    other.load_state_dict(net.state_dict())
    before = {key: value.clone() for key, value in net.state_dict().items()}
    did = initialise(net, name, generator=seeded(), images=images)
    layers = find_layers(net)
    assert [line.split(":")[0] for line in did] == [layer.name for layer in layers]
    for layer in layers:
        assert layer.weight.isfinite().all(), layer.name
        assert layer.weight.requires_grad
        assert name == "torch-default" or not layer.module.bias.any(), layer.name
        changed = not torch.equal(layer.weight, before[f"{layer.name}.weight"])
        assert changed == (name != "torch-default"), layer.name
    assert all(torch.equal(net.state_dict()[f"1.{key}"], before[f"1.{key}"]) for key in ("bias", "running_mean"))
    assert net(images).isfinite().all()
    assert initialise(other, name, generator=seeded(), images=images) == did
    assert all(torch.equal(a, b) for a, b in zip(net.parameters(), other.parameters(), strict=True))


@pytest.mark.parametrize("name", ["he", "orthogonal", "delta-orthogonal", "dirac", "sparse", "xavier-uniform"])
@pytest.mark.parametrize("groups", [1, 2, 4])
def test_a_transposed_layer_is_set_as_the_convolution_it_turns_round(name, groups):
    """Its weight, seen as [O, C / groups, ...], is the one that an ordinary convolution gets."""
    straight = nn.Conv2d(4, 8, 3, groups=groups)
    turned = nn.ConvTranspose2d(4, 8, 3, groups=groups)
    for net in (straight, turned):
        initialise(net, name, generator=seeded())
    seen = turned.weight.view(groups, 4 // groups, 8 // groups, 3, 3).transpose(1, 2).reshape(8, 4 // groups, 3, 3)
    assert torch.equal(seen, straight.weight)


@pytest.mark.parametrize(
    "layer", [nn.Conv1d(6, 6, 3, groups=3), nn.Conv3d(4, 8, 2), nn.ConvTranspose1d(4, 4, 3), nn.Linear(5, 7)], ids=str
)
@pytest.mark.parametrize("name", ["he", "lecun-uniform", "orthogonal", "delta-orthogonal", "dirac", "sparse", "zeros"])
def test_any_number_of_dimensions(layer, name):
    initialise(layer, name, generator=seeded())
    assert layer.weight.isfinite().all()
    assert layer.weight.any() == (name != "zeros")


def test_equals_torch_on_a_convolution():
    ours, theirs = nn.Conv2d(5, 7, 3), torch.empty(7, 5, 3, 3)
    for name, fill in (("he", nn.init.kaiming_normal_), ("xavier-uniform", nn.init.xavier_uniform_)):
        initialise(ours, name, generator=seeded())
        extra = {"nonlinearity": "relu"} if name == "he" else {}
        torch.testing.assert_close(ours.weight, fill(theirs, generator=seeded(), **extra), rtol=1e-6, atol=0)
    initialise(ours, "orthogonal", generator=seeded())
    assert torch.equal(ours.weight, nn.init.orthogonal_(theirs, generator=seeded()))
    grouped, expected = nn.Conv2d(4, 8, 3, groups=2), torch.empty(8, 2, 3, 3)
    initialise(grouped, "dirac")
    assert torch.equal(grouped.weight, nn.init.dirac_(expected, groups=2))


def test_depthwise_filters_are_unit_filters():
    layer = nn.Conv2d(16, 16, 3, groups=16)
    initialise(layer, "orthogonal", generator=seeded())
    torch.testing.assert_close(layer.weight.flatten(1).norm(dim=1), torch.ones(16))


def test_dtypes_and_memory_formats_share_their_numbers():
    plain = nn.Conv2d(4, 8, 3)
    last, half = nn.Conv2d(4, 8, 3).to(memory_format=torch.channels_last), nn.Conv2d(4, 8, 3).bfloat16()
    for layer in (plain, last, half):
        initialise(layer, "orthogonal", generator=seeded())
    assert torch.equal(plain.weight, last.weight)
    assert last.weight.is_contiguous(memory_format=torch.channels_last)
    assert torch.equal(plain.weight.bfloat16(), half.weight)


def test_the_bank_goes_to_the_first_convolution_at_the_variance_of_he():
    net = small(5)
    did = initialise(net, "gabor", generator=seeded())
    assert did[0] == "0: 12 filters from gabor, norm 1.41, bias 0"
    assert did[1].startswith("3.a: he")
    torch.testing.assert_close(net[0].weight.flatten(1).norm(dim=1), torch.full((12,), math.sqrt(2)))
    torch.testing.assert_close(net[0].weight[:, 0], net[0].weight[:, 2])
    initialise(net, "gabor", gain=1.0)
    torch.testing.assert_close(net[0].weight.flatten(1).norm(dim=1), torch.ones(12))


def test_a_depthwise_first_layer_learns_from_single_channels(images):
    net = nn.Sequential(nn.Conv2d(3, 6, 3, groups=3), nn.Conv2d(6, 2, 1))
    images[:, 0] = 0.5  # nothing to learn there: the other channels must do
    initialise(net, "pca", images=images)
    w = net[0].weight.flatten(1)
    torch.testing.assert_close(w @ w.T, 2 * torch.eye(6), atol=1e-5, rtol=0)


def test_icnr_before_the_shuffle_only():
    net = small()
    did = initialise(net, "icnr", generator=seeded())
    w = net[6].weight.view(4, 4, 8, 1, 3)
    assert torch.equal(w, w[:, :1].expand_as(w))
    assert w[:, 0].std().item() == pytest.approx(math.sqrt(2 / 24), rel=0.25)
    assert [line for line in did if "times" in line] == ["6: he, std 0.289, each filter 4 times, bias 0"]
    with pytest.raises(ValueError, match="no multiple of 2"):
        initialise(
            nn.Sequential(nn.Conv2d(3, 8, 3, bias=False, groups=1), nn.Conv2d(8, 12, 1, groups=2), nn.PixelShuffle(2)),
            "icnr",
        )
    with pytest.raises(ValueError, match="no convolution before a pixel shuffle"):
        initialise(nn.Conv2d(3, 4, 1), "icnr")


def test_gain():
    layer = nn.Conv2d(64, 64, 3)
    for name, gain, expected in (
        ("normal", 0.5, 0.5),
        ("uniform", 0.5, 0.5),
        ("he", 1.0, 1 / 24),
        ("lecun", 2, 2 / 24),
    ):
        initialise(layer, name, gain=gain, generator=seeded())
        assert layer.weight.std().item() == pytest.approx(expected, rel=0.02), name
    initialise(layer, "orthogonal", gain=3.0)
    torch.testing.assert_close(layer.weight.flatten(1).norm(dim=1), torch.full((64,), 3.0))


def test_offsets_of_deformable_convolutions_start_at_zero():
    net = nn.ModuleDict({"conv": nn.Conv2d(3, 4, 3), "conv_offset": nn.Conv2d(3, 18, 3)})
    did = initialise(net, "he")
    assert did[1] == "conv_offset: offsets, 0, bias 0"
    assert not net["conv_offset"].weight.any()
    assert net["conv"].weight.any()


def test_a_shared_weight_is_set_once():
    net = nn.Sequential(nn.Linear(4, 4), nn.Linear(4, 4))
    net[1].weight = net[0].weight
    assert len(initialise(net, "he")) == 1


def test_zeros_only_for_one_layer():
    net = small()
    with pytest.raises(ValueError, match="nothing trains"):
        initialise(net, "zeros")
    assert initialise(net[-1], "zeros") == ["Linear: zeros, bias 0"]
    assert not net[-1].weight.any()
    assert net[0].weight.any()


class TestRefused:
    def test_names(self):
        with pytest.raises(UsageError, match="Did you mean he-uniform"):
            initialise(small(), "he-unifrom")
        for name in NEEDS_IMAGES:
            with pytest.raises(UsageError, match="needs images"):
                initialise(small(), name)

    @pytest.mark.parametrize("gain", [0.0, -1.0, math.nan, math.inf])
    def test_gain(self, gain):
        with pytest.raises(ValueError, match="must be positive"):
            initialise(small(), "he", gain=gain)

    def test_gain_where_there_is_none(self):
        with pytest.raises(ValueError, match="has no gain"):
            initialise(small(), "torch-default", gain=2.0)

    @pytest.mark.parametrize(
        ("net", "name", "message"),
        [
            (nn.ReLU(), "he", "no convolution and no linear layer"),
            (nn.LazyConv2d(4, 3), "he", "no shape yet"),
            (weight_norm(nn.Conv2d(3, 4, 3)), "he", "computed from others"),
            (nn.Linear(3, 4), "gabor", "must be a 2-D convolution"),
            (nn.Conv1d(3, 4, 5), "dct", "must be a 2-D convolution"),
            (nn.Conv2d(3, 4, (1, 5)), "dct", "the dct bank is square"),
            (nn.Conv2d(3, 4, 1), "gabor", "larger kernels"),
        ],
        ids=lambda value: value if isinstance(value, str) else type(value).__name__,
    )
    def test_modules(self, net, name, message):
        with pytest.raises(ValueError, match=message):
            initialise(net, name)

    def test_images(self, images):
        net = small()
        before = [p.clone() for p in net.parameters()]
        with pytest.raises(ValueError, match="3 channels"):
            initialise(net, "pca", images=images[:, :1])
        with pytest.raises(ValueError, match="patches for 48 dimensions: at least 96"):
            initialise(net, "zca-kmeans", images=images[:1, :, :12, :12])
        assert all(torch.equal(a, b) for a, b in zip(before, net.parameters(), strict=True))


def test_the_names_need_no_torch():
    code = "import sys, attn.core.filters as f; assert f.INITIALISERS['he'] and 'torch' not in sys.modules"
    subprocess.run([sys.executable, "-c", code], check=True)
