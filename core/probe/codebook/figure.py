"""The figure of `attn probe codebook`."""

from __future__ import annotations

from typing import Any

import numpy as np

from ...report.canvas import literal
from ..panel import FigureData, FigureFile


def draw(data: FigureData, canvas: FigureFile) -> None:
    """Usage of codes, the goals they are for, and the views that the most used ones are likeliest in."""
    arrays = data.arrays
    with canvas((2200, 900), layout="constrained") as figure:
        figure.suptitle(literal(data.title))
        halves: Any = figure.subfigures(1, 2)
        left, right = halves
        has_goals = "by_goal" in arrays
        panels = np.atleast_1d(left.subplots(2 if has_goals else 1, 1))
        usage, top = arrays["usage"], arrays["top"]
        order = np.argsort(-usage, kind="stable")
        panels[0].bar(np.arange(len(usage)), usage[order], width=1.0)
        panels[0].axhline(1 / len(usage), color="k", linewidth=0.8, linestyle="--")
        panels[0].set(title="Mean probability, sorted; dashed: even", xlabel="codes", ylabel="mean probability")
        if has_goals:
            rows = arrays["by_goal"][top]
            panels[1].imshow(rows / np.maximum(rows.sum(1, keepdims=True), 1), aspect="auto", cmap="viridis")
            panels[1].set_yticks(range(len(top)), [str(code) for code in top])
            panels[1].set(title="Goals of the frames that a code wins", xlabel="goal", ylabel="code")
        if "views" not in arrays:
            return
        views = arrays["views"]
        grid = right.subplots(len(top), views.shape[1], squeeze=False)
        for number, code in enumerate(top):
            for place, axes in enumerate(grid[number]):
                axes.imshow(views[number, place])
                axes.set(xticks=[], yticks=[])
            grid[number][0].set_ylabel(f"code {code}")
        right.suptitle("Views in which a code is the most probable")
