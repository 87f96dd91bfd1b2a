"""What `attn probe vit` draws: the four views of the paper, of one picture and of all of them."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from ...report.canvas import literal
from ..panel import FigureData, FigureFile, extent

MEANINGS = {
    "jsd": "JSD, nats", "kl": "KL, nats", "dprob": "fall of the class's probability", "dloss": "rise of the loss, nats",
    "flip": "class changes", "acc": "fall of accuracy", "cos": "1 - cosine of the feature",
    "gradient": "|sum of A dlnp/dA|",
}  # fmt: skip
"""Of the measures."""
CLUSTERS = 10
"""Colours of matplotlib's cycle."""


def draw(data: FigureData, canvas: FigureFile) -> None:
    """One picture: which heads matter and what they are called, how far they look, and where the last layer looks."""
    with canvas((2000, 1060), layout="constrained") as figure:
        figure.suptitle(
            literal(f"{data.title}\nattention is not explanation: effects are measured by taking heads out")
        )
        top, bottom = figure.subplots(2, 4)
        ranking = str(data.facts["ranking"])
        head_matrix(top[0], data.arrays[f"importance_{ranking}"], data.facts["names"], ranking)
        distance_matrix(top[1], data.arrays["distance_patches"])
        ring_profile(top[2], data.arrays["ring_sum"], data.facts["grid"])
        layer_curves(top[3], data, ranking)
        last = len(data.arrays["distance_px_by_patch"]) - 1
        seen, title = (
            (data.arrays["class_row"][-1], "class token, last layer") if data.facts["has_class"]
            else (data.arrays["received"][-1].mean(0).reshape(data.facts["grid"]), "received, last layer")
        )  # fmt: skip
        per_patch(
            bottom[0], data, seen, f"Attention of the {title}" if data.facts["has_class"] else f"Attention {title}"
        )
        received = data.arrays["received"][-1].mean(0).reshape(data.facts["grid"])
        sunk = data.arrays["sinks"][-1]
        per_patch(bottom[1], data, received, f"Received from all patches; {int(sunk.sum())} sinks (x)", marks=sunk)
        per_patch(bottom[2], data, data.arrays["cleared"][-1], "The same over a blank picture's, no sinks")
        per_patch(
            bottom[3], data, data.arrays["distance_px_by_patch"][-1], f"How far each place looks, layer {last}",
            unit="pixels",
        )  # fmt: skip


def draw_heads(data: FigureData, canvas: FigureFile) -> None:
    """All pictures: importance, pruning curves, agreement of the measures, rings, and the atlas with its medoids."""
    count = len(data.arrays["medoids"])
    with canvas((2000, 1400), layout="constrained") as figure:
        figure.suptitle(literal(f"{data.title}\nheads are taken out one at a time: importances do not add up"))
        rows: Any = figure.subfigures(3, 1, height_ratios=(1, 1.15, 0.6))
        ranking = str(data.facts["ranking"])
        matrix, rings, alike = rows[0].subplots(1, 3)
        head_matrix(matrix, data.arrays["importance"], data.facts["names"], ranking)
        ring_profile(rings, data.arrays["ring_sum"], data.facts["grid"])
        agreement_matrix(alike, data.arrays["agreement"], data.facts["measures"])
        pruning, by_layer, by_cluster = rows[1].subplots(1, 3)
        pruning_curves(pruning, data)
        scatter(by_layer, data, by="layer")
        scatter(by_cluster, data, by="cluster")
        medoids = np.atleast_1d(rows[2].subplots(1, max(count, 1)))
        for number, (panel, pattern) in enumerate(zip(medoids, data.arrays["medoid_patterns"], strict=True)):
            panel.imshow(np.log1p(np.prod(data.facts["grid"]) * pattern.astype(np.float32)), cmap="viridis")
            panel.set_title(f"cluster {number}", color=f"C{number % CLUSTERS}")
            panel.set(xticks=[], yticks=[])
        medoids[0].set(ylabel="queries", xlabel="keys")


def head_matrix(panel: Any, values: NDArray[Any], names: list[list[str]], ranking: str) -> None:
    """Layer x head, each with the beginning of its name; a measure with signs has a diverging scale."""
    signed = bool((values < 0).any())
    limit = float(np.abs(values).max()) or 1.0
    scale = {"cmap": "RdBu_r", "vmin": -limit, "vmax": limit} if signed else {"cmap": "viridis", "vmin": 0}
    drawn = panel.imshow(values, aspect="auto", **scale)
    panel.figure.colorbar(drawn, ax=panel, label=MEANINGS.get(ranking, ranking))
    low, high = drawn.get_clim()
    layers, heads = values.shape
    if layers * heads <= 400:
        for layer, head in np.ndindex(layers, heads):
            dark = not signed and (values[layer, head] - low) < 0.6 * ((high - low) or 1)
            panel.text(head, layer, names[layer][head], ha="center", va="center", fontsize=6,
                       color="white" if dark else "black")  # fmt: skip
    panel.set(title="What is lost without each head", xlabel="head", ylabel="layer")
    _ticks(panel, layers, heads)


def distance_matrix(panel: Any, values: NDArray[Any]) -> None:
    """Layer x head."""
    drawn = panel.imshow(values, aspect="auto", cmap="viridis", vmin=0)
    panel.figure.colorbar(drawn, ax=panel, label="patches")
    panel.set(title="Attention distance of each head", xlabel="head", ylabel="layer")
    _ticks(panel, *values.shape)


def ring_profile(panel: Any, ring_sum: NDArray[Any], grid: list[int]) -> None:
    """Attention on each ring, mean over heads, one line per layer from light to dark; dotted: even attention."""
    from matplotlib import colormaps

    layers, rings = len(ring_sum), np.arange(ring_sum.shape[-1])
    for layer, values in enumerate(ring_sum):
        colour = colormaps["viridis_r"](0.15 + 0.85 * layer / max(1, layers - 1))
        panel.plot(rings, values.mean(0), color=colour, linewidth=1.2,
                   label=f"layer {layer}" if layer in (0, layers - 1) else None)  # fmt: skip
        if layer in (0, layers - 1):
            panel.fill_between(rings, values.min(0), values.max(0), color=colour, alpha=0.12, linewidth=0)
    panel.set(title="Share of attention by ring", xlabel="steps on the grid", ylabel="share")
    panel.set_ylim(bottom=0)
    panel.legend(frameon=False, title=f"grid {grid[0]} x {grid[1]}")


def layer_curves(panel: Any, data: FigureData, ranking: str) -> None:
    """Distance layer by layer, least to most over heads, and what is lost without all heads of a layer."""
    distance = data.arrays["distance_patches"]
    numbers = range(len(distance))
    panel.fill_between(numbers, distance.min(1), distance.max(1), alpha=0.2)
    panel.plot(numbers, distance.mean(1), marker="o", markersize=4, label="distance, patches")
    panel.set(title="Layer by layer", xlabel="layer", ylabel="attention distance, patches")
    panel.set_ylim(bottom=0)
    if (name := f"layer_importance_{ranking}") in data.arrays:
        other = panel.twinx()
        other.plot(numbers, data.arrays[name], color="C1", marker="s", markersize=4, linestyle="--")
        other.set_ylabel(f"without the layer: {MEANINGS.get(ranking, ranking)}", color="C1")
        other.set_ylim(bottom=min(0.0, float(data.arrays[name].min())))


def per_patch(
    panel: Any, data: FigureData, values: NDArray[Any], title: str, *, unit: str = "",
    marks: NDArray[np.bool_] | None = None,
) -> None:  # fmt: skip
    """A map over the picture."""
    picture = data.arrays["picture"]
    panel.imshow(picture)
    left, right, bottom, top = extent(data)
    over = panel.imshow(np.ma.masked_invalid(values), cmap="viridis", alpha=0.65, extent=(left, right, bottom, top))
    if marks is not None and marks.any():
        rows, columns = np.nonzero(marks)
        h, w = marks.shape
        panel.scatter(
            left + (columns + 0.5) * (right - left) / w, top + (rows + 0.5) * (bottom - top) / h, marker="x",
            color="white", s=24,
        )  # fmt: skip
    panel.set(xlim=(-0.5, picture.shape[1] - 0.5), ylim=(picture.shape[0] - 0.5, -0.5))
    panel.figure.colorbar(over, ax=panel, label=unit, location="bottom", shrink=0.8)
    panel.set_title(title)
    panel.set_axis_off()


def agreement_matrix(panel: Any, values: NDArray[Any], measures: list[str]) -> None:
    """Kendall's tau between the rankings."""
    if len(measures) < 2:
        panel.text(0.5, 0.5, f"a model without classes has\none measure: {measures[0]}", ha="center", va="center")
        panel.set_axis_off()
        return
    drawn = panel.imshow(np.ma.masked_invalid(values), cmap="RdBu_r", vmin=-1, vmax=1)
    panel.figure.colorbar(drawn, ax=panel, label="Kendall's tau")
    for one, other in np.ndindex(values.shape):
        if np.isfinite(values[one, other]):
            panel.text(other, one, f"{values[one, other]:.2f}", ha="center", va="center", fontsize=7)
    panel.set_xticks(range(len(measures)), measures, rotation=45)
    panel.set_yticks(range(len(measures)), measures)
    panel.set_title("Do the measures agree?")


def pruning_curves(panel: Any, data: FigureData) -> None:
    """What is left along each ranking, both ways round, and along random orders."""
    panel.set_title("Heads taken out one after the other")
    if "counts" not in data.arrays:
        panel.text(0.5, 0.5, "not asked for", ha="center", va="center")
        panel.set_axis_off()
        return
    counts, random = data.arrays["counts"], data.arrays["random"]
    panel.fill_between(counts, random.min(0), random.max(0), color="0.8", label="random orders")
    for number, name in enumerate(data.facts["measures"]):
        strong = name == data.facts["ranking"]
        style = {"color": f"C{number % CLUSTERS}", "linewidth": 2.2 if strong else 0.9}
        panel.plot(counts, data.arrays["least_first"][number], label=f"{name}, least first", **style)
        panel.plot(counts, data.arrays["most_first"][number], linestyle="--", **style)
    panel.set(xlabel="heads gone (dashed: most important first)", ylabel=str(data.facts["score"]))
    panel.legend(frameon=False, fontsize=6)


def scatter(panel: Any, data: FigureData, *, by: str) -> None:
    """Patterns as points, medoids ringed."""
    places, medoids = data.arrays["places"], data.arrays["medoids"]
    if by == "layer":
        drawn = panel.scatter(*places.T, c=data.arrays["layer_of"], cmap="viridis", s=9)
        panel.figure.colorbar(drawn, ax=panel, label="layer")
    else:
        panel.scatter(*places.T, c=[f"C{number % CLUSTERS}" for number in data.arrays["cluster"]], s=9)
    panel.scatter(*places[medoids].T, facecolors="none", edgecolors="black", s=70)
    for number, (x, y) in enumerate(places[medoids]):
        panel.annotate(str(number), (x, y), textcoords="offset points", xytext=(5, 5), fontsize=8)
    panel.set(title=f"Patterns, coloured by {by}; ringed: medoids", xticks=[], yticks=[],
              xlabel=f"two components show {data.facts['explained']:.0%} of the variance")  # fmt: skip


def _ticks(panel: Any, layers: int, heads: int) -> None:
    panel.set_xticks(range(0, heads, max(1, heads // 12)))
    panel.set_yticks(range(0, layers, max(1, layers // 12)))
