"""The two stages of Sparsifiner. Specification: methods/sparsifiner.md, section 5."""

from __future__ import annotations

from collections.abc import Mapping
from contextlib import ExitStack
from typing import Any

import torch
from torch import Tensor, nn

from ...attention.sparsifiner.predictor import key_budget
from ...fit.precision import whole
from ...nets.sparsifiner_losses import Stage, distillation_loss, reconstruction_loss, stage_parameters
from ...nets.sparsifiner_vit import SparsifinerViT
from ...nets.vit import VisionTransformer
from ..vit.data import ClassBatches, LabelledPictures
from ..vit.plain import EVALUATED

JUDGED = 128
"""Held-out pictures whose attention is compared."""


def train_only(net: SparsifinerViT, stage: Stage) -> None:
    """What a stage does not train gets no gradients."""
    net.requires_grad_(False)
    for _, parameter in stage_parameters(net, stage):
        parameter.requires_grad_(True)


class ReconstructionRecipe:
    """Stage 1: predictors learn the attention of the backbone, which is the teacher's and stays so.

    Parameters
    ----------
    model : SparsifinerViT
        With the teacher's weights.
    batches : ClassBatches
    held_out : LabelledPictures
    keys : float
        Share of keys at which predictions are judged.
    """

    score = "recall"

    def __init__(
        self, model: SparsifinerViT, batches: ClassBatches, held_out: LabelledPictures, keys: float
    ) -> None:  # fmt: skip
        self.model: nn.Module = model
        self.net, self.batches, self.held_out, self.keys = model, batches, held_out, keys
        self.stalled_below = ("recall", keys)
        train_only(model, "attn_recon")

    def loss(self, step: int) -> Tensor:
        images, _ = self.batches(step)
        with whole(images.device):
            records = self.net(images, reconstruct=True).layers
            return reconstruction_loss(
                [record.prediction.approx for record in records], [record.prob.detach() for record in records]
            )

    def evaluate(self, model: nn.Module) -> Mapping[str, float]:
        """See ``predictor_recall``."""
        return {"recall": predictor_recall(self.net, self.held_out, self.keys, self.batches.device)}


@torch.inference_mode()
def predictor_recall(net: SparsifinerViT, pictures: LabelledPictures, keys: float, device: torch.device) -> float:
    """Recall@K: share of the K keys with most of the dense attention that the predictors name.

    K is ``keys`` of all, and that is the recall of a choice at random. Mean over patch queries, heads and layers.
    """
    hits: list[Tensor] = []
    budget = key_budget(net.config.num_tokens, keys)

    def judge(attention: Any, args: tuple[Any, ...], out: tuple[Tensor, Any]) -> None:
        x, record = args[0].x, out[1]
        q, k, _ = attention.qkv(x).view(*x.shape[:2], 3, attention.num_heads, -1).permute(2, 0, 3, 1, 4)
        mask = attention.mask_predictor(q, k, attention.rules, keep_ratio=keys).mask
        wanted = record.prob[:, :, 1:].topk(budget).indices
        hits.append(mask[:, :, 1:].gather(-1, wanted).float().mean())

    with ExitStack() as stack:
        for block in net.blocks:
            stack.callback(block.get_submodule("attn").register_forward_hook(judge).remove)
        net(next(pictures.batches(JUDGED, device))[0], reconstruct=True)
    return float(torch.stack(hits).mean())


class DistillationRecipe:
    """Stage 2: the backbone learns the teacher's answers with sparse attention and fewer patches.

    Parameters
    ----------
    model : SparsifinerViT
    teacher : VisionTransformer
    batches : ClassBatches
    held_out : LabelledPictures
    """

    score = "accuracy"

    def __init__(
        self, model: SparsifinerViT, teacher: VisionTransformer, batches: ClassBatches, held_out: LabelledPictures
    ) -> None:
        self.model: nn.Module = model
        self.net, self.teacher, self.batches, self.held_out = model, teacher, batches, held_out
        self.stalled_below = ("accuracy", min(1.0, 1.5 / model.config.num_classes))
        train_only(model, "cls_distill")

    def loss(self, step: int) -> Tensor:
        images, labels = self.batches(step)
        with torch.no_grad():
            theirs = self.teacher(images)
        ours = self.net(images)
        with whole(images.device):
            return distillation_loss(
                ours.logits.float(), ours.tokens.float(), labels, theirs.logits.float(), theirs.tokens.float(),
                live=ours.live,
            ).total  # fmt: skip

    def evaluate(self, model: nn.Module) -> Mapping[str, float]:
        """Share of the held-out pictures that are recognised, with patches taken out."""
        right = 0
        for images, labels in self.held_out.batches(EVALUATED, self.batches.device):
            right += int((self.net(images, form="short").logits.argmax(1) == labels).sum())
        return {"accuracy": right / len(self.held_out)}
