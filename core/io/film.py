"""Pictures one after the other in a file: GIF."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from .atomic import atomic_path

FRAME, LAST = 700, 2500
"""Milliseconds that a frame is shown, and the last one."""


def write_gif(path: Path, frames: Sequence[NDArray[np.uint8]]) -> None:
    """Write frames (H, W, 3) as a GIF that goes round, atomically, in up to 256 colours of each frame.

    Raises
    ------
    ValueError
        If there is no frame.
    InputError
        If the place cannot be written.
    """
    from PIL import Image

    if not frames:
        raise ValueError("a film needs at least one frame")
    images = [Image.fromarray(frame).quantize(256, dither=Image.Dither.NONE) for frame in frames]
    durations = [FRAME] * (len(images) - 1) + [LAST]
    with atomic_path(path) as temporary, open(temporary, "wb") as file:
        images[0].save(
            file, format="GIF", save_all=True, append_images=images[1:], duration=durations, loop=0, optimize=False
        )
