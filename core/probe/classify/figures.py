"""What `attn probe classify` draws: the ladder, and where queries look. Pure functions of arrays and facts."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ...report.canvas import literal
from ..panel import FigureData, FigureFile

HUES = np.array(
    [
        (230, 57, 53), (30, 136, 229), (253, 216, 53), (67, 160, 71), (142, 36, 170), (251, 140, 0), (0, 172, 193),
        (216, 27, 96), (109, 76, 65), (192, 202, 51),
    ]
) / 255  # fmt: skip
"""Ten saturated, well separated colours, repeated where there are more groups."""
ACCURACY = "accuracy on the test part"
ACROSS = 3
"""Pictures in a row."""


def draw_ladder(data: FigureData, file: FigureFile) -> None:
    """Probe by probe; beside it, where there are any, accuracy layer by layer and shot by shot.

    Facts: ``rows`` (probe, layer, parameters, top1, low, high), ``shots`` (probe, shots, top1, low, high), ``chance``.
    """
    rows, shots, chance = data.facts["rows"], data.facts["shots"], data.facts["chance"]
    layers = sorted({row["layer"] for row in rows})
    panels = 1 + (len(layers) > 1) + bool(shots)
    with file((820 * panels, max(520, 190 + 46 * len(rows) // max(1, len(layers)))), layout="constrained") as figure:
        figure.suptitle(literal(data.title))
        axes = list(np.atleast_1d(figure.subplots(1, panels)))
        probes = list(dict.fromkeys(row["probe"] for row in rows))
        _rungs(first := axes.pop(0), [row for row in rows if row["layer"] == layers[-1]], probes, layers[-1])
        if len(layers) > 1:
            _lines(axes.pop(0), rows, probes, "layer", "Layer by layer")
        if shots:
            _lines(axes.pop(0), shots, probes, "shots", "Pictures of each class to learn from")
        for ax in figure.axes:
            (ax.axvline if ax is first else ax.axhline)(chance, color="0.5", linewidth=0.9, linestyle=":")
            ax.grid(visible=True, color="0.92")
            ax.spines[["top", "right"]].set_visible(False)
        figure.supxlabel(f"dotted: what naming the largest class comes to, {chance:.1%}", fontsize=8, color="0.4")


def _colour(probes: list[str], probe: str) -> str:
    return f"C{probes.index(probe) % 10}"


def _rungs(ax: Any, rows: list[dict[str, Any]], probes: list[str], layer: int) -> None:
    """One line a probe, the first at the top."""
    for place, row in enumerate(reversed(rows)):
        bars = np.maximum([[row["top1"] - row["low"]], [row["high"] - row["top1"]]], 0)
        ax.errorbar(row["top1"], place, xerr=bars, fmt="o", capsize=3, color=_colour(probes, row["probe"]))
    ax.set_yticks(
        range(len(rows)),
        [literal(f"{row['probe']} ({row['parameters']:,} parameters)") for row in reversed(rows)],
    )
    ax.set(
        title=f"Layer {layer}, mean and 95 % interval", xlabel=ACCURACY, xlim=(0, 1.02), ylim=(-0.7, len(rows) - 0.3)
    )


def _lines(ax: Any, rows: list[dict[str, Any]], probes: list[str], axis: str, title: str) -> None:
    for probe in probes:
        of = [row for row in rows if row["probe"] == probe]
        if of:
            xs = [row[axis] for row in of]
            colour = _colour(probes, probe)
            ax.plot(xs, [row["top1"] for row in of], marker="o", markersize=4, label=probe, color=colour)
            ax.fill_between(
                xs, [row["low"] for row in of], [row["high"] for row in of], color=colour, alpha=0.12, linewidth=0
            )
    ax.set(xlabel=axis, ylabel=ACCURACY, title=title, ylim=(0, 1.02))
    ax.set_xticks(sorted({row[axis] for row in rows}))
    ax.legend(frameon=False, fontsize=7)


def draw_queries(data: FigureData, file: FigureFile) -> None:
    """Section 3.7 of methods/efficient-probing.md: hue by the group that looks most, opacity by how much.

    Arrays: ``seen`` [n, S, T, 3] uint8, what the model was shown; ``maps`` [n, G, h, w]. Facts: ``captions``.
    """
    seen, maps, captions = data.arrays["seen"], data.arrays["maps"], data.facts["captions"]
    columns = min(ACROSS, len(seen))
    lines = math.ceil(len(seen) / columns)
    with file((100 + 760 * columns, 120 + 420 * lines), layout="constrained") as figure:
        scale = "opacity: from the 65 % to the 99 % quantile of the largest weight in each picture"
        figure.suptitle(literal(f"{data.title}\n{scale}"))
        axes = np.atleast_1d(figure.subplots(lines, 2 * columns)).ravel()
        for ax in axes:
            ax.set_axis_off()
        for number, (picture, groups, caption) in enumerate(zip(seen, maps, captions, strict=True)):
            plain, coloured = axes[2 * number : 2 * number + 2]
            plain.imshow(picture)
            plain.set_title(literal(caption), fontsize=8)
            coloured.imshow(overlay(picture, groups))
        from matplotlib.patches import Patch

        figure.legend(
            handles=[Patch(color=HUES[i % len(HUES)], label=f"group {i + 1}") for i in range(maps.shape[1])],
            loc="outside lower center", ncols=min(10, maps.shape[1]), frameon=False,
        )  # fmt: skip


def overlay(picture: NDArray[np.uint8], groups: NDArray[Any]) -> NDArray[np.float64]:
    """Group maps [G, h, w] over the dimmed grey picture [H, W, 3]: [H, W, 3] in [0, 1]."""
    size = picture.shape[:2]
    large = np.stack([_bilinear(np.asarray(one, np.float64), size) for one in groups])
    most, owner = large.max(0), large.argmax(0)
    low, high = np.quantile(most, (0.65, 0.99))
    opacity = np.clip((most - low) / (high - low + 1e-8), 0, 1) ** 0.55
    grey = 0.55 * (picture.astype(np.float64) @ np.array([0.299, 0.587, 0.114]) / 255) + 0.10
    hue = HUES[owner % len(HUES)]
    return np.asarray((1 - opacity[..., None]) * grey[..., None] + opacity[..., None] * hue)


def _bilinear(values: NDArray[np.float64], size: tuple[int, int]) -> NDArray[np.float64]:
    """[h, w] at the middles of the pixels of ``size`` (align_corners off)."""
    for axis, length in enumerate(size):
        own = values.shape[axis]
        place = np.clip((np.arange(length) + 0.5) * own / length - 0.5, 0, own - 1)
        low = np.floor(place).astype(np.int64)
        high, share = np.minimum(low + 1, own - 1), place - low
        share = share[:, None] if axis == 0 else share
        values = (1 - share) * values.take(low, axis) + share * values.take(high, axis)
    return values
