"""Training of FSG-Net and its relatives on photos with vessel labels: `attn train fsgnet`.

Specification: methods/fsg-net.md, sections 4-6. Loss and schedule are the paper's; the default augmentation, the input
normalisation and the averaged weights are ours (``augment.ROBUST``, ``prepare.Preparation``, ``fit.loop``).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ...fit.precision import whole
from ...fit.processes import ALONE, Processes
from ...segment.fsgnet.network import Outputs
from ...segment.prepare import Preparation, normalise, padded, rescale
from ...segment.score.metrics import Triple, best_threshold, scores
from .appearance import appear, narrowed
from .augment import Augmentation, Draw, degrade, homography, magnification, recolour, sample
from .example import Example

LEAST_FIELD = 0.4
"""Share of a view inside the field of view from which it can be normalised by itself."""


def dice_bce(outputs: Sequence[Tensor], target: Tensor, processes: Processes = ALONE) -> Tensor:
    """Section 5: mean over the three outputs of binary cross-entropy + 1 - Dice, sums over the whole batch.

    Parameters
    ----------
    outputs : sequence of Tensor [B, 1, H, W]
        Probabilities.
    target : Tensor [B, 1, H, W], float, 0 or 1
    processes : Processes
        That hold the other parts of the batch.
    """
    losses = []
    with whole(target.device):  # logarithms and sums of many pixels
        for prob in (output.to(target.dtype) for output in outputs):
            both, all_prob, all_target = (processes.total(x.sum()) for x in (prob * target, prob, target))
            dice = (2 * both + 1) / (all_prob + all_target + 1)
            losses.append(F.binary_cross_entropy(prob, target) + 1 - dice)
    return torch.stack(losses).mean()


@dataclass(frozen=True, slots=True)
class CropBatches:
    """Random crops of the training photos.

    Parameters
    ----------
    examples : sequence of Example
    crop, batch : int
        Side of a crop in pixels; crops per step, over all processes.
    """

    examples: Sequence[Example]
    preparation: Preparation
    augmentation: Augmentation
    crop: int
    batch: int
    seed: int
    device: torch.device | str = "cpu"
    processes: Processes = ALONE

    def __call__(self, step: int) -> tuple[Tensor, Tensor]:
        """Input [B, 3, crop, crop] and label [B, 1, crop, crop] of a step, this process's part; the same each time."""
        n = len(self.examples)
        views = []
        for i in self.processes.part(self.batch):
            place = step * self.batch + i
            # every photo once per epoch, each epoch in an order of its own
            order = np.random.default_rng((self.seed, 1, place // n)).permutation(n)
            draw = Draw(np.random.default_rng((self.seed, 2, place)))
            view = self._view(draw, int(order[place % n]))
            if n > 1 and draw.chance(self.augmentation.cut_mix_prob):
                view = self._paste(draw, view, self._view(draw, int(draw.generator.integers(n))))
            views.append(view)
        both = torch.stack(views).to(self.device)  # [B, 4, crop, crop]
        return both[:, :3].contiguous(memory_format=torch.channels_last), both[:, 3:].contiguous()

    def _view(self, draw: Draw, index: int) -> Tensor:
        """One random view, normalised: [4, crop, crop], the label last."""
        augmentation, example = self.augmentation, self.examples[index]
        size = (example.layers.shape[1], example.layers.shape[2])
        view = homography(draw, augmentation, self.crop, size)
        seen = sample(example.seen_at(magnification(view, self.crop, size)), view, self.crop)
        mask, label = seen[4] > 0.5, seen[3:4].clamp(0, 1) if augmentation.soft else (seen[3:4] > 0.5).float()
        if augmentation.narrow_prob and draw.chance(augmentation.narrow_prob):
            mask = narrowed(draw, mask)
            label = label * mask
        image, samples = recolour(draw, augmentation, [appear(draw, augmentation, seen[:3], label), example.samples])
        image = degrade(draw, augmentation, image)
        if augmentation.own_prob and draw.chance(augmentation.own_prob) and mask.float().mean() > LEAST_FIELD:
            samples = image[:, mask]
        return torch.cat([normalise(image, mask, self.preparation, samples), label])

    def _paste(self, draw: Draw, onto: Tensor, other: Tensor) -> Tensor:
        """Cut-mix of section 5: a box of another photo, its corner in the first three quarters."""
        x, y = (int(draw.uniform(0, 0.75) * self.crop) for _ in range(2))
        width, height = (int((draw.uniform(0, 0.5) + 0.25) * self.crop) for _ in range(2))
        out = onto.clone()
        out[:, y : y + height, x : x + width] = other[:, y : y + height, x : x + width]
        return out


class FSGNetRecipe:
    """Model, training crops and held-out photos as ``loop.fit`` wants them.

    Parameters
    ----------
    model : Module
        [B, 3, H, W] -> Outputs.
    batches : CropBatches
    held_out : sequence of Example
        Choose the weights and the threshold; never trained on.
    """

    score = "f1"
    stalled_below = ("f1", 0.5)

    def __init__(self, model: nn.Module, batches: CropBatches, held_out: Sequence[Example]) -> None:
        self.model = model.to(memory_format=torch.channels_last)  # type: ignore[call-overload]
        self.batches, self.held_out = batches, held_out

    def loss(self, step: int) -> Tensor:
        with whole(torch.device("cpu")):  # the views are drawn there, and photos need more than eight bits
            x, target = self.batches(step)
        out: Outputs = self.model(x)
        return dice_bce(out, target, self.batches.processes)

    def evaluate(self, model: nn.Module) -> Mapping[str, float]:
        """Means over the held-out photos at their own size, inside the field of view, at the threshold best for all."""
        triples: list[Triple] = []
        for example in self.held_out:
            x = normalise(example.pixels, example.fov, self.batches.preparation).to(self.batches.device)
            prob = model(padded(x[None])).out1[0, :, : x.shape[1], : x.shape[2]].float().cpu()
            label, field = example.truth
            if prob.shape[1:] != label.shape:
                prob = rescale(prob, (label.shape[0], label.shape[1]))
            triples.append((prob[0].clamp(0, 1).numpy(), label.numpy(), field.numpy()))
        threshold = best_threshold(triples)
        each = [scores(*triple, threshold=threshold) for triple in triples]
        names = ("f1", "auc", "sensitivity", "specificity", "accuracy")
        # a score that a photo does not define (all vessel, no vessel) is left out of the mean
        means = {name: float(np.nanmean([row.get(name, np.nan) for row in each])) for name in names}
        groups = dict.fromkeys(example.group for example in self.held_out)
        if len(groups) > 1:
            for group in groups:
                of_group = [
                    row["f1"] for row, example in zip(each, self.held_out, strict=True) if example.group == group
                ]
                means[f"f1 {group}"] = float(np.nanmean(of_group))
        return means | {"threshold": threshold}
