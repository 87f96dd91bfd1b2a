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

from .guided import EPS, RADIUS, resize, resize_like, window_count
from .layers import ConvBlock, Gate, MConv, ResConv
from .network import FSGNet, FullScaleTrunk, GuidedDecoder, PlainDecoder, Scales, check_side

STRIP_BYTES = 4 << 20
"""Hidden maps of a block are made in strips of about this size, which bounds memory; 1 to 8 MB are equally fast."""


def as_rows(x: Tensor) -> Tensor:
    """[B, C, H, W] -> [B * H, C, 1, W], a view if ``x`` is channels last.

    torch gives pointwise convolutions of a batch of 16 or more to oneDNN, and smaller ones, on one thread, to a matrix
    product that takes longer at widths of 8 to 64. To a pointwise convolution, rows are as good as images.
    """
    return x.transpose(1, 2).flatten(0, 1).unsqueeze(2)


def from_rows(rows: Tensor, batch: int) -> Tensor:
    """Undo ``as_rows``."""
    return rows.reshape(batch, -1, rows.shape[1], rows.shape[3]).transpose(1, 2)


def pointwise(conv: nn.Module, x: Tensor) -> Tensor:
    """``conv(x)`` for a 1x1 convolution, or for a chain of them with pointwise functions."""
    return from_rows(conv(as_rows(x)), x.shape[0])


def optimise(net: FSGNet, *, strip_bytes: int = STRIP_BYTES) -> FastFSGNet:
    """A copy of ``net`` for prediction alone; ``net`` is left as it is.

    Parameters
    ----------
    net : FSGNet
        Any trunk and decoder, on any device, float32 or float64. Layers of other trunks are folded where they can be.
    strip_bytes : int
        Size of the strips in which the hidden maps of a block are made.

    Returns
    -------
    FastFSGNet
        Called as ``net`` is, but gives ``out1`` alone: that of ``net.eval()`` to within 1e-5 in float32.

    References
    ----------
    methods/fsg-net.md, section 7; arXiv 2501.18921.
    """
    return FastFSGNet(net, strip_bytes)


class FastFSGNet(nn.Module):
    """See ``optimise``."""

    def __init__(self, net: FSGNet, strip_bytes: int = STRIP_BYTES) -> None:
        super().__init__()
        net = fold(copy.deepcopy(net).eval(), strip_bytes)
        self.trunk: nn.Module = FastTrunk(net.trunk) if isinstance(net.trunk, FullScaleTrunk) else net.trunk
        self.decoder: nn.Module = FastGuided(net.decoder) if isinstance(net.decoder, GuidedDecoder) else (
            FastPlain(net.decoder)
        )  # fmt: skip
        self.requires_grad_(False)
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
        x : Tensor, shape (B, 3, H, W), float32 or float64
            Normalised image.
        maps : dict, optional
            Receives the attention maps ``att3``, ``att2``, ``att1`` [B, 1, h, w].

        Returns
        -------
        Tensor, shape (B, classes, H, W), dtype of ``x``.

        Raises
        ------
        ValueError
            If a side of the image is below 48 pixels.
        """
        check_side(x)
        out: Tensor = self.decoder(self.trunk(x), maps)
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


class FastConvBlock(nn.Module):
    """Step 2 with its batch norm in the depthwise convolution and gamma in the last one."""

    def __init__(self, block: ConvBlock, strip_bytes: int = STRIP_BYTES) -> None:
        super().__init__()
        self.strip_bytes = strip_bytes
        self.dwconv = fuse_conv_bn_eval(block.dwconv, block.norm)
        self.conv1, self.conv2 = block.conv1, copy.deepcopy(block.conv2)
        assert self.conv2.bias is not None
        with torch.no_grad():
            self.conv2.weight.mul_(block.gamma[:, None, None, None])
            self.conv2.bias.mul_(block.gamma)

    @torch.no_grad()
    def forward(self, x: Tensor) -> Tensor:
        rows, out = as_rows(x), as_rows(self.dwconv(x))
        at_once = max(1, self.strip_bytes // (self.conv1.out_channels * x.shape[3] * x.element_size()))
        for part, residual in zip(torch.split(out, at_once), torch.split(rows, at_once), strict=True):
            torch.add(residual, self.conv2(F.relu_(self.conv1(part))), out=part)
        return from_rows(out, x.shape[0])


class FastResConv(nn.Module):
    """Step 6 with its first batch norm as scale and shift, and the others folded."""

    def __init__(self, block: ResConv) -> None:
        super().__init__()
        norm, _, inner, second, _, self.outer = block.conv_block
        assert isinstance(norm, nn.BatchNorm2d)
        assert norm.running_var is not None
        assert norm.running_mean is not None
        self.inner, self.skip = _fused(inner, second), _fused(*block.conv_skip)
        scale = norm.weight / (norm.running_var + norm.eps).sqrt()
        self.scale = nn.Parameter(scale.detach()[:, None, None])
        self.shift = nn.Parameter((norm.bias - norm.running_mean * scale).detach()[:, None, None])

    def forward(self, x: Tensor) -> Tensor:
        skip: Tensor = self.skip(x)
        out = F.relu_(self.inner(F.relu_(torch.addcmul(self.shift, x, self.scale))))
        return skip.add_(self.outer(out))


class FastTrunk(nn.Module):
    """Steps 12-18; the convolutions of the full image that go into ``e1`` are one."""

    def __init__(self, trunk: FullScaleTrunk) -> None:
        super().__init__()
        direct, skip = _convolution(trunk.conv1), _convolution(trunk.input_skip[0])
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
        coarse = _convolution(merges[0]).in_channels // 2  # of x4; e3 is as wide
        self.merges = nn.ModuleList()
        for merge in merges:
            conv = _convolution(merge)
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
            attention = _gate(gate, low, y) if isinstance(gate, Gate) else low.new_ones(low.shape[0], 1, *low.shape[2:])
            if maps is not None:
                maps[f"att{depth}"] = attention
            y = res_conv(guided_filter(low, y, guide, attention, self.batch_coupled))
        return pointwise(self.head, y)


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
        return pointwise(self.head, y)


class Merge(nn.Module):
    """Steps 19, 21 and 23 without the concatenation: a pointwise convolution of each part, added."""

    def __init__(self, merge: MConv, fine: int) -> None:
        super().__init__()
        conv = _convolution(merge)
        self.fine = nn.Conv2d(fine, conv.out_channels, 1, bias=False)
        self.coarse = nn.Conv2d(conv.in_channels - fine, conv.out_channels, 1)
        self.fine.weight, self.coarse.weight = (nn.Parameter(w.clone()) for w in conv.weight.tensor_split((fine,), 1))
        self.coarse.bias = conv.bias

    def forward(self, fine: Tensor, coarse: Tensor) -> Tensor:
        low = pointwise(self.coarse, coarse)
        return F.relu_(pointwise(self.fine, fine).add_(resize_like(low, fine)))


def _gate(gate: Gate, x: Tensor, g: Tensor) -> Tensor:
    """Step 5 in place; ``x`` and ``g`` have one size here."""
    return pointwise(gate.psi, F.relu_(pointwise(gate.theta, x).add_(pointwise(gate.phi, g))))


def _fused(conv: nn.Module, norm: nn.Module) -> nn.Conv2d:
    assert isinstance(conv, nn.Conv2d)
    assert isinstance(norm, nn.BatchNorm2d)
    return fuse_conv_bn_eval(conv, norm)


def _convolution(block: nn.Module) -> nn.Conv2d:
    assert isinstance(block, MConv)
    conv = block.conv[0]
    assert isinstance(conv, nn.Conv2d)
    return conv


def guided_filter(low: Tensor, target: Tensor, high: Tensor, attention: Tensor, batch_coupled: bool) -> Tensor:
    """``guided.guided_filter`` without gradients: steps 7-11, each intermediate overwritten by the next.

    Window sums take the place of the means: N cancels but for one factor, N eps.
    """
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
    slope, offset = resize(window_sum(slope).div_(count), size), resize(window_sum(offset).div_(count), size)
    return offset.addcmul_(slope, high)


def window_sum(x: Tensor) -> Tensor:
    """Step 7, box(x), as a depthwise convolution with ones: an eighth of the time of ``avg_pool2d``, channels last."""
    ones = x.new_ones(x.shape[1], 1, 2 * RADIUS + 1, 2 * RADIUS + 1)
    return F.conv2d(x, ones, padding=RADIUS, groups=x.shape[1])
