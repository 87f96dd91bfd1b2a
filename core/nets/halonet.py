"""HaloNet: residual backbones whose 3x3 convolutions are blocked local attention, and the attention layer of timm.

Paper: CVPR 2021 (arXiv 2103.12731); the layer follows timm's. Specification: methods/halonet.md, sections 3.1-3.4.
Parameter names of ``HaloAttn`` are timm's. There are no released weights of H0-H7.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ..attention.halo.attend import ATTEND
from ..attention.halo.blocks import Halo, from_blocks, query_blocks
from ..attention.halo.operator import halo_of


class RelativeTables(nn.Module):
    """The two tables of relative positions, [2 * win - 1, dim_head] each, shared by all heads."""

    def __init__(self, win: int, dim_head: int) -> None:
        super().__init__()
        self.height_rel = nn.Parameter(torch.empty(2 * win - 1, dim_head))
        self.width_rel = nn.Parameter(torch.empty(2 * win - 1, dim_head))
        for table in (self.height_rel, self.width_rel):
            nn.init.trunc_normal_(table, std=dim_head**-0.5)


class HaloAttn(nn.Module):
    """Halo attention with its projections: [B, C, H, W] -> [B, dim_out, H / stride, W / stride].

    Parameters
    ----------
    dim, dim_out : int
        Channels in and out; default ``dim_out = dim``.
    stride : {1, 2}
        2: every second row and column asks, if ``block_size`` is even and ``avg_down`` off; otherwise all do, and 2x2
        means follow.
    num_heads : int
        Divides ``dim_out``.
    dim_head : int, optional
        Channels of q and k per head. Default ``dim_out * qk_ratio``, rounded to a multiple of 8, over ``num_heads``.
    block_size, halo_size : int
        See ``halo.operator.Settings``.
    qk_ratio : float
        Width of queries and keys over ``dim_out``.
    qkv_bias : bool
    avg_down : bool
    scale_pos_embed, mask_border : bool
        See ``halo.operator.Settings``: ``scale_pos`` and ``mask_border``.
    pad : bool
        Accept maps that ``block_size`` does not divide. Ours.
    """

    def __init__(
        self, dim: int, dim_out: int | None = None, *, stride: int = 1, num_heads: int = 8, dim_head: int | None = None,
        block_size: int = 8, halo_size: int = 3, qk_ratio: float = 1.0, qkv_bias: bool = False, avg_down: bool = False,
        scale_pos_embed: bool = False, mask_border: bool = False, pad: bool = False,
    ) -> None:  # fmt: skip
        super().__init__()
        dim_out = dim_out or dim
        if stride not in (1, 2):
            raise ValueError(f"stride is {stride}: use 1 or 2.")
        if num_heads < 1 or dim_out % num_heads:
            raise ValueError(f"num_heads={num_heads} must divide the output width {dim_out}.")
        self.num_heads, self.dim_value = num_heads, dim_out // num_heads
        self.dim_head = dim_head or _multiple_of_8(dim_out * qk_ratio) // num_heads
        self.block_size, self.halo_size, self.pad = block_size, halo_size, pad
        self.scale_pos_embed, self.mask_border = scale_pos_embed, mask_border
        strided = stride == 2 and block_size % 2 == 0 and not avg_down
        self.query_stride = 2 if strided else 1
        self.q = nn.Conv2d(dim, num_heads * self.dim_head, 1, stride=self.query_stride, bias=qkv_bias)
        self.kv = nn.Conv2d(dim, num_heads * self.dim_head + dim_out, 1, bias=qkv_bias)
        self.pos_embed = RelativeTables(block_size + 2 * halo_size, self.dim_head)
        # an odd side leaves a last row of single cells: mean of those that exist
        pooled = stride == 2 and not strided
        self.pool = nn.AvgPool2d(2, 2, ceil_mode=True) if pooled else nn.Identity()
        for layer in (self.q, self.kv):
            nn.init.trunc_normal_(layer.weight, std=dim**-0.5)

    def forward(self, x: Tensor) -> Tensor:
        layout = self.layout(x)
        q, k, v = self.heads(x, layout)
        out: Tensor = ATTEND(
            q, k, v, layout, scale=self.dim_head**-0.5, height_rel=self.pos_embed.height_rel,
            width_rel=self.pos_embed.width_rel, scale_pos=self.scale_pos_embed, mask_border=self.mask_border,
        )  # fmt: skip
        out = from_blocks(out, layout, x.shape[0])  # [B, M, h, w, dv]
        pooled: Tensor = self.pool(out.permute(0, 1, 4, 2, 3).flatten(1, 2))
        return pooled

    def layout(self, x: Tensor) -> Halo:
        """The blocks of x [B, C, H, W]."""
        grid = (x.shape[2], x.shape[3])
        return halo_of(grid, self.block_size, self.halo_size, pad=self.pad, stride=self.query_stride)

    def heads(self, x: Tensor, layout: Halo) -> tuple[Tensor, Tensor, Tensor]:
        """Blocks of queries [B * M, rows, cols, side², dk]; maps of keys and values [B * M, dk or dv, H, W].

        The channels of ``kv`` go head by head, each its keys, then its values.
        """
        q, kv = self.q(x), self.kv(x)
        q = q.reshape(x.shape[0], self.num_heads, self.dim_head, *q.shape[2:]).permute(0, 1, 3, 4, 2)
        kv = kv.reshape(x.shape[0] * self.num_heads, self.dim_head + self.dim_value, *kv.shape[2:])
        k, v = kv.split([self.dim_head, self.dim_value], 1)
        return query_blocks(q, layout), k, v


def _multiple_of_8(width: float) -> int:
    """The nearest multiple of 8, but not less than 90 % of ``width``."""
    rounded = max(8, int(width + 4) // 8 * 8)
    return rounded + 8 if rounded < 0.9 * width else rounded


class Size(NamedTuple):
    """A row of the specification's table 3.4."""

    block: int
    halo: int
    value_ratio: float
    out_ratio: float
    third: int
    """Blocks of stage 3; the others have 3."""
    image: int
    head_width: int | None


SIZES = {
    "h0": Size(8, 3, 1.0, 0.5, 7, 256, None),
    "h1": Size(8, 3, 1.0, 1.0, 10, 256, None),
    "h2": Size(8, 3, 1.25, 1.0, 11, 256, None),  # value ratios of h2-h4 are unverified: their counts are 2-12 % short
    "h3": Size(10, 3, 1.5, 1.0, 12, 320, 1024),
    "h4": Size(12, 2, 3.0, 1.0, 12, 384, 1280),
    "h5": Size(14, 2, 2.5, 2.0, 23, 448, 1536),
    "h6": Size(8, 4, 3.0, 2.75, 24, 512, 1536),
    "h7": Size(10, 3, 4.0, 3.5, 26, 600, 2048),
}


class Bottleneck(nn.Module):
    """1x1 convolution to ``width``, halo attention, 1x1 convolution to ``dim_out``; residual, with BN and ReLU.

    The first of a stage (``project``) has a 1x1 convolution in its shortcut.
    """

    def __init__(
        self, dim: int, dim_out: int, *, width: int, value_width: int, num_heads: int, stride: int, block_size: int,
        halo_size: int, project: bool,
    ) -> None:  # fmt: skip
        super().__init__()
        self.conv1 = nn.Sequential(nn.Conv2d(dim, width, 1, bias=False), nn.BatchNorm2d(width), nn.ReLU())
        self.attn = HaloAttn(
            width, value_width, stride=stride, num_heads=num_heads, dim_head=width // num_heads,
            block_size=block_size, halo_size=halo_size, pad=True,
        )  # fmt: skip
        self.norm = nn.Sequential(nn.BatchNorm2d(value_width), nn.ReLU())
        self.conv3 = nn.Sequential(nn.Conv2d(value_width, dim_out, 1, bias=False), nn.BatchNorm2d(dim_out))
        self.shortcut: nn.Module = nn.Identity()
        if project:
            self.shortcut = nn.Sequential(
                nn.Conv2d(dim, dim_out, 1, stride=stride, bias=False), nn.BatchNorm2d(dim_out)
            )

    def forward(self, x: Tensor) -> Tensor:
        return F.relu(self.shortcut(x) + self.conv3(self.norm(self.attn(self.conv1(x)))))


class HaloNet(nn.Module):
    """The backbone: features at strides 4, 8, 16, 32, and a classifier on the last. Any image size.

    Parameters
    ----------
    size : Size
        A row of ``SIZES``.
    num_classes : int
        0: no classifier.
    width : int
        Of the stem and the first stage; each stage has twice the width of the one before.
    heads : sequence of 4 int
    depths : sequence of 4 int, optional
        Blocks of the stages; default: those of ``size``.
    """

    def __init__(
        self, size: Size, *, num_classes: int = 1000, width: int = 64, heads: Sequence[int] = (4, 8, 8, 8),
        depths: Sequence[int] | None = None,
    ) -> None:  # fmt: skip
        super().__init__()
        self.stem = nn.Sequential(
            nn.Conv2d(3, width, 7, stride=2, padding=3, bias=False), nn.BatchNorm2d(width), nn.ReLU(),
            nn.MaxPool2d(3, stride=2, padding=1),
        )  # fmt: skip
        dim, stages = width, []
        blocks_of = (3, 3, size.third, 3) if depths is None else depths
        widths = [width << i for i in range(4)]
        for i, (width, num_heads, depth) in enumerate(zip(widths, heads, blocks_of, strict=True)):
            dim_out, value_width, blocks = int(width * size.out_ratio), int(width * size.value_ratio), []
            for j in range(depth):
                blocks.append(
                    Bottleneck(
                        dim, dim_out, width=width, value_width=value_width, num_heads=num_heads,
                        stride=2 if i and not j else 1, block_size=size.block, halo_size=size.halo, project=not j,
                    )
                )  # fmt: skip
                dim = dim_out
            stages.append(nn.Sequential(*blocks))
        self.stages = nn.ModuleList(stages)
        self.final: nn.Module = nn.Identity()
        if size.head_width:
            self.final = nn.Sequential(
                nn.Conv2d(dim, size.head_width, 1, bias=False), nn.BatchNorm2d(size.head_width), nn.ReLU()
            )
        self.head = nn.Linear(size.head_width or dim, num_classes) if num_classes else nn.Identity()

    def features(self, image: Tensor) -> list[Tensor]:
        """[B, 3, H, W] -> four maps [B, C_i, H / s, W / s], s = 4, 8, 16, 32, sides rounded up."""
        x, maps = self.stem(image), []
        for stage in self.stages:
            x = stage(x)
            maps.append(x)
        return maps

    def forward(self, image: Tensor) -> Tensor:
        """[B, 3, H, W] -> logits [B, num_classes]."""
        logits: Tensor = self.head(self.final(self.features(image)[-1]).mean((2, 3)))
        return logits


def halonet(name: str, *, num_classes: int = 1000) -> HaloNet:
    """``h0`` to ``h7`` of the paper's table, with random weights.

    >>> halonet("h0").head
    Linear(in_features=256, out_features=1000, bias=True)
    """
    if name not in SIZES:
        raise ValueError(f"no HaloNet {name!r}: use one of {', '.join(SIZES)}.")
    return HaloNet(SIZES[name], num_classes=num_classes)
