"""FSG-Net: retinal vessel segmentation with a full-scale encoder and an attention-guided decoder.

Paper: arXiv 2501.18921 (2025). Specification: methods/fsg-net.md, section 3; step numbers are its numbers. Steps 1-6
are in ``layers.py``. The part before the guided decoder can be any encoder with the same four scales (``trunks.py``);
this file has the paper's own. Parameter names below ``trunk`` and ``decoder`` are those of the official code:
``load_official`` reads its weights.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from .guided import guided_filter, resize, resize_like
from .layers import ConvBlock, Gate, MConv, ResConv, SpatialAttention

MIN_SIDE = 48
"""Smallest image side: below it the windows of the guided filter do not fit into the coarsest map."""


class Scales(NamedTuple):
    """What a trunk gives the decoder: widths in units of the base width c."""

    e1: Tensor
    """[B, 2c, H, W]"""
    e2: Tensor
    """[B, 4c, H // 2, W // 2]"""
    e3: Tensor
    """[B, 8c, H // 4, W // 4]"""
    x4: Tensor
    """[B, 8c, H // 8, W // 8]"""


class Outputs(NamedTuple):
    """Vessel probabilities of the three depths, each [B, classes, H, W]; ``out1`` is the result (step 25)."""

    out1: Tensor
    out2: Tensor
    out3: Tensor


class FullScaleTrunk(nn.Module):
    """Steps 12-18: the image enters at every scale, so that thin vessels survive the strides.

    Parameters
    ----------
    width : int
        Base width c.
    depths : sequence of 4 int
        Blocks per scale.
    kernel : int
        Side of the block's convolutions, odd.
    attention : bool
        Spatial attention on the coarsest map (off in the ``nogrm`` ablation).
    drop_block : bool
        DropBlock in every block while training.
    """

    def __init__(
        self, width: int, depths: Sequence[int] = (3, 3, 9, 3), kernel: int = 3, *, attention: bool = True,
        drop_block: bool = True,
    ) -> None:  # fmt: skip
        super().__init__()
        c = width

        def blocks(dim: int, depth: int) -> list[nn.Module]:
            return [ConvBlock(dim, kernel, drop_block=drop_block) for _ in range(depth)]

        def down(dim: int, depth: int) -> nn.Sequential:
            return nn.Sequential(nn.Conv2d(dim, dim, 2, stride=2), *blocks(dim, depth))

        self.input_layer = nn.Sequential(MConv(3, c, kernel), *blocks(c, depths[0]))
        self.input_skip = nn.Sequential(MConv(3, c, kernel))
        self.conv1 = MConv(3, c, 3)
        self.down_conv_2, self.conv2 = down(2 * c, depths[1]), MConv(3, 2 * c, 3)
        self.down_conv_3, self.conv3 = down(4 * c, depths[2]), MConv(3, 4 * c, 3)
        self.down_conv_4 = down(8 * c, depths[3])
        self.attn: nn.Module = SpatialAttention() if attention else nn.Identity()

    def forward(self, x: Tensor) -> Scales:
        h, w = x.shape[-2:]
        x1 = self.input_layer(x) + self.input_skip(x)
        e1 = torch.cat([self.conv1(x), x1], 1)
        e2 = torch.cat([self.conv2(resize(x, (h // 2, w // 2))), self.down_conv_2(e1)], 1)
        e3 = torch.cat([self.conv3(resize(x, (h // 4, w // 4))), self.down_conv_3(e2)], 1)
        return Scales(e1, e2, e3, self.attn(self.down_conv_4(e3)))


class Heads(nn.Module):
    """Step 25: a probability map per depth, all at the size of the image."""

    def __init__(self, width: int, classes: int) -> None:
        super().__init__()
        self.output_layer3 = nn.Sequential(nn.Conv2d(4 * width, classes, 1), nn.Sigmoid())
        self.output_layer2 = nn.Sequential(nn.Conv2d(2 * width, classes, 1), nn.Sigmoid())
        self.output_layer1 = nn.Sequential(nn.Conv2d(width, classes, 1), nn.Sigmoid())

    def outputs(self, y1: Tensor, y2: Tensor, y3: Tensor) -> Outputs:
        """Convolve, then resize (the order does not matter for 1x1): a single channel is resized."""

        def head(layer: nn.Sequential, y: Tensor) -> Tensor:
            out: Tensor = layer[1](resize_like(layer[0](y), y1))
            return out

        return Outputs(head(self.output_layer1, y1), head(self.output_layer2, y2), head(self.output_layer3, y3))


class GuidedDecoder(Heads):
    """Steps 19-25: every upsampling is an attention-guided filter along the encoder's own map.

    Parameters
    ----------
    width, classes : int
    attention : bool
        False: the filter weighs all pixels alike (an ablation).
    batch_coupled : bool
        See ``guided_filter``.
    """

    def __init__(self, width: int, classes: int = 1, *, attention: bool = True, batch_coupled: bool = False) -> None:
        super().__init__(width, classes)
        c = width
        self.batch_coupled = batch_coupled
        self.conv_cat_3, self.conv_cat_2, self.conv_cat_1 = (
            MConv(16 * c, 8 * c, 1), MConv(12 * c, 4 * c, 1), MConv(6 * c, 2 * c, 1)
        )  # fmt: skip
        self.attention_block3: Gate | None = Gate(8 * c) if attention else None
        self.attention_block2: Gate | None = Gate(4 * c) if attention else None
        self.attention_block1: Gate | None = Gate(2 * c) if attention else None
        self.up_residual_conv3, self.up_residual_conv2, self.up_residual_conv1 = _res_convs(c)

    def forward(self, scales: Scales, maps: dict[str, Tensor] | None = None) -> Outputs:
        """``maps``, when given, receives the attention maps ``att3``, ``att2``, ``att1`` [B, 1, h, w]."""
        e1, e2, e3, x4 = scales
        g3 = _merge(self.conv_cat_3, e3, x4)
        y3 = self.up_residual_conv3(self._filter(x4, g3, self.attention_block3, "att3", maps))
        g2 = _merge(self.conv_cat_2, e2, g3)
        y2 = self.up_residual_conv2(self._filter(y3, g2, self.attention_block2, "att2", maps))
        g1 = _merge(self.conv_cat_1, e1, g2)
        y1 = self.up_residual_conv1(self._filter(y2, g1, self.attention_block1, "att1", maps))
        return self.outputs(y1, y2, y3)

    def _filter(
        self, target: Tensor, high: Tensor, gate: Gate | None, name: str, maps: dict[str, Tensor] | None
    ) -> Tensor:
        """GF(half of ``high``, ``target``, ``high``, gate) of steps 20, 22 and 24."""
        low = resize(high, (high.shape[2] // 2, high.shape[3] // 2))
        attention = low.new_ones(low.shape[0], 1, *low.shape[2:]) if gate is None else gate(low, target)
        if maps is not None:
            maps[name] = attention
        return guided_filter(low, target, high, attention, batch_coupled=self.batch_coupled)


class PlainDecoder(Heads):
    """Step 26, ``nogrm``: plain upsampling, no guided filter, no gates and no skip connections (an ablation)."""

    def __init__(self, width: int, classes: int = 1) -> None:
        super().__init__(width, classes)
        self.up_residual_conv3, self.up_residual_conv2, self.up_residual_conv1 = _res_convs(width)

    def forward(self, scales: Scales, maps: dict[str, Tensor] | None = None) -> Outputs:
        e1, e2, e3, x4 = scales
        # the heads read the maps after their upsampling
        y3 = resize_like(self.up_residual_conv3(resize_like(x4, e3)), e2)
        y2 = resize_like(self.up_residual_conv2(y3), e1)
        return self.outputs(self.up_residual_conv1(y2), y2, y3)


def _res_convs(width: int) -> tuple[ResConv, ResConv, ResConv]:
    """Step 6 at the three depths of either decoder, from the coarsest on."""
    return ResConv(8 * width, 4 * width), ResConv(4 * width, 2 * width), ResConv(2 * width, width)


def _merge(conv: MConv, fine: Tensor, coarse: Tensor) -> Tensor:
    """``conv(cat[fine, coarse resized])`` of steps 19, 21, 23 without the large tensor: resizing commutes with 1x1."""
    pointwise, norm, relu = conv.conv
    assert isinstance(pointwise, nn.Conv2d)
    split = fine.shape[1]
    low = F.conv2d(coarse, pointwise.weight[:, split:], pointwise.bias)
    out: Tensor = relu(norm(F.conv2d(fine, pointwise.weight[:, :split]) + resize_like(low, fine)))
    return out


def check_side(x: Tensor) -> None:
    """Raise ``ValueError`` if a side of the image [B, 3, H, W] is below ``MIN_SIDE``."""
    if min(x.shape[-2:]) < MIN_SIDE:
        raise ValueError(f"image is {x.shape[-2]} x {x.shape[-1]}: both sides must be at least {MIN_SIDE}.")


class FSGNet(nn.Module):
    """A trunk of four scales and a decoder: [B, 3, H, W] normalised image -> three maps of probabilities.

    Parameters
    ----------
    trunk : Module
        Gives ``Scales``.
    decoder : GuidedDecoder or PlainDecoder

    Raises
    ------
    ValueError
        In ``forward``, if a side of the image is below 48 pixels.
    """

    def __init__(self, trunk: nn.Module, decoder: GuidedDecoder | PlainDecoder) -> None:
        super().__init__()
        self.trunk, self.decoder = trunk, decoder

    def forward(self, x: Tensor, maps: dict[str, Tensor] | None = None) -> Outputs:
        check_side(x)
        out: Outputs = self.decoder(self.trunk(x), maps)
        return out


def decoder_of(
    width: int, classes: int = 1, *, guided: bool, attention: bool, batch_coupled: bool
) -> GuidedDecoder | PlainDecoder:
    """The decoder of the paper, or that of its ablation ``noGRM``."""
    if not guided:
        return PlainDecoder(width, classes)
    return GuidedDecoder(width, classes, attention=attention, batch_coupled=batch_coupled)


def fsgnet(
    width: int = 64, depths: Sequence[int] = (3, 3, 9, 3), kernel: int = 3, classes: int = 1, *, guided: bool = True,
    attention: bool = True, batch_coupled: bool = False, drop_block: bool = True,
) -> FSGNet:  # fmt: skip
    """The network of the paper; ``guided=False`` is its ``noGRM``, ``attention=False`` filters without weights."""
    trunk = FullScaleTrunk(width, depths, kernel, attention=guided and attention, drop_block=drop_block)
    return FSGNet(trunk, decoder_of(width, classes, guided=guided, attention=attention, batch_coupled=batch_coupled))


def load_official(net: FSGNet, state: Mapping[str, Tensor]) -> None:
    """Load a state dict with the official names (``module.`` and ``FSGNet.`` in front are ignored).

    Raises
    ------
    RuntimeError
        If a parameter is missing, left over, or of another shape; torch's message names it.
    """
    ours = net.state_dict()
    renamed = {}
    for name, value in state.items():
        name = name.removeprefix("module.").removeprefix("FSGNet.")
        renamed[f"trunk.{name}" if f"trunk.{name}" in ours else f"decoder.{name}"] = value
    counters = {name: value for name, value in ours.items() if name.endswith("num_batches_tracked")}
    net.load_state_dict(counters | renamed)
