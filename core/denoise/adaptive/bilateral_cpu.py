"""Patch bilateral filters on the CPU: numba kernels over bands of rows, float32.

Per offset of the window: squared differences of the guide, summed over the patch (``_distances``); then per range width
one exponential and two accumulations. Nothing of the size window x image is ever stored: work goes by tiles of rows
that stay in the cache. Three things are shared: the distances by filters that differ in their range width alone; in one
slice, the distances of an offset by its opposite (that of i and i + d is that of i + d and its neighbour at -d); and
the test of the smoothed slices by the range widths.

Sums are begun anew in every row, never carried along: neither tiles nor bands change a bit. Exponents are to base 2.
The parts are inlined by force: numba links a helper that LLVM leaves uninlined to another copy, with another rounding,
in a process that loads the kernel from the cache than in the one that compiled it.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numba import njit
from numpy.typing import NDArray

from ...jit import FASTMATH, exp2_negative, kernel
from ...threads import bands, run

Plane = NDArray[np.float32]
Planes = NDArray[np.float32]
_ZERO, _ONE = np.float32(0), np.float32(1)
_LOWEST = np.float32(-60.0)
"""Weights are 2^-60 at least: next to the pixel's own nothing, yet no product is a denormal number, which are slow."""
_TILE, _ROWS = 16384, 8
"""Pixels of a tile (its sums, distances and pixels fill half a megabyte of cache), and its least height."""


@njit(fastmath=FASTMATH, error_model="numpy", forceinline=True)
def _distances(here: Plane, there: Plane, top: int, left: int, dy: int, dx: int, patch: int, height: int, width: int,
               ring: Any, column: Any, out: Any) -> None:  # fmt: skip
    """``out`` [height, width]: sums over patches of (here(i) - there(i + d))^2; the first patch begins at top, left.

    ``ring`` [2 patch + 1, width + 2 patch] holds the last rows of squares, ``column`` their sum; ``patch`` >= 1.
    """
    side, wide = 2 * patch + 1, width + 2 * patch
    for row in range(height + 2 * patch):
        a, b = here[top + row, left : left + wide], there[top + row + dy, left + dx : left + dx + wide]
        squares = ring[row % side]
        for x in range(wide):
            t = a[x] - b[x]
            squares[x] = t * t
        if row < 2 * patch:
            continue
        # from the oldest row on, or the order of a sum would tell where its tile begins
        first, second, third = ring[(row + 1) % side], ring[(row + 2) % side], ring[(row + 3) % side]
        for x in range(wide):
            column[x] = first[x] + second[x] + third[x]
        for k in range(3, side, 2):
            first, second = ring[(row + k + 1) % side], ring[(row + k + 2) % side]
            for x in range(wide):
                column[x] += first[x] + second[x]
        sums = out[row - 2 * patch]
        for x in range(width):
            sums[x] = column[x] + column[x + 1] + column[x + 2]
        for k in range(3, side, 2):
            for x in range(width):
                sums[x] += column[x + k] + column[x + k + 1]


@kernel(
    "void(float32[:,::1],float32[:,::1],float32[:,::1],float32[:,::1],float32[::1],float32,int64,float32[:,:,::1],"
    "int64,int64)"
)
def _within(
    image: Plane, guide: Plane, scale: Plane, spatial: Plane, factors: Any, bias: Any, patch: int, out: Planes,
    start: int, stop: int,
) -> None:  # fmt: skip
    """Rows start..stop-1 of the filtered image ``out`` [K, H, W]; ``image`` and ``guide`` are padded."""
    count, width = len(factors), scale.shape[1]
    radius = spatial.shape[0] // 2
    border = radius + patch
    tile = min(max(_ROWS, _TILE // width), stop - start)
    ring, column = np.empty((2 * patch + 1, width + 2 * border), np.float32), np.empty(width + 2 * border, np.float32)
    distances, total = np.empty((tile + radius, width + radius), np.float32), np.empty((count, tile, width), np.float32)
    for top in range(start, stop, tile):
        height = min(tile, stop - top)
        for k in range(count):
            for row in range(height):  # the pixel itself has weight 1
                out[k, top + row] = image[top + row + border, border : border + width]
                total[k, row] = _ONE
        for dy in range(radius + 1):
            for dx in range(-radius, radius + 1):
                if dy == 0 and dx <= 0:
                    continue  # the pixel itself, and what an opposite offset has done
                # from dy rows above, and from dx columns before or behind: the opposite offset begins there
                left = min(0, -dx)
                _distances(
                    guide, guide, top - dy + radius, left + radius, dy, dx, patch, height + dy, width + abs(dx), ring,
                    column, distances,
                )  # fmt: skip
                s = spatial[dy + radius, dx + radius]
                for row in range(height):
                    y = top + row
                    d = distances[row + dy, -left : width - left]
                    e = distances[row, -dx - left : width - dx - left]
                    p = image[y + border + dy, border + dx : border + dx + width]
                    q = image[y + border - dy, border - dx : border - dx + width]
                    c = scale[y]
                    for k in range(count):
                        o, t, factor = out[k, y], total[k, row], factors[k]
                        for x in range(width):
                            f = c[x] * factor
                            # exponents above 0 count as 0: what is below the bias passes freely
                            v = s * exp2_negative(max(bias - d[x] * f, _LOWEST))
                            w = s * exp2_negative(max(bias - e[x] * f, _LOWEST))
                            o[x] += v * p[x] + w * q[x]
                            t[x] += v + w
        for k in range(count):
            for row in range(height):
                o, t = out[k, top + row], total[k, row]
                for x in range(width):
                    o[x] /= t[x]


@kernel(
    "void(float32[:,::1],float32[:,::1],float32[:,::1],float32[:,::1],float32[::1],float32,float32[:,::1],"
    "float32[:,::1],float32[:,::1],float32,float32,int64,int64,boolean,float32[:,:,::1],float32[:,:,::1],int64,int64)"
)
def _between(
    image: Plane, here: Plane, there: Plane, scale: Plane, factors: Any, bias: Any, low_here: Plane, low_there: Plane,
    low_scale: Plane, low_bias: Any, log_weight: Any, radius: int, patch: int, own: bool, out: Planes, total: Planes,
    start: int, stop: int,
) -> None:  # fmt: skip
    """Add another slice's window (or one's own) to rows start..stop-1 of ``out`` and ``total`` [K, H, W]."""
    count, width = len(factors), scale.shape[1]
    border = radius + patch
    tile = min(max(_ROWS, _TILE // width), stop - start)
    ring, column = np.empty((2 * patch + 1, width + 2 * border), np.float32), np.empty(width + 2 * border, np.float32)
    distances, guard = np.empty((tile, width), np.float32), np.empty(width, np.float32)
    for top in range(start, stop, tile):
        height = min(tile, stop - top)
        for dy in range(-radius, radius + 1):
            for dx in range(-radius, radius + 1):
                if own and dy == 0 and dx == 0:
                    continue
                _distances(
                    here, there, top + radius, radius, dy, dx, patch, height, width, ring, column, distances
                )  # fmt: skip
                for row in range(height):
                    y = top + row
                    n = image[y + border + dy, border + dx : border + dx + width]
                    p = low_here[y + border, border : border + width]
                    q = low_there[y + border + dy, border + dx : border + dx + width]
                    c = low_scale[y]
                    for x in range(width):
                        u = p[x] - q[x]
                        guard[x] = log_weight - max(u * u * c[x] - low_bias, _ZERO)
                    c = scale[y]
                    for k in range(count):
                        d, o, t, factor = distances[row], out[k, y], total[k, y], factors[k]
                        for x in range(width):
                            w = exp2_negative(guard[x] - max(d[x] * (c[x] * factor) - bias, _ZERO))
                            o[x] += w * n[x]
                            t[x] += w


def within(
    image: Plane, guide: Plane, scale: Plane, spatial: Plane, factors: Plane, bias: float, patch: int
) -> Planes:  # fmt: skip
    """``_within`` over the whole image, on all threads: [K, H, W]."""
    out = np.empty((len(factors), *scale.shape), np.float32)
    start = image, guide, scale, spatial, factors, np.float32(bias), patch, out
    run(_within(), [(*start, *band) for band in bands(len(scale), _ROWS)])
    return out


def between(*planes: Any) -> None:
    """``_between`` over the whole image, on all threads; its arguments without the rows."""
    run(_between(), [(*planes, *band) for band in bands(planes[-1].shape[1], _ROWS)])
