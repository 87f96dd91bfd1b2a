"""What `attn probe contrast` draws."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np

from ...models.pictures import ColourPicture, eight_bits
from ...prune.carve.method import Carved
from ...report.canvas import canvas, literal


def draw(path: Path, done: Carved, picture: ColourPicture, *, title: str) -> None:
    """Picture, map, mask and box, crop, and the entropy of each layer."""
    shown = eight_bits(picture.pixels)
    with canvas(path, (2000, 560), layout="constrained") as figure:
        figure.suptitle(literal(title))
        whole, ratio, mask, crop, curve = figure.subplots(1, 5)
        whole.imshow(shown)
        whole.set_title(literal(_short(f"first: {done.before}")))
        ratio.imshow(shown)
        known = done.values[np.isfinite(done.values)]
        over = ratio.imshow(
            np.ma.masked_invalid(done.values), cmap="magma", alpha=0.7, vmax=float(np.percentile(known, 99))
        )
        figure.colorbar(over, ax=ratio, shrink=0.7)
        ratio.set_title("question over instruction (attention)")
        if done.mask is not None and done.crop is not None:
            mask.imshow(np.where(done.mask[..., None], shown, shown // 5))
            _box(mask, done, picture)
            mask.set_title(f"mask, {done.mask.mean():.0%} of the pixels")
            crop.imshow(eight_bits(done.crop))
            crop.set_title(literal(_short(f"then: {done.after}")))
        else:
            mask.text(0.5, 0.5, "no contrast:\nnothing cut out", ha="center", va="center")
        for panel in (whole, ratio, mask, crop):
            panel.set_axis_off()
        draw_layers(curve, done)


def _box(panel: Any, done: Carved, picture: ColourPicture) -> None:
    from matplotlib.patches import Rectangle

    assert done.box is not None
    down, across = (read / size for read, size in zip(picture.pixels.shape[1:], picture.size, strict=True))
    x0, y0, x1, y1 = (edge * scale for edge, scale in zip(done.box, (across, down) * 2, strict=True))
    panel.add_patch(Rectangle((x0 - 0.5, y0 - 0.5), x1 - x0, y1 - y0, fill=False, edgecolor="orange", linewidth=1.5))


def draw_layers(panel: Any, done: Carved) -> None:
    """Entropy layer by layer; the layers whose ratios are fused are shaded."""
    numbers = range(len(done.entropy))
    panel.plot(numbers, done.entropy, marker="o", markersize=4, label="sums to 1")
    panel.plot(numbers, done.entropy_raw, marker="o", markersize=4, label="as it is")
    panel.axhline(np.log(done.tokens), color="grey", linestyle=":", label="even: ln of the tokens")
    panel.axvspan(min(done.layers) - 0.5, max(done.layers) + 0.5, alpha=0.15, label="fused")
    panel.set(title="Entropy of the attention", xlabel="layer", ylabel="nats")
    panel.set_ylim(bottom=0)
    panel.legend(frameon=False, fontsize=7)


def draw_densities(path: Path, rows: list[dict[str, Any]], *, title: str) -> None:
    """Entropy and accuracy over the density of texture, with 95 % intervals."""
    density = [row["density"] for row in rows]
    with canvas(path, (1300, 560), layout="constrained") as figure:
        figure.suptitle(literal(title))
        left, right = figure.subplots(1, 2)
        for panel, names in (
            (left, {"entropy": "all layers"}),
            (right, {"accuracy": "first", "accuracy_after": "then"}),
        ):
            for name, label in names.items():
                middle = np.array([row[name] for row in rows])
                low, high = (np.array([row[f"{name}_{end}"] for row in rows]) for end in ("low", "high"))
                panel.errorbar(
                    density, middle, np.stack([middle - low, high - middle]), marker="o", capsize=4, label=label
                )
            panel.set_xlabel("density of texture")
        left.set(title="Entropy of the attention to the picture", ylabel="nats")
        right.set(title="Right answers", ylabel="share")
        right.legend(frameon=False)


def _short(text: str, longest: int = 34) -> str:
    return text if len(text) <= longest else f"{text[: longest - 1]}…"
