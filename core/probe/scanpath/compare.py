"""Scores of one set of paths against another over the same scenes. Specification: methods/oat.md, section 3.6."""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from ...scanpaths import (
    behaviour,
    delta,
    fixation_edit_distance,
    found_within,
    multimatch,
    scanpath_saliency,
    sequence_score,
)

BEHAVIOUR = ("correct", "length", "search", "refixation", "revisit")
MULTIMATCH = ("mm_vector", "mm_direction", "mm_length", "mm_position")


@dataclass(frozen=True, slots=True)
class ScenePaths:
    """Paths of two parties over one scene.

    Parameters
    ----------
    model, human : sequence of paths
        Object ids.
    target : int or None
    centres : ndarray (N, 2) or None
        Of the objects in pixels; None: no MultiMatch, no NSS.
    screen : (float, float)
        Width and height.
    places : (list of ndarray (T, 2), list of ndarray (T, 2)) or None
        Fixations in pixels, of all paths, instead of the centres.
    """

    model: Sequence[Sequence[int]]
    human: Sequence[Sequence[int]]
    target: int | None = None
    centres: NDArray[np.float64] | None = None
    screen: tuple[float, float] = (0.0, 0.0)
    places: tuple[Sequence[NDArray[np.float64]], Sequence[NDArray[np.float64]]] | None = None


def compare(
    scenes: Sequence[ScenePaths], *, longest: int | None = None, pairs: int | None = None, compat: bool = False
) -> dict[str, float]:
    """Means over scenes of means over all pairs of paths; behaviour and Delta over all paths.

    Parameters
    ----------
    scenes : sequence of ScenePaths
    longest : int or None
        Of the curve of search performance; None: the longest path.
    pairs : int or None
        Paths of ``model`` in each scene whose MultiMatch is taken; None: all.
    compat : bool
        See ``multimatch``.

    Returns
    -------
    dict: ``ss``, ``fed``, ``mm_*``, ``mm_undefined`` (pairs with a path of fewer than three fixations, which are
    NaN and left out of the means), ``nss``, ``delta``, the five of ``behaviour`` of the model and, as ``human_*``, of
    the other party, and ``tfp_auc``, ``human_tfp_auc``; NaN where it is not known.
    """
    ss, fed, nss = list[float](), list[float](), list[float]()
    four, undefined = list[NDArray[np.float64]](), 0
    for scene in scenes:
        both = list(itertools.product(scene.model, scene.human))
        ss.append(_mean([sequence_score(a, b) for a, b in both]))
        fed.append(_mean([fixation_edit_distance(a, b) for a, b in both]))
        places = _places(scene)
        if places is None:
            continue
        drawn = [multimatch(a, b, scene.screen, compat=compat)[:4] for a in places[0][:pairs] for b in places[1]]
        known = [one for one in drawn if np.isfinite(one[0])]
        undefined += len(drawn) - len(known)
        if known:
            four.append(np.mean(known, axis=0))
        if scene.centres is not None:
            pixels = int(scene.screen[0] * scene.screen[1])
            nss.append(_mean([scanpath_saliency(scene.model, path, pixels) for path in scene.human]))
    found = {"ss": _mean(ss), "fed": _mean(fed)}
    means = np.mean(four, axis=0) if four else [float("nan")] * 4
    found |= dict(zip(MULTIMATCH, map(float, means), strict=True))
    found |= {"mm_undefined": float(undefined), "nss": _mean(nss)}
    return found | _behaviours(scenes, longest)


def _mean(values: Sequence[float]) -> float:
    return float(np.mean(values)) if len(values) else float("nan")


def _places(
    scene: ScenePaths,
) -> tuple[Sequence[NDArray[np.float64]], Sequence[NDArray[np.float64]]] | None:
    if scene.places is not None:
        return scene.places
    if scene.centres is None:
        return None
    model, human = ([scene.centres[list(path)] for path in paths] for paths in (scene.model, scene.human))
    return model, human


def _behaviours(scenes: Sequence[ScenePaths], longest: int | None) -> dict[str, float]:
    """Of both parties; paths without fixations are left out, an empty one has no behaviour."""
    known = [scene for scene in scenes if scene.target is not None]
    if not known:
        nan = float("nan")
        names = [*BEHAVIOUR, *(f"human_{name}" for name in BEHAVIOUR), "delta", "tfp_auc", "human_tfp_auc"]
        return dict.fromkeys(names, nan)
    found: dict[str, float] = {}
    sides, within = [], []
    most = longest or max(len(path) for scene in known for path in (*scene.model, *scene.human))
    for first, party in (("", "model"), ("human_", "human")):
        told = [
            behaviour(path, scene.target)
            for scene in known for path in getattr(scene, party) if path and scene.target is not None
        ]  # fmt: skip
        sides.append(told)
        found |= {f"{first}{name}": float(value) for name, value in zip(BEHAVIOUR, np.mean(told, axis=0), strict=True)}
        within.append(np.mean([found_within(getattr(scene, party), scene.target, most).mean() for scene in known]))  # type: ignore[arg-type]
    found |= {"delta": delta(*sides), "tfp_auc": float(within[0]), "human_tfp_auc": float(within[1])}
    return found
