"""From a photo to the network's input and back: crop to the field of view, one scale for every camera, normalise.

Specification: methods/fsg-net.md, section 3.4, step 29 (a)-(e). Training and prediction share this file, so that a
model sees the same input in both.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Literal

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from torch import Tensor

from .fov import Fov
from .fsgnet.network import MIN_SIDE

IMAGENET_MEAN, IMAGENET_STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)
LEAST_STD = 0.02
"""A channel flatter than this holds no vessels, only its own noise: it is not stretched further."""
SAME_SCALE = 0.03
"""A scale this close to 1 is left alone: resampling would cost more sharpness than it brings in likeness."""
CALIBRE_GROWTH = 0.6
"""A photo that is scaled by s shows vessels s^0.6 times as wide: at a finer scale the network finds thinner ones, too.
Exponents of 0.5 to 0.75 were measured on held-out photos of DRIVE, HRF and FIVES."""
WORTHWHILE = 0.15
"""Change of scale from which a second prediction is made."""
LEAST_VESSEL = 0.01
"""Share of the field of view that vessels must take to have a width."""


@dataclass(frozen=True, slots=True)
class Preparation:
    """How a model wants its input; travels in its checkpoint.

    Parameters
    ----------
    fov_diameter : float
        Field of view in pixels that every photo is scaled to; that of the training photos.
    fine_diameter : float or None
        A photo with more pixels across its field keeps them, up to this diameter: its thin vessels are there to be
        seen. None: ``fov_diameter`` for every photo, as in training and in files of an older attn.
    calibre : float or None
        Mean width of the vessels that a prediction is best at, in pixels as the network finds them: only photos whose
        vessels are thinner at ``fov_diameter`` are seen at a finer scale, by their width (``finer_diameter``).
    normalise : {"fov", "imagenet"}
        ``fov``: each channel to mean 0 and standard deviation 1 inside the field of view, zero outside (ours: takes
        out the camera's colour balance and exposure). ``imagenet``: fixed mean and deviation (official), black outside.
    """

    fov_diameter: float = 540.0
    normalise: Literal["fov", "imagenet"] = "fov"
    fine_diameter: float | None = None
    calibre: float | None = None

    def diameter(self, native: float) -> float:
        """Largest field of view in pixels that a photo of ``native`` pixels across its field is scaled to."""
        finest = self.fov_diameter if self.fine_diameter is None else self.fine_diameter
        return min(max(native, self.fov_diameter), finest)


@dataclass(frozen=True, slots=True)
class Prepared:
    """A photo cut to its field of view and scaled, not yet normalised.

    Parameters
    ----------
    pixels : Tensor, shape (3, h, w), float32 in [0, 1]
    mask : Tensor of bool, shape (h, w)
        Field of view.
    box : (top, left, bottom, right)
        Where it was in the photo, in pixels.
    """

    pixels: Tensor
    mask: Tensor
    box: tuple[int, int, int, int]


def prepare(pixels: NDArray[np.float32], fov: Fov, preparation: Preparation, diameter: float | None = None) -> Prepared:
    """Steps (b) and (c): cut to the box of the field of view and scale to the model's diameter.

    Parameters
    ----------
    pixels : ndarray, shape (3, H, W), float32 in [0, 1]
    fov : Fov
    preparation : Preparation
    diameter : float, optional
        Another than the model's, in pixels.
    """
    top, left, bottom, right = fov.box
    cut = torch.from_numpy(np.ascontiguousarray(pixels[:, top:bottom, left:right]))  # [3, h, w]
    mask = torch.from_numpy(np.ascontiguousarray(fov.mask[top:bottom, left:right]))
    size = scaled_size((bottom - top, right - left), (diameter or preparation.fov_diameter) / fov.diameter)
    if size != mask.shape:
        cut = rescale(cut, size).clamp_(0, 1)
        mask = rescale(mask.float()[None], size)[0] > 0.5
    return Prepared(cut, mask, fov.box)


def scaled_size(size: tuple[int, int], scale: float) -> tuple[int, int]:
    """Height and width after scaling; unchanged where the scale is nearly 1."""
    if abs(scale - 1) < SAME_SCALE:
        return size
    return max(1, round(size[0] * scale)), max(1, round(size[1] * scale))


def rescale(image: Tensor, size: tuple[int, int]) -> Tensor:
    """Bilinear with anti-aliasing: [C, h, w] -> [C, *size]."""
    return F.interpolate(image[None], size=size, mode="bilinear", align_corners=False, antialias=True)[0]


def calibre(prob: Tensor, mask: Tensor) -> float | None:
    """Mean width in pixels of the vessels of a probability map inside its mask, [h, w] each; None where there are none.

    Twice the area over the length of the edge, which is pi/4 of the number of neighbours (above, beside) of which one
    is vessel: Cauchy and Crofton's formula for edges of all directions.
    """
    vessel = (prob >= 0.5) & mask
    area = int(vessel.sum())
    if area < LEAST_VESSEL * int(mask.sum()):
        return None
    edge = math.pi / 4 * float((vessel[1:] != vessel[:-1]).sum() + (vessel[:, 1:] != vessel[:, :-1]).sum())
    return 2 * area / edge if edge else None


def finer_diameter(found: float | None, native: float, preparation: Preparation) -> float | None:
    """Field of view in pixels at which thin vessels have the width that the model is best at; None: as it is will do.

    There is no coarser scale for wide vessels, as of a field of 30 degrees: on the held-out photos it lost as often as
    it won.

    Parameters
    ----------
    found : float or None
        ``calibre`` at ``preparation.fov_diameter``.
    native : float
        Diameter of the field of view in the photo's own pixels: beyond it there is nothing finer to see.
    preparation : Preparation
    """
    if found is None or preparation.calibre is None:
        return None
    scale = (preparation.calibre / found) ** (1 / CALIBRE_GROWTH)
    scale = min(scale, preparation.diameter(native) / preparation.fov_diameter)
    return scale * preparation.fov_diameter if scale > 1 + WORTHWHILE else None


def statistics(samples: Tensor) -> tuple[Tensor, Tensor]:
    """Mean and deviation per channel of pixels [3, N] inside the field of view, each [3, 1, 1]."""
    mean = samples.mean(1)
    deviation = samples.std(1, correction=0).clamp(min=LEAST_STD)
    return mean[:, None, None], deviation[:, None, None]


def normalise(pixels: Tensor, mask: Tensor, preparation: Preparation, samples: Tensor | None = None) -> Tensor:
    """[3, h, w] in [0, 1] to the network's input.

    Parameters
    ----------
    pixels : Tensor, shape (3, h, w)
    mask : Tensor of bool, shape (h, w)
    preparation : Preparation
    samples : Tensor, shape (3, N), optional
        Pixels of the whole field of view where ``pixels`` is only a part of it (a training crop).
    """
    if preparation.normalise == "imagenet":
        mean, deviation = (pixels.new_tensor(v)[:, None, None] for v in (IMAGENET_MEAN, IMAGENET_STD))
        return (pixels * mask - mean) / deviation
    inside = pixels[:, mask] if samples is None else samples
    mean, deviation = statistics(inside)
    return (pixels - mean) / deviation * mask


def padded(x: Tensor, multiple: int = 8) -> Tensor:
    """Step (d): zero-pad [B, C, H, W] at bottom and right to a multiple; at least ``MIN_SIDE`` pixels a side."""
    h, w = (max(MIN_SIDE, -(-side // multiple) * multiple) for side in x.shape[-2:])
    return F.pad(x, (0, w - x.shape[-1], 0, h - x.shape[-2]))
