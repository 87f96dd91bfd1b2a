"""Synthetic scenes for the open-domain question: does a model find what its fine captions never named?

Ours; the set-up is that of methods/priorclip.md, section 3D. Coarse pairs, as the web has them, are of every scene and
say no more than which one it is, each thing under either of two names. Fine captions are of some scenes only and know
one name of each thing. Tested are other pictures of those scenes, with their captions (``test``) and with the other
names in them (``synonyms``), and pictures of the other scenes (``unseen``).
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from itertools import cycle, islice

import numpy as np

from ...errors import UsageError
from .data import Pictures, of_scenes
from .scenes import KINDS, SIZE, Kind, draw_scene

UNSEEN = ("desert", "harbour", "tanks")
"""Scenes that no fine caption describes."""
OTHER_NAMES: Mapping[str, tuple[str, str, str]] = {
    "airport": ("an airfield", "turf", "jet"),
    "farmland": ("a farm", "crops", "shed"),
    "forest": ("a wood", "trees", "hut"),
    "harbour": ("a port", "sea", "ship"),
    "desert": ("a waste", "dunes", "shelter"),
    "parking": ("a car park", "tarmac", "vehicle"),
    "residential": ("a suburb", "garden", "home"),
    "tanks": ("a refinery", "dirt", "silo"),
}
"""Of scene, ground and object."""
VIEWS = ("a satellite image", "an aerial photo", "a view from above")
COARSE, TEST, NEW_WORDS, NEW_SCENES = "coarse", "test", "synonyms", "unseen"
DRAWN = ("train", "val", TEST, COARSE, NEW_SCENES)
"""Splits that have pictures of their own."""


def renamed(kind: Kind, label: str) -> Kind:
    """A kind of scene under its other names."""
    phrase, ground, objects = OTHER_NAMES[label]
    return replace(kind, phrase=phrase, ground=ground, objects=objects)


def coarse_pairs(label: str) -> tuple[str, ...]:
    """What is said of a picture of a scene by somebody who names the scene, its ground and its objects, no more."""
    names = (KINDS[label], renamed(KINDS[label], label))
    scenes = [f"{view} of {kind.phrase}" for view in VIEWS for kind in names]
    return (*scenes, *(f"{kind.objects}{s} on {kind.ground}" for kind in names for s in ("", "s")))


def synthetic_open(counts: Mapping[str, int], seed: int, size: int = SIZE) -> dict[str, Pictures]:
    """Splits of one run.

    Parameters
    ----------
    counts : mapping of str to int
        Pictures of each of ``DRAWN``.
    seed : int
    size : int
        Side of a picture, px.

    Returns
    -------
    Those, and ``synonyms``: the pictures of ``test`` with captions of other names.

    Raises
    ------
    UsageError
        If a split would be empty.
    """
    if empty := [split for split in DRAWN if counts.get(split, 0) < 1]:
        raise UsageError(f"synthetic-open data: {empty[0]} must have at least one picture.")
    seen = tuple(label for label in KINDS if label not in UNSEEN)
    scenes = {COARSE: tuple(KINDS), NEW_SCENES: UNSEEN}
    out: dict[str, Pictures] = {}
    first = 0
    for split in DRAWN:
        labels = islice(cycle(scenes.get(split, seen)), counts[split])
        numbered = list(enumerate(labels, first))
        out[split] = of_scenes([draw_scene(_dice(seed, i), label, i) for i, label in numbered], size)
        if split == TEST:
            told = [draw_scene(_dice(seed, i), label, i, renamed(KINDS[label], label)) for i, label in numbered]
            out[NEW_WORDS] = of_scenes(told, size)
        first += counts[split]
    pairs = tuple(coarse_pairs(label) for label in out[COARSE].labels)
    return out | {COARSE: replace(out[COARSE], captions=pairs)}


def _dice(seed: int, number: int) -> np.random.Generator:
    return np.random.default_rng((seed, 3, number))
