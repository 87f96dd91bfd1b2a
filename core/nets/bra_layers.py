"""The attention layers of BiFormer: projections and LePE around the operator ``bra``, and the stage-4 layer.

Specification: methods/biformer.md, section 3. Parameter names are those of the released weights.
"""

from __future__ import annotations

from typing import Literal

import torch.nn.functional as F
from torch import Tensor, nn

from ..attention.bra.attend import ATTEND
from ..attention.bra.operator import OPERATOR, add_lepe, select
from ..attention.bra.regions import Routing, cut_floor, route


class _Projection(nn.Module):
    """One linear C -> 2 * qk_dim + C: queries, keys, values, in this order."""

    def __init__(self, dim: int, qk_dim: int) -> None:
        super().__init__()
        self.sizes = (qk_dim, qk_dim, dim)
        self.qkv = nn.Linear(dim, 2 * qk_dim + dim)

    def forward(self, x: Tensor) -> tuple[Tensor, ...]:
        parts: tuple[Tensor, ...] = self.qkv(x).split(self.sizes, -1)
        return parts


def _check_width(dim: int, num_heads: int, qk_dim: int) -> None:
    if num_heads < 1 or dim % num_heads or qk_dim % num_heads:
        raise ValueError(f"num_heads={num_heads} must divide the width {dim} and qk_dim {qk_dim}.")


def _side_convolution(dim: int, side: int) -> nn.Conv2d | None:
    """The depthwise LePE convolution, or None for side 0."""
    if side == 0:
        return None
    if side < 0 or side % 2 == 0:
        raise ValueError(f"side_dwconv is {side}: use 0 (off) or an odd kernel side.")
    return nn.Conv2d(dim, dim, side, padding=side // 2, groups=dim)


class BiLevelRoutingAttention(nn.Module):
    """Bi-level routing attention with its projections, channels last (the layer of the released weights).

    Parameters
    ----------
    dim : int
        Channels C.
    num_heads : int
        Divides ``dim`` and ``qk_dim``.
    n_win, topk : int
        Regions per side, and regions that each attends to.
    qk_dim : int, optional
        Width of queries and keys. Default ``dim``.
    qk_scale : float, optional
        Factor of routing and of attention. Default ``qk_dim ** -0.5``: the full width, not the head's.
    side_dwconv : int
        Kernel side of LePE, odd; 0 leaves it out.
    auto_pad : bool
        Pad the input with zeros to a multiple of ``n_win``; padded tokens are keys (their value is the bias).
    mask_padding : bool
        With ``auto_pad``: padding takes no part at all. Ours; off in the official code.
    soft_routing : bool
        Multiply keys and values by the routing probabilities.
    project_out : bool
        The output linear (``param_attention='qkvo'``).

    Notes
    -----
    ``forward``: [B, H, W, C] -> [B, H, W, C].
    """

    def __init__(
        self, dim: int, *, num_heads: int = 8, n_win: int = 7, topk: int = 4, qk_dim: int | None = None,
        qk_scale: float | None = None, side_dwconv: int = 5, auto_pad: bool = False, mask_padding: bool = False,
        soft_routing: bool = False, project_out: bool = True,
    ) -> None:  # fmt: skip
        super().__init__()
        qk_dim = qk_dim or dim
        _check_width(dim, num_heads, qk_dim)
        self.num_heads, self.n_win, self.topk = num_heads, n_win, topk
        self.scale = qk_dim**-0.5 if qk_scale is None else qk_scale
        self.auto_pad, self.mask_padding, self.soft_routing = auto_pad, mask_padding, soft_routing
        self.qkv = _Projection(dim, qk_dim)
        self.lepe = _side_convolution(dim, side_dwconv)
        self.wo = nn.Linear(dim, dim) if project_out else nn.Identity()

    def forward(self, x: Tensor) -> Tensor:
        height, width = x.shape[1:3]
        if self.auto_pad and not self.mask_padding:
            x = self.pad_input(x)
        q, k, v = self.heads(x)
        out = OPERATOR.blocked(
            q, k, v, grid=(x.shape[1], x.shape[2]), scale=self.scale, n_win=self.n_win, topk=self.topk,
            soft_routing=self.soft_routing, pad=self.auto_pad, mask_padding=self.auto_pad and self.mask_padding,
            lepe=None if self.lepe is None else self.lepe.weight,
            lepe_bias=None if self.lepe is None else self.lepe.bias,
        )  # fmt: skip
        out = out.transpose(1, 2).reshape(*x.shape[:3], -1)  # [B, H, W, C]
        mapped: Tensor = self.wo(out)[:, :height, :width]
        return mapped

    def pad_input(self, x: Tensor) -> Tensor:
        """Step 3.1: zeros to the right and below."""
        height, width = x.shape[1:3]
        return F.pad(x, (0, 0, 0, -width % self.n_win, 0, -height % self.n_win))

    def heads(self, x: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Step 3.3: q, k, v [B, M, H * W, d] of the map x [B, H, W, C]."""
        q, k, v = (t.flatten(1, 2).unflatten(2, (self.num_heads, -1)).transpose(1, 2) for t in self.qkv(x))
        return q, k, v

    def routing(self, x: Tensor) -> Routing:
        """Which regions of x [B, H, W, C] attend to which: for pictures of the routing."""
        if self.auto_pad and not self.mask_padding:
            x = self.pad_input(x)
        q, k, _ = self.heads(x)
        return select(
            q, k, grid=(x.shape[1], x.shape[2]), scale=self.scale, n_win=self.n_win, topk=self.topk,
            pad=self.auto_pad, mask_padding=self.auto_pad and self.mask_padding,
        )  # fmt: skip


class BiLevelRoutingAttentionNCHW(nn.Module):
    """The same layer, channels first, with 1x1 convolutions as projections (the refactored official layer).

    Parameters as in ``BiLevelRoutingAttention`` and:

    pad : {"post", "pre"}
        Where ``n_win`` does not divide the map. ``post``: regions of floor(side / n_win), zeros after the projection,
        padding left out of the region means but kept as keys; there may be more than n_win² regions. ``pre``: the rule
        of ``BiLevelRoutingAttention`` with ``auto_pad``.
    """

    def __init__(
        self, dim: int, *, num_heads: int = 8, n_win: int = 7, topk: int = 4, qk_scale: float | None = None,
        side_dwconv: int = 5, pad: Literal["post", "pre"] = "post",
    ) -> None:  # fmt: skip
        super().__init__()
        _check_width(dim, num_heads, dim)
        if pad not in ("post", "pre"):
            raise ValueError(f"pad is {pad!r}: use 'post' or 'pre'.")
        self.num_heads, self.n_win, self.topk, self.pad = num_heads, n_win, topk, pad
        self.scale = dim**-0.5 if qk_scale is None else qk_scale
        self.qkv_linear = nn.Conv2d(dim, 3 * dim, 1)
        self.lepe = _side_convolution(dim, side_dwconv)
        self.output_linear = nn.Conv2d(dim, dim, 1)

    def forward(self, x: Tensor) -> Tensor:
        height, width = x.shape[2:]
        if self.pad == "pre":
            x = F.pad(x, (0, -width % self.n_win, 0, -height % self.n_win))
        grid = (x.shape[2], x.shape[3])
        q, k, v = self.heads(x)
        out: Tensor = ATTEND(q, k, v, self.route(q, k, grid), scale=self.scale)  # [B, M, L, d]
        if self.lepe is not None:
            out = add_lepe(out, v, grid, self.lepe.weight, self.lepe.bias)
        mapped: Tensor = self.output_linear(out.transpose(2, 3).reshape(x.shape))
        return mapped[:, :, :height, :width]

    def heads(self, x: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """q, k, v [B, M, H * W, d] of the map x [B, C, H, W]."""
        q, k, v = (
            t.flatten(2).unflatten(1, (self.num_heads, -1)).transpose(2, 3) for t in self.qkv_linear(x).chunk(3, 1)
        )
        return q, k, v

    def route(self, q: Tensor, k: Tensor, grid: tuple[int, int]) -> Routing:
        """The regions chosen for q, k of a map ``grid``."""
        return route(q, k, cut_floor(grid, self.n_win), topk=self.topk, scale=self.scale, only_inside=True)


class AttentionLePE(nn.Module):
    """Global attention with LePE of the layer's input, channels last: stage 4, whose map is too small for regions.

    ``forward``: [B, H, W, C] -> [B, H, W, C]. Scale (C / num_heads) ** -0.5.
    """

    def __init__(self, dim: int, *, num_heads: int = 8, side_dwconv: int = 5) -> None:
        super().__init__()
        _check_width(dim, num_heads, dim)
        self.num_heads = num_heads
        self.qkv = nn.Linear(dim, 3 * dim, bias=False)
        self.proj = nn.Linear(dim, dim)
        self.lepe = _side_convolution(dim, side_dwconv)

    def forward(self, x: Tensor) -> Tensor:
        tokens = x.flatten(1, 2)  # [B, L, C]
        q, k, v = self.qkv(tokens).unflatten(2, (3, self.num_heads, -1)).permute(2, 0, 3, 1, 4)  # [B, M, L, d]
        out = F.scaled_dot_product_attention(q, k, v).transpose(1, 2).reshape(x.shape)
        if self.lepe is not None:
            out = out + self.lepe(x.permute(0, 3, 1, 2)).permute(0, 2, 3, 1)
        projected: Tensor = self.proj(out)
        return projected
