"""The figure of `attn probe text`."""

from __future__ import annotations

import numpy as np

from ...report.canvas import literal
from ..panel import FigureData, FigureFile


def draw(data: FigureData, canvas: FigureFile) -> None:
    """Correlations and shifts of every text, and accuracy by the norm of a perturbation; models side by side."""
    arrays, names = data.arrays, data.facts["models"]
    with canvas((2000, 620), layout="constrained") as figure:
        figure.suptitle(literal(data.title))
        agree, moved, attacked = figure.subplots(1, 3)
        bins = np.linspace(-1, 1, 41)
        for number, name in enumerate(names):
            colour, shown = f"C{number}", literal(name)
            kendall = arrays["kendall"][number]
            kendall = kendall[np.isfinite(kendall)]
            agree.hist(kendall, bins, histtype="step", color=colour, label=shown)
            moved.hist(arrays["permuted"][number], np.linspace(0, 1, 41), histtype="step", color=colour, label=shown)
            worst, chance = arrays["attacked"][number]
            attacked.plot(arrays["norms"], worst, "o-", color=colour, markersize=4, label=f"{shown}, worst")
            attacked.plot(arrays["norms"], chance, "--", color=colour, label=f"{shown}, random")
        agree.set(title="Attention and gradients", xlabel="Kendall's correlation of a text", ylabel="texts")
        moved.set(title="Attention shuffled", xlabel="how far the answer moves (total variation)", ylabel="texts")
        attacked.set(title="Scores perturbed", xlabel="norm of the perturbation", ylabel="accuracy", ylim=(-0.02, 1.02))
        for axes in (agree, moved, attacked):
            axes.legend(frameon=False, fontsize="small")
