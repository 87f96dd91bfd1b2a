"""What other eyes and cameras show and a set of photos may lack: changes of a view that know where its vessels are.

Ours: a reflex of light along the middle of wide vessels, vessels fainter or darker than they were, spots of disease,
a narrower field. Each view stays a photo whose label is right.
"""

from __future__ import annotations

import math

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from .augment import Augmentation, Draw

REACH = 12
"""Half the width, px, of the window in which a vessel's surroundings and its radius are looked for."""
LEAST_RADIUS = 1.8
"""Thinner vessels, px, show no reflex."""
BLOOD, LIPID = (0.25, 0.6, 0.5), (0.25, 0.25, 0.1)
"""Share of red, green and blue that a haemorrhage takes away, and that an exudate adds."""


def appear(draw: Draw, augmentation: Augmentation, image: Tensor, label: Tensor) -> Tensor:
    """A view [3, H, W] in [0, 1] whose vessels [1, H, W] in [0, 1] look otherwise, with spots."""
    if augmentation.fade_prob and draw.chance(augmentation.fade_prob):
        image = fade(draw, image, label)
    if augmentation.reflex_prob and draw.chance(augmentation.reflex_prob):
        image = image * (1 + draw.uniform(0.05, augmentation.reflex) * reflex(label))
    if augmentation.spots_prob and draw.chance(augmentation.spots_prob):
        image = spots(draw, image)
    return image


def fade(draw: Draw, image: Tensor, label: Tensor) -> Tensor:
    """The contrast of the vessels against their surroundings, times a factor that varies over the view."""
    side = 2 * REACH + 1

    def smooth(x: Tensor) -> Tensor:
        return F.avg_pool2d(x[None], side, stride=1, padding=REACH, count_include_pad=False)[0]

    around = smooth(image * (1 - label)) / smooth(1 - label).clamp(min=0.05)
    coarse = draw.normal(1, 1, 4, 4) * 0.35 + draw.uniform(-0.6, 0.3)
    field = F.interpolate(coarse, size=image.shape[-2:], mode="bicubic", align_corners=True)[0]
    return image + (field.exp().clamp(0.35, 1.6) - 1) * label * (image - around)


def reflex(label: Tensor) -> Tensor:
    """How much of a reflex there is, in [0, 1]: a ridge along the middle of vessels that are wide enough."""
    from scipy.ndimage import distance_transform_edt

    depth = torch.from_numpy(distance_transform_edt(label[0].numpy() > 0.5).astype(np.float32))[None]
    radius = F.max_pool2d(depth[None], 2 * REACH + 1, stride=1, padding=REACH)[0]
    ridge = torch.exp(-(((radius - depth) / (0.35 * radius).clamp(min=0.5)) ** 2))
    return ridge * (radius >= LEAST_RADIUS) * (depth > 0)


def spots(draw: Draw, image: Tensor) -> Tensor:
    """Dark and bright blobs anywhere: haemorrhages and exudates. They cover vessels without moving them."""
    h, w = image.shape[-2:]
    y, x = torch.meshgrid(torch.arange(h).float(), torch.arange(w).float(), indexing="ij")
    for _ in range(int(draw.uniform(1, 10))):
        radius, stretch = draw.log_uniform(1.5, 16), draw.log_uniform(0.5, 2)
        angle = draw.uniform(0, math.pi)
        right, down = x - draw.uniform(0, w), y - draw.uniform(0, h)
        along = (right * math.cos(angle) + down * math.sin(angle)) / (radius * stretch)
        across = (down * math.cos(angle) - right * math.sin(angle)) / (radius / stretch)
        depth = torch.sigmoid(4 * (1 - along**2 - across**2)) * draw.uniform(0.2, 0.8)
        if draw.chance(0.6):
            image = image * (1 - depth * image.new_tensor(BLOOD)[:, None, None])
        else:
            image = image + depth * image.new_tensor(LIPID)[:, None, None]
    return image


def narrowed(draw: Draw, mask: Tensor) -> Tensor:
    """A field of view [H, W] cut down to a disc, as a camera of a smaller angle has it."""
    h, w = mask.shape
    y, x = torch.meshgrid(torch.arange(h).float(), torch.arange(w).float(), indexing="ij")
    right, down = x - draw.uniform(0.3, 0.7) * w, y - draw.uniform(0.3, 0.7) * h
    return mask & (right**2 + down**2 < (draw.uniform(0.4, 0.75) * min(h, w)) ** 2)
