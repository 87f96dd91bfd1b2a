"""Rectified SpaAttn, steps 1-8 and 10: pooled probabilities, kept blocks, and where pooling can be trusted.

Everything here is of the size of blocks times blocks; only the pools read all tokens.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor

from ..equations import accumulator, repeat_kv
from .settings import Settings


class Pool(NamedTuple):
    """Blocks of tokens: their mean and their mean |x - mean|, channel by channel, each [B, H, num_blocks, D]."""

    mean: Tensor
    spread: Tensor


class Blocks(NamedTuple):
    """Steps 2-8 for the video query blocks; nv video blocks, nt blocks of valid text.

    Parameters
    ----------
    prob : Tensor [B, Hq, nv, nv], or [B, Hq, nv, nv + 1] with text
        Estimated share of a key block (the last column: of all text) in full attention; rows sum to 1.
    keep : bool [B, Hq, nv, nv + nt]
        C: blocks attended to.
    no_gain : bool [B, Hq, nv, nv]
        Video blocks whose pooled value would restore nothing.
    restored : bool, shape of ``prob``
        Not E: dropped blocks that pooled values stand for.
    """

    prob: Tensor
    keep: Tensor
    no_gain: Tensor
    restored: Tensor


def block_mean(x: Tensor, size: int) -> Tensor:
    """Step 1. Means of blocks of ``size`` tokens: x [B, H, T, D] -> [B, H, ceil(T / size), D], in the softmax dtype.

    The last block is divided by the number of tokens that it has [our decision; the official code pads with zeros].
    """
    dtype, whole = accumulator(x.dtype), x.shape[2] // size * size
    blocks = x[:, :, :whole].reshape(*x.shape[:2], whole // size, size, x.shape[3])
    means = blocks.mean(3, dtype=dtype)
    if whole == x.shape[2]:
        return means
    return torch.cat([means, x[:, :, whole:].mean(2, keepdim=True, dtype=dtype)], 2)


def pool(x: Tensor, size: int) -> Pool:
    """Steps 1 and 7. x [B, H, T, D]. The spread only decides: it carries no gradient."""
    mean = block_mean(x, size)
    with torch.no_grad():
        spread = torch.empty_like(mean)
        for i, part in enumerate(x.split(64 * size, 2)):  # type: ignore[no-untyped-call]
            rows = slice(64 * i, 64 * (i + 1))
            centre = mean[:, :, rows].repeat_interleave(size, 2)[:, :, : part.shape[2]]
            spread[:, :, rows] = block_mean((part - centre).abs_(), size)
    return Pool(mean, spread)


def implicit_attention(q_mean: Tensor, k_mean: Tensor, k_text: Tensor, size: int, scale: float) -> Tensor:
    """Steps 2 and 3. q_mean, k_mean [B, Hq, nv, D], k_text [B, Hq, n_t, D], unpooled -> ``prob`` of ``Blocks``.

    A pooled key stands for ``size`` tokens, a text key for one.
    """
    scores = q_mean @ k_mean.mT * scale  # [B, Hq, nv, nv]
    if not k_text.shape[2]:
        return scores.softmax(-1)
    prob = torch.cat([scores, q_mean @ k_text.mT * scale], -1).softmax(-1)
    video, text = prob[..., : scores.shape[-1]] * size, prob[..., scores.shape[-1] :].sum(-1, keepdim=True)
    prob = torch.cat([video, text], -1)
    return prob / prob.sum(-1, keepdim=True)


def critical_blocks(prob: Tensor, tau_p: float, top_k: int) -> Tensor:
    """Step 4. The most probable entries up to a mass of ``tau_p`` and one more, at least ``top_k``: bool like prob."""
    ordered, order = prob.sort(dim=-1, descending=True, stable=True)
    count = ((ordered.cumsum(-1) <= tau_p).sum(-1, keepdim=True) + 1).clamp_min(top_k)
    first = torch.arange(prob.shape[-1], device=prob.device) < count
    return torch.zeros_like(first).scatter_(-1, order, first)


def without_gain(q: Pool, k: Pool) -> Tensor:
    """Step 7. bool [B, Hq, nv, nv]: blocks whose score is not larger than what pooling blurs it by.

    Both sides carry the factor M N of the specification, which drops out.
    """
    error = (q.spread @ k.mean.mT).abs_() + (q.mean @ k.spread.mT).abs_()
    return (q.mean @ k.mean.mT).abs_() <= error


def choose(
    q: Tensor, k: Tensor, k_text: Tensor, *, scale: float, settings: Settings, neighbours: Tensor | None
) -> Blocks:
    """Steps 1-8. q [B, Hq, Tv, D], k [B, Hkv, Tv, D], k_text [B, Hkv, n_t, D], valid text only.

    ``neighbours`` bool [nv, nv]: blocks to keep at any rate; None: a block keeps itself.
    """
    heads, size, first = q.shape[1], settings.block_size, settings.first_frame_blocks
    q_pool, k_pool = pool(q, size), Pool(*(repeat_kv(x, heads) for x in pool(k, size)))
    k_text = repeat_kv(k_text, heads).to(q_pool.mean.dtype)
    prob = implicit_attention(q_pool.mean, k_pool.mean, k_text, size, scale)
    num = q_pool.mean.shape[2]
    with torch.no_grad():
        top_k = max(1, int((1 - settings.drop_rate) * num + 1e-9))  # 1 - 0.9 is a little less than 0.1
        keep = critical_blocks(prob.detach(), settings.tau_p, top_k)[..., :num]
        keep |= torch.eye(num, dtype=torch.bool, device=keep.device) if neighbours is None else neighbours  # step 5
        keep[..., :first, :first] = True
        no_gain = without_gain(q_pool, k_pool)
        restored = ~keep
        if settings.gapr == "on":
            restored &= ~no_gain  # step 8
        elif settings.gapr == "all":
            restored.zero_()
        if k_text.shape[2]:  # step 6: text is always kept, so that its column is never restored
            restored = torch.nn.functional.pad(restored, (0, 1))
            keep = torch.nn.functional.pad(keep, (0, -(-k_text.shape[2] // size)), value=True)
    return Blocks(prob, keep, no_gain, restored)
