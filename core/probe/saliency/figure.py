"""What `attn probe saliency` draws, from its arrays and facts alone."""

from __future__ import annotations

from typing import Any

import numpy as np

from ...report.canvas import literal
from ..panel import FigureData, FigureFile
from .question import SPANS

COLOURS = ("#999999", "#4477aa", "#66ccee", "#ee6677")
"""Of ``SPANS``."""
NAMED = 60
"""Tokens that an axis names, at most."""


def draw(data: FigureData, canvas: FigureFile) -> None:
    """Scores and threshold, shares token by token and layer by layer, map of tokens, and picture."""
    arrays = data.arrays
    pictured = "picture" in arrays
    with canvas((2000, 1150), layout="constrained") as figure:
        figure.suptitle(literal(data.title))
        grid = figure.add_gridspec(2, 6)
        _scores(figure.add_subplot(grid[0, :3]), data)
        _tokens(figure.add_subplot(grid[0, 3:]), data)
        _layers(figure.add_subplot(grid[1, :2]), data)
        _map(figure.add_subplot(grid[1, 2 : 4 if pictured else 6]), data)
        if pictured:
            _picture(figure.add_subplot(grid[1, 4:]), data)


def _names(panel: Any, tokens: list[str]) -> None:
    step = max(1, -(-len(tokens) // NAMED))
    panel.set_xticks(
        range(0, len(tokens), step), [literal(_seen(token)) for token in tokens[::step]], rotation=60, ha="right",
        fontsize=7,
    )  # fmt: skip


def _seen(token: str) -> str:
    """A token whose white space can be seen."""
    return token.replace("\n", "↵").replace("\t", "⇥").strip() or "␣"


def _scores(panel: Any, data: FigureData) -> None:
    score, threshold = data.arrays["score"], data.arrays["threshold"]
    places = np.arange(len(score))
    panel.plot(places, score, marker="o", markersize=4, color="#222222", label="score")
    panel.plot(places, threshold, color="#cc3311", linestyle="--", label="threshold")
    flagged = score < threshold
    panel.plot(places[flagged], score[flagged], "o", color="#cc3311", markersize=8, label="flagged")
    if "score_mitigated" in data.arrays:
        again = data.arrays["score_mitigated"]
        panel.plot(np.arange(len(again)), again, color="#009988", alpha=0.7, label="mitigated answer")
    _names(panel, data.facts["tokens"])
    panel.set(title="what each token stands on of the text before it", ylabel="saliency")
    panel.set_ylim(bottom=min(0.0, float(score.min())))
    panel.legend(frameon=False, fontsize=8)


def _tokens(panel: Any, data: FigureData) -> None:
    """Shares of the saliency as bars, those of the attention as points where each ends."""
    layers = data.arrays["layers"]
    shares = data.arrays["shares"][:, layers].mean(1)
    looked = data.arrays["attention_shares"][:, layers].mean(1)
    places, below = np.arange(len(shares)), np.zeros(len(shares))
    for number, name in enumerate(SPANS):
        panel.bar(places, shares[:, number], bottom=below, color=COLOURS[number], width=0.9, label=name)
        below = below + shares[:, number]
    edges = looked.cumsum(1)
    for number in range(len(SPANS) - 1):
        panel.plot(places, edges[:, number], "k_", markersize=6, label="attention alone" if not number else None)
    _names(panel, data.facts["tokens"])
    panel.set(title="shares of the saliency", ylim=(0, 1.02))
    panel.legend(frameon=False, fontsize=7, ncols=5, loc="lower center", bbox_to_anchor=(0.5, 1.05))


def _layers(panel: Any, data: FigureData) -> None:
    """Shares by layer, mean over tokens; dashed those of the attention."""
    on, looked = data.arrays["shares"].mean(0), data.arrays["attention_shares"].mean(0)
    for number, name in enumerate(SPANS):
        if on[:, number].any() or looked[:, number].any():
            panel.plot(on[:, number], color=COLOURS[number], marker="o", markersize=3, label=name)
            panel.plot(looked[:, number], color=COLOURS[number], linestyle=":")
    layers = data.arrays["layers"]
    panel.axvspan(min(layers) - 0.4, max(layers) + 0.4, alpha=0.12, color="#ddaa33", label="layers of the score")
    panel.set(title="shares by layer (dotted: attention alone)", xlabel="layer", ylim=(0, 1.02))
    panel.locator_params(axis="x", integer=True)
    panel.legend(frameon=False, fontsize=7)


def _map(panel: Any, data: FigureData) -> None:
    shown = data.arrays["shown"]
    over = panel.imshow(shown, cmap="viridis", aspect="auto", interpolation="nearest", vmin=0, vmax=1)
    panel.figure.colorbar(over, ax=panel, shrink=0.8)
    _names(panel, data.facts["columns"])
    tokens = data.facts["tokens"]
    step = max(1, -(-len(tokens) // (NAMED // 2)))
    panel.set_yticks(range(0, len(tokens), step), [literal(_seen(t)) for t in tokens[::step]], fontsize=7)
    panel.set_title("saliency of text (row: predicted token)")


def _picture(panel: Any, data: FigureData) -> None:
    picture, heat = data.arrays["picture"], data.arrays["heat"]
    panel.imshow(np.repeat(picture.mean(2, keepdims=True).astype(np.uint8), 3, 2), alpha=0.5)
    over = panel.imshow(np.ma.masked_invalid(heat), cmap="viridis", alpha=0.6)
    panel.figure.colorbar(over, ax=panel, shrink=0.8)
    panel.set_title("saliency of the picture, mean over tokens")
    panel.set_axis_off()


def draw_quartiles(data: FigureData, canvas: FigureFile) -> None:
    """Share of wrong answers by quartile of the score, lowest first, with 95 % intervals."""
    value, low, high = data.arrays["wrong"]
    with canvas((1000, 620), layout="constrained") as figure:
        figure.suptitle(literal(data.title))
        panel = figure.subplots()
        places = np.arange(1, 1 + len(value))
        panel.bar(places, value, color="#4477aa")
        panel.errorbar(places, value, np.stack([value - low, high - value]), fmt="none", ecolor="black", capsize=5)
        panel.axhline(data.facts["wrong"], color="#cc3311", linestyle="--", label="all answers")
        panel.set_xticks(places, ["lowest", "second", "third", "highest"])
        panel.set(xlabel="quartile of the score", ylabel="wrong answers (share)", ylim=(0, None))
        panel.legend(frameon=False)
