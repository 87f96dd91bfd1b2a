"""Training of FSG-Net and its relatives on photos with vessel labels: `attn train fsgnet`.

Specification: methods/fsg-net.md, sections 4-6. Loss and schedule are the paper's; the default augmentation, the input
normalisation and the averaged weights are ours (``augment.ROBUST``, ``prepare.Preparation``, ``fit.loop``).
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from torch import Tensor, nn

from ...errors import InputError
from ...fit.precision import whole
from ...fit.processes import ALONE, Processes
from ...io.photo.read import Photo, read_photo
from ...segment.fov import Fov, find_fov, fov_from_mask
from ...segment.fsgnet.network import Outputs
from ...segment.masks import brightness, darkness, mask_of, read_mask
from ...segment.prepare import Preparation, normalise, padded, prepare, rescale
from ...segment.score.metrics import best_threshold, scores
from .augment import Augmentation, Draw, degrade, homography, recolour, sample
from .data import Pair
from .synthetic import RADIUS, draw_photo

SAMPLES = 4096
"""Pixels of the field of view that stand for all of it when a changed photo is normalised."""


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
class Example:
    """A photo ready for training: cut to its field of view and at the model's scale.

    Parameters
    ----------
    layers : Tensor, shape (5, h, w), float32
        Red, green, blue in [0, 1], label, field of view.
    samples : Tensor, shape (3, N)
        Pixels inside the field of view.
    notes : tuple of str
        What was guessed of the label and the mask.
    """

    name: str
    layers: Tensor
    samples: Tensor
    notes: tuple[str, ...] = ()

    @property
    def pixels(self) -> Tensor:
        return self.layers[:3]

    @property
    def label(self) -> NDArray[np.bool_]:
        out: NDArray[np.bool_] = self.layers[3].numpy() > 0.5
        return out

    @property
    def fov(self) -> Tensor:
        return self.layers[4] > 0.5


def load_example(pair: Pair, preparation: Preparation) -> Example:
    """Read a pair; ``InputError`` where label or mask do not fit the photo."""
    photo = read_photo(pair.image)
    notes: list[str] = []
    label = _mask(photo, pair.label, "label", notes, darkness)
    if label.shape != photo.pixels.shape[1:]:
        raise InputError(pair.label, f"is {label.shape[1]} x {label.shape[0]}, its photo {pair.image.name} is not")
    if pair.fov is not None:
        fov = fov_from_mask(_mask(photo, pair.fov, "mask of the field of view", notes, brightness))
        if fov.mask.shape != label.shape:
            raise InputError(pair.fov, f"has another size than its photo {pair.image.name}")
    else:
        try:
            fov = find_fov(photo.pixels)
        except ValueError as error:
            raise InputError(pair.image, str(error)) from None
    example = example_of(pair.name, photo.pixels, label, fov, preparation)
    if not example.label.any():
        raise InputError(pair.label, "marks no vessel inside the field of view", "Check that it is a label")
    return replace(example, notes=tuple(f"{pair.image.name}: {note}" for note in notes))


def drawn_examples(count: int, seed: int, preparation: Preparation) -> list[Example]:
    """Photos of ``synthetic``, at the model's scale."""
    side = round(preparation.fov_diameter / (2 * RADIUS))
    photos = (draw_photo((seed, number), side) for number in range(count))
    return [
        example_of(f"drawn {number:02}", pixels, label, fov_from_mask(pixels.max(0) > 0), preparation)
        for number, (pixels, label) in enumerate(photos)
    ]


def example_of(
    name: str, pixels: NDArray[np.float32], label: NDArray[np.bool_], fov: Fov, preparation: Preparation
) -> Example:
    """A photo [3, H, W] with its label [H, W], cut and scaled."""
    ready = prepare(pixels, fov, preparation)
    top, left, bottom, right = ready.box
    truth = torch.from_numpy(label[top:bottom, left:right].astype(np.float32))[None]
    if truth.shape[1:] != ready.mask.shape:
        truth = (rescale(truth, (ready.mask.shape[0], ready.mask.shape[1])) > 0.5).float()
    truth = truth * ready.mask
    inside = ready.pixels[:, ready.mask]  # [3, M]
    spread = torch.linspace(0, inside.shape[1] - 1, min(SAMPLES, inside.shape[1])).long()
    layers = torch.cat([ready.pixels * ready.mask, truth, ready.mask[None].float()])
    return Example(name, layers, inside[:, spread])


def _mask(
    photo: Photo, path: Path, what: str, notes: list[str], evidence: Callable[[NDArray[np.float32]], NDArray[Any]]
) -> NDArray[np.bool_]:
    """A label or mask [H, W] as ``attn segment`` reads it, the way up that its photo is."""
    mask = read_mask(path, max_side=None)
    if mask.orientation != photo.orientation:
        return mask_of(photo, path, what, notes, lambda: evidence(photo.pixels), max_side=None).pixels
    notes += [f"its {what} {note}" for note in mask.notes]
    return mask.pixels


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
        example = self.examples[index]
        size = (example.layers.shape[1], example.layers.shape[2])
        seen = sample(example.layers, homography(draw, self.augmentation, self.crop, size), self.crop)
        mask, label = seen[4] > 0.5, (seen[3:4] > 0.5).float()
        image, samples = recolour(draw, self.augmentation, [seen[:3], example.samples])
        image = degrade(draw, self.augmentation, image)
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
        x, target = self.batches(step)
        out: Outputs = self.model(x)
        return dice_bce(out, target, self.batches.processes)

    def evaluate(self, model: nn.Module) -> Mapping[str, float]:
        """Means over the held-out photos, inside the field of view, at the threshold that is best for all of them."""
        triples = []
        for example in self.held_out:
            x = normalise(example.pixels, example.fov, self.batches.preparation).to(self.batches.device)
            prob = model(padded(x[None])).out1[0, 0, : x.shape[1], : x.shape[2]]
            triples.append((prob.float().cpu().numpy(), example.label, example.fov.numpy()))
        threshold = best_threshold(triples)
        each = [scores(*triple, threshold=threshold) for triple in triples]
        names = ("f1", "auc", "sensitivity", "specificity", "accuracy")
        # a score that a photo does not define (all vessel, no vessel) is left out of the mean
        return {name: float(np.nanmean([row.get(name, np.nan) for row in each])) for name in names} | {
            "threshold": threshold
        }
