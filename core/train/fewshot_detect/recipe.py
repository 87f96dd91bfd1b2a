"""Two kinds of steps: of the detector on the source domain, and on the support pictures of the target domain.

Specification: methods/astigmatism.md, sections 3.6 and 5.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from ...models.load import load_model
from ...nets.center_periphery.alignment import TextAlignment, contrast
from ...nets.center_periphery.module import CenterPeriphery
from ...nets.center_periphery.prototypes import Prototypes, cells_inside, prototypes_of
from ...prune.shapes.words import BOS, CELLS, COLOURS, NUMBER, SHAPES, numbers
from .data import CLASSES, VIEWS, DetectionSet, judged_set, source_batch, views
from .detector import ObjectDetector
from .options import PLAIN, RefinementOptions
from .score import average_precision, redundant

SHARED = 64
"""Width of the space in which TSA compares."""
GLANCED = 50
"""Source pictures that are looked at while the source detector is trained."""


class SourceRecipe:
    """The detector on scenes as they are drawn; a new batch at every step."""

    score = "ap50"
    stalled_below = ("ap50", 0.1)

    def __init__(self, detector: ObjectDetector, seed: int, batch: int) -> None:
        self.model: nn.Module = detector
        self.detector, self.seed, self.batch = detector, seed, batch
        self.held_out = judged_set(GLANCED, seed, shifted=False, held_out=True)
        self.inputs = detector.prepare(self.held_out.pictures)

    def loss(self, step: int) -> Tensor:
        drawn = source_batch(self.seed, step, self.batch)
        return self.detector.loss(self.detector.prepare(drawn.pictures), drawn.boxes, drawn.labels)[0]

    def evaluate(self, model: nn.Module) -> Mapping[str, float]:
        return average_precision(self.detector.detect(self.inputs), self.held_out)


@dataclass(frozen=True, slots=True)
class Support:
    """Support pictures as they are trained on.

    Parameters
    ----------
    prototypes : Prototypes
        Of the pictures as they are.
    inputs : Tensor
        Of ``data.VIEWS`` views of each.
    boxes, labels : tuple of Tensor
        Of the views.
    """

    prototypes: Prototypes
    inputs: Tensor
    boxes: tuple[Tensor, ...]
    labels: tuple[Tensor, ...]


def support_of(detector: ObjectDetector, pixels: Tensor, drawn: DetectionSet, seed: int) -> Support:
    """Prototypes by the source detector's features, and the views; ``pixels`` are the pictures, [N, 3, H, W]."""
    with torch.no_grad():
        found = prototypes_of(
            detector.maps(detector.prepare(pixels)), drawn.boxes, drawn.labels, classes=len(CLASSES),
            strides=detector.strides,
        )  # fmt: skip
        seen, boxes = views(pixels, drawn.boxes, seed)
        labels = tuple(label for label in drawn.labels for _ in range(VIEWS))
        return Support(found, detector.prepare(seen), tuple(boxes), labels)


def refinement_of(arm: str, options: RefinementOptions) -> nn.Module:
    """What an arm puts between backbone and head; without prototypes it is the identity."""
    if arm == PLAIN:
        return nn.Identity()
    parts = arm.split("+")
    return CenterPeriphery(
        ppr="ppr" in parts, ncm="ncm" in parts, threshold_front=options.threshold_front,
        threshold_back=options.threshold_back, gamma_front=options.gamma_front, gamma_back=options.gamma_back,
        temperature=options.temperature, fusion=options.fusion, exclusive=options.exclusive,
    )  # fmt: skip


class AdaptedDetector(nn.Module):
    """What is trained on the support pictures: the detector, and with TSA the projections beside it."""

    def __init__(self, detector: ObjectDetector, alignment: TextAlignment | None) -> None:
        super().__init__()
        self.detector, self.alignment = detector, alignment


class AdaptRecipe:
    """The detector on support pictures; judged once, when it is trained.

    Parameters
    ----------
    detector : ObjectDetector
        With its refinement, prototypes loaded.
    support : Support
    judged : DetectionSet
        Target pictures, and ``inputs``, what ``ObjectDetector.prepare`` made of them.
    texts : Tensor [K, D] or None
        Features of the phrases of TSA; None: without TSA.
    options : RefinementOptions
    seed, batch : int
    """

    score = "ap50"
    stalled_below = ("ap50", -1.0)

    def __init__(
        self, detector: ObjectDetector, support: Support, judged: DetectionSet, inputs: Tensor, texts: Tensor | None,
        options: RefinementOptions, seed: int, batch: int,
    ) -> None:  # fmt: skip
        alignment = None if texts is None else TextAlignment(detector.width, texts.shape[1], SHARED)
        self.model: nn.Module = AdaptedDetector(detector, alignment).to(inputs.device)
        self.detector, self.alignment, self.support = detector, alignment, support
        self.judged, self.inputs, self.texts = judged, inputs, texts
        self.options, self.seed, self.batch = options, seed, batch
        self.last: dict[str, float] = {}

    def loss(self, step: int) -> Tensor:
        rng = np.random.default_rng([self.seed, step])
        count = len(self.support.boxes)
        chosen = rng.choice(count, min(self.batch, count), replace=False).tolist()
        boxes, labels = [self.support.boxes[i] for i in chosen], [self.support.labels[i] for i in chosen]
        own, seen = self.detector.loss(self.support.inputs[chosen], boxes, labels)
        self.last = {"loss_detector": float(own.detach())}
        if self.alignment is None or self.texts is None:
            return own
        similarity = self.alignment(background_of(seen, boxes, self.detector.strides[0]), self.texts)
        tied = contrast(similarity, denominator=self.options.denominator)
        self.last["loss_tsa"] = float(tied.detach())
        return own + self.options.lambda_tsa * tied

    def evaluate(self, model: nn.Module) -> Mapping[str, float]:
        return {**judged_metrics(self.detector, self.judged, self.inputs), **self.last}


def judged_metrics(detector: ObjectDetector, judged: DetectionSet, inputs: Tensor) -> dict[str, float]:
    """AP, redundant boxes, attention distance and, with a refinement, the shares of cells in its masks."""
    found = detector.detect(inputs)
    metrics = average_precision(found, judged)
    metrics |= {"redundant": redundant(found, judged), "distance": detector.distance(inputs)}
    if isinstance(detector.refinement, CenterPeriphery):
        detector.refinement(detector.maps(inputs))  # all at once, for the shares
        metrics |= {f"cells_{name}": share for name, share in detector.refinement.shares.items()}
    return metrics


def background_of(seen: Tensor, boxes: list[Tensor], stride: float) -> Tensor:
    """Mean over the cells outside all boxes, of every picture that has such, [n, C]."""
    grid = (seen.shape[2], seen.shape[3])
    outside = torch.stack([~cells_inside(own, grid, stride).any(0) for own in boxes]).to(seen)
    some = outside.sum((1, 2)) > 0
    outside, seen = outside[some], seen[some]
    return (seen * outside[:, None]).sum((2, 3)) / outside.sum((1, 2))[:, None]


def phrases(count: int) -> list[str]:
    """What is not there, in words that the text model of ``shapes`` knows; it has no "not"."""
    every = [f"there is no {colour} {shape}" for colour in COLOURS for shape in SHAPES]
    every += [f"no {colour} {shape} is in the box" for colour in COLOURS for shape in SHAPES]
    every += [f"there is no {shape} in the {cell}" for shape in SHAPES for cell in CELLS]
    every += [f"no {shape} is in the {cell}" for shape in SHAPES for cell in CELLS]
    return every[:count]


@torch.no_grad()
def text_features(count: int) -> Tensor:
    """The last hidden state of ``phrases`` in the frozen language model of ``shapes``, [K, 96]."""
    language: Any = load_model("shapes", "vision-language").model.model.language_model  # type: ignore[union-attr]
    rows = []
    for phrase in phrases(count):
        tokens = torch.tensor([[NUMBER[BOS], *numbers(phrase.split())]])
        rows.append(language(input_ids=tokens, use_cache=False).last_hidden_state[0, -1])
    return torch.stack(rows)
