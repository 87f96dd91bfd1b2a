"""What a detector is here, and ours: the image tower of ``shapes``, its last layer, and a head without anchors."""

from __future__ import annotations

import copy
from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.nn import functional as F

from ...models.hooks import capture
from ...models.load import load_model
from ...models.rows import attention_rows
from ...nets.center_periphery.prototypes import cells_inside
from ...prune.shapes.scenes import GRID, PATCH
from ..shapes_vlm.data import prepared
from .data import source_batch

FROZEN_LAYERS = 2
"""Of the tower's three: they are the backbone, behind which feature maps are refined."""
TYPICAL = 12.0
"""Side of a box in pixels that the head begins with."""
CENTRED, CENTRED_STEP = 256, 1_000_000
"""Source pictures whose mean is taken off the features, and the step they are drawn as; no training is as long."""
LEAST_SCORE, NMS_OVERLAP, MOST_BOXES = 0.05, 0.5, 60


@dataclass(frozen=True, slots=True)
class FoundBoxes:
    """Boxes found in one picture, by falling score: x0, y0, x1, y1 in pixels [n, 4], scores and labels [n]."""

    boxes: NDArray[np.float32]
    scores: NDArray[np.float32]
    labels: NDArray[np.int64]


class ObjectDetector(nn.Module, ABC):
    """A detector whose backbone is frozen and whose feature maps go through ``refinement``.

    The modules of an instance are what is trained; ``prepare`` does all that no training changes.
    """

    refinement: nn.Module
    strides: tuple[float, ...]
    width: int
    """Channels of what ``loss`` gives beside the loss."""

    @abstractmethod
    def prepare(self, pictures: NDArray[np.uint8] | Tensor) -> Tensor:
        """Pictures (uint8 [N, H, W, 3], or pixels as the network takes them) as the other calls take them, [N, ...]."""

    @abstractmethod
    def maps(self, inputs: Tensor) -> list[Tensor]:
        """Feature maps in front of the refinement, [N, C, h, w] of each level."""

    @abstractmethod
    def loss(self, inputs: Tensor, boxes: Sequence[Tensor], labels: Sequence[Tensor]) -> tuple[Tensor, Tensor]:
        """The detector's own loss, and a map [N, width, h, w] of what it sees (for TSA), both with gradients."""

    @abstractmethod
    def detect(self, inputs: Tensor) -> list[FoundBoxes]:
        """Boxes in every picture."""

    @abstractmethod
    def distance(self, inputs: Tensor) -> float:
        """Mean attention distance of the layers behind the refinement, in cells; see section 3.1."""


class ShapesDetector(ObjectDetector):
    """Ours: one stride of 8 pixels, one layer of attention behind the refinement, a box and class scores per cell.

    Parameters
    ----------
    classes : int
    refinement : Module
        Of a list of one map [N, 96, 12, 12].
    """

    def __init__(self, classes: int, refinement: nn.Module) -> None:
        super().__init__()
        tower: Any = load_model("shapes", "vision-language").model.model.vision_tower  # type: ignore[union-attr]
        tower = getattr(tower, "vision_model", tower)
        self.backbone = _FrozenTower(tower)
        self.refinement = refinement
        self.strides = (float(PATCH),)
        self.width = int(tower.config.hidden_size)
        self.layers = nn.ModuleList(copy.deepcopy(layer) for layer in tower.encoder.layers[FROZEN_LAYERS:])
        self.layers.requires_grad_(True)
        self.norm = nn.LayerNorm(self.width)
        self.mixed = nn.Conv2d(self.width, self.width, 3, padding=1)
        self.classes = nn.Conv2d(self.width, classes, 1)
        self.corners = nn.Conv2d(self.width, 4, 1)
        nn.init.constant_(self.classes.bias, -4.0)  # type: ignore[arg-type]  # few cells have an object
        nn.init.normal_(self.corners.weight, std=0.01)

    def prepare(self, pictures: NDArray[np.uint8] | Tensor) -> Tensor:
        pixels = pictures if isinstance(pictures, Tensor) else prepared(pictures)
        place = next(self.parameters()).device
        return torch.cat([self.backbone(part.to(place)) for part in pixels.split(64)])  # type: ignore[no-untyped-call]

    def maps(self, inputs: Tensor) -> list[Tensor]:
        return [inputs]

    def _seen(self, inputs: Tensor) -> Tensor:
        """What the head reads, [N, width, 12, 12]."""
        tokens = self.refinement(self.maps(inputs))[0].flatten(2).mT
        for layer in self.layers:
            out = layer(tokens, attention_mask=None)
            tokens = out[0] if isinstance(out, tuple) else out
        return self.norm(tokens).mT.unflatten(2, (GRID, GRID))  # type: ignore[no-any-return]

    def _read(self, seen: Tensor) -> tuple[Tensor, Tensor]:
        """Class logits [N, cells, K] and boxes [N, cells, 4]."""
        mixed = F.gelu(self.mixed(seen))
        logits, raw = self.classes(mixed).flatten(2).mT, self.corners(mixed).flatten(2).mT
        centre = (torch.arange(GRID, device=seen.device) + 0.5) * PATCH
        places = torch.cartesian_prod(centre, centre).flip(1)  # x, y
        middle = places + raw[..., :2] * PATCH
        half = TYPICAL / 2 * raw[..., 2:].clamp(-3, 3).exp()
        return logits, torch.cat([middle - half, middle + half], -1)

    def loss(self, inputs: Tensor, boxes: Sequence[Tensor], labels: Sequence[Tensor]) -> tuple[Tensor, Tensor]:
        """Focal loss of the classes of all cells, and 1 - GIoU of the boxes of cells inside an object."""
        seen = self._seen(inputs)
        logits, found = self._read(seen)
        wanted, targets = torch.zeros_like(logits), torch.zeros_like(found)
        for number, (own, named) in enumerate(zip(boxes, labels, strict=True)):
            order = (own[:, 2] - own[:, 0]).argsort(descending=True)  # where boxes overlap the smallest is written last
            for box, label, cells in zip(
                own[order], named[order], cells_inside(own[order], (GRID, GRID), PATCH).flatten(1), strict=True
            ):
                wanted[number, cells] = 0
                wanted[number, cells, label] = 1
                targets[number, cells] = box.to(targets.device)
        inside = wanted.amax(2) > 0
        entropy = F.binary_cross_entropy_with_logits(logits, wanted, reduction="none")
        chance = torch.where(wanted > 0, logits.sigmoid(), 1 - logits.sigmoid())
        count = inside.sum().clamp(min=1)
        focal = ((1 - chance) ** 2 * entropy).sum() / count
        return 2 * focal + (1 - generalised_iou(found[inside], targets[inside])).sum() / count, seen

    @torch.no_grad()
    def detect(self, inputs: Tensor) -> list[FoundBoxes]:
        found = []
        for part in inputs.split(64):  # type: ignore[no-untyped-call]
            logits, boxes = self._read(self._seen(part))
            for chances, own in zip(logits.sigmoid().cpu().numpy(), boxes.cpu().numpy(), strict=True):
                found.append(suppressed(own.clip(0, GRID * PATCH), chances))
        return found

    @torch.no_grad()
    def distance(self, inputs: Tensor) -> float:
        row = torch.arange(GRID, dtype=torch.float32)
        positions = torch.cartesian_prod(row, row)
        sums, count = 0.0, 0
        with capture(self, what=("q", "k")) as calls:
            for part in inputs.split(64):  # type: ignore[no-untyped-call]
                self._seen(part)
                for call in calls:
                    assert call.q is not None
                    assert call.k is not None
                    distances = attention_rows(call.q, call.k, scale=call.scale, positions=positions).distance
                    assert distances is not None
                    sums += float(distances.sum())
                    count += distances.numel()
                calls.clear()
        return sums / count


class _FrozenTower:
    """Embeddings and first layers of the tower; no module, so that it is neither trained nor written.

    The mean of every cell over source pictures is taken off. The tower was trained to tell places, and without that
    cosines with prototypes compare where two cells are instead of what they show.
    """

    def __init__(self, tower: Any) -> None:
        self.tower = tower.eval().requires_grad_(False)
        self.mean = self.features(prepared(source_batch(0, CENTRED_STEP, CENTRED).pictures)).mean(0)

    def __call__(self, pixels: Tensor) -> Tensor:
        """Maps [N, 96, 12, 12] of pixels [N, 3, 96, 96]."""
        return self.features(pixels) - self.mean.to(pixels.device)

    @torch.no_grad()
    def features(self, pixels: Tensor) -> Tensor:
        """The same with their places in them."""
        tokens = self.tower.to(pixels.device).pre_layrnorm(self.tower.embeddings(pixels))
        for layer in self.tower.encoder.layers[:FROZEN_LAYERS]:
            out = layer(tokens, attention_mask=None)
            tokens = out[0] if isinstance(out, tuple) else out
        return tokens[:, 1:].mT.unflatten(2, (GRID, GRID))  # type: ignore[no-any-return]


def generalised_iou(a: Tensor, b: Tensor) -> Tensor:
    """GIoU of boxes [n, 4] pair by pair, [n] (arXiv 1902.09630)."""
    common = (torch.minimum(a[:, 2:], b[:, 2:]) - torch.maximum(a[:, :2], b[:, :2])).clamp(min=0).prod(1)
    union = (a[:, 2:] - a[:, :2]).prod(1) + (b[:, 2:] - b[:, :2]).prod(1) - common
    hull = (torch.maximum(a[:, 2:], b[:, 2:]) - torch.minimum(a[:, :2], b[:, :2])).prod(1)
    return common / union - (hull - union) / hull


def overlaps(a: NDArray[np.float32], b: NDArray[np.float32]) -> NDArray[np.float32]:
    """Intersection over union of boxes [n, 4] with boxes [m, 4], [n, m]."""
    low, high = np.maximum(a[:, None, :2], b[None, :, :2]), np.minimum(a[:, None, 2:], b[None, :, 2:])
    common = np.clip(high - low, 0, None).prod(2)
    area_a, area_b = (a[:, 2:] - a[:, :2]).prod(1), (b[:, 2:] - b[:, :2]).prod(1)
    out: NDArray[np.float32] = common / np.maximum(area_a[:, None] + area_b[None] - common, 1e-9)
    return out


def suppressed(boxes: NDArray[np.float32], chances: NDArray[np.float32]) -> FoundBoxes:
    """Non-maximum suppression within each class, of boxes [cells, 4] with chances [cells, K]."""
    cell, label = np.nonzero(chances > LEAST_SCORE)
    score = chances[cell, label]
    order = np.argsort(-score, kind="stable")[: 4 * MOST_BOXES]
    cell, label, score = cell[order], label[order], score[order]
    own = boxes[cell]
    near = (overlaps(own, own) > NMS_OVERLAP) & (label[:, None] == label[None])
    left = np.ones(len(order), bool)
    for number in range(len(order)):
        if left[number]:
            left[number + 1 :] &= ~near[number, number + 1 :]
    kept = np.nonzero(left)[0][:MOST_BOXES]
    return FoundBoxes(own[kept], score[kept], label[kept].astype(np.int64))
