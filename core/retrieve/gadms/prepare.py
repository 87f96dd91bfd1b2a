"""Photos as the image tower wants them, and where they come from: an array, or files read when they are needed."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from torch import Tensor

from ...io.tables import read_picture
from ...models.images import ImagePreparation
from .clip import CLIP_MEAN, CLIP_STD


class Images(Protocol):
    """Photos by number, each [3, H, W] float32 in [0, 1]."""

    def __len__(self) -> int: ...

    def __getitem__(self, index: int) -> Tensor: ...


@dataclass(frozen=True, slots=True)
class ArrayImages:
    """Photos held as uint8 [n, 3, H, W]."""

    pixels: NDArray[np.uint8]

    def __len__(self) -> int:
        return len(self.pixels)

    def __getitem__(self, index: int) -> Tensor:
        return torch.from_numpy(self.pixels[index]).float() / 255


@dataclass(frozen=True, slots=True)
class FileImages:
    """Photos read from files, reduced to ``size`` (H, W)."""

    paths: Sequence[Path]
    size: tuple[int, int]

    def __len__(self) -> int:
        return len(self.paths)

    def __getitem__(self, index: int) -> Tensor:
        unscaled = ImagePreparation(self.size, (0.0, 0.0, 0.0), (1.0, 1.0, 1.0), "squash")
        return unscaled(read_picture(self.paths[index]))


@dataclass(frozen=True, slots=True)
class CaptionedImages:
    """Images with captions.

    Parameters
    ----------
    images : Images
    image_names : sequence of n str
    image_ids : ndarray [n], int64
        Who is seen.
    captions : sequence of m str
    caption_image : ndarray [m], int64
        The image of each caption.
    """

    images: Images
    image_names: Sequence[str]
    image_ids: NDArray[np.int64]
    captions: Sequence[str]
    caption_image: NDArray[np.int64]

    @property
    def caption_ids(self) -> NDArray[np.int64]:
        """Who each caption describes: [m]."""
        out: NDArray[np.int64] = self.image_ids[self.caption_image]
        return out


def preparation(size: tuple[int, int]) -> ImagePreparation:
    """What turns a photo of any size into the input of the image tower."""
    return ImagePreparation(size, CLIP_MEAN, CLIP_STD, "squash")


def normalise(images: Tensor) -> Tensor:
    """[..., 3, H, W] in [0, 1] to CLIP's mean and deviation."""
    mean, std = (torch.tensor(x, device=images.device)[:, None, None] for x in (CLIP_MEAN, CLIP_STD))
    return (images - mean) / std


def augment(images: Tensor, generator: torch.Generator) -> Tensor:
    """Section 5: flip, shift within a black border, erase a box. [B, 3, H, W] in [0, 1] -> the same, normalised.

    The border is 10 pixels at a height of 384 and in proportion elsewhere.
    """
    height, width = images.shape[-2:]
    border = max(1, round(10 * height / 384))
    views = []
    for image in F.pad(images, (border,) * 4):
        flip, top, left = torch.rand(3, generator=generator).tolist()
        y, x = (int(u * (2 * border + 1)) for u in (top, left))
        view = image[:, y : y + height, x : x + width]
        views.append(view.flip(-1) if flip < 0.5 else view)
    out = normalise(torch.stack(views))
    for image in out:
        erase, share, log_ratio, top, left = torch.rand(5, generator=generator).tolist()
        area, ratio = (0.02 + 0.38 * share) * height * width, 0.3 * (3.3 / 0.3) ** log_ratio
        h, w = round((area * ratio) ** 0.5), round((area / ratio) ** 0.5)
        if erase < 0.5 and h < height and w < width:
            y, x = int(top * (height - h + 1)), int(left * (width - w + 1))
            # the numbers of CLIP's mean in an image that is normalised already: so it is in the official code
            image[:, y : y + h, x : x + w] = torch.tensor(CLIP_MEAN)[:, None, None]
    return out
