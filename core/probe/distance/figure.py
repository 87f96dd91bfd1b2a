"""The figures of `attn probe distance`: of one picture, and of the domains."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from ...report.canvas import literal
from ..panel import FigureData, FigureFile, extent

MASSES = {"fg_to_fg": "object to object", "fg_to_bg": "object to background", "bg_to_fg": "background to object"}


def draw(data: FigureData, canvas: FigureFile) -> None:
    """Of one picture: distance layer by layer and head by head, over the picture, and shares of the attention."""
    arrays = data.arrays
    far = arrays["distance_patches"]
    layers = range(len(far))
    with canvas((2200, 600), layout="constrained") as figure:
        figure.suptitle(literal(data.title))
        curve, matrix, place, shares = figure.subplots(1, 4)
        least, low, middle, high, most = np.quantile(far, [0, 0.25, 0.5, 0.75, 1], axis=1)
        curve.fill_between(layers, least, most, alpha=0.15, color="C0", label="all heads")
        curve.fill_between(layers, low, high, alpha=0.3, color="C0", label="half of the heads")
        curve.plot(layers, middle, color="C0", linewidth=0.8, label="median head")
        curve.plot(layers, far.mean(1), "o-", color="C0", markersize=4, label="mean over heads")
        if "distance_before" in arrays:
            curve.plot(layers, arrays["distance_before"].mean(1), "s--", color="C1", markersize=4, label="model before")
        _distance_axis(curve, data)
        drawn = matrix.imshow(far, aspect="auto", cmap="viridis", vmin=0)
        figure.colorbar(drawn, ax=matrix, label="patches")
        matrix.set(title="Attention distance of each head", xlabel="head", ylabel="layer")
        picture = arrays["picture"]
        place.imshow(picture)
        last = arrays["distance_px_by_patch"][-1]
        over = place.imshow(last, cmap="viridis", alpha=0.6, extent=extent(data), clip_on=True)
        _outlines(place, data)
        place.set(xlim=(-0.5, picture.shape[1] - 0.5), ylim=(picture.shape[0] - 0.5, -0.5))
        figure.colorbar(over, ax=place, label="pixels of the file")
        place.set_title(f"How far each place looks, layer {len(far) - 1}")
        place.set_axis_off()
        shares.plot(layers, arrays["dropped"].mean(1), color="grey", label="on class token, registers (dropped)")
        for number, (name, label) in enumerate(MASSES.items()):
            if name in arrays:
                shares.plot(layers, arrays[name].mean(1), "o-", color=f"C{number}", markersize=4, label=label)
        if "objects" in arrays:
            shares.axhline(arrays["objects"].mean(), color="black", linestyle=":", label="patches in objects")
        _share_axis(shares)


def draw_domains(data: FigureData, canvas: FigureFile) -> None:
    """Of all pictures: both domains layer by layer, their difference with intervals and head by head, and shares."""
    arrays, names = data.arrays, data.facts["domains"]
    with canvas((2200, 600), layout="constrained") as figure:
        figure.suptitle(literal(data.title))
        curve, delta, matrix, shares = figure.subplots(1, 4)
        for colour, name in zip(("C0", "C1"), names, strict=False):
            far: NDArray[Any] = arrays[f"{name}_distance"]
            layers = range(far.shape[1])
            low, high = np.quantile(far, [0.1, 0.9], axis=0)
            curve.fill_between(layers, low, high, alpha=0.2, color=colour)
            curve.plot(
                layers, far.mean(0), "o-", color=colour, markersize=4,
                label=f"{name}, n = {len(far)} (band: 80 % of them)",
            )  # fmt: skip
            shares.plot(layers, arrays[f"{name}_dropped"], color=colour, linestyle=":", label=f"{name}: dropped")
            for style, (key, label) in zip(("-", "--", "-."), MASSES.items(), strict=True):
                if f"{name}_{key}" in arrays:
                    shares.plot(layers, arrays[f"{name}_{key}"], style, color=colour, label=f"{name}: {label}")
        _distance_axis(curve, data)
        _share_axis(shares)
        delta.axhline(0, color="grey", linewidth=0.8)
        for number, name in enumerate(data.facts["changes"]):
            percent, low, high = (arrays[key][number][:-1] for key in ("percent", "low", "high"))
            known = np.isfinite(low)
            delta.plot(percent, "o-", color=f"C{number + 2}", markersize=4, label=literal(name))
            delta.vlines(np.flatnonzero(known), low[known], high[known], color=f"C{number + 2}")
        delta.set(title="Difference, 95 % interval over pictures", xlabel="layer", ylabel="per cent")
        if data.facts["changes"]:
            delta.legend(frameon=False, fontsize=7)
            heads = arrays["percent_heads"][0]
            most = float(np.nanmax(np.abs(heads), initial=0.0)) or 1.0
            drawn = matrix.imshow(heads, aspect="auto", cmap="RdBu_r", vmin=-most, vmax=most)
            figure.colorbar(drawn, ax=matrix, label="per cent")
            matrix.set(title=literal(data.facts["changes"][0]), xlabel="head", ylabel="layer")
        else:
            for panel in (delta, matrix):
                panel.text(0.5, 0.5, "one domain:\nnothing to compare", ha="center", transform=panel.transAxes)


def _distance_axis(panel: Any, data: FigureData) -> None:
    panel.axhline(data.facts["uniform_patches"], color="black", linestyle=":", label="uniform attention")
    panel.set(title="Layer by layer", xlabel="layer", ylabel="attention distance, patches")
    panel.set_ylim(bottom=0)
    panel.legend(frameon=False, fontsize=7)


def _share_axis(panel: Any) -> None:
    panel.set(title="Shares of the attention", xlabel="layer", ylabel="share", ylim=(-0.02, 1.02))
    panel.legend(frameon=False, fontsize=7)


def _outlines(panel: Any, data: FigureData) -> None:
    """The boxes of objects, in pixels of the file, on the shrunk picture."""
    from matplotlib.patches import Rectangle

    height, width = data.arrays["picture"].shape[:2]
    down, across = height / data.facts["size"][0], width / data.facts["size"][1]
    for x0, y0, x1, y1 in data.arrays.get("boxes", ()):
        corner, sides = (x0 * across - 0.5, y0 * down - 0.5), ((x1 - x0) * across, (y1 - y0) * down)
        panel.add_patch(Rectangle(corner, *sides, fill=False, edgecolor="orange", linewidth=1.2))
