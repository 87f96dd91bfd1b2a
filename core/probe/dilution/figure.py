"""The figure of `attn probe dilution`."""

from __future__ import annotations

import numpy as np

from ...report.canvas import literal
from ..panel import FigureData, FigureFile


def draw(data: FigureData, canvas: FigureFile) -> None:
    """Sink and engagement head by head, layer by layer, and by depth; what was before dashed."""
    arrays = data.arrays
    layers = range(len(arrays["sink"]))
    with canvas((2200, 600), layout="constrained") as figure:
        figure.suptitle(literal(data.title))
        sink, engaged, line, depth = figure.subplots(1, 4)
        for axes, name, title in ((sink, "sink", "On the first tokens"), (engaged, "engagement", "On the context")):
            drawn = axes.imshow(arrays[name], aspect="auto", cmap="viridis", vmin=0, vmax=1)
            figure.colorbar(drawn, ax=axes, label="share of attention")
            axes.set(title=title, xlabel="head", ylabel="layer")
        for colour, name in (("C0", "sink"), ("C1", "engagement"), ("C2", "entropy")):
            line.plot(layers, arrays[name].mean(1), "o-", color=colour, markersize=4, label=name)
            if f"{name}_before" in arrays:
                line.plot(layers, arrays[f"{name}_before"].mean(1), "--", color=colour, label=f"{name}, before")
        line.set(title="Mean over heads", xlabel="layer", ylim=(-0.02, 1.02))
        line.legend(frameon=False)
        tenths = 10 * np.arange(arrays["depth"].shape[-1]) + 5
        depth.plot(tenths, arrays["depth"].mean((0, 1)), "o-", color="C1", markersize=4, label="all layers")
        if "depth_before" in arrays:
            depth.plot(tenths, arrays["depth_before"].mean((0, 1)), "--", color="C1", label="all layers, before")
        depth.set(title="By depth in the context", xlabel="per cent of the context", ylabel="share of attention")
        depth.set_ylim(bottom=0)
        depth.legend(frameon=False)
