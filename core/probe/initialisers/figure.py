"""The figure of `attn probe initialisers`: loss and accuracy, one colour each, the band from least to most seed."""

from __future__ import annotations

import math

import numpy as np
from numpy.typing import NDArray

from ...report.canvas import literal
from ..panel import FigureData, FigureFile


def draw(data: FigureData, canvas: FigureFile) -> None:
    """Two panels of arrays loss [I, S, steps], accuracy [I, S, L] and looked [L]."""
    arrays = data.arrays
    loss, accuracy, looked = arrays["loss"], arrays["accuracy"], arrays["looked"]
    with canvas((1800, 760), layout="constrained") as figure:
        import matplotlib

        figure.suptitle(literal(data.title))
        losses, accuracies = figure.subplots(1, 2)
        names = data.facts["initialisers"]
        colours = matplotlib.colormaps["viridis"](np.linspace(0.0, 0.92, len(names)))
        styles = ("-", "--", ":", "-.")
        steps = np.arange(1, loss.shape[2] + 1)
        for number, (name, colour) in enumerate(zip(names, colours, strict=True)):
            style = styles[number % len(styles)]
            for axes, xs, values in (
                (losses, steps, smoothed(loss[number])),
                (accuracies, looked, accuracy[number]),
            ):
                known = np.isfinite(values).all(0)
                low, middle, high = (fold(values[:, known], axis=0) for fold in (np.min, np.mean, np.max))
                axes.fill_between(xs[known], low, high, color=colour, alpha=0.12, linewidth=0)
                axes.plot(xs[known], middle, style, color=colour, label=literal(name), linewidth=1.4)
        chance = float(data.facts["chance"])
        losses.axhline(-math.log(chance), color="grey", linewidth=0.8, linestyle="--")
        accuracies.axhline(chance, color="grey", linewidth=0.8, linestyle="--")
        losses.set(
            title="Loss (mean of ten steps; grey: guessing)", xlabel="step", xscale="log", ylabel="cross-entropy"
        )
        losses.set_ylim(0, 1.3 * -math.log(chance))
        accuracies.set(title="Accuracy on pictures not trained on", xlabel="step", ylabel="share", ylim=(0, 1.02))
        accuracies.axhline(float(data.facts["goal"]), color="grey", linewidth=0.8, linestyle=":")
        accuracies.legend(frameon=False, ncols=2, loc="upper left")


def smoothed(loss: NDArray[np.float32], window: int = 10) -> NDArray[np.float64]:
    """The mean of the last ``window`` steps, of fewer in the beginning: [S, steps]."""
    total = np.cumsum(np.concatenate([np.zeros((len(loss), 1)), loss], 1), 1)
    end = np.arange(1, loss.shape[1] + 1)
    start = np.maximum(0, end - window)
    mean: NDArray[np.float64] = (total[:, end] - total[:, start]) / (end - start)
    return mean
