import pytest
import torch

from attn.core.segment.fsgnet.network import MIN_SIDE, FullScaleTrunk, GuidedDecoder, PlainDecoder, Scales
from attn.core.segment.fsgnet.trunks import TRUNKS, BiFormerTrunk, HaloTrunk, UNetTrunk, build

OTHERS = {"unet": UNetTrunk, "biformer": BiFormerTrunk, "halo": HaloTrunk}
SIZES = [(48, 48), (51, 63), (67, 48)]


def image(*shape, seed=0):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def parameters(module):
    return sum(parameter.numel() for parameter in module.parameters())


def small(trunk, width=4, **options):
    return build(trunk, width, depths=(1, 1, 1, 1), **options)


@pytest.mark.parametrize("size", SIZES, ids=str)
@pytest.mark.parametrize("trunk", TRUNKS)
@torch.no_grad()
def test_four_scales_of_any_size(trunk, size):
    height, width = size
    scales = small(trunk).eval().trunk(image(2, 3, height, width))
    assert isinstance(scales, Scales)
    assert [tuple(x.shape) for x in scales] == [
        (2, 2 * 4, height, width),
        (2, 4 * 4, height // 2, width // 2),
        (2, 8 * 4, height // 4, width // 4),
        (2, 8 * 4, height // 8, width // 8),
    ]
    assert all(x.isfinite().all() and x.std() > 0 for x in scales)


@pytest.mark.parametrize("options", [{}, {"attention": False}, {"guided": False}], ids=str)
@pytest.mark.parametrize("trunk", TRUNKS)
@torch.no_grad()
def test_every_trunk_takes_every_decoder(trunk, options):
    out = small(trunk, **options).eval()(image(1, 3, 51, 50))
    for prob in out:
        assert prob.shape == (1, 1, 51, 50)
        assert ((prob >= 0) & (prob <= 1)).all()


@pytest.mark.parametrize("trunk", OTHERS)
def test_size_is_like_the_paper_s(trunk):
    """A comparison of trunks at one width compares networks of about one size."""
    ratio = parameters(build(trunk, 8).trunk) / parameters(build("fsgnet", 8).trunk)
    assert 0.5 < ratio < 2, f"{ratio:.2f} of the parameters"


@pytest.mark.parametrize("trunk", TRUNKS)
def test_gradient_reaches_every_parameter(trunk):
    """In eval mode: batch norm of the batch itself takes the gradient from the biases before it."""
    net = small(trunk).eval()
    out = net(image(2, 3, 48, 50))
    (out.out1 * image(*out.out1.shape, seed=1)).sum().backward()
    heads = {name for name, _ in net.named_parameters() if "output_layer2" in name or "output_layer3" in name}
    for name, parameter in net.named_parameters():
        if name in heads:
            assert parameter.grad is None  # out1 does not depend on the heads of the other depths
            continue
        assert parameter.grad is not None, name
        assert parameter.grad.isfinite().all(), name
        assert parameter.grad.abs().max() > 0, name


@pytest.mark.parametrize("trunk", TRUNKS)
def test_learns_one_image(trunk):
    """Bright lines on noise: a few steps bring the loss well below where it starts."""
    x = 0.3 * image(2, 3, 48, 48)
    truth = torch.zeros(2, 1, 48, 48)
    truth[..., 10:13, :] = truth[..., 30:33] = 1
    x = x + 2 * truth
    net = small(trunk, drop_block=False)
    optimiser = torch.optim.Adam(net.parameters(), lr=1e-2)
    losses = []
    for _ in range(8):
        loss = torch.nn.functional.binary_cross_entropy(net(x).out1, truth)
        optimiser.zero_grad()
        loss.backward()
        optimiser.step()
        losses.append(loss.item())
    assert losses[-1] < 0.6 * losses[0], losses


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16], ids=str)
@pytest.mark.parametrize("trunk", OTHERS)
def test_trains_under_autocast(trunk, dtype):
    """Outputs near those of float32, gradients finite and of the parameters' dtype."""
    net, x = small(trunk).eval(), image(1, 3, 48, 48)
    with torch.autocast("cpu", dtype):
        out = net(x)
    with torch.no_grad():
        assert (out.out1.float() - net(x).out1).abs().max() < (0.05 if dtype == torch.bfloat16 else 0.01)
    out.out1.float().mean().backward()
    for name, parameter in net.trunk.named_parameters():
        assert parameter.grad.dtype == torch.float32, name
        assert parameter.grad.isfinite().all(), name


@pytest.mark.parametrize("trunk", TRUNKS)
@torch.no_grad()
def test_images_of_a_batch_do_not_touch(trunk):
    net = small(trunk).eval()
    x = image(2, 3, 50, 49)
    both, alone = net(x).out1, net(x[1:]).out1
    torch.testing.assert_close(both[1:], alone, rtol=0, atol=1e-5)


@pytest.mark.parametrize("trunk", TRUNKS)
@torch.no_grad()
def test_runs_in_float64_and_twice_alike(trunk):
    net, x = small(trunk).eval().double(), image(1, 3, 48, 48).double()
    out = net(x).out1
    assert out.dtype == torch.float64
    assert torch.equal(out, net(x).out1)


@pytest.mark.parametrize("trunk", TRUNKS)
def test_state_dict_comes_back(trunk):
    """What a checkpoint does: fresh weights are replaced, every one."""
    net, other = small(trunk).eval(), small(trunk).eval()
    other.load_state_dict(net.state_dict())
    x = image(1, 3, 48, 48)
    with torch.no_grad():
        assert torch.equal(net(x).out1, other(x).out1)


@pytest.mark.parametrize("width", [1, 3, 13])
@pytest.mark.parametrize("trunk", OTHERS)
def test_odd_widths(trunk, width):
    """Heads must divide the channels at any width."""
    with torch.no_grad():
        scales = build(trunk, width).eval().trunk(image(1, 3, MIN_SIDE, MIN_SIDE))
    assert [x.shape[1] // width for x in scales] == [2, 4, 8, 8]


@pytest.mark.parametrize("trunk", OTHERS)
@torch.no_grad()
def test_the_coarsest_map_sees_far(trunk):
    """Attention and pooling carry a change in one corner beyond the first convolutions."""
    net = small(trunk).eval()
    x = image(1, 3, 64, 64)
    changed = x.clone()
    changed[..., :8, :8] += 1
    moved = [(a - b).abs().amax(1)[0] > 1e-6 for a, b in zip(net.trunk(x), net.trunk(changed), strict=True)]
    assert not moved[0][10:, :].any()  # two 3x3 convolutions: two pixels
    assert moved[3][2:, 2:].any()


def test_build_makes_what_is_asked():
    net = build("fsgnet", 4, depths=(1, 2, 1, 2), kernel=5, drop_block=False)
    assert isinstance(net.trunk, FullScaleTrunk)
    assert [len(stage) for stage in (net.trunk.input_layer, net.trunk.down_conv_2, net.trunk.down_conv_4)] == [2, 3, 3]
    assert net.trunk.input_layer[1].dwconv.kernel_size == (5, 5)
    assert isinstance(net.trunk.input_layer[1].drop, torch.nn.Identity)
    for trunk, kind in OTHERS.items():
        net = build(trunk, 4, batch_coupled=True)
        assert type(net.trunk) is kind
        assert isinstance(net.decoder, GuidedDecoder)
        assert net.decoder.batch_coupled
    assert isinstance(build("unet", 4, guided=False).decoder, PlainDecoder)
    assert build("unet", 4, attention=False).decoder.attention_block1 is None


def test_build_refuses():
    with pytest.raises(ValueError, match="no trunk 'swin': use one of fsgnet, unet, biformer, halo"):
        build("swin", 8)
    with pytest.raises(ValueError, match="width is 0"):
        build("unet", 0)
    with pytest.raises(ValueError, match="zip"):
        BiFormerTrunk(4, depths=(1, 1))
    with pytest.raises(ValueError, match="zip"):
        HaloTrunk(4, depths=(1, 1, 1, 1))
