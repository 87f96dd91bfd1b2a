"""What `attn probe scanpath` draws."""

from __future__ import annotations

import numpy as np

from ...report.canvas import literal
from ..panel import FigureData, FigureFile

MOST = 40
"""Objects whose names have room beside the strip."""


def draw(data: FigureData, canvas: FigureFile) -> None:
    """The numbered path on the picture, and the probabilities of all objects at each step of it."""
    arrays = data.arrays
    chances, path = arrays["probabilities"], arrays["path"]
    names = [*data.facts["labels"], "stop"]
    with canvas((2000, 900), layout="constrained") as figure:
        figure.suptitle(literal(data.title))
        left, right = figure.subplots(1, 2)
        left.imshow(arrays["overlay"])
        left.set_axis_off()
        left.set_title("likeliest path; the target's box is green")
        drawn = right.imshow(chances.T, cmap="viridis", vmin=0, vmax=1, aspect="auto", interpolation="nearest")
        figure.colorbar(drawn, ax=right, label="probability")
        right.plot(np.arange(len(path)), path, "o", color="white", markersize=4)
        right.set(title="what is looked at next, step by step", xlabel="step")
        right.set_xticks(range(len(chances)), [str(1 + step) for step in range(len(chances))])
        if len(names) <= MOST:
            right.set_yticks(range(len(names)), [literal(name[:18]) for name in names], fontsize=7)
        else:
            right.set_ylabel("object, from 0; last: stop")
        right.get_yaxis().set_inverted(True)
