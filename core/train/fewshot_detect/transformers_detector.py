"""A detector class of transformers behind the same interface: DETR, RT-DETR and their like."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from ...errors import UsageError
from ...nets.center_periphery.module import feature_maps, wrap
from .detector import LEAST_SCORE, MOST_BOXES, FoundBoxes, ObjectDetector

MEAN, STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)


class TransformersDetector(ObjectDetector):
    """A ``...ForObjectDetection`` of transformers whose feature maps are refined behind its backbone.

    Parameters
    ----------
    model : PreTrainedModel
        Called with ``pixel_values`` and ``labels`` of ``class_labels`` and ``boxes`` (middle and size, as shares of the
        picture); gives ``loss``, ``logits`` and ``pred_boxes``.
    refinement : Module
    strides : sequence of float
        Pixels of a cell, of every feature map.
    width : int
        Channels of the last feature map.
    after : str
        The backbone, by its dotted name.
    """

    def __init__(
        self, model: nn.Module, refinement: nn.Module, *, strides: Sequence[float], width: int,
        after: str = "model.backbone",
    ) -> None:  # fmt: skip
        super().__init__()
        self.model: Any = model
        self.refinement, self.strides, self.width, self.after = refinement, tuple(strides), width, after
        model.get_submodule(after).requires_grad_(False)
        self._refined: list[Tensor] = []
        wrap(model, _Kept(refinement, self._refined), after)

    def prepare(self, pictures: NDArray[np.uint8] | Tensor) -> Tensor:
        """Pixels as the network takes them: here nothing is computed ahead."""
        if isinstance(pictures, Tensor):
            return pictures
        pixels = torch.from_numpy(pictures).permute(0, 3, 1, 2).float() / 255
        mean, std = (pixels.new_tensor(values)[:, None, None] for values in (MEAN, STD))
        return (pixels - mean) / std

    def maps(self, inputs: Tensor) -> list[Tensor]:
        self(inputs)
        return self._refined[: len(self.strides)]

    def forward(self, inputs: Tensor, **labels: Any) -> Any:
        self._refined.clear()
        return self.model(pixel_values=inputs, **labels)

    def loss(self, inputs: Tensor, boxes: Sequence[Tensor], labels: Sequence[Tensor]) -> tuple[Tensor, Tensor]:
        size = torch.tensor([inputs.shape[3], inputs.shape[2]], device=inputs.device)
        wanted = [
            {
                "class_labels": named.to(inputs.device),
                "boxes": torch.cat([(own[:, :2] + own[:, 2:]) / 2, own[:, 2:] - own[:, :2]], 1).to(size.device)
                / size.repeat(2),
            }
            for own, named in zip(boxes, labels, strict=True)
        ]
        out = self(inputs, labels=wanted)
        return out.loss, self._refined[-1]

    @torch.no_grad()
    def detect(self, inputs: Tensor) -> list[FoundBoxes]:
        """The most likely class of every query; without suppression, which such detectors do without."""
        out = self(inputs)
        classes = out.logits.shape[-1]
        if self.model.config.num_labels < classes:  # the last is "no object"
            chances = out.logits.softmax(-1)[..., :-1]
        else:
            chances = out.logits.sigmoid()
        size = torch.tensor([inputs.shape[3], inputs.shape[2]], device=inputs.device).repeat(2)
        found = []
        for own, chance in zip(out.pred_boxes, chances, strict=True):
            score, label = chance.max(-1)
            corners = torch.cat([own[:, :2] - own[:, 2:] / 2, own[:, :2] + own[:, 2:] / 2], 1) * size
            order = score.argsort(descending=True)[:MOST_BOXES]
            order = order[score[order] > LEAST_SCORE]
            arrays = (corners[order], score[order], label[order])
            boxes, scores, labels = (array.cpu().numpy() for array in arrays)
            found.append(FoundBoxes(boxes, scores, labels))
        return found

    @torch.no_grad()
    def distance(self, inputs: Tensor) -> float:
        """Of the encoder's self-attention over the cells of the last feature map, in cells."""
        config = self.model.config
        before, config._attn_implementation = config._attn_implementation, "eager"  # others give no weights
        try:
            attentions = self(inputs, output_attentions=True).encoder_attentions
        finally:
            config._attn_implementation = before
        if not attentions:
            raise UsageError(f"{type(self.model).__name__} gives no attention of its encoder.")
        h, w = self._refined[-1].shape[2:]
        positions = torch.cartesian_prod(torch.arange(float(h)), torch.arange(float(w))).to(inputs.device)
        apart = torch.cdist(positions, positions)
        return float(torch.stack([(layer * apart).sum(-1).mean() for layer in attentions]).mean())


class _Kept(nn.Module):
    """A refinement that remembers the maps: those it got, then those it gave."""

    def __init__(self, refinement: nn.Module, kept: list[Tensor]) -> None:
        super().__init__()
        self.refinement, self.kept = refinement, kept

    def forward(self, maps: list[Tensor]) -> list[Tensor]:
        refined: list[Tensor] = self.refinement(maps)
        assert len(feature_maps(refined)) == len(maps)
        self.kept.extend([*maps, *refined])
        return refined
