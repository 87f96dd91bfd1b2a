"""The generalised Hilbert ("Gilbert") curve through a box of any size: an order in which runs of tokens are compact.

Specification: methods/rectified-spaattn.md, section 3.1. A box is spanned by three axis vectors; its curve enters at
the corner ``start`` and leaves at the far end of the main axis ``a``. Long boxes are cut across their long side;
others into five boxes (three in a plane) that follow each other round the hole between entry and exit.
"""

from __future__ import annotations

from functools import lru_cache

import torch
from torch import Tensor

Vector = tuple[int, int, int]


def gilbert_order(t: int, h: int, w: int) -> Tensor:
    """The tokens of a (t, h, w) grid in the order of the curve.

    Parameters
    ----------
    t, h, w : int
        Frames, rows and columns; at least 1.

    Returns
    -------
    Tensor int64 [t * h * w]: row-major token numbers; ``x[order]`` puts tokens along the curve and
    ``torch.argsort(order)`` undoes it. Neighbours on the curve touch each other, most of them by a face.

    Raises
    ------
    ValueError
        If a side is not positive.

    Examples
    --------
    >>> gilbert_order(1, 2, 2).tolist()
    [0, 1, 3, 2]
    """
    if min(t, h, w) < 1:
        raise ValueError(f"a grid needs positive sides, not {t} x {h} x {w}.")
    return _order(t, h, w).clone()


@lru_cache(maxsize=8)
def _order(t: int, h: int, w: int) -> Tensor:
    points: list[int] = []
    strides = (h * w, w, 1)
    sides: list[Vector] = [(t, 0, 0), (0, h, 0), (0, 0, w)]
    sides.sort(key=lambda side: -_length(side))
    _curve(0, sides[0], sides[1], sides[2], strides, points)
    return torch.tensor(points, dtype=torch.int64)


def _length(v: Vector) -> int:
    return abs(v[0] + v[1] + v[2])  # axis vectors: one entry is not zero


def _add(a: Vector, b: Vector) -> Vector:
    return a[0] + b[0], a[1] + b[1], a[2] + b[2]


def _neg(v: Vector) -> Vector:
    return -v[0], -v[1], -v[2]


def _half(v: Vector) -> tuple[Vector, Vector]:
    """A side cut in two; the first part is even where that is possible, so that its curve ends on the right face."""
    length = _length(v)
    cut = length // 2
    if cut % 2 and length > 2:
        cut += 1
    first = (v[0] // length * cut, v[1] // length * cut, v[2] // length * cut)
    return first, _add(v, _neg(first))


def _curve(start: int, a: Vector, b: Vector, c: Vector, strides: Vector, points: list[int]) -> None:
    """Append the curve of the box ``start + a x b x c`` to ``points``."""

    def offset(v: Vector) -> int:
        return v[0] * strides[0] + v[1] * strides[1] + v[2] * strides[2]

    def last(v: Vector) -> int:  # from the first to the last token along a side
        length = _length(v)
        return offset(v) // length * (length - 1)

    def go(at: int, *box: Vector) -> None:
        _curve(at, box[0], box[1], box[2], strides, points)

    na, nb, nc = _length(a), _length(b), _length(c)
    if nb == 1 and nc == 1:
        step = offset(a) // na
        points.extend(range(start, start + step * na, step))
        return
    if na == 1:
        if nc == 1:
            go(start, b, a, c)  # a line across: the exit cannot be at the far end of a
            return
        if nb == 1:
            go(start, c, a, b)
            return
    a1, a2 = _half(a) if na > 1 else (a, a)
    if 2 * na > 3 * nb and 2 * na > 3 * nc and na > 2:
        go(start, a1, b, c)
        go(start + offset(a1), a2, b, c)
    elif na > 1 and nb > 1 and (nc == 1 or 3 * nb > 4 * nc):
        # out along half of b, across, and back: the exit stays on the face b = 0
        b1, b2 = _half(b)
        go(start, b1, c, a1)
        go(start + offset(b1), a, b2, c)
        go(start + last(a) + last(b1), _neg(b1), c, _neg(a2))
    elif na > 1 and nc > 1 and (nb == 1 or 3 * nc > 4 * nb):
        c1, c2 = _half(c)
        go(start, c1, b, a1)
        go(start + offset(c1), a, b, c2)
        go(start + last(a) + last(c1), _neg(c1), b, _neg(a2))
    elif na > 1:
        b1, b2 = _half(b)
        c1, c2 = _half(c)
        go(start, b1, c1, a1)
        go(start + offset(b1), c, a1, b2)
        go(start + last(b1) + last(c), a, _neg(b1), _neg(c2))
        go(start + last(a) + offset(b1) + last(c), _neg(c), _neg(a2), b2)
        go(start + last(a) + last(b1), _neg(b1), c1, _neg(a2))
    else:
        go(start, b, c, a)  # a sheet of one layer: run along it
