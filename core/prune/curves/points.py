"""At which points methods are scored: each method at each share, as far as it can reach it."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from dataclasses import dataclass

from ...errors import UsageError
from ..engine.sites import VisionLanguageSite
from ..methods.base import Keep, Pruner
from .options import RANDOM, CurveOptions

FULL = "full"
"""What the whole model is called beside the methods."""
TOLERANCE = 0.01
"""How far the counted share may be from the one that was asked for (methods/prune-evaluation.md, section 1)."""


@dataclass(frozen=True, slots=True)
class Point:
    """A method at a share.

    Parameters
    ----------
    method : str
        As the user names it.
    retention : float
        Mean share of visual tokens over all decoder layers.
    seed : int
        Number of the draw of ``random``; 0 for all others.
    pruner : Pruner
    keep : Keep
        The budget at which this method has that mean.
    """

    method: str
    retention: float
    seed: int
    pruner: Pruner
    keep: Keep


def points_of(
    options: CurveOptions, pruners: Sequence[tuple[str, Pruner]], site: VisionLanguageSite
) -> tuple[list[Point], list[str]]:
    """The points that can be scored, and in words those that cannot.

    Parameters
    ----------
    options : CurveOptions
    pruners : sequence of (str, Pruner)
        Methods by name.
    site : VisionLanguageSite
    """
    points, left_out = [], []
    for name, pruner in pruners:
        for retention in options.keeps:
            if retention == 1.0:
                continue  # the whole model
            try:
                keep = pruner.keep_for(site, retention)
            except UsageError as error:
                left_out.append(f"{name} at {retention:.4g}: {str(error).removeprefix('keep: ')}")
                continue
            points += [
                Point(name, retention, seed, one, keep) for seed, one in enumerate(_drawn(pruner, name, options))
            ]
    return points, left_out


def _drawn(pruner: Pruner, name: str, options: CurveOptions) -> list[Pruner]:
    """The method with each of its seeds."""
    if name != RANDOM:
        return [pruner]
    return [dataclasses.replace(pruner, seed=pruner.seed + draw) for draw in range(options.draws)]  # type: ignore[attr-defined, call-arg]
