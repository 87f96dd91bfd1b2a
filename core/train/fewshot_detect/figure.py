"""A figure of where refinement acts: cells of test pictures in the foreground, in the background, in neither."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from ...nets.center_periphery.module import CenterPeriphery
from ...nets.center_periphery.refine import centre, periphery
from ...report.canvas import grid
from .detector import ObjectDetector

GREEN, BLUE, BOTH, GREY = (0, 158, 115), (0, 114, 178), (86, 180, 160), (127, 127, 127)
"""Of cells in the front, in the back, in both and in neither; told apart by the colour-blind (Okabe and Ito)."""
STRENGTH = 0.55


@torch.no_grad()
def cell_masks(detector: ObjectDetector, inputs: Tensor) -> tuple[NDArray[np.bool_], NDArray[np.bool_]]:
    """Cells of the first level in the front and in the back, bool [N, h, w] each."""
    module = detector.refinement
    assert isinstance(module, CenterPeriphery)
    features = detector.maps(inputs)[0].float()
    front = centre(
        features, module.get_buffer("foreground_0"), gamma=0.0, threshold=module.threshold_front,
        temperature=module.temperature, known=module.get_buffer("known"),
    ).mask  # fmt: skip
    back = periphery(features, module.get_buffer("background_0"), gamma=0.0, threshold=module.threshold_back).mask
    return (front * module.ppr).cpu().numpy() > 0, (back * module.ncm).cpu().numpy() > 0


def draw_masks(
    detector: ObjectDetector, pictures: NDArray[np.uint8], inputs: Tensor, boxes: Sequence[Tensor], path: Path
) -> None:
    """Pictures above the same with their cells coloured; the boxes of objects in white."""
    front, back = cell_masks(detector, inputs)
    height, width = pictures.shape[1:3]
    with grid(
        path, (2, len(pictures)), (height, width), "cells: front green, back blue, both teal, neither grey", bars=()
    ) as panels:
        for number, picture in enumerate(pictures):
            colours = np.full((*front.shape[1:], 3), GREY, np.float32)
            colours[back[number]], colours[front[number]] = BLUE, GREEN
            colours[front[number] & back[number]] = BOTH
            scale = height // front.shape[1]
            over = colours.repeat(scale, 0).repeat(scale, 1)
            mixed = np.clip((1 - STRENGTH) * picture + STRENGTH * over, 0, 255).astype(np.uint8)
            for x0, y0, x1, y1 in boxes[number].round().int().tolist():
                x1, y1 = min(x1, width) - 1, min(y1, height) - 1
                mixed[[y0, y1], x0 : x1 + 1] = 255
                mixed[y0 : y1 + 1, [x0, x1]] = 255
            panels.image(0, number, picture, f"target picture {number + 1}", (0, 255))
            panels.image(
                1, number, mixed, f"{front[number].mean():.0%} front, {back[number].mean():.0%} back", (0, 255)
            )
