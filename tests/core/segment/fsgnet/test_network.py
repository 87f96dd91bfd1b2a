import pytest
import torch
from torch import nn
from torch.nn import functional

from attn.core.segment.fsgnet.guided import resize
from attn.core.segment.fsgnet.layers import ConvBlock, DropBlock, MConv, SpatialAttention, drop
from attn.core.segment.fsgnet.network import MIN_SIDE, GuidedDecoder, Outputs, Scales, _merge, fsgnet, load_official

PARAMETERS = {  # methods/fsg-net.md, section 3.3: width -> K = 3, K = 7, noGRM with K = 3
    8: (298_591, 322_591, 274_579),
    16: (1_166_031, 1_214_031, 1_072_547),
    32: (4_607_791, 4_703_791, 4_238_659),
    48: (10_325_391, 10_469_391, 9_498_339),
    64: (18_318_831, 18_510_831, 16_851_587),
}


def small(width=4, **options):
    return fsgnet(width, (1, 1, 1, 1), **options)


def image(*shape, seed=0):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def stirred(net):
    """The network in eval mode with statistics and scales far from their start, so that every path counts."""
    generator = torch.Generator().manual_seed(1)
    for module in net.modules():
        if isinstance(module, nn.BatchNorm2d):
            module.running_mean.normal_(0, 0.2, generator=generator)
            module.running_var.uniform_(0.5, 1.5, generator=generator)
        if isinstance(module, ConvBlock):
            module.gamma.data.normal_(0, 0.5, generator=generator)
    return net.eval()


def test_blocks_start_as_the_identity_nearly():
    """Every ``gamma`` at 1e-6, as official: what a block adds to what it passes through grows from nothing."""
    gammas = {name: value for name, value in fsgnet(8).named_parameters() if name.endswith("gamma")}
    assert len(gammas) == sum(isinstance(module, ConvBlock) for module in fsgnet(8).modules()) > 0
    for name, value in gammas.items():
        assert torch.equal(value, torch.full_like(value, 1e-6)), name


@pytest.mark.parametrize("width", PARAMETERS)
def test_parameter_counts(width):
    def count(**options):
        with torch.device("meta"):
            return sum(parameter.numel() for parameter in fsgnet(width, **options).parameters())

    assert (count(), count(kernel=7), count(guided=False)) == PARAMETERS[width]


@pytest.mark.parametrize("size", [(48, 48), (49, 55), (63, 48), (50, 71)], ids=str)
@pytest.mark.parametrize("options", [{}, {"attention": False}, {"guided": False}, {"classes": 2}], ids=str)
@torch.no_grad()
def test_probabilities_of_any_size(size, options):
    out = stirred(small(**options))(image(2, 3, *size))
    assert isinstance(out, Outputs)
    for prob in out:
        assert prob.shape == (2, options.get("classes", 1), *size)
        assert ((prob >= 0) & (prob <= 1)).all()
        assert prob.std() > 0


@pytest.mark.parametrize("size", [(47, 48), (48, 47), (1, 1)], ids=str)
@pytest.mark.parametrize("guided", [True, False])
def test_refuses_small_images(guided, size):
    with pytest.raises(ValueError, match=rf"image is {size[0]} x {size[1]}: both sides must be at least {MIN_SIDE}"):
        small(guided=guided)(torch.zeros(1, 3, *size))


def test_below_the_smallest_side_the_filter_would_refuse_too():
    """The limit is no larger than it must be."""
    net = small().eval()
    with pytest.raises(ValueError, match="larger than the window"):
        net.decoder(net.trunk(torch.zeros(1, 3, MIN_SIDE - 1, MIN_SIDE - 1)))


@torch.no_grad()
def test_images_are_independent_unless_coupled():
    """In float64, as the coupling is weak: the gates differ little from image to image."""
    x, other = image(2, 3, 48, 50).double(), image(2, 3, 48, 50).double()
    other[1] = 3 * image(3, 48, 50, seed=5)
    for coupled in (False, True):
        net = stirred(small(batch_coupled=coupled)).double()
        shift = (net(x).out1[0] - net(other).out1[0]).abs().max()
        assert (shift > 1e-9) if coupled else (shift < 1e-13), shift


@torch.no_grad()
def test_attention_maps():
    net, maps = stirred(small()), {}
    out = net(image(2, 3, 48, 67), maps)
    assert {name: tuple(x.shape) for name, x in maps.items()} == {
        "att3": (2, 1, 6, 8),
        "att2": (2, 1, 12, 16),
        "att1": (2, 1, 24, 33),
    }
    assert all(((x > 0) & (x < 1)).all() for x in maps.values())
    assert torch.equal(out.out1, net(image(2, 3, 48, 67)).out1)

    maps = {}
    small(attention=False).eval()(image(1, 3, 48, 48), maps)
    assert all((x == 1).all() for x in maps.values())
    maps = {}
    small(guided=False).eval()(image(1, 3, 48, 48), maps)
    assert not maps


def test_options_leave_parts_out():
    assert isinstance(small().trunk.attn, SpatialAttention)
    assert isinstance(small(attention=False).trunk.attn, nn.Identity)
    assert isinstance(small(guided=False).trunk.attn, nn.Identity)
    assert not any("attention_block" in name for name, _ in small(attention=False).named_parameters())
    without = {name for name, _ in small(guided=False).decoder.named_parameters()}
    assert not any("attention_block" in name or "conv_cat" in name for name in without)


@torch.no_grad()
def test_plain_decoder_has_no_skip_connections():
    decoder = stirred(small(guided=False)).decoder
    maps = [image(1, c, s, s, seed=s) for c, s in ((8, 48), (16, 24), (32, 12), (32, 6))]
    out = decoder(Scales(*maps)).out1
    assert torch.equal(out, decoder(Scales(*(0 * x for x in maps[:3]), maps[3])).out1)
    assert not torch.equal(out, decoder(Scales(*maps[:3], 0 * maps[3])).out1)


@torch.no_grad()
def test_merge_is_the_convolution_of_the_concatenation():
    """Steps 19, 21, 23 as the specification writes them; resizing after the pointwise convolution changes nothing."""
    conv = stirred(MConv(11, 5, 1)).double()
    fine, coarse = image(2, 7, 13, 17).double(), image(2, 4, 6, 8).double()
    expected = conv(torch.cat([fine, resize(coarse, (13, 17))], 1))
    torch.testing.assert_close(_merge(conv, fine, coarse), expected, rtol=1e-12, atol=1e-12)


@torch.no_grad()
def test_heads_are_convolved_after_resizing_in_the_specification():
    decoder = stirred(GuidedDecoder(4)).double()
    y1, y2, y3 = image(1, 4, 21, 18).double(), image(1, 8, 10, 9).double(), image(1, 16, 5, 4).double()
    out = decoder.outputs(y1, y2, y3)
    torch.testing.assert_close(out.out3, decoder.output_layer3(resize(y3, (21, 18))))
    torch.testing.assert_close(out.out2, decoder.output_layer2(resize(y2, (21, 18))))
    torch.testing.assert_close(out.out1, decoder.output_layer1(y1))


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16], ids=str)
def test_autocast(dtype):
    net, x = stirred(small()), image(1, 3, 48, 51)
    with torch.autocast("cpu", dtype):
        out = net(x).out1
    with torch.no_grad():
        assert (out.float() - net(x).out1).abs().max() < (0.05 if dtype == torch.bfloat16 else 0.01)
    out.float().mean().backward()
    assert all(p.grad.isfinite().all() for p in net.trunk.parameters())


@torch.no_grad()
def test_drop_block_only_while_training():
    x = image(2, 3, 24, 31)
    block = DropBlock()
    assert not torch.equal(block.train()(x), x)
    assert torch.equal(block.eval()(x), x)
    net = stirred(small())
    assert torch.equal(net(image(1, 3, 48, 48)).out1, net(image(1, 3, 48, 48)).out1)
    for option, differ in ((True, True), (False, False)):
        layer = ConvBlock(3, 3, drop_block=option)
        layer.gamma.data.fill_(1)
        assert torch.equal(layer.train()(x), layer.train()(x)) is not differ


def test_drop_block_is_seeded():
    x, block = torch.ones(1, 4, 20, 20), DropBlock().train()
    torch.manual_seed(3)
    first = block(x)
    torch.manual_seed(3)
    assert torch.equal(first, block(x))


def test_drop_zeroes_whole_blocks_and_keeps_the_sum():
    x = torch.ones(2, 2, 12, 15)
    centres = torch.zeros(2, 2, 6, 9)
    centres[0, 0, 1, 2] = centres[0, 0, 2, 3] = centres[0, 1, 5, 8] = 1
    dropped = torch.zeros(2, 2, 12, 15, dtype=torch.bool)
    dropped[0, 0, 1:8, 2:9] = dropped[0, 0, 2:9, 3:10] = dropped[0, 1, 5:12, 8:15] = True
    out = drop(x, centres, 7)
    assert torch.equal(out == 0, dropped)
    assert out.sum().item() == pytest.approx(x.numel(), rel=1e-6)  # one factor for the batch
    assert out[~dropped].unique().numel() == 1


def test_drop_block_rate():
    """At p = 0.5 half of the rate that p = 0 gives; the width alone counts; small maps pass."""
    assert DropBlock(7, 0.5).rate(13) == pytest.approx(0.5 / 49 * 169 / 49)
    assert DropBlock(7, 0.0).rate(13) == pytest.approx(2 * DropBlock(7, 0.5).rate(13))
    block, x = DropBlock().train(), torch.ones(1, 1, 6, 50)
    assert block(x) is x


def test_training_mode_normalises_by_the_batch():
    net, x = small().train(), image(2, 3, 48, 48)
    before = net.trunk.conv1.conv[1].running_mean.clone()
    net(x)
    conv = net.trunk.conv1.conv[0]
    expected = 0.9 * before + 0.1 * functional.conv2d(x, conv.weight, conv.bias, padding=1).mean((0, 2, 3))
    torch.testing.assert_close(net.trunk.conv1.conv[1].running_mean, expected)


def official(net, prefix=""):
    """The state dict under the official names."""
    return {prefix + name.split(".", 1)[1]: value.clone() for name, value in net.state_dict().items()}


@pytest.mark.parametrize("prefix", ["", "module.", "FSGNet.", "module.FSGNet."])
def test_load_official(prefix):
    source, target = stirred(small()), small().eval()
    load_official(target, official(source, prefix))
    assert all(
        torch.equal(a, b) for a, b in zip(source.state_dict().values(), target.state_dict().values(), strict=True)
    )


def test_load_official_does_without_the_counters_of_batch_norm():
    state = {name: x for name, x in official(stirred(small())).items() if not name.endswith("num_batches_tracked")}
    net = small()
    load_official(net, state)
    assert torch.equal(net.trunk.conv1.conv[0].weight, state["conv1.conv.0.weight"])


def test_load_official_refuses():
    state = official(small())
    with pytest.raises(RuntimeError, match=r"Missing key.*trunk\.attn\.conv\.weight"):
        load_official(small(), {name: x for name, x in state.items() if name != "attn.conv.weight"})
    with pytest.raises(RuntimeError, match=r"Unexpected key.*extra\.weight"):
        load_official(small(), state | {"extra.weight": torch.zeros(1)})
    with pytest.raises(RuntimeError, match=r"size mismatch for trunk\.conv1\.conv\.0\.weight"):
        load_official(small(), state | {"conv1.conv.0.weight": torch.zeros(4, 3, 5, 5)})
    with pytest.raises(RuntimeError, match=r"Unexpected key.*attention_block3"):
        load_official(small(guided=False), state)
