"""A path drawn on the picture: boxes, lines, and numbered discs where it looked."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from itertools import pairwise
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from .objects import Objects

TARGET, BOX, LINE, DISC = (0, 200, 60), (235, 235, 235), (255, 120, 0), (20, 40, 160)


def overlay(
    picture: NDArray[np.uint8], objects: Objects, path: Sequence[int], steps: int | None = None
) -> NDArray[np.uint8]:
    """The picture with boxes, that of the target green, and the first ``steps`` fixations of the path.

    Parameters
    ----------
    picture : ndarray (h, w, 3) of uint8
        May be smaller than the ``size`` that the boxes are of.
    objects : Objects
    path : sequence of int
    steps : int or None
        None: all. Of the newest fixation the disc is orange.
    """
    import matplotlib
    from PIL import Image, ImageDraw, ImageFont

    drawn = Image.fromarray(picture.copy())
    objects = objects.at((drawn.height, drawn.width))
    pen = ImageDraw.Draw(drawn)
    sides = np.median(objects.boxes[:, 2:] - objects.boxes[:, :2], axis=0)
    radius = max(5.0, 0.22 * float(sides.min()))
    width = max(1, round(radius / 5))
    font = ImageFont.truetype(str(Path(matplotlib.get_data_path()) / "fonts/ttf/DejaVuSans.ttf"), round(1.1 * radius))
    for number, box in enumerate(objects.boxes):
        corners = box.tolist()
        corners[2:] = [edge - 1 for edge in corners[2:]]
        pen.rectangle(corners, outline=TARGET if number == objects.target else BOX, width=width)
    centres = objects.centres
    shown = path[: len(path) if steps is None else steps]
    places, met = [], Counter[int]()
    for item in shown:  # another look at an object stands beside the one before
        places.append(centres[item] + met[item] * np.array([1.3, 0.9]) * radius)
        met[item] += 1
    for start, end in pairwise(places):
        pen.line([*start, *end], fill=LINE, width=max(2, 2 * width))
    for number, (x, y) in enumerate(places, 1):
        newest = steps is not None and number == len(places)
        pen.ellipse((x - radius, y - radius, x + radius, y + radius), fill=LINE if newest else DISC, outline=BOX)
        pen.text((x, y), str(number), fill=(255, 255, 255), anchor="mm", font=font)
    return np.asarray(drawn)
