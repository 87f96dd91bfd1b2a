"""Rectified SpaAttn: block-sparse attention for video transformers, its weights rectified by pooled scores.

Paper: arXiv 2511.19835 (2025). Specification: methods/rectified-spaattn.md, sections 3.1-3.5; step numbers are its
numbers. Not causal. The sparse softmax gives the kept blocks the mass of the dropped ones: pooled scores estimate how
much that is, and pooled values restore the dropped blocks where that estimate can be trusted.

Differs from the official code: the scale stays in float32 (pitfall 1), and the last, shorter block is pooled over the
tokens that it has (step 13).
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from ...choose import Formulation, in_torch
from ..blocks.selection import ENGINE, BlockSelection
from ..contract import Condition, Cost, Golden, Operator, Shape
from ..equations import masked_attention, repeat_kv, weighted_sum
from ..fields import with_settings
from .blocks import choose
from .choice import Choice, Rectified
from .order import neighbour_blocks, token_order
from .output import finish, ordered
from .settings import Settings


@with_settings(Settings)
def select(q: Tensor, k: Tensor, *, causal: bool = False, scale: float | None = None, settings: Settings) -> Choice:
    """Steps 1-8: pooled probabilities and the blocks that each query block keeps.

    Raises
    ------
    ValueError
        If a parameter does not fit the number of tokens.
    """
    settings.check_length(k.shape[2])
    video, size, valid = settings.video, settings.block_size, settings.valid_text
    len_video = k.shape[2] - settings.text_len
    order = None if video is None or settings.order == "raster" else token_order(settings.order, video).to(q.device)
    neighbours = settings.neighbours
    if neighbours is None and video is not None:
        neighbours = neighbour_blocks(settings.order, video, size)
    q_video, k_video = ordered(q[:, :, :len_video], order), ordered(k[:, :, :len_video], order)
    blocks = choose(
        q_video, k_video, k[:, :, len_video : len_video + valid],
        scale=q.shape[-1] ** -0.5 if scale is None else scale, settings=settings,
        neighbours=None if neighbours is None else neighbours.to(q.device),
    )  # fmt: skip
    batch, heads, num, _ = blocks.no_gain.shape
    lists = BlockSelection.from_mask(
        blocks.keep, block_m=size, block_n=size, len_q=len_video, len_k=len_video + valid, causal=False,
        searched=batch * heads * num * (3 * num + valid),
    )  # fmt: skip
    return Choice(blocks, lists, order, size, len_video, settings.text_len, valid)


def attend(
    q: Tensor, k: Tensor, v: Tensor, selection: Choice, *, causal: bool = False, scale: float | None = None,
    settings: Settings, engine: Formulation,
) -> Tensor:  # fmt: skip
    """Steps 9-12: attention over the kept blocks, rectified. Differentiable; the choice of blocks is constant."""
    return finish(q, k, v, selection, scale, engine).out


@with_settings(Settings)
def rectify(q: Tensor, k: Tensor, v: Tensor, *, scale: float | None = None, settings: Settings) -> Rectified:
    """Rectified block-sparse attention with all that explains it: mask, probabilities, factor R, compensation.

    Parameters
    ----------
    q, k, v : Tensor [B, Hq, T, D], [B, Hkv, T, D], [B, Hkv, T, Dv]
        float32, bfloat16, float16 or float64; video tokens, then ``text_len`` text tokens.
    scale : float, optional
        Factor on q·kᵀ, of tokens and of pools; default ``D ** -0.5``.
    settings : Settings, or its fields by keyword

    Returns
    -------
    Rectified

    Raises
    ------
    ValueError
        If a parameter is out of range or does not fit the number of tokens.

    Notes
    -----
    The factor is the same for all tokens of a query block (pitfall 6). Where pools say nothing (Gaussian input,
    isolated needles) the gain test falls back to plain block-sparse attention (pitfall 10).

    References
    ----------
    methods/rectified-spaattn.md, section 3; arXiv 2511.19835.

    Examples
    --------
    >>> import torch
    >>> q, k, v = (torch.randn(1, 2, 1024, 64, generator=torch.Generator().manual_seed(0)) for _ in range(3))
    >>> result = rectify(q, k, v, drop_rate=0.75, tau_p=0.0)
    >>> result.blocks.keep.float().mean().item()
    0.25
    """
    return finish(q, k, v, select(q, k, scale=scale, settings=settings), scale)


def reference(
    q: Tensor, k: Tensor, v: Tensor, *, causal: bool = False, scale: float | None = None, settings: Settings
) -> Tensor:
    """Steps 1-12 with a mask of all pairs of tokens."""
    choice, block_size = select(q, k, scale=scale, settings=settings), settings.block_size
    heads, length, len_video = q.shape[1], k.shape[2], choice.len_video
    blocks, num = choice.blocks, choice.blocks.no_gain.shape[-1]
    token = torch.arange(len_video, device=q.device) if choice.order is None else choice.order
    block = torch.empty_like(token)
    block[token] = torch.arange(len_video, device=q.device) // block_size  # block of each video token
    mask = torch.ones(q.shape[0], heads, length, length, dtype=torch.bool, device=q.device)
    mask[:, :, :len_video, :len_video] = blocks.keep[:, :, block][..., block]
    mask[..., len_video + choice.valid_text :] = False
    sparse = masked_attention(q, k, v, mask, scale=scale)
    member = torch.nn.functional.one_hot(block, num).to(blocks.prob.dtype)  # [Tv, nv]
    v_sum = weighted_sum(member.T, v[:, :, :len_video].to(member.dtype), member.T > 0)
    v_mean = repeat_kv(v_sum / member.sum(0)[:, None], heads)
    factor = (blocks.prob * ~blocks.restored).sum(-1)  # R, step 10
    compensation = weighted_sum(
        (blocks.prob * blocks.restored)[..., :num], v_mean, blocks.restored[..., :num]
    )  # step 11
    rectified = factor[:, :, block, None] * sparse[:, :, :len_video] + compensation[:, :, block]
    return torch.cat([rectified.to(q.dtype), sparse[:, :, len_video:]], 2)


def cost(shape: Shape, *, settings: Settings) -> Cost:
    """Section 7, as if ``drop_rate`` decided: what ``tau_p`` and neighbours add depends on the input."""
    length, dim, value_dim = shape.len_k, shape.head_dim, shape.value_dim
    text_len, valid, block_size = settings.text_len, settings.valid_text, settings.block_size
    len_video = length - text_len
    num = -(-len_video // block_size)
    kept = min(len_video, max(1, int((1 - settings.drop_rate) * num + 1e-9)) * block_size) + valid
    rows = shape.batch * shape.num_heads
    scores = num * (3 * num + valid)  # of a head
    pairs = len_video * kept + text_len * (len_video + valid)
    flops = rows * (2.0 * dim * scores + 2.0 * (dim + value_dim) * pairs + 2.0 * value_dim * num * num)
    cache = shape.batch * shape.num_kv_heads * length * (dim + value_dim)
    unique = (cache + rows * shape.len_q * (dim + value_dim)) * shape.itemsize
    gathered = rows * num * kept * (dim + value_dim) * shape.itemsize
    return Cost(flops, float(unique + gathered), scores / max(1, length), pairs / max(1, length))


def at_budget(keys: int, shape: Shape) -> dict[str, Any]:
    """Parameters for about ``keys`` keys per query: ``drop_rate`` alone decides, the pooled scores are deducted."""
    left = max(0.0, keys - cost(shape, settings=Settings()).searched)
    return {"drop_rate": min(max(0.0, 1 - left / max(1, shape.len_k)), 1 - 1e-6), "tau_p": 0.0}


OPERATOR = Operator(
    settings=Settings,
    reference=reference,
    phases=(in_torch("rectified", select), ENGINE.used_by("rectified", attend)),
    cost=cost,
    at_budget=at_budget,
    causal=(False,),
    decodes=False,
    conditions={"order": Condition("video=(frames, rows, columns)", lambda params: params["video"] is not None)},
    differentiable=True,
    small={"block_size": 16, "drop_rate": 0.7},
    golden=Golden("rectified-spaattn", "attn.core.attention.rectified.golden:check", ("video_only", "video_text")),
)
