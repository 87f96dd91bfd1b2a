"""Rectified SpaAttn: block-sparse attention for video transformers, its weights rectified by pooled scores.

Paper: arXiv 2511.19835 (2025). Specification: methods/rectified-spaattn.md, sections 3.1-3.5; step numbers are its
numbers. Not causal. The sparse softmax gives the kept blocks the mass of the dropped ones: pooled scores estimate how
much that is, and pooled values restore the dropped blocks where that estimate can be trusted.

Differs from the official code: the scale stays in float32 (pitfall 1), and the last, shorter block is pooled over the
tokens that it has (step 13).
"""

from __future__ import annotations

import math
from typing import Literal

import torch
from torch import Tensor

from ...opaque import opaque
from ..blocks.selection import BlockSelection
from ..contract import Condition, Cost, Golden, Shape, Unphased
from ..equations import attention_result, masked_attention, repeat_kv, weighted_sum
from .blocks import choose
from .choice import Choice, Rectified
from .order import Video, neighbour_blocks, token_order
from .output import finish, ordered

Gapr = Literal["on", "off", "all"]


def check_parameters(
    len_k: int, drop_rate: float, tau_p: float, block_size: int, first_frame_blocks: int, gapr: str, text_len: int,
    text_valid: int | None, video: Video | None, neighbours: Tensor | None,
) -> None:  # fmt: skip
    """Raise ``ValueError`` for what is out of range or does not fit ``len_k`` tokens."""
    if not len_k:
        raise ValueError("there are no tokens: q, k and v have length 0.")
    if not 0 <= drop_rate < 1:
        raise ValueError(
            f"drop_rate is {drop_rate}: the share of key blocks to drop is in [0, 1); 0.75 to 0.9 is usual."
        )
    if not 0 <= tau_p <= 1:
        raise ValueError(f"tau_p is {tau_p}: the mass to keep is in [0, 1]; 0.3 is usual.")
    if block_size < 1:
        raise ValueError(f"block_size is {block_size}: use 128, or 32 to 128.")
    if first_frame_blocks < 0:
        raise ValueError(f"first_frame_blocks is {first_frame_blocks}: it must not be negative.")
    if gapr not in ("on", "off", "all"):
        raise ValueError(f"gapr is on, off or all, not {gapr!r}.")
    if text_len and not 0 < text_len < len_k:
        raise ValueError(f"text_len is {text_len} of {len_k} tokens: it must leave video tokens, and not be negative.")
    if text_valid is not None and not 0 <= text_valid <= text_len:
        raise ValueError(f"text_valid is {text_valid}: it must be between 0 and text_len = {text_len}.")
    len_video = len_k - text_len
    if text_len and len_video % block_size:
        raise ValueError(f"{len_video} tokens before the text are no multiple of block_size = {block_size}: pad them.")
    if video is not None and math.prod(video) != len_video:
        raise ValueError(f"video {video} has {math.prod(video)} tokens, k has {len_video} without text.")
    num = -(-len_video // block_size)
    if neighbours is not None and (neighbours.dtype != torch.bool or neighbours.shape != (num, num)):
        raise ValueError(f"neighbours must be bool [{num}, {num}], got {neighbours.dtype} {list(neighbours.shape)}.")


def select(
    q: Tensor,
    k: Tensor,
    *,
    causal: bool = False,
    scale: float | None = None,
    drop_rate: float = 0.9,
    tau_p: float = 0.3,
    block_size: int = 128,
    first_frame_blocks: int = 0,
    gapr: Gapr = "on",
    order: str = "gilbert",
    video: Video | None = None,
    text_len: int = 0,
    text_valid: int | None = None,
    neighbours: Tensor | None = None,
) -> Choice:
    """Steps 1-8: pooled probabilities and the blocks that each query block keeps. Parameters as in ``blocked``."""
    check_parameters(
        k.shape[2], drop_rate, tau_p, block_size, first_frame_blocks, gapr, text_len, text_valid, video, neighbours
    )
    len_video = k.shape[2] - text_len
    valid = text_len if text_valid is None else text_valid
    token = None if video is None or order == "raster" else token_order(order, video).to(q.device)
    if neighbours is None and video is not None:
        neighbours = neighbour_blocks(order, video, block_size)
    neighbours = None if neighbours is None else neighbours.to(q.device)
    q_video, k_video = ordered(q[:, :, :len_video], token), ordered(k[:, :, :len_video], token)
    blocks = choose(
        q_video, k_video, k[:, :, len_video : len_video + valid], size=block_size,
        scale=q.shape[-1] ** -0.5 if scale is None else scale, drop_rate=drop_rate, tau_p=tau_p,
        first_frame_blocks=first_frame_blocks, neighbours=neighbours, gapr=gapr,
    )  # fmt: skip
    batch, heads, num, _ = blocks.no_gain.shape
    lists = BlockSelection.from_mask(
        blocks.keep, block_m=block_size, block_n=block_size, len_q=len_video, len_k=len_video + valid, causal=False,
        searched=batch * heads * num * (3 * num + valid),
    )  # fmt: skip
    return Choice(blocks, lists, token, block_size, len_video, text_len, valid)


def attend(
    q: Tensor, k: Tensor, v: Tensor, selection: Choice, *, causal: bool = False, scale: float | None = None
) -> Tensor:
    """Steps 9-12: attention over the kept blocks, rectified."""
    return finish(q, k, v, selection, scale).out


def rectify(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    *,
    scale: float | None = None,
    drop_rate: float = 0.9,
    tau_p: float = 0.3,
    block_size: int = 128,
    first_frame_blocks: int = 0,
    gapr: Gapr = "on",
    order: str = "gilbert",
    video: Video | None = None,
    text_len: int = 0,
    text_valid: int | None = None,
    neighbours: Tensor | None = None,
) -> Rectified:
    """Rectified block-sparse attention with all that explains it: mask, probabilities, factor R, compensation.

    Parameters as in ``blocked``; the fields of the result are described at ``Rectified``.

    Examples
    --------
    >>> import torch
    >>> q, k, v = (torch.randn(1, 2, 1024, 64, generator=torch.Generator().manual_seed(0)) for _ in range(3))
    >>> result = rectify(q, k, v, drop_rate=0.75, tau_p=0.0)
    >>> result.blocks.keep.float().mean().item()
    0.25
    """
    choice = select(
        q, k, scale=scale, drop_rate=drop_rate, tau_p=tau_p, block_size=block_size,
        first_frame_blocks=first_frame_blocks, gapr=gapr, order=order, video=video, text_len=text_len,
        text_valid=text_valid, neighbours=neighbours,
    )  # fmt: skip
    return finish(q, k, v, choice, scale)


@opaque(attention_result)
def blocked(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    *,
    causal: bool = False,
    scale: float | None = None,
    drop_rate: float = 0.9,
    tau_p: float = 0.3,
    block_size: int = 128,
    first_frame_blocks: int = 0,
    gapr: Gapr = "on",
    order: str = "gilbert",
    video: Video | None = None,
    text_len: int = 0,
    text_valid: int | None = None,
    neighbours: Tensor | None = None,
) -> Tensor:
    """Block-sparse attention with rectified weights, in linear memory (and one number per pair of blocks).

    Parameters
    ----------
    q, k, v : Tensor [B, Hq, T, D], [B, Hkv, T, D], [B, Hkv, T, Dv]
        float32, bfloat16, float16 or float64; video tokens, then ``text_len`` text tokens.
    causal : bool
        Only False.
    scale : float, optional
        Factor on q·kᵀ, of tokens and of pools; default ``D ** -0.5``.
    drop_rate : float
        Share of the video key blocks that a query block may drop, 0.75 to 0.9 for the published models. Larger is
        faster.
    tau_p : float
        Blocks are kept, beyond that, until they hold this share of the estimated attention. On structureless input
        the estimate is uniform, and this keeps the share ``tau_p`` of all blocks; 0 makes ``drop_rate`` alone decide.
    block_size : int
        Tokens of a query and of a key block, 32 to 128.
    first_frame_blocks : int
        The first so many query blocks see the first so many key blocks (Wan: the blocks of one latent frame).
    gapr : {"on", "off", "all"}
        Gain-aware rectification. "on": dropped blocks are restored by pooled values where the gain exceeds the error.
        "off": all of them are, without the test. "all": none is, which is plain block-sparse attention.
    order : str
        "gilbert", "raster" or "tile:4x4x8": how tokens are put into blocks. Needs ``video``.
    video : (int, int, int), optional
        Frames, rows, columns of the token grid, row-major. A block then also keeps the blocks that it touches. None:
        tokens are taken as they are, and a block keeps itself.
    text_len : int
        Text tokens behind the video, padding included (256 for HunyuanVideo). They attend to everything.
    text_valid : int, optional
        How many of them are valid; default all. The others are seen by nobody.
    neighbours : Tensor bool [nv, nv], optional
        Blocks to keep at any rate, instead of those that touch.

    Returns
    -------
    Tensor [B, Hq, T, Dv], dtype of ``q``.

    Raises
    ------
    ValueError
        If a parameter is out of range or does not fit the number of tokens.

    Notes
    -----
    The factor is the same for all tokens of a query block (pitfall 6); ``rectify`` returns it. Where pools say nothing
    (Gaussian input, isolated needles) the gain test falls back to plain block-sparse attention (pitfall 10).
    Differentiable; the choice of blocks is constant.

    References
    ----------
    methods/rectified-spaattn.md, section 3; arXiv 2511.19835.
    """
    return rectify(
        q, k, v, scale=scale, drop_rate=drop_rate, tau_p=tau_p, block_size=block_size,
        first_frame_blocks=first_frame_blocks, gapr=gapr, order=order, video=video, text_len=text_len,
        text_valid=text_valid, neighbours=neighbours,
    ).out  # fmt: skip


@opaque(attention_result)
def reference(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    *,
    causal: bool = False,
    scale: float | None = None,
    drop_rate: float = 0.9,
    tau_p: float = 0.3,
    block_size: int = 128,
    first_frame_blocks: int = 0,
    gapr: Gapr = "on",
    order: str = "gilbert",
    video: Video | None = None,
    text_len: int = 0,
    text_valid: int | None = None,
    neighbours: Tensor | None = None,
) -> Tensor:
    """Steps 1-12 with a mask of all pairs of tokens. Parameters as in ``blocked``."""
    choice = select(
        q, k, scale=scale, drop_rate=drop_rate, tau_p=tau_p, block_size=block_size,
        first_frame_blocks=first_frame_blocks, gapr=gapr, order=order, video=video, text_len=text_len,
        text_valid=text_valid, neighbours=neighbours,
    )  # fmt: skip
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


def cost(
    shape: Shape, *, drop_rate: float = 0.9, tau_p: float = 0.3, block_size: int = 128, first_frame_blocks: int = 0,
    gapr: Gapr = "on", order: str = "gilbert", video: Video | None = None, text_len: int = 0,
    text_valid: int | None = None, neighbours: Tensor | None = None,
) -> Cost:  # fmt: skip
    """Section 7, as if ``drop_rate`` decided: what ``tau_p`` and neighbours add depends on the input."""
    length, dim, value_dim = shape.len_k, shape.head_dim, shape.value_dim
    valid = text_len if text_valid is None else text_valid
    len_video = length - text_len
    num = -(-len_video // block_size)
    kept = min(len_video, max(1, int((1 - drop_rate) * num + 1e-9)) * block_size) + valid
    rows = shape.batch * shape.num_heads
    scores = num * (3 * num + valid)  # of a head
    pairs = len_video * kept + text_len * (len_video + valid)
    flops = rows * (2.0 * dim * scores + 2.0 * (dim + value_dim) * pairs + 2.0 * value_dim * num * num)
    cache = shape.batch * shape.num_kv_heads * length * (dim + value_dim)
    unique = (cache + rows * shape.len_q * (dim + value_dim)) * shape.itemsize
    gathered = rows * num * kept * (dim + value_dim) * shape.itemsize
    return Cost(flops, float(unique + gathered), scores / max(1, length), pairs / max(1, length))


def at_budget(keys: int, shape: Shape) -> dict[str, float]:
    """Parameters for about ``keys`` keys per query: ``drop_rate`` alone decides, the pooled scores are deducted."""
    left = max(0.0, keys - cost(shape).searched)
    return {"drop_rate": min(max(0.0, 1 - left / max(1, shape.len_k)), 1 - 1e-6), "tau_p": 0.0}


OPERATOR = Unphased(
    reference=reference,
    blocked=blocked,
    cost=cost,
    select=select,
    attend=attend,
    at_budget=at_budget,
    causal=(False,),
    decodes=False,
    conditions={"order": Condition("video=(frames, rows, columns)", lambda params: params["video"] is not None)},
    differentiable=True,
    small={"block_size": 16, "drop_rate": 0.7},
    golden=Golden("rectified-spaattn", "attn.core.attention.rectified.golden:check", ("video_only", "video_text")),
)
