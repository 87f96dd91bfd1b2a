"""Bi-level routing attention: regions of a token map choose regions, their tokens attend to the tokens of those.

Paper: BiFormer, CVPR 2023 (arXiv 2303.08810). Specification: methods/biformer.md, sections 3.2-3.10; step numbers are
its numbers. The projections around it and the backbones are in ``biformer``.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from ...choose import Formulation, in_torch
from ..contract import Condition, Cost, Golden, Operator, Shape
from ..equations import accumulator, repeat_kv, weighted_sum
from ..fields import with_settings
from .attend import ATTEND, gather
from .regions import Regions, Routing, cut, pad_map, route, to_regions


@dataclass(frozen=True, slots=True, eq=False)
class Settings:
    """How a map is cut and routed, and what is added.

    Parameters
    ----------
    n_win : int
        Regions per side. More: smaller regions, a dearer search and cheaper attention.
    topk : int
        Regions that each region attends to, the same for all heads; ``n_win ** 2`` is full attention.
    soft_routing : bool
        Multiply keys and values of a chosen region by its routing probability.
    pad : bool
        Zeros to the right and below where ``n_win`` does not divide the map. They are keys like any other.
    mask_padding : bool
        Hide that padding from means and attention. Ours, not the paper's.
    lepe : Tensor [Hq * Dv, 1, n, n], optional
        Depthwise kernel, n odd: its convolution of v as a map is added to the result.
    lepe_bias : Tensor [Hq * Dv], optional

    Raises
    ------
    ValueError
        Of the phases: if n_win does not divide the map and ``pad`` is off, topk is not in 1..n_win², or lepe does not
        fit v.
    """

    n_win: int = 16
    topk: int = 4
    soft_routing: bool = False
    pad: bool = False
    mask_padding: bool = False
    lepe: Tensor | None = None
    lepe_bias: Tensor | None = None


def default_scale(q: Tensor) -> float:
    """(Hq * D) ** -0.5: the full width, not the head's, as weights were trained; for routing and token attention."""
    return float((q.shape[1] * q.shape[3]) ** -0.5)


def add_lepe(out: Tensor, v: Tensor, grid: tuple[int, int], lepe: Tensor | None, bias: Tensor | None) -> Tensor:
    """Step 3.10. ``out`` [B, Hq, L, Dv] plus the depthwise convolution ``lepe`` of v as a map of Hq * Dv channels."""
    if lepe is None:
        if bias is not None:
            raise ValueError("lepe_bias without lepe: pass the kernel too.")
        return out
    batch, heads, tokens, dim = out.shape
    side = lepe.shape[-1]
    if lepe.shape != (heads * dim, 1, side, side) or side % 2 == 0:
        raise ValueError(f"lepe has shape {list(lepe.shape)}: use [{heads * dim}, 1, n, n], n odd.")
    image = repeat_kv(v, heads).transpose(2, 3).reshape(batch, heads * dim, *grid)
    bias = None if bias is None else bias.to(v.dtype)
    position = F.conv2d(image, lepe.to(v.dtype), bias, padding=side // 2, groups=heads * dim)
    return out + position.reshape(batch, heads, dim, tokens).transpose(2, 3)


def reference(
    q: Tensor, k: Tensor, v: Tensor, *, causal: bool = False, scale: float | None = None, grid: tuple[int, int],
    settings: Settings,
) -> Tensor:  # fmt: skip
    """The equations with a dense mask of the chosen regions' tokens."""
    scale = default_scale(q) if scale is None else scale
    routing = select(q, k, scale=scale, grid=grid, settings=settings)
    regions = routing.regions
    region = routing.region_of_tokens(padding=True)
    visible = routing.chosen()[:, region][:, :, region]  # [B, L, L], L of the padded map
    if routing.masked:
        on_map = pad_map(torch.ones(1, 1, q.shape[2], 1, dtype=torch.bool, device=q.device), regions).flatten()
        visible = visible & on_map
    strength = torch.ones_like(routing.logits)
    if settings.soft_routing:
        strength = strength.scatter(2, routing.index, routing.weight)  # [B, P, P]
    factor = strength[:, region][:, :, region][:, None].to(q.dtype)  # [B, 1, L, L]

    qp, kp, vp = (pad_map(repeat_kv(x, q.shape[1]), regions).flatten(2, 3) for x in (q, k, v))
    scores = ((qp @ kp.mT) * scale * factor).to(accumulator(q.dtype))  # [B, Hq, L, L]
    prob = scores.masked_fill(~visible[:, None], -torch.inf).softmax(-1).to(q.dtype)
    out = weighted_sum(prob * factor, vp, visible[:, None])  # [B, Hq, L, Dv]
    out = out.reshape(*out.shape[:2], *regions.padded, v.shape[3])[:, :, : grid[0], : grid[1]].flatten(2, 3)
    return add_lepe(out, v, grid, settings.lepe, settings.lepe_bias)


@with_settings(Settings)
def select(
    q: Tensor, k: Tensor, *, causal: bool = False, scale: float | None = None, grid: tuple[int, int],
    settings: Settings,
) -> Routing:  # fmt: skip
    """The coarse half: which regions each region attends to. It has no gradient."""
    regions, scale = cut(grid, settings.n_win, pad=settings.pad), default_scale(q) if scale is None else scale
    return route(q, k, regions, topk=settings.topk, scale=scale, masked=settings.mask_padding)


def attend(
    q: Tensor, k: Tensor, v: Tensor, selection: Routing, *, causal: bool = False, scale: float | None = None,
    grid: tuple[int, int], settings: Settings, engine: Formulation,
) -> Tensor:  # fmt: skip
    """The fine half: token attention inside the chosen regions. Differentiable in q, k, v and lepe."""
    scale = default_scale(q) if scale is None else scale
    out = engine.function(q, k, v, selection, scale=scale, soft_routing=settings.soft_routing)
    return add_lepe(out, v, grid, settings.lepe, settings.lepe_bias)


def attention_maps(q: Tensor, k: Tensor, selection: Routing, *, scale: float) -> Tensor:
    """Step 3.8, to look at: probabilities [B, P, Hq, T, topk * T] of each region's tokens over its chosen keys."""
    regions, batch, heads = selection.regions, q.shape[0], q.shape[1]
    index, on_map = selection.flat()
    keys = gather(to_regions(repeat_kv(k, heads), regions), index)  # [Hq, B * P, topk * T, D]
    scores = ((to_regions(q, regions) * scale) @ keys.mT).to(accumulator(q.dtype))
    if on_map is not None:
        scores = scores.masked_fill(~on_map[:, None], -torch.inf)
    prob = scores.softmax(-1)  # [Hq, B * P, T, topk * T]
    return prob.transpose(0, 1).reshape(batch, regions.total, *prob.shape[:1], *prob.shape[2:])


def _regions(shape: Shape, n_win: int, pad: bool) -> Regions:
    """The regions of a call; without a grid, of a square map of as many tokens."""
    side = round(shape.len_k**0.5)
    return cut(shape.grid or (side, side), n_win, pad=pad or shape.grid is None)


def cost(shape: Shape, *, settings: Settings) -> Cost:
    """Section 7, without the projections."""
    regions, topk, lepe = _regions(shape, settings.n_win, settings.pad), settings.topk, settings.lepe
    attended = topk * regions.size
    searched = regions.total**2 / max(1, shape.len_q)
    heads, tokens, dims = shape.batch * shape.num_heads, regions.total * regions.size, shape.head_dim + shape.value_dim
    flops = 2.0 * heads * (tokens * attended * dims + regions.total**2 * shape.head_dim)
    if lepe is not None:
        flops += 2.0 * heads * tokens * shape.value_dim * lepe.shape[-1] ** 2
    kv_bytes = shape.batch * shape.num_kv_heads * tokens * dims * shape.itemsize
    return Cost(flops, heads * tokens * dims * shape.itemsize + kv_bytes * (1.0 + topk), searched, attended)


def at_budget(keys: int, shape: Shape) -> dict[str, Any]:
    """n_win and topk for about ``keys`` keys per query: within 5 % if possible, then topk nearest to 4."""
    height, width = _regions(shape, 1, False).grid
    best: tuple[tuple[float, float], dict[str, Any]] | None = None
    for n_win in range(1, min(height, width) + 1):
        if height % n_win or width % n_win:
            continue
        size = height * width // n_win**2
        searched = n_win**2 / size
        topk = min(max(1, round((keys - searched) / size)), n_win**2)
        off = abs(topk * size + searched - keys) / keys
        rank = (max(0.05, off), abs(topk - 4))
        if best is None or rank < best[0]:
            best = rank, {"n_win": n_win, "topk": topk}
    assert best is not None  # n_win = 1 always divides
    return best[1]


OPERATOR = Operator(
    settings=Settings,
    reference=reference,
    phases=(in_torch("bra", select), ATTEND.used_by("bra", attend)),
    cost=cost,
    at_budget=at_budget,
    causal=(False,),
    grid=True,
    decodes=False,
    conditions={"mask_padding": Condition("pad=True", lambda params: params["pad"])},
    differentiable=True,
    small={"n_win": 4, "topk": 2},
    golden=Golden(
        "biformer",
        "attn.core.attention.bra.golden:check",
        ("bra", "bra_autopad", "bra_nchw", "attention_lepe", "tiny_model"),
    ),
)
