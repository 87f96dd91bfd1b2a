"""Vessel measures of a segmented fundus photograph: density, skeleton, calibre, tortuosity, fractal dimension.

The skeleton is scikit-image's ``skeletonize`` (Zhang and Suen 1984), spurs no longer than the vessel is wide removed;
distances are SciPy's. The graph is our own (``graph``), not skan's: skan measures paths in steps of 1 and √2,
which gives a straight slanting line a tortuosity of up to 1.08, and compiles for seconds at its first use.
All lengths are in pixels of the mask; nothing is converted to micrometres, because photos do not carry their scale.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from .graph import Graph, build, prune

LEAST_ARC = 10.0
"""Segments shorter than this many pixels have no tortuosity: the pixel grid decides their shape."""
KEYS = (
    "vessel_density",
    "skeleton_length_px",
    "branch_points",
    "end_points",
    "segments",
    "mean_calibre_px",
    "tortuosity",
    "fractal_dimension",
)
"""Names of the measures, in the order of the table's columns."""

Mask = NDArray[np.bool_]


def measure(mask: NDArray[Any], fov: NDArray[Any]) -> dict[str, float]:
    """Measure the vessels inside the field of view.

    Parameters
    ----------
    mask : ndarray of bool, shape (H, W)
        Vessels.
    fov : ndarray of bool, shape (H, W)
        Field of view; vessels outside it do not count.

    Returns
    -------
    dict with ``KEYS``, all 0 where there is no vessel:

    - ``vessel_density``: vessel pixels / pixels of the field of view.
    - ``skeleton_length_px``: sum of the lengths of all segments, each along a moving average of its pixels.
    - ``branch_points``: clusters of touching skeleton pixels with three or more neighbours. Where two vessels cross
      at a sharp angle, the skeleton often has two.
    - ``end_points``: skeleton pixels with one neighbour.
    - ``segments``: stretches of skeleton between those, and closed loops.
    - ``mean_calibre_px``: twice the distance from the skeleton to the vessel's edge, weighted by length. The distance
      is taken on a grid twice as fine, so that a straight bar of n pixels measures n, odd or even.
    - ``tortuosity``: arc / chord of the segments of at least ``LEAST_ARC`` pixels that are not closed, weighted by arc
      length; 1 is straight. 0 where there is no such segment.
    - ``fractal_dimension``: box counting of the mask (see ``fractal_dimension``).

    Raises
    ------
    ValueError
        If the two are not of one shape [H, W].

    References
    ----------
    methods/fsg-net.md, section 8; Zhang and Suen, CACM 27(3), 1984, doi:10.1145/357994.358023.
    """
    if mask.ndim != 2 or mask.shape != fov.shape:
        raise ValueError(f"mask and field of view must be of one shape [H, W], got {mask.shape} and {fov.shape}")
    inside = fov != 0  # not astype: the bools of Pillow's 1-bit images are bytes of 255, which crash skeletonize
    vessels: Mask = (mask != 0) & inside
    if not vessels.any():
        return dict.fromkeys(KEYS, 0.0)
    density = np.count_nonzero(vessels) / np.count_nonzero(inside)
    dimension = fractal_dimension(vessels, inside)
    graph, calibre = _skeleton_graph(_cut(vessels, vessels))
    arcs = np.array([segment.arc() for segment in graph.segments])
    weight = graph.weight if graph.weight.any() else np.ones(len(graph.points))  # dots alone have no length
    values = (
        density,
        arcs.sum(),
        graph.branch_points,
        graph.end_points,
        len(graph.segments),
        np.average(calibre, weights=weight),
        _tortuosity(graph, arcs),
        dimension,
    )
    return {key: float(value) for key, value in zip(KEYS, values, strict=True)}


def fractal_dimension(mask: NDArray[Any], fov: NDArray[Any]) -> float:
    """Box-counting dimension of a mask [H, W] inside the field of view [H, W].

    Boxes of 2, 4, 8, ... pixels up to a quarter of the shorter side of the field of view's bounds; of four positions
    of the grid (shifted by half a box or not, down and across) the one with the fewest boxes counts. The dimension is
    minus the slope of log(count) over log(side), by least squares. 0 for an empty mask or one too small for two sizes.
    """
    inside = fov != 0
    if not inside.any():
        return 0.0
    cut = _cut((mask != 0) & inside, inside)
    y, x = np.nonzero(cut)
    sides = [2**k for k in range(1, 31) if 2**k <= max(2, min(cut.shape) // 4)]
    if not y.size or len(sides) < 2:
        return 0.0
    counts = [_boxes(y, x, side, cut.shape) for side in sides]
    return max(0.0, -float(np.polyfit(np.log(sides), np.log(counts), 1)[0]))


def _boxes(y: NDArray[np.int64], x: NDArray[np.int64], side: int, shape: tuple[int, ...]) -> int:
    """How many boxes of a grid are needed to cover the pixels, at the best of four positions."""
    counts = []
    for down in (0, side // 2):
        row = (y + down) // side
        for across in (0, side // 2):
            hit = np.zeros((shape[0] // side + 2, shape[1] // side + 2), bool)
            hit[row, (x + across) // side] = True
            counts.append(int(np.count_nonzero(hit)))
    return min(counts)


def _cut(mask: Mask, bounds: Mask) -> Mask:
    """The part of ``mask`` within the bounds of another."""
    rows, columns = np.flatnonzero(bounds.any(1)), np.flatnonzero(bounds.any(0))
    return np.ascontiguousarray(mask[rows[0] : rows[-1] + 1, columns[0] : columns[-1] + 1])


def _skeleton_graph(vessels: Mask) -> tuple[Graph, NDArray[np.float64]]:
    """Graph of the pruned skeleton of [H, W], and the calibre at each of its pixels."""
    from scipy.spatial import cKDTree

    tree = cKDTree(_fine(_edge(vessels)))
    skeleton = _thin(vessels)
    graph = build(skeleton)
    pruned = prune(skeleton, graph, _calibre(tree, graph))
    if not np.array_equal(pruned, skeleton):
        graph = build(_thin(pruned))  # thin again: where a spur was, a corner may stay
    return graph, _calibre(tree, graph)


def _thin(mask: Mask) -> Mask:
    from skimage.morphology import skeletonize

    return np.asarray(skeletonize(mask), np.bool_)  # type: ignore[no-untyped-call]


def _edge(vessels: Mask) -> NDArray[np.int64]:
    """Background pixels that touch [H, W] vessels, also outside the frame, as (y, x) [N, 2]."""
    from scipy.ndimage import binary_dilation

    padded = np.pad(vessels, 1)
    edge: Mask = binary_dilation(padded, np.ones((3, 3), bool)) & ~padded
    return np.argwhere(edge).astype(np.int64) - 1


def _fine(points: NDArray[np.int64]) -> NDArray[np.float64]:
    """The four quarters of each pixel (y, x): [N, 2] -> [4 N, 2], those of one pixel together."""
    quarters = np.array([(y, x) for y in (-0.25, 0.25) for x in (-0.25, 0.25)])
    fine: NDArray[np.float64] = points[:, None].astype(np.float64) + quarters  # [N, 4, 2]
    return fine.reshape(-1, 2)


def _calibre(tree: Any, graph: Graph) -> NDArray[np.float64]:
    """Twice the distance to the edge at each skeleton pixel [N], at that quarter of it that lies farthest inside."""
    distance, _ = tree.query(_fine(graph.points))
    return np.asarray(2 * distance.reshape(-1, 4).max(1), np.float64)


def _tortuosity(graph: Graph, arcs: NDArray[np.float64]) -> float:
    """Mean arc / chord of the open segments that are long enough, weighted by arc length."""
    total = weighted = 0.0
    for segment, arc in zip(graph.segments, arcs.tolist(), strict=True):
        if arc >= LEAST_ARC and not segment.closed:
            total += arc
            weighted += arc * arc / segment.chord()
    return weighted / total if total else 0.0
