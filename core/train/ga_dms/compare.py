"""Models that are trained side by side to see what masking is worth, and the table they come to."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from statistics import fmean, stdev
from typing import Any

from ...fit.repeated import means
from .options import GADMSOptions

OWN = "as given"
"""The run's own model in the table, where it is none of ``ARMS``."""
FOLDER = "compared"
SHUFFLED = "shuffled-"
MEASURED = ("r1", "r5", "map")
"""With their spread."""
WORDS = ("gass_wrong", "gass_right", "gass_below")
"""Of drawn people."""


@dataclass(frozen=True, slots=True)
class ComparedModel:
    """One training of a comparison.

    Parameters
    ----------
    arm : str
        Of ``ARMS``, or ``OWN``.
    options : GADMSOptions
        Its own, with its seed.
    folder : str
        In that of the run; empty: the run's own model.
    """

    arm: str
    options: GADMSOptions
    folder: str

    @property
    def seed(self) -> int:
        return self.options.compute.seed


def models_of(options: GADMSOptions) -> list[ComparedModel]:
    """What is trained, the run's own model first, then seed by seed.

    Parameters
    ----------
    options : GADMSOptions
        With nothing left open.
    """
    arms = {name: changed(options, name) for name in options.compare}
    own = next((name for name, arm in arms.items() if arm == options), OWN)
    first = options.compute.seed
    models = [ComparedModel(own, options, "")]
    for seed in range(first, first + options.repeats) if arms else ():
        for name, arm in ({own: options} | arms).items():
            if (name, seed) != (own, first):
                arm = replace(arm, compute=replace(arm.compute, seed=seed))
                models.append(ComparedModel(name, arm, f"{FOLDER}/{name.replace(' ', '-')}-{seed}"))
    return models


def changed(options: GADMSOptions, arm: str) -> GADMSOptions:
    """The options of an arm: all else is as given."""
    assert options.losses is not None
    masked = arm.removeprefix(SHUFFLED)
    losses = options.losses
    if masked in ("words", "both"):
        losses = losses if "mlm" in losses else (*losses, "mlm")
    else:
        losses = tuple(loss for loss in losses if loss != "mlm")
    scores = options.scores if arm == "plain" else "shuffled" if arm != masked else "gass"
    return replace(options, losses=losses, noise=masked in ("noise", "both"), scores=scores)


def summary_rows(found: Sequence[Mapping[str, Any]]) -> list[dict[str, Any]]:
    """A row for each arm: means over its seeds, and their standard deviation.

    Parameters
    ----------
    found : sequence of mapping
        A row for each model: arm, seed, steps, seconds, ``MEASURED`` in [0, 1], and ``WORDS`` where they are known.
    """
    table: list[dict[str, Any]] = []
    for arm in dict.fromkeys(row["arm"] for row in found):
        own = [row for row in found if row["arm"] == arm]
        line: dict[str, Any] = {"arm": arm, "seeds": len(own), "steps": own[0]["steps"]}
        line |= means(own, MEASURED)
        line |= {name: fmean(row[name] for row in own) for name in WORDS if name in own[0]}
        table.append(line | {"seconds": fmean(row["seconds"] for row in own)})
    return table


def verdicts(found: Sequence[Mapping[str, Any]]) -> list[str]:
    """What each arm changes against no masking, and by scores against as much of it at random, in words."""
    value = {(row["arm"], row["seed"]): 100 * row["r1"] for row in found}
    seeds, arms = sorted({row["seed"] for row in found}), dict.fromkeys(row["arm"] for row in found)
    pairs = [(arm, "plain") for arm in arms if arm != "plain"] + [(arm, f"{SHUFFLED}{arm}") for arm in arms]
    said = []
    for ours, theirs in pairs:
        if theirs not in arms:
            continue
        gains = [value[ours, seed] - value[theirs, seed] for seed in seeds]
        better = sum(gain > 0 for gain in gains)
        worse = sum(gain < 0 for gain in gains)
        word = "is better" if better == len(gains) else "is worse" if worse == len(gains) else "is undecided"
        spread = f" (standard deviation {stdev(gains):.1f})" if len(gains) > 1 else ""
        said.append(
            f"{ours} against {theirs} {word}: R@1 {fmean(gains):+.1f} points{spread}, more in {better} of {len(gains)} "
            "seeds."
        )
    return said
