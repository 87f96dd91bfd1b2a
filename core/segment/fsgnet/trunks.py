"""Trunks for the guided decoder of FSG-Net: the paper claims that the part before it can be any U-Net variant.

Paper: arXiv 2501.18921 (2025). Specification: methods/fsg-net.md, section 3.3: a trunk replaces steps 12-18 and gives
``Scales``, steps 19-26 stay. Layers are those of methods/biformer.md and methods/halonet.md; their arrangement is ours.
All three share the plan of U-Net's encoder: two convolutions at full resolution, then three times a step down and some
blocks, with the widths 2c, 4c, 8c, 8c that the decoder expects. Depths are chosen so that each has about as many
parameters as the paper's trunk.

Attention starts at stride 2. At full resolution a photo of 565 x 584 has 330 000 tokens, 16 times as many as the first
stage of either paper (stride 4), and what counts there, edges a pixel or two wide, is what convolutions do well.
"""

from __future__ import annotations

from collections.abc import Sequence

from torch import Tensor, nn

from ...nets.biformer import BiFormerBlock, ChannelNorm
from ...nets.halonet import Bottleneck
from .layers import MConv
from .network import FSGNet, FullScaleTrunk, Scales, decoder_of

NAMES = {"fsgnet": "fsgnet", "unet": "unet", "biformer": "biformer-unet", "halo": "halo-unet"}
"""Trunk -> what a model with it is called."""
TRUNKS = tuple(NAMES)


class _Pyramid(nn.Module):
    """Two convolutions at full resolution, then three stages, each at half the size: [B, 3, H, W] -> ``Scales``."""

    def __init__(self, width: int, stages: Sequence[nn.Module]) -> None:
        super().__init__()
        self.stem = _double_conv(3, 2 * width)
        self.stages = nn.ModuleList(stages)

    def forward(self, x: Tensor) -> Scales:
        maps = [self.stem(x)]
        for stage in self.stages:
            maps.append(stage(maps[-1]))
        return Scales(*maps)


class UNetTrunk(_Pyramid):
    """The encoder of U-Net: per scale two 3x3 convolutions with batch norm and ReLU, max pooling between.

    Parameters
    ----------
    width : int
        Base width c.
    """

    def __init__(self, width: int) -> None:
        super().__init__(width, [nn.Sequential(nn.MaxPool2d(2), *_double_conv(a, b)) for a, b in _steps(width)])


class BiFormerTrunk(_Pyramid):
    """Stages of BiFormer blocks (bi-level routing attention) at strides 2, 4 and 8.

    Parameters
    ----------
    width : int
        Base width c.
    depths : sequence of 3 int
        Blocks per stage.
    n_win : sequence of 3 int
        Regions per side, most on the finest map: a query of a map of n tokens reads ``topk`` regions of n / n_win²
        tokens. Their size follows the image's, as in the paper.
    topks : sequence of 3 int
        Regions attended to: more on coarser maps, as in the paper.

    Notes
    -----
    ``auto_pad`` accepts any size; heads are 32 channels wide where the width divides. Each map leaves through a
    channel norm, as for the paper's dense tasks (``out_norm``), because the sum of residuals has no scale of its own.
    The last stage routes too: the paper's global attention is for stride 32; at stride 8 a photo has 5 000 tokens.
    """

    def __init__(
        self, width: int, *, depths: Sequence[int] = (1, 2, 2), n_win: Sequence[int] = (16, 8, 8),
        topks: Sequence[int] = (2, 4, 16),
    ) -> None:  # fmt: skip
        stages = []
        for (dim, dim_out), depth, regions, topk in zip(_steps(width), depths, n_win, topks, strict=True):
            heads = _heads(dim_out, 32)
            blocks = [
                BiFormerBlock(dim_out, num_heads=heads, topk=topk, n_win=regions, mlp_ratio=3, auto_pad=True)
                for _ in range(depth)
            ]
            stages.append(nn.Sequential(*_down(dim, dim_out), *blocks))
        super().__init__(width, stages)
        self.norms = nn.ModuleList(ChannelNorm(dim_out) for _, dim_out in _steps(width))

    def forward(self, x: Tensor) -> Scales:
        e1, *maps = super().forward(x)
        return Scales(e1, *(norm(y) for norm, y in zip(self.norms, maps, strict=True)))


class HaloTrunk(_Pyramid):
    """Bottlenecks of HaloNet (blocked local attention) at strides 2, 4 and 8.

    Parameters
    ----------
    width : int
        Base width c.
    depths : sequence of 3 int
        Bottlenecks per stage.
    block_size, halo_size : int
        Queries per side of a block, and the border of keys around it: 8 and 3, the paper's H0-H2.

    Notes
    -----
    ``pad`` accepts any size; heads are 16 channels wide, as the paper's, where the width divides.
    """

    def __init__(
        self, width: int, *, depths: Sequence[int] = (2, 3, 3), block_size: int = 8, halo_size: int = 3
    ) -> None:
        stages = []
        for (dim, dim_out), depth in zip(_steps(width), depths, strict=True):
            heads = _heads(dim_out, 16)
            blocks = [
                Bottleneck(
                    dim_out, dim_out, width=dim_out, value_width=dim_out, num_heads=heads, stride=1,
                    block_size=block_size, halo_size=halo_size, project=False,
                )
                for _ in range(depth)
            ]  # fmt: skip
            stages.append(nn.Sequential(*_down(dim, dim_out), *blocks))
        super().__init__(width, stages)


def build(
    trunk: str, width: int, *, guided: bool = True, attention: bool = True, batch_coupled: bool = False,
    drop_block: bool = True, depths: Sequence[int] = (3, 3, 9, 3), kernel: int = 3,
) -> FSGNet:  # fmt: skip
    """A segmentation network: one of ``TRUNKS`` under the decoder of FSG-Net.

    Parameters
    ----------
    trunk : {"fsgnet", "unet", "biformer", "halo"}
    width : int
        Base width c; larger is slower and more accurate.
    guided : bool
        False: upsample plainly, without guided filter, gates and skip connections (the paper's ``noGRM``).
    attention : bool
        False: the guided filter weighs all pixels alike, and the fsgnet trunk has no spatial attention. The attention
        inside the biformer and halo trunks is theirs, and stays.
    batch_coupled : bool
        See ``guided_filter``.
    drop_block, depths, kernel
        Of ``FullScaleTrunk``; the other trunks have none of them and ignore them.

    Returns
    -------
    FSGNet, with fresh weights, in training mode.

    Raises
    ------
    ValueError
        If there is no such trunk, or the width is below 1.

    References
    ----------
    methods/fsg-net.md, section 3.3; arXiv 2501.18921.
    """
    if trunk not in TRUNKS:
        raise ValueError(f"no trunk {trunk!r}: use one of {', '.join(TRUNKS)}.")
    if width < 1:
        raise ValueError(f"width is {width}: at least 1.")
    if trunk == "fsgnet":
        encoder: nn.Module = FullScaleTrunk(
            width, depths, kernel, attention=guided and attention, drop_block=drop_block
        )
    else:
        encoder = {"unet": UNetTrunk, "biformer": BiFormerTrunk, "halo": HaloTrunk}[trunk](width)
    return FSGNet(encoder, decoder_of(width, guided=guided, attention=attention, batch_coupled=batch_coupled))


def _steps(width: int) -> tuple[tuple[int, int], ...]:
    """Channels before and after each of the three steps down."""
    return (2 * width, 4 * width), (4 * width, 8 * width), (8 * width, 8 * width)


def _double_conv(dim: int, dim_out: int) -> nn.Sequential:
    """Two 3x3 convolutions with batch norm and ReLU."""
    return nn.Sequential(MConv(dim, dim_out, 3), MConv(dim_out, dim_out, 3))


def _down(dim: int, dim_out: int) -> nn.Sequential:
    """Half the sides, rounded down as the decoder's are; the papers' own steps (kernel 3, padding 1) round up."""
    return nn.Sequential(nn.Conv2d(dim, dim_out, 2, stride=2), nn.BatchNorm2d(dim_out))


def _heads(dim: int, head_dim: int) -> int:
    """The most heads of at least ``head_dim`` channels that divide ``dim``, and at least one."""
    return next(heads for heads in range(max(1, dim // head_dim), 0, -1) if dim % heads == 0)
