"""A photo as a small JPEG, for pages of hits."""

from __future__ import annotations

from io import BytesIO
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from ...io.tables import read_picture

THUMBNAIL = 240
"""Longer side of a picture, in px."""


def thumbnail(path: Path, patches: NDArray[np.float32] | None = None) -> bytes:
    """A small JPEG, darker where ``patches`` are low. Raises ``InputError`` for a file that is gone or damaged."""
    from PIL import Image

    pixels = read_picture(path, 4 * THUMBNAIL)  # [3, H, W]
    picture = Image.fromarray((pixels.transpose(1, 2, 0) * 255 + 0.5).astype("uint8"))
    picture.thumbnail((THUMBNAIL, THUMBNAIL))
    if patches is not None:
        light = Image.fromarray((64 + 191 * patches).astype("uint8")).resize(picture.size, Image.Resampling.BICUBIC)
        picture = Image.composite(picture, Image.new("RGB", picture.size), light)
    memory = BytesIO()
    picture.save(memory, "JPEG", quality=85)
    return memory.getvalue()
