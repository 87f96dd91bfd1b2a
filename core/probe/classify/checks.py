"""Can the ladder be believed? The same probes on the encoder without its weights, and on shuffled labels.

A line about the encoder is green where it beats the encoder with randomised weights; one that learned nothing is red
in all of them. The last line is of the measurement, not of the encoder: shuffled labels must give chance.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from itertools import combinations

import numpy as np

from ...report.sections import TrustLine
from .data import ClassSet
from .ladder import Bench, Rung, Said, climb
from .measure import interval
from .query_maps import Maps, agreement, maps_of
from .split import Rows

DRAWS = 3
"""Randomised encoders; each costs a reading of all pictures, once."""
MAPPED = 64
"""Test pictures whose maps are compared."""


def against_untrained(found: Sequence[Rung], draws: Sequence[Sequence[Rung]]) -> list[TrustLine]:
    """Accuracy beyond that on randomised weights, probe by probe: the interval of the difference lies above 0.

    ``draws`` are the ladders of ``DRAWS`` randomised encoders; the best of them counts, since one untrained encoder is
    better than another by luck.
    """
    lines = []
    for number, one in enumerate(found):
        best = max((draw[number] for draw in draws), key=lambda rung: rung.hits.mean())
        gain = interval(one.hits.mean(0, keepdims=True) - best.hits.mean(0, keepdims=True))
        meaning = (
            f"accuracy, beside that on the best of {len(draws)} randomisations of the weights; {gain.mean:+.1%} "
            f"({gain.low:+.1%} to {gain.high:+.1%}) passes where the whole interval is above 0"
        )
        check = f"{one.probe}: what the weights add"
        lines.append(TrustLine(check, float(one.hits.mean()), float(best.hits.mean()), gain.low > 0, meaning))
    return lines


def seeds_agree(found: Maps, draws: Sequence[Maps], probe: str, seeds: int) -> TrustLine:
    """Query maps of different seeds, [pictures]: do they agree more than those on any of the randomised encoders?"""
    best = max(draws, key=lambda draw: draw.mean())
    gain = interval((found - best)[None])
    meaning = (
        f"correlation of the query maps of {seeds} seeds, paired for the best; passes where it exceeds that on the "
        f"best of {len(draws)} randomised encoders on all of the interval ({gain.low:+.3f} to {gain.high:+.3f})"
    )
    check = f"{probe}: seeds agree on where to look"
    return TrustLine(check, float(found.mean()), float(best.mean()), gain.low > 0, meaning)


def seed_agreement(bench: Bench, rung: Rung) -> Maps | None:
    """How alike the maps of a rung's seeds are, mean over their pairs, [pictures]; None without maps or pairs."""
    read = bench.reader(rung.layer, rung.reads)
    maps = [maps_of(one.head, read, bench.split.test[:MAPPED]) for one in rung.trained]
    known = [of for of in maps if of is not None]
    if len(known) < 2:
        return None
    return np.asarray(np.mean([agreement(a, b) for a, b in combinations(known, 2)], 0))


def shuffled(bench: Bench, probe: str, layer: int, seed: int, said: Said) -> TrustLine:
    """Labels of all but the test part permuted: nothing is left to learn, and the test must say so."""
    pictures, split = bench.pictures, bench.split
    labels = pictures.labels.copy()
    rows = np.concatenate([split.train, split.val])
    labels[rows] = labels[np.random.default_rng((seed, 41)).permutation(rows)]
    control = Bench(replace(pictures, labels=labels), bench.features, split, bench.recipe, bench.queries, bench.d_out)
    rung = climb(control, probe, layer, (seed,), said)
    chance, found = largest_class(pictures, split.test), interval(rung.hits)
    meaning = (
        f"of the measurement, not the encoder: {probe} on shuffled labels ({found.low:.1%} to {found.high:.1%}) passes "
        "where it is no better than the largest class"
    )
    return TrustLine("control: shuffled labels", found.mean, chance, found.low <= chance, meaning)


def largest_class(pictures: ClassSet, rows: Rows) -> float:
    """What naming the largest class always comes to."""
    return float(np.bincount(pictures.labels[rows]).max() / len(rows))
