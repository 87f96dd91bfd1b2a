"""What three stages leave on average, and the third one that meets a budget (methods/vflowopt.md, section 3.5)."""

from __future__ import annotations

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


def even_stages(budget: float, layers: tuple[int, int], depth: int) -> float:
    """R = R1 = R2 = R3 for a mean retention ``budget``: the root in (0, 1] of a polynomial that rises."""
    low, high = 0.0, 1.0
    for _ in range(60):
        middle = (low + high) / 2
        low, high = (middle, high) if mean_retention((middle,) * 3, layers, depth) < budget else (low, middle)
    return high


def _lengths(layers: tuple[int, int], depth: int) -> tuple[int, int, int]:
    second, third = layers
    if not 0 < second < third < depth:
        raise UsageError(
            f"layers {second} and {third}: stages 2 and 3 must be in front of two of layers 1 to {depth - 1}, in order."
        )
    return second, third - second, depth - third
