"""Sparsifiner's two training stages: what is trained, on which loss. Specification: methods/sparsifiner.md, 5."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Literal, NamedTuple

from torch import Tensor, nn
from torch.nn import functional

Stage = Literal["attn_recon", "cls_distill"]


class DistillationLoss(NamedTuple):
    """Stage 2. ``total`` is the sum of the three others, which are weighted already."""

    total: Tensor
    cls: Tensor
    cls_distill: Tensor
    token_distill: Tensor


def stage_parameters(model: nn.Module, stage: Stage) -> Iterator[tuple[str, nn.Parameter]]:
    """What a stage trains: the predictors ("attn_recon"), or all but them ("cls_distill")."""
    for name, parameter in model.named_parameters():
        if ("mask_predictor" in name) == (stage == "attn_recon"):
            yield name, parameter


def reconstruction_loss(approx: Sequence[Tensor], teacher_prob: Sequence[Tensor], *, weight: float = 0.01) -> Tensor:
    """Stage 1. How far the predicted maps are from the teacher's attention.

    Parameters
    ----------
    approx : one Tensor [B, H, N - 1, N] a layer
        Predicted for the patch queries, while reconstructing.
    teacher_prob : one Tensor [B, H, N, N] a layer
    weight : float

    Returns
    -------
    Tensor, scalar: the mean over layers of the SUM of squared differences, as in the official code; it grows with the
    batch.

    Raises
    ------
    ValueError
        If there are not as many layers on both sides.
    """
    if len(approx) != len(teacher_prob) or not approx:
        raise ValueError(f"{len(approx)} predicted layers and {len(teacher_prob)} of the teacher: give as many.")
    sums = [((ours - truth[..., 1:, :]) ** 2).sum() for ours, truth in zip(approx, teacher_prob, strict=True)]
    total = sums[0]
    for part in sums[1:]:
        total = total + part
    return weight * total / len(sums)


def distillation_loss(
    logits: Tensor,
    tokens: Tensor,
    labels: Tensor,
    teacher_logits: Tensor,
    teacher_tokens: Tensor,
    *,
    live: Tensor | None = None,
    cls_weight: float = 1.0,
    distill_weight: float = 0.5,
    token_weight: float = 0.5,
) -> DistillationLoss:
    """Stage 2. Labels, the teacher's logits and the teacher's final patch tokens.

    Parameters
    ----------
    logits, teacher_logits : Tensor [B, classes]
    tokens, teacher_tokens : Tensor [B, N - 1, D]
        Final patch tokens, after the last norm.
    labels : Tensor int64 [B] or probabilities [B, classes]
    live : Tensor bool [B, N - 1], optional
        Patch tokens that were not pruned; only they are compared.

    Returns
    -------
    DistillationLoss
    """
    cls = cls_weight * functional.cross_entropy(logits, labels)
    ours, theirs = logits.log_softmax(-1), teacher_logits.log_softmax(-1)
    distill = distill_weight * functional.kl_div(ours, theirs, reduction="batchmean", log_target=True)
    squares = (tokens - teacher_tokens) ** 2
    token = token_weight * (squares if live is None else squares[live]).mean()
    return DistillationLoss(cls + distill + token, cls, distill, token)
