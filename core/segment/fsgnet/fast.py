"""FSG-Net for prediction: the same numbers as the module it is made from, in less than half the time.

Specification: methods/fsg-net.md, sections 3.2, 3.3 and 7; step numbers are its numbers. What makes it fast: batch
norms folded into convolutions, channels last, wide hidden maps made strip by strip, window sums of the guided filter by
depthwise convolution, and no heads but the one that is read. ``tests/benchmarks/test_fsgnet.py`` measures it.
"""

from __future__ import annotations

import copy

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.nn.utils.fusion import fuse_conv_bn_eval

from ...attention.equations import needs_triton
from ...choose import Formulation, Phase
from .folded import (
    STRIP_BYTES,
    FastConvBlock,
    FastResConv,
    Merge,
    accurate,
    convolution,
    gate_map,
    pointwise,
)
from .guided import EPS, RADIUS, resize, window_count
from .layers import ConvBlock, Gate, ResConv
from .network import FSGNet, FullScaleTrunk, GuidedDecoder, PlainDecoder, Scales, check_side


def optimise(net: FSGNet, *, dtype: torch.dtype | None = None, strip_bytes: int = STRIP_BYTES) -> FastFSGNet:
    """A copy of ``net`` for prediction alone; ``net`` is left as it is.

    Parameters
    ----------
    net : FSGNet
        Any trunk and decoder, on any device, float32 or float64. Layers of other trunks are folded where they can be.
    dtype : torch.dtype, optional
        Of the convolutions and the maps between them: bfloat16, or by default that of ``net``. The coefficients of the
        guided filter and the probability are float32 at least: their sums of squares, and thresholds, need it.
    strip_bytes : int
        Size of the strips in which the hidden maps of a block are made.

    Returns
    -------
    FastFSGNet
        Called as ``net`` is, but gives ``out1`` alone: that of ``net.eval()`` to within 1e-5 in float32, and of
        a trained network to within a few hundredths in bfloat16.

    References
    ----------
    methods/fsg-net.md, section 7; arXiv 2501.18921.
    """
    return FastFSGNet(net, strip_bytes, dtype)


class FastFSGNet(nn.Module):
    """See ``optimise``."""

    def __init__(self, net: FSGNet, strip_bytes: int = STRIP_BYTES, dtype: torch.dtype | None = None) -> None:
        super().__init__()
        self.dtype = dtype or next(net.parameters()).dtype
        net = fold(copy.deepcopy(net).to(accurate(self.dtype)).eval(), strip_bytes)
        self.trunk: nn.Module = FastTrunk(net.trunk) if isinstance(net.trunk, FullScaleTrunk) else net.trunk
        self.decoder: nn.Module = FastGuided(net.decoder) if isinstance(net.decoder, GuidedDecoder) else (
            FastPlain(net.decoder)
        )  # fmt: skip
        self.requires_grad_(False)
        self.trunk.to(self.dtype)
        for name, part in self.decoder.named_children():
            if name != "head":  # a rounded logit would leave gaps between probabilities
                part.to(self.dtype)
        self.to(memory_format=torch.channels_last)  # type: ignore[call-overload]  # missing in torch's stub

    def train(self, mode: bool = True) -> FastFSGNet:
        """Raises ``ValueError`` for ``mode=True``: folded layers cannot be trained."""
        if mode:
            raise ValueError("an optimised network cannot be trained: train the FSGNet that it was made from.")
        return super().train(False)

    @torch.inference_mode()
    def forward(self, x: Tensor, maps: dict[str, Tensor] | None = None) -> Tensor:
        """Probability of a vessel.

        Parameters
        ----------
        x : Tensor, shape (B, 3, H, W)
            Normalised image.
        maps : dict, optional
            Receives the attention maps ``att3``, ``att2``, ``att1`` [B, 1, h, w].

        Returns
        -------
        Tensor, shape (B, classes, H, W): float64 of a network in float64, else float32.

        Raises
        ------
        ValueError
            If a side of the image is below 48 pixels.
        """
        check_side(x)
        out: Tensor = self.decoder(self.trunk(x.to(self.dtype)), maps)
        return out


def fold(module: FSGNet, strip_bytes: int) -> FSGNet:
    """Fold every batch norm that directly follows a convolution into it, in place; ``module`` is in eval mode."""
    for part in list(module.modules()):
        if isinstance(part, nn.Sequential):
            for name, following in zip(part._modules, list(part._modules)[1:], strict=False):
                conv, norm = part._modules[name], part._modules[following]
                if isinstance(conv, nn.Conv2d) and isinstance(norm, nn.BatchNorm2d):
                    part._modules[name], part._modules[following] = fuse_conv_bn_eval(conv, norm), nn.Identity()
        for name, child in part.named_children():
            if isinstance(child, ConvBlock):
                part._modules[name] = FastConvBlock(child, strip_bytes)
            elif isinstance(child, ResConv):
                part._modules[name] = FastResConv(child)
    return module


class FastTrunk(nn.Module):
    """Steps 12-18; the convolutions of the full image that go into ``e1`` are one."""

    def __init__(self, trunk: FullScaleTrunk) -> None:
        super().__init__()
        direct, skip = convolution(trunk.conv1), convolution(trunk.input_skip[0])
        side, small = skip.kernel_size[0], direct.kernel_size[0]
        self.entry = nn.Conv2d(3, direct.out_channels + skip.out_channels, side, padding=side // 2)
        self.entry.weight = nn.Parameter(torch.cat([F.pad(direct.weight, ((side - small) // 2,) * 4), skip.weight]))
        assert direct.bias is not None
        assert skip.bias is not None
        self.entry.bias = nn.Parameter(torch.cat([direct.bias, skip.bias]))
        self.input_layer, self.attn = trunk.input_layer, trunk.attn
        self.conv2, self.conv3 = trunk.conv2, trunk.conv3
        self.down_conv_2, self.down_conv_3, self.down_conv_4 = trunk.down_conv_2, trunk.down_conv_3, trunk.down_conv_4

    def forward(self, x: Tensor) -> Scales:
        h, w = x.shape[-2:]
        half, quarter = resize(x, (h // 2, w // 2)), resize(x, (h // 4, w // 4))
        x = x.contiguous(memory_format=torch.channels_last)
        e1 = F.relu_(self.entry(x))
        e1[:, e1.shape[1] // 2 :] += self.input_layer(x)
        e2 = torch.cat([self.conv2(half), self.down_conv_2(e1)], 1)
        e3 = torch.cat([self.conv3(quarter), self.down_conv_3(e2)], 1)
        return Scales(e1, e2, e3, self.attn(self.down_conv_4(e3)))


class FastGuided(nn.Module):
    """Steps 19-25, the first head alone."""

    def __init__(self, decoder: GuidedDecoder) -> None:
        super().__init__()
        self.batch_coupled = decoder.batch_coupled
        merges = (decoder.conv_cat_3, decoder.conv_cat_2, decoder.conv_cat_1)
        coarse = convolution(merges[0]).in_channels // 2  # of x4; e3 is as wide
        self.merges = nn.ModuleList()
        for merge in merges:
            conv = convolution(merge)
            self.merges.append(Merge(merge, conv.in_channels - coarse))
            coarse = conv.out_channels
        self.gates = nn.ModuleList(
            nn.Identity() if gate is None else gate
            for gate in (decoder.attention_block3, decoder.attention_block2, decoder.attention_block1)
        )
        self.res_convs = nn.ModuleList(
            [decoder.up_residual_conv3, decoder.up_residual_conv2, decoder.up_residual_conv1]
        )
        self.head = decoder.output_layer1

    def forward(self, scales: Scales, maps: dict[str, Tensor] | None = None) -> Tensor:
        fine = [e.contiguous(memory_format=torch.channels_last) for e in scales[:3]]
        guide = y = scales.x4.contiguous(memory_format=torch.channels_last)
        del scales
        for depth, merge, gate, res_conv in zip((3, 2, 1), self.merges, self.gates, self.res_convs, strict=True):
            guide = merge(fine.pop(), guide)
            low = resize(guide, (guide.shape[2] // 2, guide.shape[3] // 2))
            attention = (
                gate_map(gate, low, y) if isinstance(gate, Gate) else low.new_ones(low.shape[0], 1, *low.shape[2:])
            )
            if maps is not None:
                maps[f"att{depth}"] = attention
            y = res_conv(GUIDED(low, y, guide, attention, self.batch_coupled))
        return pointwise(self.head, y.to(accurate(y.dtype)))


class FastPlain(nn.Module):
    """Step 26, the first head alone."""

    def __init__(self, decoder: PlainDecoder) -> None:
        super().__init__()
        self.res_convs = nn.ModuleList(
            [decoder.up_residual_conv3, decoder.up_residual_conv2, decoder.up_residual_conv1]
        )
        self.head = decoder.output_layer1

    def forward(self, scales: Scales, maps: dict[str, Tensor] | None = None) -> Tensor:
        y = scales.x4.contiguous(memory_format=torch.channels_last)
        sizes = [(e.shape[2], e.shape[3]) for e in scales[:3]]
        del scales
        for res_conv in self.res_convs:
            y = res_conv(resize(y, sizes.pop()))
        return pointwise(self.head, y.to(accurate(y.dtype)))


def guided_filter(low: Tensor, target: Tensor, high: Tensor, attention: Tensor, batch_coupled: bool) -> Tensor:
    """``guided.guided_filter`` without gradients: steps 7-11, each intermediate overwritten by the next.

    Window sums take the place of the means: N cancels but for one factor, N eps.
    """
    dtype = high.dtype
    low, target, attention = (x.to(accurate(dtype)) for x in (low, target, attention))
    a = attention.abs().add_(1e-12)  # [B, 1, h, w]
    total = a.sum() if batch_coupled else a.sum((1, 2, 3), keepdim=True)
    count = window_count((low.shape[2], low.shape[3]), RADIUS, like=low)  # N
    al, ay = a * low, a * target
    ax_sum, ay_sum, aax_sum, aaxx_sum = window_sum(al), window_sum(ay), window_sum(ay.mul_(al)), window_sum(al * al)
    tax_sum = window_sum(al.mul_(a)).div_(total)
    aaxx_sum.addcmul_(tax_sum, ax_sum, value=-1).abs_().add_(count, alpha=EPS)
    slope = aax_sum.addcmul_(tax_sum, ay_sum, value=-1).div_(aaxx_sum)
    offset = ay_sum.addcmul_(slope, ax_sum, value=-1).div_(window_sum(a))
    del al, ay, ax_sum, tax_sum, aaxx_sum
    size = (high.shape[2], high.shape[3])
    slope, offset = (resize(window_sum(x).div_(count).to(dtype), size) for x in (slope, offset))
    return offset.addcmul_(slope, high)


def _refuses_triton(low: Tensor, target: Tensor, high: Tensor, attention: Tensor, _: bool) -> str | None:
    reason = needs_triton(low)
    if reason is not None:
        return reason
    from ....kernels import guided

    return guided.refuses(low, target, high, attention)


def _by_triton(low: Tensor, target: Tensor, high: Tensor, attention: Tensor, batch_coupled: bool) -> Tensor:
    from ....kernels import guided

    return guided.guided_filter(low, target, high, attention, batch_coupled, RADIUS, EPS)


GUIDED = Phase(
    "the guided filter",
    (
        Formulation("three passes, Triton", "triton", _by_triton, _refuses_triton),
        Formulation("window sums", "torch", guided_filter),
    ),
)
"""``filter(low, target, high, attention, batch_coupled) -> target at the resolution of high``, without gradients."""


def window_sum(x: Tensor) -> Tensor:
    """Step 7, box(x), as a depthwise convolution with ones: an eighth of the time of ``avg_pool2d``, channels last."""
    ones = x.new_ones(x.shape[1], 1, 2 * RADIUS + 1, 2 * RADIUS + 1)
    return F.conv2d(x, ones, padding=RADIUS, groups=x.shape[1])
