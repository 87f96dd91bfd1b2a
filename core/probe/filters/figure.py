"""The figure of `attn probe filters`: the first layer as pictures, deeper ones as norms, all of them as curves."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.nn import functional as F

from ...report.canvas import literal
from ..panel import FigureData, FigureFile

MOSAIC = 256
"""Filters of the first layer that are drawn at most."""
NORMS = 6
"""Deeper layers that are drawn."""
CELLS = 96
"""Rows and columns of a map of norms at most; larger ones are averaged down."""
CURVES = (
    ("effective_rank_share", "Effective rank, share", (0.0, 1.0)),
    ("cos_mean", "Mean |cosine| of filters", None),
    ("separability", "Separability of the kernels", (0.0, 1.0)),
    ("frequency_centroid", "Frequency, cycles per weight", None),
    ("kurtosis", "Excess kurtosis", None),
    ("he_ratio", "Std over that of He's rule", None),
)


def tiles(filters: Tensor) -> NDArray[np.float32]:
    """Filters [O, C, h, w] with one or three channels as pictures [n, h, w, C] in [0, 1]: each around grey, scaled by
    its own largest absolute weight. Nothing, [0, 1, 1, 1], of any other shape."""
    if filters.ndim != 4 or filters.shape[1] not in (1, 3) or math.prod(filters.shape[2:]) == 1:
        return np.zeros((0, 1, 1, 1), np.float32)
    shown = filters[:MOSAIC].detach().float().cpu()
    largest = shown.flatten(1).abs().amax(1)[:, None, None, None]
    pictures = 0.5 + shown / torch.where(largest > 0, 2 * largest, 1)
    return np.asarray(pictures.permute(0, 2, 3, 1).contiguous().numpy(), np.float32)


def norms(filters: Tensor) -> NDArray[np.float32]:
    """Norm of each kernel, [O, C / groups], averaged to ``CELLS`` a side where there are more."""
    values = filters.detach().float().cpu().flatten(2).norm(dim=2)
    size = (min(CELLS, values.shape[0]), min(CELLS, values.shape[1]))
    return np.asarray(F.adaptive_avg_pool2d(values[None], size)[0].numpy(), np.float32)


def draw(data: FigureData, canvas: FigureFile) -> None:
    """Panels in rows of five; the mosaic takes four of them."""
    arrays = data.arrays
    maps = [name for name in arrays if name.startswith("norms_")]
    fields = [name for name in arrays if name.startswith("field_")]
    curves = [entry for entry in CURVES if np.isfinite(arrays[entry[0]]).any()]
    has_mosaic = len(arrays["mosaic"]) > 0
    extra = [name for name in ("dead_share", "moved_relative") if name in arrays]
    count = len(curves) + len(maps) + len(fields) + len(extra)
    columns = 5
    rows = max(2, math.ceil((count + 4 * has_mosaic) / columns))
    with canvas((400 * columns, 340 * rows + 60), layout="constrained") as figure:
        grid = figure.add_gridspec(rows, columns)
        figure.suptitle(literal(data.title))
        cells = [(r, c) for r in range(rows) for c in range(columns) if not (has_mosaic and r < 2 and c < 2)]
        if has_mosaic:
            _mosaic(figure.add_subplot(grid[:2, :2]), arrays["mosaic"], data.facts)
        places = (figure.add_subplot(grid[cell]) for cell in cells)
        for name, title, limits in curves:
            _curve(next(places), arrays[name], title, limits)
        if "dead_share" in arrays:
            _curve(next(places), arrays["dead_share"], "Share of channels dead here", (0.0, 1.0))
        if "moved_relative" in arrays:
            _moved(next(places), arrays)
        for name, layer in zip(maps, data.facts["norm_layers"], strict=True):
            axes = next(places)
            drawn = axes.imshow(arrays[name], aspect="auto", cmap="viridis", vmin=0, interpolation="nearest")
            figure.colorbar(drawn, ax=axes)
            axes.set(title=literal(f"{_short(layer)}\nnorms of kernels"), xlabel="input channel", ylabel="filter")
            axes.set(xticks=[], yticks=[])
        for name, layer in zip(fields, data.facts["field_layers"], strict=True):
            axes = next(places)
            weight = arrays[name] / max(float(arrays[name].max()), 1e-30)
            drawn = axes.imshow(np.sqrt(weight), cmap="viridis", vmin=0, vmax=1)
            figure.colorbar(drawn, ax=axes)
            axes.set(title=literal(f"{_short(layer)}\nwhat its middle sees"), xlabel="|gradient|, most = 1")
            axes.set(xticks=[], yticks=[])


def _short(name: str) -> str:
    return name if len(name) <= 32 else f"…{name[-31:]}"


def _mosaic(axes: Any, pictures: NDArray[np.float32], facts: Any) -> None:
    count, high, wide, channels = pictures.shape
    across = math.ceil(math.sqrt(count))
    down = math.ceil(count / across)
    sheet = np.ones((down * (high + 1) + 1, across * (wide + 1) + 1, channels), np.float32)
    for number, picture in enumerate(pictures):
        row, column = divmod(number, across)
        top, left = 1 + row * (high + 1), 1 + column * (wide + 1)
        sheet[top : top + high, left : left + wide] = picture
    axes.imshow(sheet if channels == 3 else sheet[..., 0], cmap="gray", vmin=0, vmax=1, interpolation="nearest")
    every = facts["mosaic_of"]
    shown = f"{count} of {every} filters" if every > count else f"{count} filters"
    axes.set_title(literal(f"{_short(facts['mosaic_layer'])}\n{shown}, each over its largest weight; grey is 0"))
    axes.set_axis_off()


def _curve(axes: Any, values: NDArray[Any], title: str, limits: tuple[float, float] | None) -> None:
    known = np.flatnonzero(np.isfinite(values))
    axes.plot(known, values[known], marker="o", markersize=3, linewidth=1, color="#31688e")
    axes.set(title=title, xlabel="layer", xlim=(-0.5, len(values) - 0.5))
    if limits is not None:
        axes.set_ylim(limits[0] - 0.02, limits[1] + 0.02)


def _moved(axes: Any, arrays: Any) -> None:
    """How far filters moved: mean, and the middle 80 % of each layer."""
    layer, moved = arrays["layer_of_change"], arrays["moved_relative"]
    numbers = np.unique(layer)
    known = [moved[(layer == number) & np.isfinite(moved)] for number in numbers]
    low, middle, high = (
        [float(np.quantile(values, share)) if len(values) else math.nan for values in known]
        for share in (0.1, 0.5, 0.9)
    )
    axes.fill_between(numbers, low, high, alpha=0.25, color="#31688e", linewidth=0)
    axes.plot(numbers, middle, marker="o", markersize=3, linewidth=1, color="#31688e")
    axes.set(title="Filters moved, over norm\n(median, 10 to 90 %)", xlabel="layer")
    axes.set_ylim(bottom=0)
