"""Photos of any size to what an image tower takes: resized, cropped to the middle, normalised; and where that was."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any, Literal

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.nn import functional as F

from ..options import OptionError

BATCH_IMAGES = 32
IMAGENET = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)


@dataclass(frozen=True, slots=True)
class PreparedImage:
    """A photo as an image tower takes it.

    Parameters
    ----------
    pixels : Tensor, shape (3, h, w), float32
    size : (H, W)
        Of the photo, in pixels.
    box : (top, left, bottom, right)
        What of the photo ``pixels`` shows, in its pixels; beyond its edges where it was padded.
    """

    pixels: Tensor
    size: tuple[int, int]
    box: tuple[float, float, float, float]

    def of(self, size: tuple[int, int]) -> PreparedImage:
        """The same in pixels of the whole photo, of which a reduced one was prepared; ``size`` is its (H, W)."""
        down, across = size[0] / self.size[0], size[1] / self.size[1]
        top, left, bottom, right = self.box
        return replace(self, size=size, box=(top * down, left * across, bottom * down, right * across))


@dataclass(frozen=True, slots=True)
class ImagePreparation:
    """How photos are prepared.

    Parameters
    ----------
    size : (H, W)
        Of the result, in pixels.
    mean, std : tuple of 3 float
        Of the channels, for values in [0, 1].
    fit : {"squash", "crop"}
        Resize both sides at will, or so that the photo covers ``cover`` and what stands out is cut.
    cover : int, optional
        Length of the shorter side before the cut; default: the shorter side of ``size``.
    mode : {"bicubic", "bilinear"}
    """

    size: tuple[int, int]
    mean: tuple[float, ...]
    std: tuple[float, ...]
    fit: Literal["squash", "crop"] = "crop"
    cover: int | None = None
    mode: Literal["bicubic", "bilinear"] = "bicubic"

    def __call__(self, image: NDArray[np.float32]) -> Tensor:
        """A photo [3, H, W] in [0, 1] to [3, h, w]. Raises ``ValueError`` for anything else."""
        return self.prepared(image).pixels

    def prepared(self, image: NDArray[np.float32]) -> PreparedImage:
        """The same, with where in the photo the result is."""
        if image.ndim != 3 or image.shape[0] != 3 or 0 in image.shape:
            raise ValueError(f"a photo is [3, H, W], this array is {list(image.shape)}")
        x = torch.from_numpy(np.ascontiguousarray(image, np.float32))[None]
        height, width = self.size
        h, w = x.shape[2:]
        box = (0.0, 0.0, float(h), float(w))
        if self.fit == "squash":
            x = self._resize(x, (height, width))
        else:
            cover = self.cover or min(self.size)
            x = self._resize(x, (cover, max(cover, int(cover * w / h))) if h <= w else (int(cover * h / w), cover))
            down, across = h / x.shape[2], w / x.shape[3]  # pixels of the photo per pixel
            x, top, left = _cut(x, height, width)
            box = (top * down, left * across, (top + height) * down, (left + width) * across)
        mean, std = (torch.tensor(value)[:, None, None] for value in (self.mean, self.std))
        return PreparedImage(((x[0] - mean) / std).contiguous(), (h, w), box)

    def _resize(self, x: Tensor, size: tuple[int, int]) -> Tensor:
        """With antialiasing, as Pillow does it; bicubic weights overshoot, pictures do not."""
        if tuple(x.shape[2:]) == size:
            return x
        return F.interpolate(x, size, mode=self.mode, antialias=True, align_corners=False).clamp(0, 1)

    @classmethod
    def of_transformers(cls, config: Mapping[str, Any]) -> ImagePreparation:
        """Of a ``preprocessor_config.json``. Raises ``UsageError`` where it says something else than these fields."""
        mean, std = tuple(config["image_mean"]), tuple(config["image_std"])
        if len(mean) != 3 or abs(config.get("rescale_factor", 1 / 255) - 1 / 255) > 1e-6:
            raise OptionError("{model}: its preprocessor_config.json is for other images than 8-bit RGB.")
        mode: Literal["bicubic", "bilinear"] = "bilinear" if config.get("resample", 3) == 2 else "bicubic"
        size = config["size"]
        size = {"shortest_edge": size} if isinstance(size, int) else size
        if "shortest_edge" in size:
            crop = config.get("crop_size", size["shortest_edge"])
            sides = (crop, crop) if isinstance(crop, int) else (crop["height"], crop["width"])
            return cls(sides, mean, std, "crop", size["shortest_edge"], mode)
        return cls((size["height"], size["width"]), mean, std, "squash", None, mode)


def _cut(x: Tensor, height: int, width: int) -> tuple[Tensor, int, int]:
    """The middle [.., height, width], and where its first row and column were in ``x``: negative on a side that is too
    short, which is padded with black."""
    h, w = x.shape[2:]
    above, before = max(0, (height - h) // 2), max(0, (width - w) // 2)
    if h < height or w < width:
        x = F.pad(x, (before, max(0, width - w - before), above, max(0, height - h - above)))
        h, w = x.shape[2:]
    top, left = (h - height) // 2, (w - width) // 2
    return x[..., top : top + height, left : left + width], top - above, left - before
