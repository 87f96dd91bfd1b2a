"""BiFormer: four-stage vision backbones on bi-level routing attention.

Paper: CVPR 2023 (arXiv 2303.08810). Specification: methods/biformer.md, section 3. Parameter names are those of the
released weights, which load with ``load_state_dict``.
"""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from typing import Literal

import torch
from torch import Tensor, nn

from .bra_layers import AttentionLePE, BiLevelRoutingAttention, BiLevelRoutingAttentionNCHW

__all__ = [
    "AttentionLePE",
    "BiFormer",
    "BiFormerBlock",
    "BiLevelRoutingAttention",
    "BiLevelRoutingAttentionNCHW",
    "biformer_base",
    "biformer_small",
    "biformer_stl",
    "biformer_tiny",
]


class DropPath(nn.Module):
    """While training, drop a sample's residual branch with probability ``rate`` and scale the others up."""

    def __init__(self, rate: float) -> None:
        super().__init__()
        self.rate = rate

    def forward(self, x: Tensor) -> Tensor:
        if not self.training or self.rate == 0:
            return x
        keep = torch.rand(x.shape[0], *[1] * (x.ndim - 1), device=x.device) >= self.rate
        return x * keep / (1 - self.rate)


class ChannelNorm(nn.LayerNorm):
    """LayerNorm over the channels of [B, C, H, W]."""

    def forward(self, x: Tensor) -> Tensor:
        return super().forward(x.permute(0, 2, 3, 1)).permute(0, 3, 1, 2)


class BiFormerBlock(nn.Module):
    """Position convolution, attention, MLP, each with its residual: [B, C, H, W] -> [B, C, H, W].

    ``topk`` None: global attention (``AttentionLePE``).
    """

    def __init__(
        self, dim: int, *, num_heads: int, topk: int | None, n_win: int, mlp_ratio: float, drop_path: float = 0.0,
        position: bool = True, auto_pad: bool = False,
    ) -> None:  # fmt: skip
        super().__init__()
        self.pos_embed = nn.Conv2d(dim, dim, 3, padding=1, groups=dim) if position else None
        self.norm1 = nn.LayerNorm(dim, eps=1e-6)
        self.attn: nn.Module = (
            AttentionLePE(dim)
            if topk is None
            else BiLevelRoutingAttention(dim, num_heads=num_heads, n_win=n_win, topk=topk, auto_pad=auto_pad)
        )
        self.norm2 = nn.LayerNorm(dim, eps=1e-6)
        hidden = int(mlp_ratio * dim)
        # the identity keeps the released weights' numbering: mlp.0 and mlp.3
        self.mlp = nn.Sequential(nn.Linear(dim, hidden), nn.Identity(), nn.GELU(), nn.Linear(hidden, dim))
        self.drop_path = DropPath(drop_path)

    def forward(self, x: Tensor) -> Tensor:
        if self.pos_embed is not None:
            x = x + self.pos_embed(x)
        x = x.permute(0, 2, 3, 1)  # [B, H, W, C]
        x = x + self.drop_path(self.attn(self.norm1(x)))
        x = x + self.drop_path(self.mlp(self.norm2(x)))
        return x.permute(0, 3, 1, 2)


class BiFormer(nn.Module):
    """The backbone: features at strides 4, 8, 16, 32, and a classifier on the last.

    Parameters
    ----------
    depths, dims : sequence of 4 int
        Blocks and channels per stage.
    mlp_ratio : float or sequence of 4 float
        Hidden width of the MLPs over the channels, of all stages or of each.
    head_dim : int
        Channels per head of the routed stages.
    n_win : int
        Regions per side: 7 for 224 px, 8 for 512 px, 16 for detection. It counts regions: their size follows the image.
    topks : sequence of 4 (int or None)
        Regions attended to per stage; None: global attention.
    drop_path : float
        Stochastic depth of the last block; it rises linearly from 0.
    num_classes : int
        0: no classifier.
    layout : {"biformer", "swin"}
        ``swin``: the plain stem and no position convolutions (STL).
    auto_pad : bool
        Accept any image size; otherwise the maps of routed stages must divide by ``n_win``.
    out_norm : bool
        A channel LayerNorm on each map of ``features`` (dense tasks).
    """

    def __init__(
        self, depths: Sequence[int], dims: Sequence[int], *, mlp_ratio: float | Sequence[float] = 3.0,
        head_dim: int = 32, n_win: int = 7, topks: Sequence[int | None] = (1, 4, 16, None), drop_path: float = 0.0,
        num_classes: int = 1000, layout: Literal["biformer", "swin"] = "biformer", auto_pad: bool = False,
        out_norm: bool = False,
    ) -> None:  # fmt: skip
        super().__init__()
        ratios = [mlp_ratio] * len(dims) if isinstance(mlp_ratio, (int, float)) else list(mlp_ratio)
        if len(ratios) != len(dims) or not min(ratios) > 0:
            raise ValueError(
                f"mlp_ratio is {mlp_ratio}: use one positive number, or one for each of {len(dims)} stages."
            )
        swin = layout == "swin"
        if swin:
            stem = nn.Sequential(nn.Conv2d(3, dims[0], 4, stride=4), ChannelNorm(dims[0], eps=1e-6))
        else:
            half = dims[0] // 2
            stem = nn.Sequential(
                nn.Conv2d(3, half, 3, 2, 1), nn.BatchNorm2d(half), nn.GELU(),
                nn.Conv2d(half, dims[0], 3, 2, 1), nn.BatchNorm2d(dims[0]),
            )  # fmt: skip
        between = [
            nn.Sequential(ChannelNorm(a, eps=1e-6), nn.Conv2d(a, b, 2, stride=2))
            if swin
            else nn.Sequential(nn.Conv2d(a, b, 3, 2, 1), nn.BatchNorm2d(b))
            for a, b in itertools.pairwise(dims)
        ]
        self.downsample_layers = nn.ModuleList([stem, *between])
        blocks = sum(depths)
        rates = (drop_path * i / max(1, blocks - 1) for i in range(blocks))
        self.stages = nn.ModuleList(
            nn.Sequential(
                *(
                    BiFormerBlock(
                        dim, num_heads=dim // head_dim, topk=topk, n_win=n_win, mlp_ratio=ratio,
                        drop_path=next(rates), position=not swin, auto_pad=auto_pad,
                    )
                    for _ in range(depth)
                )
            )
            for depth, dim, topk, ratio in zip(depths, dims, topks, ratios, strict=True)
        )  # fmt: skip
        self.norm: nn.Module = ChannelNorm(dims[-1], eps=1e-6) if swin else nn.BatchNorm2d(dims[-1])
        self.head = nn.Linear(dims[-1], num_classes) if num_classes else nn.Identity()
        self.extra_norms = nn.ModuleList(ChannelNorm(dim) for dim in dims) if out_norm else None
        self.apply(_initialise)

    def features(self, image: Tensor) -> list[Tensor]:
        """[B, 3, H, W] -> four maps [B, C_i, H / s, W / s], s = 4, 8, 16, 32."""
        maps = self._maps(image)
        if self.extra_norms is None:
            return maps
        return [norm(x) for norm, x in zip(self.extra_norms, maps, strict=True)]

    def forward(self, image: Tensor) -> Tensor:
        """[B, 3, H, W] -> logits [B, num_classes]."""
        logits: Tensor = self.head(self.norm(self._maps(image)[-1]).mean((2, 3)))
        return logits

    def _maps(self, x: Tensor) -> list[Tensor]:
        """The output of each stage, before any norm."""
        maps = []
        for down, stage in zip(self.downsample_layers, self.stages, strict=True):
            x = stage(down(x))
            maps.append(x)
        return maps


def _initialise(module: nn.Module) -> None:
    """Linear: truncated normal of std 0.02, bias 0. Norms and convolutions keep torch's default."""
    if isinstance(module, nn.Linear):
        nn.init.trunc_normal_(module.weight, std=0.02)
        if module.bias is not None:
            nn.init.zeros_(module.bias)


def biformer_tiny(
    *, num_classes: int = 1000, n_win: int = 7, drop_path: float = 0.1, auto_pad: bool = False, out_norm: bool = False
) -> BiFormer:
    """BiFormer-T, 13.1 M parameters; parameters as in ``BiFormer``."""
    return BiFormer(
        (2, 2, 8, 2), (64, 128, 256, 512), num_classes=num_classes, n_win=n_win, drop_path=drop_path,
        auto_pad=auto_pad, out_norm=out_norm,
    )  # fmt: skip


def biformer_small(
    *, num_classes: int = 1000, n_win: int = 7, drop_path: float = 0.15, auto_pad: bool = False, out_norm: bool = False
) -> BiFormer:
    """BiFormer-S, 25.5 M parameters; parameters as in ``BiFormer``."""
    return BiFormer(
        (4, 4, 18, 4), (64, 128, 256, 512), num_classes=num_classes, n_win=n_win, drop_path=drop_path,
        auto_pad=auto_pad, out_norm=out_norm,
    )  # fmt: skip


def biformer_base(
    *, num_classes: int = 1000, n_win: int = 7, drop_path: float = 0.4, auto_pad: bool = False, out_norm: bool = False
) -> BiFormer:
    """BiFormer-B, 56.8 M parameters; parameters as in ``BiFormer``."""
    return BiFormer(
        (4, 4, 18, 4), (96, 192, 384, 768), num_classes=num_classes, n_win=n_win, drop_path=drop_path,
        auto_pad=auto_pad, out_norm=out_norm,
    )  # fmt: skip


def biformer_stl(
    *, num_classes: int = 1000, n_win: int = 7, drop_path: float = 0.2, auto_pad: bool = False, out_norm: bool = False
) -> BiFormer:
    """BiFormer-STL, the layout of Swin-T, 28.4 M parameters; parameters as in ``BiFormer``."""
    return BiFormer(
        (2, 2, 6, 2), (96, 192, 384, 768), mlp_ratio=4, layout="swin", num_classes=num_classes, n_win=n_win,
        drop_path=drop_path, auto_pad=auto_pad, out_norm=out_norm,
    )  # fmt: skip
