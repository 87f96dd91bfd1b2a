"""What three stages leave on average, and the third one that meets a budget (methods/vflowopt.md, section 3.5)."""

from __future__ import annotations

from collections.abc import Callable

from ...errors import UsageError


def mean_retention(stages: tuple[float, float, float], layers: tuple[int, int], depth: int) -> float:
    """Share of visual tokens that is left, mean over the layers.

    Parameters
    ----------
    stages : (R1, R2, R3)
        Share of those that were there which each stage leaves.
    layers : (l2, l3)
        Decoder layers in front of which stages 2 and 3 are.
    depth : int
        Layers in all.
    """
    first, second, third = stages
    lengths = _lengths(layers, depth)
    shares = (first, first * second, first * second * third)
    return sum(share * length for share, length in zip(shares, lengths, strict=True)) / depth


def third_stage(budget: float, first: float, second: float, layers: tuple[int, int], depth: int) -> float:
    """R3 for a mean retention ``budget``, before it is cut to 1; not positive where R1 and R2 leave too much."""
    lengths = _lengths(layers, depth)
    left = budget * depth - first * lengths[0] - first * second * lengths[1]
    return left / lengths[2] / (first * second)


def solved(budget: float, first: float, second: float, layers: tuple[int, int], depth: int) -> float:
    """R3, at most 1.

    Raises
    ------
    UsageError
        If stages 1 and 2 leave more than the budget.
    """
    third = third_stage(budget, first, second, layers, depth)
    if third <= 0:
        raise UsageError(
            f"R1 {first:g} and R2 {second:g} leave more than {budget:.4g} of the visual tokens already in front of "
            f"layer {layers[1]}: take less at one of them."
        )
    return min(1.0, third)


def second_count(total: float, before: int, share: float | None, layers: tuple[int, int], depth: int) -> int:
    """Tokens of one prompt that stage 2 leaves, where stage 3 is to spend what remains of a budget.

    Merged tokens come back in whole cells, so that stage 1 leaves more or fewer than R1: the two other stages make up
    for it (ours; section 3.3, step 5, asks for true counts).

    Parameters
    ----------
    total : float
        Tokens times layers that the budget has.
    before : int
        Tokens behind stage 1.
    share : float or None
        R2, from which there is a departure only where stage 3 could not meet the budget otherwise. None: R2 = R3.
    layers : (l2, l3)
    depth : int
    """
    first, second, third = _lengths(layers, depth)
    rest = total - before * first
    if share is None:
        share = _root(lambda r: before * (r * second + r * r * third), rest)
    wanted = min(max(before * share, rest / (second + third)), (rest - third) / second)
    return min(before, max(1, round(wanted)))


def third_count(total: float, before: int, here: int, layers: tuple[int, int], depth: int) -> int:
    """Tokens that stage 3 leaves of ``here`` so that the budget is spent; below 1 where it is spent already."""
    first, second, third = _lengths(layers, depth)
    return min(here, round((total - before * first - here * second) / third))


def even_stages(budget: float, layers: tuple[int, int], depth: int) -> float:
    """R = R1 = R2 = R3 for a mean retention ``budget``."""
    return _root(lambda r: mean_retention((r, r, r), layers, depth), budget)


def _root(rising: Callable[[float], float], value: float) -> float:
    """Where in (0, 1] a rising function has a value; 1 where it is below everywhere."""
    low, high = 0.0, 1.0
    for _ in range(60):
        middle = (low + high) / 2
        low, high = (middle, high) if rising(middle) < value else (low, middle)
    return high


def _lengths(layers: tuple[int, int], depth: int) -> tuple[int, int, int]:
    second, third = layers
    if not 0 < second < third < depth:
        raise UsageError(
            f"layers {second} and {third}: stages 2 and 3 must be in front of two of layers 1 to {depth - 1}, in order."
        )
    return second, third - second, depth - third
