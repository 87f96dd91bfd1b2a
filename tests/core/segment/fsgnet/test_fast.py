"""The fast form of FSG-Net: the numbers of the module it is made from, which it leaves alone."""

from __future__ import annotations

import copy

import pytest
import torch
from torch import Tensor, nn

from attn.core.segment.fsgnet import fast, folded
from attn.core.segment.fsgnet.fast import optimise
from attn.core.segment.fsgnet.guided import guided_filter
from attn.core.segment.fsgnet.network import FSGNet
from attn.core.segment.fsgnet.trunks import TRUNKS, build

SMALL = (2, 1, 1, 1)


def network(trunk: str = "fsgnet", **options: object) -> FSGNet:
    """Random weights of which every one counts: gammas, statistics and affine parameters are far from their start."""
    net = build(trunk, 4, depths=SMALL, **options)  # type: ignore[arg-type]
    generator = torch.Generator().manual_seed(5)

    def normal(like: Tensor, spread: float) -> Tensor:
        return torch.randn(like.shape, generator=generator) * spread

    with torch.no_grad():
        for name, parameter in net.named_parameters():
            spread = 0.5 if name.endswith("gamma") else 0.3 if parameter.ndim == 1 else parameter[0].numel() ** -0.5
            parameter.copy_(normal(parameter, spread))
        for part in net.modules():
            if isinstance(part, nn.BatchNorm2d):
                part.weight.add_(1)
                part.running_mean, part.running_var = normal(part.weight, 0.3), normal(part.weight, 0.3).exp()
        net.decoder.output_layer1[0].weight.mul_(3)  # probabilities over a wide range
        net.decoder.output_layer1[0].bias.zero_()
    return net


def image(*size: int, dtype: torch.dtype = torch.float32) -> Tensor:
    return torch.randn(*size, generator=torch.Generator().manual_seed(6), dtype=torch.float64).to(dtype)


def compare(net: FSGNet, x: Tensor, atol: float, **options: int) -> None:
    """Result and attention maps of the fast form against those of the module."""
    ours: dict[str, Tensor] = {}
    theirs: dict[str, Tensor] = {}
    out = optimise(net, **options)(x, ours)
    with torch.no_grad():
        expected = copy.deepcopy(net).eval()(x, theirs).out1
    assert expected.std() > 0.001, "a constant output would compare nothing"
    torch.testing.assert_close(out, expected, atol=atol, rtol=0)
    assert list(ours) == list(theirs)
    for name, value in theirs.items():
        torch.testing.assert_close(ours[name], value, atol=atol, rtol=0)
    torch.testing.assert_close(optimise(net, **options)(x), out, atol=0, rtol=0)  # maps change nothing


@pytest.mark.parametrize("size", [(1, 3, 64, 80), (2, 3, 67, 75), (1, 3, 48, 49)], ids=str)
@pytest.mark.parametrize(("dtype", "atol"), [(torch.float32, 1e-5), (torch.float64, 1e-11)], ids=str)
def test_equals_the_module(size: tuple[int, ...], dtype: torch.dtype, atol: float) -> None:
    compare(network().to(dtype), image(*size, dtype=dtype), atol)


@pytest.mark.parametrize(
    "options", [{"guided": False}, {"attention": False}, {"batch_coupled": True}, {"kernel": 5}], ids=str
)
def test_equals_every_variant(options: dict[str, object]) -> None:
    compare(network(**options).double(), image(2, 3, 53, 66, dtype=torch.float64), 1e-11)


@pytest.mark.parametrize("trunk", TRUNKS)
@pytest.mark.parametrize("guided", [True, False])
def test_equals_every_trunk(trunk: str, guided: bool) -> None:
    compare(network(trunk, guided=guided), image(2, 3, 53, 66), 1e-5)


@pytest.mark.parametrize("trunk", TRUNKS)
@pytest.mark.parametrize("guided", [True, False])
def test_bfloat16_is_near(trunk: str, guided: bool) -> None:
    net, x = network(trunk, guided=guided), image(2, 3, 53, 66)
    out, expected = optimise(net, dtype=torch.bfloat16)(x), optimise(net)(x)
    assert out.dtype == torch.float32
    assert (out - expected).abs().mean() < 0.1 * expected.std()


def test_strips_are_seamless() -> None:
    five_rows = 16 * 66 * 8 * 5  # at full resolution: the last strip is shorter
    compare(network().double(), image(2, 3, 53, 66, dtype=torch.float64), 1e-11, strip_bytes=five_rows)


def test_block_keeps_its_input() -> None:
    """Trunks may use the input of a block again."""
    x = image(1, 4, 20, 20)
    kept = x.clone()
    folded.FastConvBlock(network().trunk.input_layer[1].eval())(x)
    assert torch.equal(x, kept)


@pytest.mark.parametrize("batch_coupled", [False, True])
def test_guided_filter_keeps_its_inputs(batch_coupled: bool) -> None:
    low, target, attention = (image(2, c, 9, 11, dtype=torch.float64) * s for c, s in ((3, 1), (3, 2), (1, -1)))
    high = image(2, 3, 19, 22, dtype=torch.float64)
    kept = [x.clone() for x in (low, target, high, attention)]
    out = fast.guided_filter(low, target, high, attention, batch_coupled)
    expected = guided_filter(*kept, batch_coupled=batch_coupled)
    torch.testing.assert_close(out, expected, atol=1e-12, rtol=1e-12)
    assert all(map(torch.equal, (low, target, high, attention), kept))


def test_leaves_the_original_alone() -> None:
    net = network().train()
    before, shape = copy.deepcopy(net.state_dict()), repr(net)
    quick = optimise(net)
    quick(image(1, 3, 48, 48))
    assert net.training
    assert repr(net) == shape
    assert all(parameter.requires_grad for parameter in net.parameters())
    assert all(torch.equal(value, before[name]) for name, value in net.state_dict().items())
    with torch.no_grad():  # and shares nothing with it
        out = quick(image(1, 3, 48, 48)).clone()
        for parameter in net.parameters():
            parameter.zero_()
    assert torch.equal(quick(image(1, 3, 48, 48)), out)


@pytest.mark.parametrize("trunk", ["fsgnet", "unet"])
def test_no_batch_norm_is_left(trunk: str) -> None:
    assert not [name for name, part in optimise(network(trunk)).named_modules() if isinstance(part, nn.BatchNorm2d)]


def test_is_for_prediction_only() -> None:
    quick = optimise(network())
    assert quick.eval() is quick
    assert not quick(image(1, 3, 48, 48)).requires_grad
    with pytest.raises(ValueError, match="cannot be trained"):
        quick.train()
    with pytest.raises(ValueError, match="at least 48"):
        quick(image(1, 3, 47, 64))
