"""Adaptive Sparse ViT: learned thresholds on class attention that is weighted by head importance.

Paper: IJCAI 2023, arXiv 2209.13802. Specification: methods/as-vit.md, whose sections the functions name. This is the
network in training, where tokens are masked; tokens are taken out by ``prune.vit``.
"""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise
from typing import Literal, NamedTuple

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from .vit import PatchAttention, VisionTransformer, ViTBlock, ViTShape

EPS = 1e-6
THRESHOLDS = (0.001, 0.002, 0.003)
"""Start values of three stages (section 3.5)."""

Budget = Literal["absolute", "relative"]


def head_weighted_score(context: Tensor, class_row: Tensor) -> Tensor:
    """Section 3.1. Class attention of the patches, its heads weighted by how much each has to say of the patch.

    Parameters
    ----------
    context : Tensor [B, H, P, d]
        What each head gives the patches, before the output projection.
    class_row : Tensor [B, H, P]
        Attention of the class token to them, after the softmax over all keys.

    Returns
    -------
    Tensor [B, P], float32
    """
    importance = context.float().norm(dim=-1)  # [B, H, P]
    weight = importance / (importance.sum(1, keepdim=True) + 1e-8)
    score: Tensor = (weight * class_row.float()).sum(1)
    return score


def threshold_mask(score: Tensor, threshold: Tensor, tau: float = 1e-4) -> Tensor:
    """Section 3.3, steps 1: 1 where the score is above the threshold, with the gradient of a sigmoid. [B, P]."""
    soft = torch.sigmoid((score.float() - threshold.float()) / tau)
    hard = (soft > 0.5).to(soft.dtype)
    return hard - soft.detach() + soft


def masked_softmax(logits: Tensor, policy: Tensor) -> Tensor:
    """Section 3.3, step 3. Attention [B, H, N, N] to keys of ``policy`` [B, N] 1; a token always sees itself."""
    logits = logits.float()
    n = logits.shape[-1]
    own = torch.eye(n, dtype=logits.dtype, device=logits.device)
    keys = policy.float()[:, None, None]
    weight = (logits - logits.amax(-1, keepdim=True)).exp() * (keys + (1 - keys) * own)
    return (weight + EPS / n) / (weight.sum(-1, keepdim=True) + EPS)


def masked_attention(attention: PatchAttention, x: Tensor, policy: Tensor | None) -> tuple[Tensor, Tensor]:
    """Attention of tokens [B, N, D] under a policy [B, N] (None: plain softmax), and their score [B, P]."""
    q, k, v = attention.heads(x)
    logits = q @ k.mT * attention.scale
    prob = logits.float().softmax(-1) if policy is None else masked_softmax(logits, policy)
    context = prob.to(v.dtype) @ v
    return attention.join(context), head_weighted_score(context[:, :, 1:], prob[:, :, 0, 1:])


def block_multiply_adds(tokens: Tensor | float, dim: int, hidden: int) -> Tensor | float:
    """Section 3.3, step 5. Of a block for so many tokens, the class token included: multiply-adds counted once."""
    return 4 * dim**2 * tokens + 2 * dim * tokens**2 + 2 * dim * hidden * tokens


def embedding_multiply_adds(shape: ViTShape) -> int:
    """Of the patch embedding."""
    return shape.patches * shape.dim * shape.in_channels * shape.patch_size**2


def plain_multiply_adds(shape: ViTShape, *, class_token: bool = True) -> float:
    """Of a picture through the whole ViT; the official code's teacher counts no class token (section 5)."""
    tokens = shape.patches + class_token
    return embedding_multiply_adds(shape) + shape.depth * float(block_multiply_adds(tokens, shape.dim, shape.hidden))


class AdaptiveOutput(NamedTuple):
    """What a training pass gives.

    ``logits`` [B, classes]; ``tokens`` [B, P, D] behind the last norm; ``masks``: one [B, P] for each stage;
    ``multiply_adds`` [B]: of each picture, differentiable.
    """

    logits: Tensor
    tokens: Tensor
    masks: tuple[Tensor, ...]
    multiply_adds: Tensor


class AdaptiveViT(VisionTransformer):
    """A ViT with a threshold in front of some of its blocks.

    Parameters
    ----------
    shape : ViTShape
    positions : sequence of int
        Blocks in front of which tokens are dropped: ascending, from 3 on.
    thresholds : sequence of float, optional
        Where they start; by default ``THRESHOLDS``, spread over the stages.

    Raises
    ------
    ValueError
        If positions are not so, or there are not as many thresholds.
    """

    def __init__(
        self, shape: ViTShape, positions: Sequence[int] = (4, 7, 10), thresholds: Sequence[float] | None = None
    ) -> None:
        super().__init__(shape)
        ascending = all(a < b for a, b in pairwise(positions))
        if not positions or positions[0] < 3 or positions[-1] >= shape.depth or not ascending:
            raise ValueError(f"positions {list(positions)} must be ascending, from 3 to {shape.depth - 1}.")
        starts = thresholds if thresholds is not None else [0.001 * (stage + 1) for stage in range(len(positions))]
        if len(starts) != len(positions):
            raise ValueError(f"{len(starts)} thresholds for {len(positions)} positions.")
        self.positions = tuple(positions)
        self.thresholds = nn.ParameterList(nn.Parameter(torch.tensor(float(start))) for start in starts)

    def forward_masked(self, image: Tensor, tau: float = 1e-4) -> AdaptiveOutput:
        """Section 3.3: classify pictures [B, C, S, S] with dropped tokens masked, none taken out."""
        x = self.embed(image)
        batch, n, _ = x.shape
        policy = x.new_ones(batch, n, dtype=torch.float32)
        masks: list[Tensor] = []
        total = torch.full((batch,), float(embedding_multiply_adds(self.config)), device=x.device)
        score = policy[:, 1:]
        for number, block in enumerate(self.blocks):
            assert isinstance(block, ViTBlock)
            if number in self.positions:
                mask = threshold_mask(score, self.thresholds[len(masks)], tau)
                masks.append(mask)
                policy = torch.cat([policy[:, :1], mask], 1)  # not times the one before (step 2)
            out, score = masked_attention(block.attn, block.norm1(x), policy)
            x = x + out
            x = x + block.mlp(block.norm2(x))
            total = total + block_multiply_adds(policy.sum(1), self.config.dim, self.config.hidden)
        return AdaptiveOutput(*self.classify(x), tuple(masks), total)


class BudgetLoss(NamedTuple):
    """Section 5. ``total`` is the sum of the others, which are weighted already."""

    total: Tensor
    classes: Tensor
    budget: Tensor
    distill: Tensor
    tokens: Tensor


def budget_loss(
    output: AdaptiveOutput, labels: Tensor, teacher_logits: Tensor, teacher_tokens: Tensor | None, *, keep: float,
    full: float, norm: Budget = "absolute", weights: tuple[float, float, float] = (1.0, 2.0, 0.5),
) -> BudgetLoss:  # fmt: skip
    """Classes, distance to the budget, and the teacher's logits.

    Parameters
    ----------
    output : AdaptiveOutput
    labels : Tensor of int64 [B], or probabilities [B, classes]
    teacher_logits : Tensor [B, classes]
    teacher_tokens : Tensor [B, P, D], optional
        With them the tokens that are kept learn from the teacher's, at half weight (LV-ViT).
    keep : float
        Share of ``full`` that is wanted.
    full : float
        Multiply-adds of the teacher.
    norm : {"absolute", "relative"}
        The distance in thousands of millions of multiply-adds, or as a share of ``full``.
    weights : (float, float, float)
        Of classes, budget, distillation.
    """
    classes = weights[0] * F.cross_entropy(output.logits, labels)
    unit = 1e9 if norm == "absolute" else full
    budget = weights[1] * ((output.multiply_adds.mean() - keep * full) / unit).abs()
    distill = weights[2] * _divergence(output.logits, teacher_logits)
    tokens = torch.zeros_like(distill)
    if teacher_tokens is not None:
        kept = output.masks[-1].detach() > 0.5  # [B, P]
        if kept.any():
            tokens = weights[2] * _divergence(output.tokens[kept], teacher_tokens[kept])
    return BudgetLoss(classes + budget + distill + tokens, classes, budget, distill, tokens)


def _divergence(ours: Tensor, theirs: Tensor) -> Tensor:
    """KL(theirs || ours) over the last axis, mean over the first."""
    return F.kl_div(
        ours.float().log_softmax(-1), theirs.float().log_softmax(-1), reduction="batchmean", log_target=True
    )
