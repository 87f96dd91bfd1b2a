"""Which axes of an array that does not name them are slices, rows and columns."""

from __future__ import annotations

_THIN = 4
"""An axis this many times shorter than both others, which are alike, is more likely slices than a side of slices."""


def plain_shape(shape: tuple[int, ...]) -> tuple[int, ...]:
    """``shape`` with as few axes of length 1 as it takes to have three axes; two where rows or columns would be 1.

    [1, Z, H, W] and [Z, H, W, 1] are [Z, H, W]; [H, W, 1] and [H, 1, W] are one image [H, W]; [1, H, W] stays. More
    than three axes remain where more are longer than 1. The order of values in memory stays.
    """
    sides = list(shape)
    while len(sides) > 3 and 1 in sides:
        sides.pop(0 if sides[0] == 1 else -1 if sides[-1] == 1 else sides.index(1))
    if len(sides) == 3 and sides[0] > 1 and sides[1:].count(1) == 1:
        sides.remove(1)
    return tuple(sides)


def is_colour(shape: tuple[int, ...]) -> bool:
    """Whether a plain shape is read as [H, W, 3 or 4]: nobody has slices three pixels wide."""
    return len(shape) == 3 and shape[-1] in (3, 4) and min(shape[:2]) > 4


def axes_note(shape: tuple[int, ...], read: tuple[int, ...], fix: str = "numpy.moveaxis(a, {axis}, 0)") -> list[str]:
    """What a user should know where ``shape`` was read as [Z, H, W] and something else could be meant.

    Parameters
    ----------
    shape : tuple of int
        As the file has it.
    read : (Z, H, W)
    fix : str
        How slices that lie along ``{axis}`` of ``read`` come first.

    Returns
    -------
    list of str
        A sentence, or nothing.
    """
    slices, height, width = read
    as_read = (
        f"{slices} slices of {height} x {width} pixels" if slices > 1 else f"one image of {height} x {width} pixels"
    )
    was = f"shape {list(shape)} was read as {as_read}"
    thin = min(range(3), key=lambda axis: read[axis])
    others = [side for axis, side in enumerate(read) if axis != thin]
    if thin and read[thin] > 1 and read[thin] * _THIN <= min(others) and max(others) <= 2 * min(others):
        return [f"{was}; if the {read[thin]} are the slices, put them first: {fix.format(axis=thin)}"]
    return [was] if len(shape) > 3 or (len(shape) == 3 and 1 in shape[1:] and slices == 1) else []
