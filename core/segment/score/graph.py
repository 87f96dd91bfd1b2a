"""The skeleton of a vessel mask as a graph: branch points, end points and the segments between them.

Pixels are neighbours when they share a side, or a corner without a common neighbour beside it (mixed adjacency): the
corner of a staircase then has two neighbours and is no branch point.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

_SMOOTHING = 3  # pixels to either side of a moving average along a segment

Points = NDArray[np.float64]


@dataclass(frozen=True, slots=True)
class Segment:
    """One stretch of skeleton between two nodes, or a closed loop.

    Parameters
    ----------
    points : ndarray, shape (N, 2), float64
        Pixels (y, x) in order, those of its nodes included; closed loops repeat the first at the end.
    index : ndarray, shape (N,), int64
        The same pixels as positions in ``Graph.points``.
    closed : bool
        Whether it comes back to the node where it began, or has none.
    free : (bool, bool)
        Whether its first and its last pixel are end points of the skeleton.
    """

    points: Points
    index: NDArray[np.int64]
    closed: bool
    free: tuple[bool, bool]

    def arc(self) -> float:
        """Length in pixels, of the smoothed path: steps of 1 and √2 alone overestimate a slanting line by up to 8 %."""
        steps = np.diff(_smoothed(self.points), axis=0)
        return float(np.hypot(steps[:, 0], steps[:, 1]).sum())

    def chord(self) -> float:
        """Distance of the two ends in pixels."""
        return float(np.hypot(*(self.points[-1] - self.points[0])))


@dataclass(frozen=True, slots=True)
class Graph:
    """Skeleton graph.

    Parameters
    ----------
    points : ndarray, shape (N, 2), int64
        All skeleton pixels (y, x).
    weight : ndarray, shape (N,), float64
        Length of skeleton that each pixel stands for: half of the steps to its neighbours.
    branch_points : int
        Clusters of touching pixels with three or more neighbours.
    end_points : int
        Pixels with one neighbour.
    segments : tuple of Segment
    """

    points: NDArray[np.int64]
    weight: NDArray[np.float64]
    branch_points: int
    end_points: int
    segments: tuple[Segment, ...]


def build(skeleton: NDArray[np.bool_]) -> Graph:
    """Graph of a skeleton [H, W], as thin as ``skimage.morphology.skeletonize`` makes it."""
    y, x = np.nonzero(skeleton)
    points = np.stack([y, x], 1).astype(np.int64)  # [N, 2]
    pairs = _pairs(skeleton, points)  # [E, 2]
    steps = np.hypot(*(points[pairs[:, 0]] - points[pairs[:, 1]]).T)
    weight = np.zeros(len(points))
    degree = np.zeros(len(points), np.int64)
    for side in (0, 1):
        np.add.at(weight, pairs[:, side], steps / 2)
        np.add.at(degree, pairs[:, side], 1)
    cluster, clusters = _clusters(pairs, degree)
    paths = _paths(pairs, degree, cluster)
    segments = []
    for path in paths:
        first, last = path[0], path[-1]
        closed = first == last or bool(cluster[first] >= 0 and cluster[first] == cluster[last])
        index = np.array(path, np.int64)
        free = (bool(degree[first] == 1), bool(degree[last] == 1))
        segments.append(Segment(points[index].astype(np.float64), index, closed, free))
    return Graph(points, weight, clusters, int((degree == 1).sum()), tuple(segments))


def _pairs(skeleton: NDArray[np.bool_], points: NDArray[np.int64]) -> NDArray[np.int64]:
    """Neighbouring skeleton pixels, each pair once: [E, 2], as positions in ``points``."""
    padded = np.pad(skeleton, 1)
    number = np.full(padded.shape, -1, np.int32 if len(points) < 2**31 else np.int64)
    y, x = points[:, 0] + 1, points[:, 1] + 1
    number[y, x] = np.arange(len(points))
    pairs = []
    for down, across in ((0, 1), (1, 0), (1, 1), (1, -1)):
        linked = padded[y + down, x + across]
        if down and across:
            linked &= ~padded[y + down, x] & ~padded[y, x + across]
        first = np.flatnonzero(linked)
        pairs.append(np.stack([first, number[y[first] + down, x[first] + across]], 1))
    return np.concatenate(pairs).astype(np.int64)


def _clusters(pairs: NDArray[np.int64], degree: NDArray[np.int64]) -> tuple[NDArray[np.int64], int]:
    """Which branch point each pixel belongs to (-1: none), and how many there are."""
    from scipy.sparse import coo_array
    from scipy.sparse.csgraph import connected_components

    branching = degree > 2
    cluster = np.full(len(degree), -1, np.int64)
    if not branching.any():
        return cluster, 0
    inner = pairs[branching[pairs].all(1)]
    matrix = coo_array((np.ones(len(inner), bool), (inner[:, 0], inner[:, 1])), shape=(len(degree),) * 2)
    _, labels = connected_components(matrix, directed=False)
    kept, cluster[branching] = np.unique(labels[branching], return_inverse=True)
    return cluster, len(kept)


def _paths(pairs: NDArray[np.int64], degree: NDArray[np.int64], cluster: NDArray[np.int64]) -> list[list[int]]:
    """Walk from every node along each of its arms to the next node; what is left over are closed loops."""
    near: list[list[int]] = [[] for _ in range(len(degree))]
    for a, b in pairs.tolist():
        near[a].append(b)
        near[b].append(a)
    node: list[bool] = (degree != 2).tolist()
    groups: list[int] = cluster.tolist()
    seen = [False] * len(degree)

    def walk(start: int, step: int) -> list[int]:
        path = [start, step]
        while path[-1] != start and not node[path[-1]]:
            here = path[-1]
            seen[here] = True
            first, second = near[here]
            path.append(second if first == path[-2] else first)
        return path

    paths = []
    done: set[tuple[int, int]] = set()
    for start in np.flatnonzero((degree != 2) & (degree > 0)).tolist():
        for step in near[start]:
            inside = groups[start] >= 0 and groups[start] == groups[step]  # a step within one branch point
            if inside or seen[step] or (start, step) in done:
                continue
            path = walk(start, step)
            done.add((path[-1], path[-2]))  # the same way back
            paths.append(path)
    for start in np.flatnonzero(degree == 2).tolist():
        if not seen[start]:
            seen[start] = True
            paths.append(walk(start, near[start][0]))
    return paths


def _smoothed(points: Points) -> Points:
    """Moving average along a path [N, 2]; the window shrinks towards the ends, which stay."""
    count = len(points)
    place = np.arange(count)
    reach = np.minimum(np.minimum(place, count - 1 - place), _SMOOTHING)
    sums = np.concatenate([np.zeros((1, 2)), np.cumsum(points - points[0], 0)])
    mean: Any = (sums[place + reach + 1] - sums[place - reach]) / (2 * reach + 1)[:, None]
    return np.asarray(mean + points[0])


def prune(skeleton: NDArray[np.bool_], graph: Graph, calibre: NDArray[np.float64]) -> NDArray[np.bool_]:
    """Skeleton [H, W] without spurs: free ends no longer than the vessel is wide where they branch off.

    Such an end reaches from the middle of the vessel to a bump on its edge and is no vessel of its own.

    Parameters
    ----------
    skeleton : ndarray of bool, shape (H, W)
    graph : Graph
        Of this skeleton.
    calibre : ndarray, shape (N,)
        Width of the vessel at each pixel of ``graph.points``, in pixels.
    """
    out = skeleton.copy()
    for segment in graph.segments:
        if sum(segment.free) != 1 or segment.closed:
            continue
        base = -1 if segment.free[0] else 0
        if segment.arc() <= calibre[segment.index[base]]:
            y, x = graph.points[np.delete(segment.index, base)].T
            out[y, x] = False
    return out
