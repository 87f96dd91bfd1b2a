"""What `attn probe contrast` draws."""

from __future__ import annotations

from typing import Any

import numpy as np

from ...report.canvas import literal
from ..panel import FigureData, FigureFile


def draw(data: FigureData, canvas: FigureFile) -> None:
    """Picture, map, mask and box, crop, and the entropy of each layer."""
    arrays, picture = data.arrays, data.arrays["picture"]
    height, width = picture.shape[:2]
    everywhere = (-0.5, width - 0.5, height - 0.5, -0.5)  # the map has a value for each pixel that was read
    with canvas((2000, 560), layout="constrained") as figure:
        figure.suptitle(literal(data.title))
        whole, ratio, mask, crop, curve = figure.subplots(1, 5)
        whole.imshow(picture)
        whole.set_title(literal(_short(f"first: {data.facts['answer_before']}")))
        ratio.imshow(picture)
        known = arrays["map"][np.isfinite(arrays["map"])]
        over = ratio.imshow(
            np.ma.masked_invalid(arrays["map"]), cmap="viridis", alpha=0.7, vmax=float(np.percentile(known, 99)),
            extent=everywhere,
        )  # fmt: skip
        figure.colorbar(over, ax=ratio, shrink=0.7)
        ratio.set_title("question over instruction (attention)")
        if "mask" in arrays:
            mask.imshow(picture)
            dark = np.zeros((*arrays["mask"].shape, 4))
            dark[..., 3] = np.where(arrays["mask"], 0, 0.8)
            mask.imshow(dark, extent=everywhere)
            _box(mask, data)
            mask.set_title(f"mask, {arrays['mask'].mean():.0%} of the pixels")
            crop.imshow(arrays["crop"])
            crop.set_title(literal(_short(f"then: {data.facts['answer_after']}")))
        else:
            mask.text(0.5, 0.5, "no contrast:\nnothing cut out", ha="center", va="center")
        for panel in (whole, ratio, mask, crop):
            panel.set_axis_off()
        _draw_layers(curve, data)


def _box(panel: Any, data: FigureData) -> None:
    from matplotlib.patches import Rectangle

    picture = data.arrays["picture"]
    down, across = (shown / size for shown, size in zip(picture.shape[:2], data.facts["size"], strict=True))
    x0, y0, x1, y1 = (edge * scale for edge, scale in zip(data.arrays["box"], (across, down) * 2, strict=True))
    panel.add_patch(Rectangle((x0 - 0.5, y0 - 0.5), x1 - x0, y1 - y0, fill=False, edgecolor="orange", linewidth=1.5))


def _draw_layers(panel: Any, data: FigureData) -> None:
    """Entropy layer by layer; the layers whose ratios are fused are shaded."""
    arrays = data.arrays
    numbers, layers = range(len(arrays["entropy"])), arrays["layers"]
    panel.plot(numbers, arrays["entropy"], marker="o", markersize=4, label="sums to 1")
    panel.plot(numbers, arrays["entropy_raw"], marker="o", markersize=4, label="as it is")
    panel.axhline(np.log(len(arrays["ratio"])), color="grey", linestyle=":", label="even: ln of the tokens")
    panel.axvspan(min(layers) - 0.5, max(layers) + 0.5, alpha=0.15, label="fused")
    panel.set(title="Entropy of the attention", xlabel="layer", ylabel="nats")
    panel.set_ylim(bottom=0)
    panel.legend(frameon=False, fontsize=7)


def draw_densities(data: FigureData, canvas: FigureFile) -> None:
    """Entropy and accuracy over the density of texture, with 95 % intervals."""
    density = data.arrays["density"]
    with canvas((1300, 560), layout="constrained") as figure:
        figure.suptitle(literal(data.title))
        left, right = figure.subplots(1, 2)
        for panel, names in (
            (left, {"entropy": "all layers"}),
            (right, {"accuracy": "first", "accuracy_after": "then"}),
        ):
            for name, label in names.items():
                middle, low, high = data.arrays[name]
                panel.errorbar(
                    density, middle, np.stack([middle - low, high - middle]), marker="o", capsize=4, label=label
                )
            panel.set_xlabel("density of texture")
        left.set(title="Entropy of the attention to the picture", ylabel="nats")
        right.set(title="Right answers", ylabel="share")
        right.legend(frameon=False)


def _short(text: str, longest: int = 34) -> str:
    return text if len(text) <= longest else f"{text[: longest - 1]}…"
