"""Places that everything attends to, and places that are attended to whatever the picture shows.

Specification: methods/vit-analytics.md, section 3.3 (sinks); methods/probe-peers.md, section 5, item 5 (bias of
position, and maps with both removed). The bias of position is read from a blank picture, of the mean colour: what a
patch gets there, it gets for its place alone.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

SINK = 6.0
"""Standard deviations above the mean."""


def sinks(received: NDArray[Any], deviations: float = SINK) -> NDArray[np.bool_]:
    """Patches that receive more than mean + 6 standard deviations of their layer. [L, N] -> [L, N]"""
    mean, spread = received.mean(-1, keepdims=True), received.std(-1, keepdims=True)
    return np.asarray(received > mean + deviations * spread)


def possible(patches: int, deviations: float = SINK) -> bool:
    """Whether one of so many patches could be a sink at all: it is sqrt(N - 1) deviations above the mean at most."""
    return patches - 1 > deviations**2


def without(received: NDArray[Any], blank: NDArray[Any], sunk: NDArray[np.bool_]) -> NDArray[np.float32]:
    """The map over that of the blank picture, which 1 is no more than; NaN at sinks. All [L, N]."""
    ratio = received / np.maximum(blank, np.finfo(np.float32).tiny)
    return np.where(sunk, np.nan, ratio).astype(np.float32)


def layer_rows(received: NDArray[Any], blank: NDArray[Any], sunk: NDArray[np.bool_]) -> list[dict[str, Any]]:
    """A row for each layer: number of sinks, share of the attention on them, and of the map's variance across patches
    that the map of the blank picture explains (the square of their correlation).
    """
    rows = []
    for layer, (one, bare, here) in enumerate(zip(received, blank, sunk, strict=True)):
        varied = one.std() > 0 and bare.std() > 0
        explained = float(np.corrcoef(one, bare)[0, 1] ** 2) if varied else None
        rows.append({
            "layer": layer, "sinks": int(here.sum()), "sink_share": float(one[here].sum()), "position_share": explained
        })  # fmt: skip
    return rows


def notes(rows: Sequence[dict[str, Any]], patches: int) -> list[str]:
    """What of it a user should be told."""
    said = []
    if found := [row for row in rows if row["sinks"]]:
        most = max(found, key=lambda row: row["sink_share"])
        said.append(
            f"sinks: {', '.join(str(row['layer']) for row in found)} (layers) have patches that receive more than 6 "
            f"standard deviations above the mean, up to {most['sink_share']:.0%} of the attention of a layer; they are "
            "left out of the map without sinks"
        )
    elif not possible(patches):
        said.append(f"sinks: none of {patches} patches can lie 6 standard deviations above their mean")
    known = [row for row in rows if row["position_share"] is not None and row["position_share"] > 0.5]
    if known:
        said.append(
            f"position: in {len(known)} of {len(rows)} layers more than half of what patches receive is explained by "
            "where they are, as a blank picture shows"
        )
    return said
