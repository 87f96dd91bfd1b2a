"""HaloNet's layer and backbones: methods/halonet.md, sections 3 and 11."""

import pytest
import torch
import torch.nn.functional as F

from attn.core.attention.halo.operator import OPERATOR as halo
from attn.core.nets import halonet

TABLE = [
    ("h0", 50, 5.50), ("h1", 59, 8.11), ("h2", 62, 9.22), ("h3", 65, 11.45), ("h4", 65, 16.76), ("h5", 98, 30.72),
    ("h6", 101, 43.46), ("h7", 107, 67.43),
]  # fmt: skip


@pytest.mark.parametrize(("name", "layers", "millions"), TABLE)
def test_sizes(name, layers, millions):
    """Columns "layers" and "params we compute" of table 3.4; of h2-h4 the paper's counts are 9.4, 11.8 and 19.1."""
    with torch.device("meta"):
        model = halonet.halonet(name)
    assert sum(p.numel() for p in model.parameters()) / 1e6 == pytest.approx(millions, abs=0.005)
    assert 3 * sum(isinstance(m, halonet.Bottleneck) for m in model.modules()) + 2 == layers


@pytest.fixture(scope="module")
def h0():
    return halonet.halonet("h0", num_classes=5).eval()


@pytest.mark.parametrize("sides", [(64, 96), (75, 101)], ids=str)
def test_features_have_strides_4_to_32(h0, sides):
    image = torch.randn(1, 3, *sides)
    maps = h0.features(image)
    channels = {4: 32, 8: 64, 16: 128, 32: 256}
    expected = [(1, c, *(-(-side // stride) for side in sides)) for stride, c in channels.items()]
    assert [tuple(x.shape) for x in maps] == expected
    assert h0(image).shape == (1, 5)
    assert all(x.isfinite().all() and x.std() > 0 for x in maps)


def test_every_weight_learns():
    size = halonet.Size(4, 1, 1.5, 0.5, 1, 64, 32)
    model = halonet.HaloNet(size, num_classes=3)
    model(torch.randn(2, 3, 64, 64)).square().sum().backward()
    assert [name for name, p in model.named_parameters() if p.grad is None or not p.grad.abs().max() > 0] == []


def test_value_width_may_differ():
    """h5: values 2.5 times as wide as queries; keys and values interleave head by head."""
    layer = halonet.HaloAttn(64, 160, num_heads=4, dim_head=16, block_size=4, halo_size=1)
    x = torch.randn(1, 64, 8, 8)
    kv = layer.kv(x).reshape(4, 16 + 40, 64).transpose(1, 2)[None]  # [1, M, L, dk + dv]
    out = halo.reference(
        layer.q(x).reshape(1, 4, 16, 64).transpose(2, 3), kv[..., :16], kv[..., 16:], grid=(8, 8), block_size=4, halo=1,
        height_rel=layer.pos_embed.height_rel, width_rel=layer.pos_embed.width_rel,
    )  # fmt: skip
    torch.testing.assert_close(layer(x), out.transpose(2, 3).reshape(1, 160, 8, 8), rtol=1e-4, atol=1e-5)


def without_positions(layer):
    """The layer with tables of zeros."""
    with torch.no_grad():
        layer.pos_embed.height_rel.zero_()
        layer.pos_embed.width_rel.zero_()
    return layer


def test_stride_2_asks_every_second_pixel():
    strided = without_positions(halonet.HaloAttn(16, num_heads=2, block_size=4, halo_size=1, stride=2))
    full = without_positions(halonet.HaloAttn(16, num_heads=2, block_size=4, halo_size=1))
    full.load_state_dict(strided.state_dict())
    x = torch.randn(2, 16, 8, 12)
    torch.testing.assert_close(strided(x), full(x)[:, :, ::2, ::2], rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize("options", [{"block_size": 5}, {"block_size": 4, "avg_down": True}], ids=str)
def test_stride_2_by_means(options):
    pooled = halonet.HaloAttn(16, num_heads=2, halo_size=1, stride=2, pad=True, **options)
    full = halonet.HaloAttn(16, num_heads=2, halo_size=1, pad=True, **options)
    full.load_state_dict(pooled.state_dict())
    x = torch.randn(2, 16, 10, 15)
    assert pooled(x).shape == (2, 16, 5, 8)
    torch.testing.assert_close(pooled(x)[..., :7], F.avg_pool2d(full(x), 2))
    torch.testing.assert_close(pooled(x)[..., 7], F.avg_pool2d(full(x)[..., 14:], (2, 1))[..., 0])


def test_padding_is_border():
    """Sizes that the block does not divide: as if the map went on with border cells, biases included."""
    layer = halonet.HaloAttn(16, num_heads=2, block_size=4, halo_size=1, qkv_bias=True, mask_border=True, pad=True)
    x = torch.randn(1, 16, 6, 7)
    out = layer(x)
    wider = halonet.HaloAttn(16, num_heads=2, block_size=4, halo_size=1, qkv_bias=True, mask_border=True)
    wider.load_state_dict(layer.state_dict())
    # the first block sees rows and columns -1..4 only, all of them on both maps
    torch.testing.assert_close(out[:, :, :4, :4], wider(F.pad(x, (0, 1, 0, 2)))[:, :, :4, :4])
    assert (out - wider(F.pad(x, (0, 1, 0, 2)))[:, :, :6, :7]).abs().max() > 1e-4


def test_head_width_follows_the_ratio():
    assert halonet.HaloAttn(48, num_heads=4, qk_ratio=0.33).dim_head == 4  # 15.84 -> 16
    assert halonet.HaloAttn(64, num_heads=2, dim_head=24).q.out_channels == 48


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"num_heads": 5}, "num_heads=5 must divide the output width 32"),
        ({"num_heads": 4, "stride": 3}, "stride is 3: use 1 or 2"),
    ],
    ids=str,
)
def test_refuses(options, message):
    with pytest.raises(ValueError, match=message):
        halonet.HaloAttn(32, **options)


def test_refuses_maps_and_names_it_does_not_know():
    with pytest.raises(ValueError, match="block_size=8 does not divide the grid 9x8"):
        halonet.HaloAttn(32, num_heads=4)(torch.zeros(1, 32, 9, 8))
    with pytest.raises(ValueError, match="use one of h0, h1"):
        halonet.halonet("h9")
