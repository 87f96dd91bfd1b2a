"""What `attn probe relevance` draws, from its arrays and facts alone."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from ...report.canvas import literal
from ..panel import FigureData, FigureFile, extent

if TYPE_CHECKING:
    from .look import LookedThrough

CLIPPED = 0.99
"""Quantile of the absolute relevance at which the colours end."""
DIVERGING, SEQUENTIAL = "RdBu_r", "viridis"
MEANING = (
    "Relevance says how the model came to this logit. It does not say that the model is right, nor what would happen "
    "without a pixel: deletion and insertion ask that."
)
NAMES = {"relevance": "relevance", "salient": "salient relevance", "gradient": "gradient x input"}


def draw(data: FigureData, canvas: FigureFile) -> None:
    """Picture and regions, signed relevance, SR map, what each layer kept, deletion and insertion."""
    arrays = data.arrays
    with canvas((2000, 1100), layout="constrained") as figure:
        figure.suptitle(literal(data.title))
        figure.supxlabel(MEANING, fontsize=9)
        (whole, signed, salient), (layers, curves, parts) = figure.subplots(2, 3)
        _place(whole, data)
        whole.set_title("picture, and its salient regions")
        _boxes(whole, data)
        values = arrays["relevance"].sum(0)
        limit = float(np.quantile(np.abs(values), CLIPPED)) or 1.0
        _place(signed, data, faint=True)
        shown = signed.imshow(
            values, cmap=DIVERGING, vmin=-limit, vmax=limit, extent=extent(data), interpolation="nearest", alpha=0.85
        )
        figure.colorbar(shown, ax=signed, shrink=0.8, label="relevance (red: for the class; blue: against it)")
        signed.set_title(literal(f"relevance for {data.facts['class']}, {data.facts['rules']} rules"))
        _place(salient, data)
        over = salient.imshow(arrays["saliency"], cmap=SEQUENTIAL, vmin=0, vmax=1, extent=extent(data), alpha=0.65)
        figure.colorbar(over, ax=salient, shrink=0.8, label="saliency of the relevance map")
        salient.set_title("salient relevance (SR map)")
        _layers(layers, data)
        _curves(curves, data)
        _signs(parts, data)


def _place(panel: Any, data: FigureData, *, faint: bool = False) -> None:
    picture = data.arrays["picture"]
    shown = np.repeat(picture.mean(2, keepdims=True).astype(np.uint8), 3, 2) if faint else picture
    panel.imshow(shown, alpha=0.35 if faint else 1.0)
    panel.set(xlim=(-0.5, picture.shape[1] - 0.5), ylim=(picture.shape[0] - 0.5, -0.5))
    panel.set_axis_off()


def _boxes(panel: Any, data: FigureData) -> None:
    from matplotlib.patches import Rectangle

    left, right, bottom, top = extent(data)
    height, width = data.arrays["saliency"].shape
    across, down = (right - left) / width, (bottom - top) / height
    for number, (x0, y0, x1, y1) in enumerate(data.arrays["boxes"].tolist(), 1):
        corner = (left + x0 * across, top + y0 * down)
        panel.add_patch(
            Rectangle(corner, (x1 - x0) * across, (y1 - y0) * down, fill=False, edgecolor="orange", linewidth=1.6)
        )
        panel.text(*corner, str(number), color="black", backgroundcolor="orange", fontsize=7, va="bottom")


def _layers(panel: Any, data: FigureData) -> None:
    """Relevance below each layer, over that it began with."""
    kept = data.arrays["kept"]
    names = data.facts["layers_named"]
    start = kept[0, 0] or 1.0
    panel.plot(range(len(kept) + 1), np.append(kept[0, 0], kept[:, 1]) / start, marker="o", markersize=4)
    panel.axhline(1.0, color="grey", linestyle=":", label="all of it")
    step = max(1, len(names) // 12)
    panel.set_xticks(
        range(0, len(names) + 1, step), [literal(name) for name in ["logit", *names]][::step], rotation=60, fontsize=7,
        ha="right",
    )  # fmt: skip
    panel.set(title="what is left of the relevance, layer by layer", ylabel="share of the logit")
    panel.set_ylim(min(0.0, *panel.get_ylim()), None)
    panel.legend(frameon=False)


def _curves(panel: Any, data: FigureData) -> None:
    if "curves" not in data.arrays:
        panel.text(0.5, 0.5, "deletion and insertion\nwere not asked for", ha="center", va="center")
        panel.set_axis_off()
        return
    curves = data.arrays["curves"]
    share = np.linspace(0, 1, curves.shape[2])
    for number, (name, (deleted, inserted)) in enumerate(zip(data.facts["maps"], curves, strict=True)):
        panel.plot(share, deleted, color=f"C{number}", label=f"{NAMES[name]}: deleted")
        panel.plot(share, inserted, color=f"C{number}", linestyle="--", label="inserted")
    panel.set(title="class score without, and with only, the first cells", xlabel="share of the picture",
              ylabel="probability", ylim=(0, 1.02))  # fmt: skip
    panel.legend(frameon=False, fontsize=7)


def _signs(panel: Any, data: FigureData) -> None:
    """How much speaks for the class, and how much against it."""
    amounts = [data.facts["positive"], -data.facts["negative"]]
    panel.barh(["for", "against"], amounts, color=["#b2182b", "#2166ac"])
    panel.set(title="sum of the relevance of the pixels", xlabel="in the unit of the logit")


def overlay(picture: NDArray[np.uint8], found: LookedThrough) -> NDArray[np.uint8]:
    """The SR map over the picture as the model sees it, [h, w, 3]."""
    import matplotlib

    colours = matplotlib.colormaps[SEQUENTIAL](found.salient)[..., :3] * 255
    return np.asarray(np.rint(0.45 * picture + 0.55 * colours), np.uint8)
