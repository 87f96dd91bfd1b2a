"""The synthetic inputs, one key/value head with its query heads each. Specification: methods/attention-bench.md, 3.

Each function takes the generator of the key/value head, one generator per query head of its group, the length and the
head dimension, and returns float64 queries [G, L, D], keys [L, D] and the needles' positions int64 [m] (empty where
there are none). What the table of section 3 leaves open is settled so that its figures come out (see ``budget.py``).
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.random import Generator
from numpy.typing import NDArray

Array = NDArray[np.float64]
Head = tuple[list[Array], Array, NDArray[np.int64]]
NO_NEEDLES = np.zeros(0, dtype=np.int64)

LOWRANK = {
    "rank": 8, "rho": 0.97, "query_noise": 0.5, "gain": 2.2, "noise": 0.3, "rope_base": 10000.0,
    "sinks": 4, "sink_key": 6.0, "sink_query": 1.5,
}  # fmt: skip
TOPIC = {"centres": 64, "mean_segment": 64, "min_segment": 16, "lookahead": 5, "noise": 0.4}
NEEDLE = {"needles": 4, "margin": 8.0, "latest": 0.75}
NEEDLE_SMOOTH = {**NEEDLE, "neighbours": 15, "shared": 0.5}
VIDEO = {"rho": 0.9, "noise": 0.3}
WORST = {"largest_logit": 1e4}


def gaussian(rng: Generator, group: Sequence[Generator], length: int, dim: int) -> Head:
    """Keys and queries from N(0, 1): attention is close to uniform."""
    keys = rng.standard_normal((length, dim))
    return [generator.standard_normal((length, dim)) for generator in group], keys, NO_NEEDLES


def autoregressive(rng: Generator, length: int, dim: int, rho: float) -> Array:
    """A stationary first-order autoregressive walk of unit variance: [L, D]."""
    from scipy.signal import lfilter  # a slow import, and only two inputs need it

    steps = rng.standard_normal((length, dim))
    steps[1:] *= math.sqrt(1 - rho * rho)
    walk: Array = lfilter([1.0], [1.0, -rho], steps, axis=0)
    return walk


def rope(x: Array, base: float) -> Array:
    """Rotary positions in the half-split layout, positions 0..L-1, in place: [L, D]."""
    half = x.shape[1] // 2
    angle = np.arange(x.shape[0])[:, None] * base ** (-np.arange(half) / half)  # [L, D/2]
    cos, sin = np.cos(angle), np.sin(angle)
    first, second = x[:, :half], x[:, half : 2 * half]  # an odd last channel is left as it is
    x[:, :half], x[:, half : 2 * half] = first * cos - second * sin, second * cos + first * sin
    return x


def lowrank(rng: Generator, group: Sequence[Generator], length: int, dim: int) -> Head:
    """A slow walk in 8 dimensions under rotary positions, and an attention sink: locality."""
    p = LOWRANK
    rank = int(p["rank"])
    latent = autoregressive(rng, length, rank, p["rho"])
    project = rng.standard_normal((rank, dim)) * math.sqrt(p["gain"] / rank)
    sink = rng.standard_normal(dim)
    sink /= np.linalg.norm(sink)
    keys = rope(latent @ project + p["noise"] * rng.standard_normal((length, dim)), p["rope_base"])
    keys[: int(p["sinks"])] = p["sink_key"] * sink  # after the rotation, so that every query meets the same direction
    queries = []
    for generator in group:
        seen = latent + p["query_noise"] * generator.standard_normal((length, rank))
        query = rope(seen @ project + p["noise"] * generator.standard_normal((length, dim)), p["rope_base"])
        queries.append(query + p["sink_query"] * sink)
    return queries, keys, NO_NEEDLES


def topic(rng: Generator, group: Sequence[Generator], length: int, dim: int) -> Head:
    """Segments of one of 64 topics each, without positions: far recurrences. Queries look 5 tokens ahead."""
    p = TOPIC
    ahead = int(p["lookahead"])
    centres = rng.standard_normal((int(p["centres"]), dim))
    segments = (length + ahead) // int(p["min_segment"]) + 1
    lengths = np.maximum(rng.geometric(1 / p["mean_segment"], segments), int(p["min_segment"]))
    topics = np.repeat(rng.integers(len(centres), size=segments), lengths)[: length + ahead]
    keys = _on_sphere(centres[topics[:length]] + p["noise"] * rng.standard_normal((length, dim)))
    queries = [
        _on_sphere(centres[topics[ahead:]] + p["noise"] * generator.standard_normal((length, dim)))
        for generator in group
    ]  # fmt: skip
    return queries, keys, NO_NEEDLES


def needle(rng: Generator, group: Sequence[Generator], length: int, dim: int) -> Head:
    """Isolated spikes: Gaussian keys, and query t points at needle t mod m with a logit of 8 + ln L."""
    return _needles(rng, len(group), length, dim, neighbours=0)


def needle_smooth(rng: Generator, group: Sequence[Generator], length: int, dim: int) -> Head:
    """As ``needle``, with 15 keys on each side of a needle that share half of its direction."""
    return _needles(rng, len(group), length, dim, neighbours=int(NEEDLE_SMOOTH["neighbours"]))


def _needles(rng: Generator, heads: int, length: int, dim: int, neighbours: int) -> Head:
    """One needle in each quarter of the first 3/4 of the keys: many depths, and no window over the end sees one."""
    keys = rng.standard_normal((length, dim))
    count = min(int(NEEDLE["needles"]), length)
    first, end = (4, int(NEEDLE["latest"] * length)) if length >= 16 else (0, length)
    edges = first + np.arange(count + 1) * (end - first) // count
    places = edges[:-1] + rng.integers(np.diff(edges))  # [m], ascending
    share = NEEDLE_SMOOTH["shared"]
    original = keys[places].copy()
    for needle_key, place in zip(original, places, strict=True):
        near = np.arange(max(place - neighbours, 0), min(place + neighbours + 1, length))
        near = near[~np.isin(near, places)]
        keys[near] = share * needle_key + math.sqrt(1 - share * share) * keys[near]
    aligned = original * ((NEEDLE["margin"] + math.log(length)) * math.sqrt(dim) / (original**2).sum(1, keepdims=True))
    query = aligned[np.arange(length) % count]
    return [query] * heads, keys, places


def video(rng: Generator, group: Sequence[Generator], length: int, dim: int) -> Head:
    """A smooth field of directions on a (t, h, w) grid, its tokens listed along the Gilbert curve.

    The direction of a token is the sum of three walks, over frames, rows and columns.
    """
    from ..attention.rectified.gilbert import gilbert_order

    p = VIDEO
    t, h, w = video_grid(length)
    frames, rows, columns = (autoregressive(rng, side, dim, p["rho"]) for side in (t, h, w))
    order = gilbert_order(t, h, w).numpy()
    field = _on_sphere(frames[order // (h * w)] + rows[order // w % h] + columns[order % w])
    keys = field + p["noise"] * rng.standard_normal((length, dim))
    return [field + p["noise"] * generator.standard_normal((length, dim)) for generator in group], keys, NO_NEEDLES


def video_grid(length: int) -> tuple[int, int, int]:
    """The (t, h, w) with t * h * w = length, t <= h <= w, whose sides are the most alike."""
    best = (1, 1, length)
    for t in range(1, round(length ** (1 / 3)) + 1):
        if length % t == 0:
            rest = length // t
            h = next(h for h in range(math.isqrt(rest), 0, -1) if rest % h == 0)
            best = min(best, (t, h, rest // h), key=sum)
    return best


def worst(rng: Generator, group: Sequence[Generator], length: int, dim: int) -> Head:
    """What breaks a careless softmax, a quarter of the sequence each.

    Keys of the first quarter are all equal; queries of the second score all keys alike (0); the query in the middle
    scores every key -10000, which operators that take no mask see of a masked row; queries of the last quarter have
    logits up to 10000.
    """
    top = WORST["largest_logit"]
    keys = rng.standard_normal((length, dim))
    keys[: length // 4] = keys[0]
    keys[:, 0] = 4.0
    queries = []
    for generator in group:
        query = generator.standard_normal((length, dim))
        query[length // 4 : length // 2] = 0.0
        late = query[3 * length // 4 :]  # never empty
        norms = np.linalg.norm(keys, axis=1).max() * np.linalg.norm(late, axis=1, keepdims=True)
        late *= top * math.sqrt(dim) / norms  # Cauchy-Schwarz: the bound on |q.k| is met only by a parallel pair, so
        late[-1] = keys[-1] * (top * math.sqrt(dim) / (keys[-1] @ keys[-1]))  # ... the last query is parallel to a key
        if length >= 4:
            query[length // 2] = 0.0
            query[length // 2, 0] = -top * math.sqrt(dim) / 4.0
        queries.append(query)
    return queries, keys, NO_NEEDLES


def _on_sphere(x: Array) -> Array:
    """Rows scaled to length sqrt(D), in place."""
    x *= math.sqrt(x.shape[1]) / np.linalg.norm(x, axis=1, keepdims=True)
    return x


GENERATORS: dict[str, tuple[Any, dict[str, float]]] = {
    "gaussian": (gaussian, {}),
    "lowrank": (lowrank, LOWRANK),
    "topic": (topic, TOPIC),
    "needle": (needle, NEEDLE),
    "needle-smooth": (needle_smooth, NEEDLE_SMOOTH),
    "video": (video, VIDEO),
    "worst": (worst, WORST),
}
"""Name -> (function, the numbers it is made with)."""
