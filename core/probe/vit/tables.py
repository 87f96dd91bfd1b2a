"""Tables of all pictures together: every head, group of patterns and class; and what the figure is drawn from."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray

from .curve import Curves
from .importance import agreement
from .names import AGNOSTIC, agnosticism, names_of, varied
from .patterns import Atlas
from .results import HeadResults


def mean_names(pictures: HeadResults) -> NDArray[np.str_]:
    """Names of the heads' mean maps."""
    parts = {name: pictures.stack(name).mean(0) for name in ("ring_sum", "offsets", "received", "entropy")}
    shifts = pictures.stack("shift")
    first = shifts[:, ..., :2]
    same = (first == first[:1]).all((0, -1))
    shift = shifts.mean(0)
    shift[~same] = 0.0  # no common offset
    varies = varied(pictures.stack("patterns")) if len(pictures.names) > 1 else None
    return names_of(parts["ring_sum"], parts["offsets"], shift, parts["received"], parts["entropy"], varies)


def head_rows(
    pictures: HeadResults, means: Mapping[str, NDArray[np.float64]], ranking: str, names: NDArray[np.str_], atlas: Atlas
) -> list[dict[str, Any]]:
    """A row for each head."""
    values = pictures.stack(f"importance_{ranking}")
    low, middle, high = np.quantile(values, (0.05, 0.5, 0.95), axis=0)
    alike = agnosticism(pictures.stack("patterns")) if len(pictures.names) > 1 else None
    numbers = atlas.cluster.reshape(-1, *names.shape)
    order = (-means[ranking]).ravel().argsort(kind="stable").argsort(kind="stable").reshape(names.shape)
    distance = pictures.stack("distance_patches").mean(0)
    rows = []
    for layer, head in np.ndindex(*names.shape):
        at = (layer, head)
        row: dict[str, Any] = {
            "layer": layer, "head": head, "rank": int(order[at]) + 1, "name": str(names[at]),
            **{name: float(one[at]) for name, one in means.items()}, f"{ranking}_median": float(middle[at]),
            f"{ranking}_q05": float(low[at]), f"{ranking}_q95": float(high[at]),
            "distance_patches": float(distance[at]),
            "cluster": Counter(numbers[:, layer, head].tolist()).most_common(1)[0][0],
        }  # fmt: skip
        if alike is not None:
            row |= {"agnosticism": float(alike[at]), "content": "agnostic" if alike[at] > AGNOSTIC else "relevant"}
        rows.append(row)
    return rows


def cluster_rows(pictures: HeadResults, atlas: Atlas, names: NDArray[np.str_]) -> list[dict[str, Any]]:
    """A row for each cluster: its size, the names of its heads, and its most typical pattern."""
    heads = names.size
    rows = []
    for cluster, medoid in enumerate(atlas.medoids.tolist()):
        members = np.flatnonzero(atlas.cluster == cluster) % heads
        common = Counter(names.ravel()[members].tolist()).most_common(2)
        layers = sorted(set((members // names.shape[1]).tolist()))
        layer, head = divmod(medoid % heads, names.shape[1])
        rows.append({
            "cluster": cluster, "patterns": len(members), "layers": ", ".join(map(str, layers)),
            "names": ", ".join(f"{name} {count}" for name, count in common),
            "medoid": f"layer {layer}, head {head}, {pictures.names[medoid // heads]}",
        })  # fmt: skip
    return rows


def class_rows(pictures: HeadResults, ranking: str) -> list[dict[str, Any]]:
    """For each class that is looked at, how many pictures it has, and the head that matters most to them."""
    classes = [facts["label"] or facts["predicted"] for facts in pictures.facts]
    if None in classes:
        return []
    values = pictures.stack(f"importance_{ranking}")
    rows = []
    for name in dict.fromkeys(classes):
        own = values[[one == name for one in classes]].mean(0)
        layer, head = np.unravel_index(int(own.argmax()), own.shape)
        rows.append({
            "class": name, "pictures": classes.count(name), "layer": int(layer), "head": int(head),
            ranking: float(own.max()),
        })  # fmt: skip
    return rows


def drawn(
    pictures: HeadResults, means: Mapping[str, NDArray[np.float64]], ranking: str, names: NDArray[np.str_],
    atlas: Atlas, curves: Curves | None, count: int,
) -> tuple[dict[str, NDArray[Any]], dict[str, Any]]:  # fmt: skip
    """Arrays and facts of the figure."""
    heads = names.size
    patterns = np.concatenate([one["patterns"].reshape(heads, *one["patterns"].shape[2:])
                               for one in pictures.arrays[:count]])  # fmt: skip
    arrays: dict[str, NDArray[Any]] = {
        "importance": means[ranking], "ring_sum": pictures.stack("ring_sum").mean(0),
        "distance_patches": pictures.stack("distance_patches").mean(0), "places": atlas.places,
        "cluster": atlas.cluster, "medoids": atlas.medoids, "medoid_patterns": patterns[atlas.medoids],
        "layer_of": np.tile(np.arange(heads) // names.shape[1], count),
        "agreement": np.array([[row[name] for name in means] for row in agreement(means)], np.float64),
    }  # fmt: skip
    facts: dict[str, Any] = {
        "ranking": ranking, "measures": list(means), "names": names.tolist(), "grid": pictures.facts[0]["grid"],
        "explained": atlas.explained, "pictures": pictures.names,
    }  # fmt: skip
    if curves is not None:
        score = curves.scores[-1]
        facts |= {"score": score}
        arrays |= {
            "counts": np.array(curves.counts), "random": curves.random[score],
            "least_first": np.array([curves.least[name][score] for name in means]),
            "most_first": np.array([curves.most[name][score] for name in means]),
        }  # fmt: skip
    return arrays, facts
