"""BiFormer's layers and backbones: methods/biformer.md, sections 3, 9 and 11."""

import pytest
import torch
import torch.nn.functional as F

from attn.core.attention.equations import masked_attention
from attn.core.nets import biformer


def copy_weights(source, target):
    """The weights of the NHWC layer in the NCHW one."""
    weights = {
        "qkv_linear.weight": source.qkv.qkv.weight[:, :, None, None], "qkv_linear.bias": source.qkv.qkv.bias,
        "output_linear.weight": source.wo.weight[:, :, None, None], "output_linear.bias": source.wo.bias,
        "lepe.weight": source.lepe.weight, "lepe.bias": source.lepe.bias,
    }  # fmt: skip
    target.load_state_dict(weights)


def test_all_regions_is_multi_head_attention():
    """Check 2: top-k of all regions, without LePE, is full attention of scale C ** -0.5."""
    layer = biformer.BiLevelRoutingAttention(32, num_heads=4, n_win=4, topk=16, side_dwconv=0)
    x = torch.randn(2, 8, 12, 32)
    q, k, v = (t.reshape(2, 96, 4, 8).transpose(1, 2) for t in layer.qkv.qkv(x).chunk(3, -1))
    truth = layer.wo(masked_attention(q, k, v, None, scale=32**-0.5).transpose(1, 2).reshape(x.shape))
    torch.testing.assert_close(layer(x), truth, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("pad", ["pre", "post"])
def test_the_two_layouts_agree_where_sizes_divide(pad):
    first = biformer.BiLevelRoutingAttention(32, num_heads=4, n_win=4, topk=3)
    second = biformer.BiLevelRoutingAttentionNCHW(32, num_heads=4, n_win=4, topk=3, pad=pad)
    copy_weights(first, second)
    x = torch.randn(2, 16, 12, 32)
    torch.testing.assert_close(first(x), second(x.permute(0, 3, 1, 2)).permute(0, 2, 3, 1), rtol=0, atol=1e-6)


def test_pad_before_agrees_for_other_sizes():
    first = biformer.BiLevelRoutingAttention(16, num_heads=2, n_win=4, topk=3, auto_pad=True)
    second = biformer.BiLevelRoutingAttentionNCHW(16, num_heads=2, n_win=4, topk=3, pad="pre")
    copy_weights(first, second)
    x = torch.randn(1, 13, 10, 16)
    torch.testing.assert_close(first(x), second(x.permute(0, 3, 1, 2)).permute(0, 2, 3, 1), rtol=0, atol=1e-6)


def test_pad_after_has_more_regions():
    """13 x 10 in regions of floor(13 / 4) x floor(10 / 4) = 3 x 2: 5 x 5 regions, as in section 3's NCHW variant."""
    layer = biformer.BiLevelRoutingAttentionNCHW(16, num_heads=2, n_win=4, topk=25, side_dwconv=0)
    x = torch.randn(1, 16, 13, 10)
    q, k, v = layer.heads(x)
    routing = layer.route(q, k, (13, 10))
    assert routing.index.shape == (1, 25, 25)
    assert (routing.regions.tall, routing.regions.wide) == (3, 2)
    # all regions chosen: full attention over the map and the 15 * 10 - 13 * 10 zero tokens below it
    zeros = F.pad(k, (0, 0, 0, 20)), F.pad(v, (0, 0, 0, 20))
    truth = masked_attention(q, *zeros, None, scale=0.25).transpose(2, 3).reshape(x.shape)
    torch.testing.assert_close(layer(x), layer.output_linear(truth), rtol=1e-5, atol=1e-6)
    means = F.avg_pool2d(q.transpose(2, 3).reshape(1, 16, 13, 10), (3, 2), ceil_mode=True, count_include_pad=False)
    keys = F.avg_pool2d(k.transpose(2, 3).reshape(1, 16, 13, 10), (3, 2), ceil_mode=True, count_include_pad=False)
    logits = means.flatten(2).mT @ keys.flatten(2) * 0.25
    torch.testing.assert_close(routing.logits, logits, rtol=1e-5, atol=1e-6)


def test_masked_padding_takes_no_part():
    """With all regions and padding masked, the padded layer is full attention over the map alone."""
    layer = biformer.BiLevelRoutingAttention(
        16, num_heads=2, n_win=4, topk=16, side_dwconv=3, auto_pad=True, mask_padding=True
    )
    whole = biformer.BiLevelRoutingAttention(16, num_heads=2, n_win=1, topk=1, side_dwconv=3)
    whole.load_state_dict(layer.state_dict())
    x = torch.randn(2, 7, 9, 16)
    torch.testing.assert_close(layer(x), whole(x), rtol=1e-5, atol=1e-6)
    layer.mask_padding = False
    assert (layer(x) - whole(x)).abs().max() > 1e-3


def test_global_attention_convolves_its_input():
    layer = biformer.AttentionLePE(16, num_heads=2)
    x = torch.randn(1, 4, 5, 16)
    with torch.no_grad():
        layer.qkv.weight[32:] = 0  # no values: what is left is the convolution of x
    truth = layer.proj(layer.lepe(x.permute(0, 3, 1, 2)).permute(0, 2, 3, 1))
    torch.testing.assert_close(layer(x), truth)


@pytest.mark.parametrize(
    ("build", "count"),
    [
        (biformer.biformer_tiny, 13_142_760),
        (biformer.biformer_small, 25_536_232),
        (biformer.biformer_base, 56_804_968),
    ],
)
def test_parameter_counts(build, count):
    with torch.device("meta"):
        model = build()
    assert sum(p.numel() for p in model.parameters()) == count


def test_stl_has_the_published_size():
    with torch.device("meta"):
        model = biformer.biformer_stl()
    assert sum(p.numel() for p in model.parameters()) / 1e6 == pytest.approx(28.4, abs=0.05)


def small(**options):
    """A backbone with one block per stage."""
    return biformer.BiFormer((1, 1, 1, 1), (16, 32, 64, 64), head_dim=8, n_win=2, topks=(1, 2, 4, None), **options)


@pytest.mark.parametrize("layout", ["biformer", "swin"])
def test_features_have_strides_4_to_32(layout):
    model = small(layout=layout, num_classes=5, out_norm=True).eval()
    image = torch.randn(2, 3, 64, 128)
    maps = model.features(image)
    assert [tuple(x.shape) for x in maps] == [(2, 16, 16, 32), (2, 32, 8, 16), (2, 64, 4, 8), (2, 64, 2, 4)]
    assert all(abs(x.mean(1)).max() < 1e-5 for x in maps)  # normed over channels
    assert model(image).shape == (2, 5)


def test_any_image_size_with_auto_pad():
    assert [x.shape[2:] for x in small(auto_pad=True).eval().features(torch.randn(1, 3, 75, 106))][-1] == (3, 4)
    with pytest.raises(ValueError, match="n_win=2 does not divide the grid 19x27"):
        small().eval().features(torch.randn(1, 3, 75, 106))


def test_stochastic_depth_is_for_training_only():
    model, image = small(num_classes=3, drop_path=0.9), torch.randn(4, 3, 64, 64)
    assert [block.drop_path.rate for stage in model.stages for block in stage] == pytest.approx([0, 0.3, 0.6, 0.9])
    assert not torch.equal(model(image), model(image))
    model.eval()
    assert torch.equal(model(image), model(image))


def test_every_weight_learns():
    model = small(num_classes=3)
    model(torch.randn(4, 3, 64, 64)).square().sum().backward()
    assert [name for name, p in model.named_parameters() if p.grad is None or not p.grad.abs().max() > 0] == []


def test_drop_path_keeps_the_mean():
    drop = biformer.DropPath(0.25)
    torch.manual_seed(0)
    out = drop(torch.ones(4000, 2, 2, 1))
    assert out.mean().item() == pytest.approx(1, abs=0.05)
    assert sorted(out.unique().tolist()) == pytest.approx([0, 4 / 3])
    assert torch.equal(out.amin((1, 2, 3)), out.amax((1, 2, 3)))


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"num_heads": 5}, "num_heads=5 must divide the width 32"),
        ({"num_heads": 4, "qk_dim": 6}, "qk_dim 6"),
        ({"num_heads": 4, "side_dwconv": 4}, "side_dwconv is 4: use 0"),
    ],
    ids=str,
)
def test_refuses(options, message):
    with pytest.raises(ValueError, match=message):
        biformer.BiLevelRoutingAttention(32, **options)


def test_refuses_maps_it_cannot_cut():
    layer = biformer.BiLevelRoutingAttention(32, num_heads=4, n_win=4, topk=17)
    with pytest.raises(ValueError, match="topk=17 of 16 regions"):
        layer(torch.zeros(1, 8, 8, 32))
    with pytest.raises(ValueError, match="n_win=4 does not divide the grid 9x8"):
        layer(torch.zeros(1, 9, 8, 32))
    with pytest.raises(ValueError, match="use 1 to 3"):
        biformer.BiLevelRoutingAttentionNCHW(32, num_heads=4, n_win=4)(torch.zeros(1, 32, 3, 8))
    with pytest.raises(ValueError, match="use 'post' or 'pre'"):
        biformer.BiLevelRoutingAttentionNCHW(32, num_heads=4, pad="both")


def test_one_mlp_ratio_a_stage():
    sizes = {"depths": (1, 1, 1, 1), "dims": (32, 32, 64, 64), "n_win": 2, "topks": (1, 2, 2, None), "num_classes": 3}
    widths = [stage[0].mlp[0].out_features for stage in biformer.BiFormer(**sizes, mlp_ratio=(4, 3, 2, 1.5)).stages]
    assert widths == [128, 96, 128, 96]
    same = [biformer.BiFormer(**sizes, mlp_ratio=ratio).state_dict() for ratio in (2, [2.0] * 4)]
    assert {k: v.shape for k, v in same[0].items()} == {k: v.shape for k, v in same[1].items()}
    for wrong in ((4, 3), (1, 2, 0, 3), -1.0):
        with pytest.raises(ValueError, match="mlp_ratio is"):
            biformer.BiFormer(**sizes, mlp_ratio=wrong)
