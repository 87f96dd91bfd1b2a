"""GASS: how much each word of a caption supports its match with the image, from gradients and attention.

Paper: arXiv 2509.09118 (2025), equations 1-4. Specification: methods/ga-dms.md, section 3.3; step numbers are its
numbers. ``reference`` follows them as printed; ``gass`` gives the same scores from one pass without gradients and one
over the end token alone: the text tower is causal and only the end token is read, so no other row's output has a
gradient that counts, and the keys and values of earlier rows are constants.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor

from .clip import CLIP, at, end_position, split_heads

EPS = 1e-8


@dataclass(frozen=True, slots=True)
class GASSOptions:
    """How scores are computed.

    Parameters
    ----------
    norm : {"attention", "released"}
        Step 9: by the attention on valid words (the paper), or by the sum of the importances, whatever its sign (the
        released code).
    heads : {"1", "model"}
        Step 2: attention of the scored layers with one head (as published), or with the heads the model was trained
        with; attention is then averaged over them.
    scale : {"batch", "sample"}
        Step 11: over which scores minimum and maximum are taken.
    layers : int
        Text layers that are scored, from the last.
    scales : tuple of int
        Step 5.
    """

    norm: Literal["attention", "released"] = "attention"
    heads: Literal["1", "model"] = "1"
    scale: Literal["batch", "sample"] = "batch"
    layers: int = 8
    scales: tuple[int, ...] = (1, 2)


def multi_scale_pool(y: Tensor, scales: Sequence[int]) -> Tensor:
    """Step 5. Means of groups of ``s`` positions, stretched back to all positions; mean over the scales. [B, N, D]."""
    x, n = y.transpose(1, 2), y.shape[1]
    views = [F.interpolate(F.avg_pool1d(x, s, ceil_mode=True), n, mode="linear", align_corners=False) for s in scales]
    return torch.stack(views).mean(0).transpose(1, 2)


def similarity_weight(q_end: Tensor, k: Tensor) -> Tensor:
    """Step 6. Cosine of the pooled end query [B, D] with each pooled key [B, N, D], stretched to [0, 1]. -> [B, N]"""
    w = F.cosine_similarity(q_end[:, None], k, dim=-1)
    low, high = w.amin(1, keepdim=True), w.amax(1, keepdim=True)
    return (w - low) / (high - low + EPS)


def valid_words(ids: Tensor) -> Tensor:
    """Step 8. True between start and end token: [B, N] -> [B, N] bool."""
    place = torch.arange(ids.shape[1], device=ids.device)
    return (place > 0) & (place < end_position(ids)[:, None])


def layer_score(importance: Tensor, attention: Tensor, valid: Tensor, norm: str) -> Tensor:
    """Steps 8-10 of one layer, from importance and the end token's attention, both [B, N]. -> [B, N]"""
    attention = attention * valid
    total = attention.sum(1, keepdim=True) if norm == "attention" else importance.sum(1, keepdim=True) + EPS
    # a caption without words has no attention on words: 0/0
    share = torch.where(valid, attention / total, 0)
    return importance * valid * share


def stretch(total: Tensor, valid: Tensor, scale: str) -> Tensor:
    """Steps 10-11. Scores in [0, 1] from the sum over layers [B, N]; all 0 where none differs from the others."""
    score = total.relu() * valid
    if score.numel() == 0:
        return score
    low = score.amin(1, keepdim=True) if scale == "sample" else score.min()
    high = score.amax(1, keepdim=True) if scale == "sample" else score.max()
    return torch.where(high > low, (score - low) / (high - low), 0)


def shuffled_words(scores: Tensor, valid: Tensor) -> Tensor:
    """The scores of each caption dealt out anew to its words, whatever they say. [B, N], [B, N] bool -> [B, N]"""
    place = torch.arange(scores.shape[1], device=scores.device)
    order = torch.where(valid, torch.rand_like(scores), place + (place > 0))  # words stand between start and end
    return scores.gather(1, order.argsort(1))


@dataclass(frozen=True, slots=True)
class Trace:
    """Every intermediate value of ``reference``; lists have one entry per scored layer.

    Parameters
    ----------
    start : Tensor [B, N, D]
        Step 1: what enters the first scored layer.
    text : Tensor [B, E]
        Step 3, before it is normalised.
    q, k, v, out, grad : list of Tensor [B, N, D]
    attention : list of Tensor [B, N, N]
        Mean over heads.
    weight : list of Tensor [B, N]
        Step 6.
    cosine : Tensor [B, B]
        Images by captions.
    scores : Tensor [B, N]
    """

    start: Tensor
    text: Tensor
    q: list[Tensor]
    k: list[Tensor]
    v: list[Tensor]
    out: list[Tensor]
    attention: list[Tensor]
    grad: list[Tensor]
    weight: list[Tensor]
    cosine: Tensor
    scores: Tensor


def reference(clip: CLIP, ids: Tensor, image_feature: Tensor, options: GASSOptions = GASSOptions()) -> Trace:
    """The numbered steps as printed, one backward pass per layer. Arguments as for ``gass``."""
    blocks, end, valid = clip.transformer.blocks, end_position(ids), valid_words(ids)
    first = len(blocks) - options.layers
    q, k, v, out, attention = (list[Tensor]() for _ in range(5))
    with torch.enable_grad():
        x = clip.embed(ids)
        for block in blocks[:first]:  # step 1
            x = block(x, causal=True)
        x = start = x.detach().requires_grad_()
        hidden = torch.full((ids.shape[1], ids.shape[1]), -torch.inf, dtype=x.dtype, device=x.device).triu(1)
        for block in blocks[first:]:  # step 2
            heads = block.attn.heads if options.heads == "model" else 1
            q_l, k_l, v_l = block.attn.project(block.ln_1(x))
            q_h, k_h, v_h = (split_heads(y, heads) for y in (q_l, k_l, v_l))
            prob = (q_h * q_h.shape[-1] ** -0.5 @ k_h.mT + hidden).softmax(-1)  # [B, heads, N, N]
            out_l = (prob @ v_h).transpose(1, 2).flatten(2)
            x = block.after(x, block.attn.out_proj(out_l))
            for values, value in zip((q, k, v, out, attention), (q_l, k_l, v_l, out_l, prob.mean(1)), strict=True):
                values.append(value)
        text = clip.project_text(at(x, end))  # step 3
        cosine = F.normalize(image_feature.detach(), dim=1) @ F.normalize(text, dim=1).T
        grad = [torch.autograd.grad(cosine.trace(), o, retain_graph=True)[0] for o in out]  # step 4
    total, weights = torch.zeros_like(valid, dtype=cosine.dtype), []
    with torch.no_grad():
        for q_l, k_l, v_l, a_l, g_l in zip(q, k, v, attention, grad, strict=True):
            weight = similarity_weight(
                at(multi_scale_pool(q_l, options.scales), end), multi_scale_pool(k_l, options.scales)
            )
            importance = (at(g_l, end)[:, None] * v_l).sum(-1) * weight  # step 7
            total += layer_score(importance, at(a_l, end), valid, options.norm)
            weights.append(weight)
        scores = stretch(total, valid, options.scale)
    return Trace(start, text, q, k, v, out, attention, grad, weights, cosine, scores)


def gass(clip: CLIP, ids: Tensor, image_feature: Tensor, options: GASSOptions = GASSOptions()) -> Tensor:
    """Scores of the words of captions that belong to images.

    Parameters
    ----------
    clip : CLIP
        Its weights' gradients are left alone.
    ids : Tensor, shape (B, N), int64
    image_feature : Tensor, shape (B, E)
        Of the image of each caption; need not be normalised.
    options : GASSOptions

    Returns
    -------
    Tensor, shape (B, N), in [0, 1], without gradient; 0 for start, end and padding.

    Raises
    ------
    ValueError
        If ``options.layers`` exceeds the text tower's, or ids and features differ in number.
    """
    blocks = clip.transformer.blocks
    if not 1 <= options.layers <= len(blocks):
        raise ValueError(f"{options.layers} layers cannot be scored in a text tower of {len(blocks)}")
    if len(ids) != len(image_feature):
        raise ValueError(f"{len(ids)} captions have {len(image_feature)} images")
    with torch.inference_mode(False):  # evaluation runs in inference mode, where nothing has a gradient
        return _gass(clip, ids.clone(), image_feature.detach().clone(), options)


def _gass(clip: CLIP, ids: Tensor, image_feature: Tensor, options: GASSOptions) -> Tensor:
    blocks, end, valid = clip.transformer.blocks, end_position(ids), valid_words(ids)
    scored = blocks[len(blocks) - options.layers :]
    heads = [block.attn.heads if options.heads == "model" else 1 for block in scored]
    k, v, weight = (list[Tensor]() for _ in range(3))
    with torch.no_grad():  # keys and values of all positions, and step 6
        x = clip.embed(ids)
        for block in blocks[: len(blocks) - options.layers]:
            x = block(x, causal=True)
        x_end = at(x, end)
        eye = torch.eye(ids.shape[1], dtype=x.dtype, device=x.device)
        pool = multi_scale_pool(eye[None], options.scales)[0]  # [N, N]: pooling is linear, its end row is all we need
        for block, count in zip(scored, heads, strict=True):
            q_l, k_l, v_l = block.attn.project(block.ln_1(x))
            q_end = (pool[end][:, None] @ q_l)[:, 0]  # [B, D]
            weight.append(similarity_weight(q_end, multi_scale_pool(k_l, options.scales)))
            k.append(k_l)
            v.append(v_l)
            if block is not scored[-1]:
                x = block.after(x, block.attn.out_proj(block.attn.attend(q_l, k_l, v_l, count, causal=True)))
    before = torch.arange(ids.shape[1], device=ids.device) < end[:, None]  # [B, N]
    out, attention = list[Tensor](), list[Tensor]()
    with torch.enable_grad():  # the end token's row through the same layers
        x_end = x_end.requires_grad_()
        for block, count, k_l, v_l in zip(scored, heads, k, v, strict=True):
            row = block.attn.project(block.ln_1(x_end[:, None]))
            q_e, k_e, v_e = (split_heads(y, count)[:, :, 0] for y in row)  # [B, h, d]
            q_e = q_e * q_e.shape[-1] ** -0.5
            earlier = (q_e[:, :, None] @ split_heads(k_l, count).mT)[:, :, 0]  # [B, h, N]
            earlier = earlier.masked_fill(~before[:, None], -torch.inf)
            own = (q_e * k_e).sum(-1, keepdim=True)
            prob = torch.cat([earlier, own], -1).softmax(-1)  # [B, h, N + 1]
            mixed = (prob[:, :, None, :-1] @ split_heads(v_l, count))[:, :, 0]
            out_l = (mixed + prob[:, :, -1:] * v_e).flatten(1)  # [B, D]
            out.append(out_l)
            attention.append(prob[:, :, :-1].detach().mean(1))
            x_end = block.after(x_end, block.attn.out_proj(out_l))
        text = F.normalize(clip.project_text(x_end), dim=1)
        grad = torch.autograd.grad((F.normalize(image_feature, dim=1) * text).sum(), out)
    total = torch.zeros_like(valid, dtype=x_end.dtype)
    with torch.no_grad():
        for g_l, v_l, w_l, a_l in zip(grad, v, weight, attention, strict=True):
            importance = (v_l @ g_l[:, :, None])[:, :, 0] * w_l  # step 7
            total += layer_score(importance, a_l, valid, options.norm)
        return stretch(total, valid, options.scale)
