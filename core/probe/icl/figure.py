"""Figures of `attn probe icl`: one kind of network, and all of them against theory."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

from ...report.canvas import literal
from ..panel import FigureData, FigureFile
from .findings import NAMES, WAYS

if TYPE_CHECKING:
    from matplotlib.axes import Axes

DRAWN = 8
"""Heads whose matrices are drawn, of the first network."""
LEAST = 1e-4
"""Errors below are not drawn."""
THEORY = {
    "zero": ("silver", ":"), "single_head": ("dimgrey", ":"), "vgd": ("dimgrey", "--"), "dgd": ("black", "-."),
    "dgd_fixed": ("black", ":"), "preconditioned": ("crimson", "-."), "ridge": ("black", "--"),
}  # fmt: skip
"""Predictor -> colour and style; colours of networks are others."""


def draw(data: FigureData, canvas: FigureFile) -> None:
    """Matrices KQ; then OV, omega against mu, errors by length, and how omega and mu came to be."""
    arrays = data.arrays
    kq, ov = arrays["KQ"][0], arrays["OV"][0]
    shown = min(DRAWN, len(kq))
    with canvas((1900, 1000), layout="constrained") as figure:
        figure.suptitle(literal(data.title))
        above, below = figure.subfigures(2, 1, height_ratios=(1, 1.5), squeeze=False)[:, 0]
        largest = float(np.abs(kq[:, :, : data.facts["dim"]]).max())
        row = above.subplots(1, shown, squeeze=False)[0]
        for head, axes in enumerate(row):
            drawn = axes.imshow(kq[head], cmap="RdBu_r", vmin=-largest, vmax=largest)
            axes.set(title=f"KQ of head {head}", xticks=[], yticks=[])
        above.colorbar(drawn, ax=row)
        if shown < len(kq):
            above.supxlabel(f"{len(kq) - shown} more heads are in the arrays")
        rows, scatter, errors, track = below.subplots(1, 4)
        size = float(np.abs(ov).max())
        drawn = rows.imshow(ov.reshape(-1, ov.shape[-1]), cmap="RdBu_r", vmin=-size, vmax=size, aspect="auto")
        below.colorbar(drawn, ax=rows, location="bottom")
        rows.yaxis.get_major_locator().set_params(integer=True)
        rows.set(title="OV: what is read (last columns: labels)", ylabel="head and task", xlabel="entry of a token")
        omega, mu = arrays["omega"], arrays["mu"]
        for seed in range(len(omega)):
            scatter.scatter(omega[seed].ravel(), mu[seed].ravel(), s=24, alpha=0.8, color=f"C{seed % 10}")
        scatter.axhline(0, color="grey", linewidth=0.8)
        scatter.axvline(0, color="grey", linewidth=0.8)
        scatter.set(title="Heads of all networks (a colour each)", xlabel="omega", ylabel="mu")
        theory(errors, arrays)
        band(errors, arrays["lengths"], arrays["mse_network"], "tab:blue", "-", NAMES["network"])
        if "mse_rescaled" in arrays:
            band(errors, arrays["lengths"], arrays["mse_rescaled"], "tab:cyan", "-", NAMES["rescaled"])
        dressed(errors, arrays["lengths"], data.facts["length"])
        if "track_step" not in arrays:
            track.text(0.5, 0.5, "not trained here", ha="center", transform=track.transAxes)
            track.set_axis_off()
            return
        for head in range(len(kq)):
            for name, style in (("omega", "-"), ("mu", "--")):
                lines = arrays[f"track_{name}"][0, head]
                track.plot(arrays["track_step"], lines.T, style, color=f"C{head % 10}")
        track.set(title="First network: omega; mu dashed", xlabel="step")


def draw_all(data: FigureData, canvas: FigureFile) -> None:
    """Errors of all networks by length, the band from the least to the most."""
    arrays = data.arrays
    with canvas((1300, 900), layout="constrained") as figure:
        figure.suptitle(literal(data.title))
        axes = figure.subplots()
        theory(axes, arrays)
        for number, name in enumerate(data.facts["names"]):
            for way, style in zip(WAYS, ("-", "--"), strict=True):
                if f"{way}_{number}" in arrays:
                    label = literal(name + (", divided by length" if way == "rescaled" else ""))
                    band(axes, arrays["lengths"], arrays[f"{way}_{number}"], f"C{number % 10}", style, label)
        dressed(axes, arrays["lengths"], data.facts["length"])


def theory(axes: Axes, arrays: Any) -> None:
    """Lines of what is not trained."""
    for name, (colour, style) in THEORY.items():
        if f"mse_{name}" in arrays:
            values = arrays[f"mse_{name}"][0]
            axes.plot(arrays["lengths"], values, style, color=colour, linewidth=1.2, label=NAMES[name])


def band(axes: Axes, xs: Any, values: Any, colour: str, style: str, label: str) -> None:
    """Mean of the networks, and from the least to the most."""
    axes.fill_between(xs, values.min(0), values.max(0), color=colour, alpha=0.2, linewidth=0)
    axes.plot(xs, values.mean(0), style, color=colour, marker="o", markersize=4, label=label)


def dressed(axes: Axes, lengths: Any, trained: int) -> None:
    """Words and scales of a panel of errors."""
    axes.axvline(trained, color="lightgrey", linewidth=1, zorder=0)
    axes.set(title="Error by examples in the prompt", xlabel="examples", ylabel="mean squared error", yscale="log")
    axes.set_xscale("log", base=2)
    axes.set_xticks(lengths, [str(length) for length in lengths])
    axes.minorticks_off()
    if axes.get_ylim()[0] < LEAST:  # ridge regression without noise is exact
        axes.set_ylim(bottom=LEAST)
        axes.set_xlabel(f"examples (errors below {LEAST:g} are not drawn)")
    axes.legend(frameon=False, fontsize=7, ncols=2, loc="upper center", bbox_to_anchor=(0.5, -0.16))
