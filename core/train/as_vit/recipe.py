"""Training of AS-ViT: thresholds and weights together. Specification: methods/as-vit.md, sections 3.3 and 5."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import partial
from typing import Any

import torch
from torch import Tensor
from torch.nn import Parameter
from torch.nn.utils import clip_grad_norm_

from ...fit.precision import whole
from ...nets.as_vit import AdaptiveViT, budget_loss, plain_multiply_adds
from ...nets.vit import VisionTransformer
from ...prune.methods.base import Keep
from ...prune.vit.as_vit import AsViT
from ...prune.vit.site import image_site
from ..vit.data import ClassBatches, LabelledPictures
from ..vit.plain import EVALUATED

PAPER_PATCHES = 196
"""Of the pictures that the paper's numbers are for; class attention, and with it all that follows, goes with 1 / P."""
TAU, THRESHOLD_RATE = 1e-4, 2e-5
"""Section 3.3, step 1, and the learning rate of section 5, for so many patches."""
WEIGHTS = (1.0, 2.0 * 4.6, 0.5)
"""Section 5, of classes, budget, distillation: 2 for each 1e9 multiply-adds of DeiT-S, which has 4.6e9."""
CLIP = 1.0
"""Largest norm of the weights' gradient: next to a threshold it is divided by tau, and one such step undoes many."""


class AdaptiveRecipe:
    """Classes, budget, and the teacher's logits.

    Parameters
    ----------
    model : AdaptiveViT
        Begins with the teacher's weights.
    teacher : VisionTransformer
    batches : ClassBatches
    held_out : LabelledPictures
    budget : float
        Share of the teacher's multiply-adds.
    rate, weight_decay : float
        Of the weights, the highest rate; the thresholds have their own, and no weight decay.
    """

    score = "score"

    def __init__(
        self, model: AdaptiveViT, teacher: VisionTransformer, batches: ClassBatches, held_out: LabelledPictures, *,
        budget: float, rate: float, weight_decay: float,
    ) -> None:  # fmt: skip
        self.model: torch.nn.Module = model
        self.net, self.teacher, self.batches, self.held_out, self.budget = model, teacher, batches, held_out, budget
        scale = PAPER_PATCHES / model.config.patches
        self.tau = TAU * scale
        thresholds: dict[str, Any] = {
            "params": list(model.thresholds),
            "weight_decay": 0.0,
            "factor": THRESHOLD_RATE * scale / rate,
        }
        weights = [p for name, p in model.named_parameters() if not name.startswith("thresholds.")]
        self.optimizer = torch.optim.AdamW([{"params": weights}, thresholds], lr=rate, weight_decay=weight_decay)
        self.optimizer.register_step_pre_hook(partial(_clip, weights))
        self.full = plain_multiply_adds(model.config)
        self.stalled_below = ("accuracy", min(1.0, 1.5 / model.config.num_classes))

    def loss(self, step: int) -> Tensor:
        images, labels = self.batches(step)
        with torch.no_grad():
            theirs = self.teacher(images).logits
        with whole(images.device):  # scores and thresholds differ by less than half precision holds
            output = self.net.forward_masked(images, self.tau)
            return budget_loss(
                output, labels, theirs, None, keep=self.budget, full=self.full, norm="relative", weights=WEIGHTS
            ).total

    def evaluate(self, model: torch.nn.Module) -> Mapping[str, float]:
        """Accuracy and share of the cost with patches taken out; ``score``: accuracy less twice the distance from the
        budget."""
        found = pruned_accuracy(self.net, AsViT(), self.held_out, self.batches.device)
        distance = abs(found["cost_share"] - self.budget)
        return {**found, "score": found["accuracy"] - 2 * distance}


def _clip(weights: Sequence[Parameter], optimizer: Any, args: Any, kwargs: Any) -> None:
    """In front of a step."""
    clip_grad_norm_(weights, CLIP)


@torch.inference_mode()
def pruned_accuracy(
    net: AdaptiveViT, method: AsViT, pictures: LabelledPictures, device: torch.device
) -> dict[str, float]:
    """``accuracy``, and ``cost_share`` of the plain ViT's multiply-adds."""
    site, right, cost = image_site(net), 0, 0.0
    for images, labels in pictures.batches(EVALUATED, device):
        with method.applied(site, Keep(share=1.0)) as trace:
            right += int((net(images).logits.argmax(1) == labels).sum())
        cost += float(trace.last.multiply_adds.sum())
    full = plain_multiply_adds(net.config) * len(pictures)
    return {"accuracy": right / len(pictures), "cost_share": cost / full}


def settle(net: AdaptiveViT, pictures: LabelledPictures, budget: float, device: torch.device) -> float:
    """Multiply all thresholds by the factor with which pictures meet the budget on average, and return it."""
    given = [float(threshold.detach()) for threshold in net.thresholds]
    low, high = 0.0, 4.0
    for _ in range(12):
        factor = (low + high) / 2
        method = AsViT(blocks=net.positions, thresholds=tuple(factor * value for value in given))
        cost = pruned_accuracy(net, method, pictures, device)["cost_share"]
        low, high = (factor, high) if cost > budget else (low, factor)
    with torch.no_grad():
        for threshold, value in zip(net.thresholds, given, strict=True):
            threshold.fill_(high * value)
    return high
