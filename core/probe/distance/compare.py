"""Domains of pictures, and models before and after, compared layer by layer.

Specification: methods/astigmatism.md, section 3.1, step 7: delta = d(target) - d(source), and d(after) - d(before), in
per cent of the latter, with a bootstrap over the pictures.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ...report.sections import Section, Table, Trust
from ..panel import FigureData
from ..trust.lines import line, weights_line
from .reach import diagonal, uniform_distance

FEWEST = 5
"""Pictures of a domain from which on an interval is given: of fewer, resampling says next to nothing."""
RESAMPLES = 2000
LEVEL = 0.95
MASSES = ("fg_to_fg", "fg_to_bg", "bg_to_fg", "distance_fg")


@dataclass(frozen=True, slots=True)
class Domain:
    """What was found in the pictures of one domain.

    Parameters
    ----------
    name : str
    distance, entropy, dropped : ndarray, shape (n, L, H)
        Distances in patches.
    before : ndarray, shape (n, L, H) or (0,)
        Distances of the model before.
    masses : mapping of str to ndarray, shape (m, L, H)
        By the names of ``MASSES``; of the pictures with objects.
    checked : ndarray, shape (c, L, H)
        Distances of the pictures that models with randomised weights looked at, too.
    untrained : ndarray, shape (c, U, L, H)
        Theirs.
    """

    name: str
    distance: NDArray[np.float32]
    entropy: NDArray[np.float32]
    dropped: NDArray[np.float32]
    before: NDArray[np.float32]
    masses: Mapping[str, NDArray[np.float32]]
    checked: NDArray[np.float32]
    untrained: NDArray[np.float32]


@dataclass(frozen=True, slots=True)
class DomainChange:
    """One thing against another, in per cent of the other.

    Parameters
    ----------
    name : str
        ``"target against source"``.
    percent, low, high : ndarray, shape (L + 1,)
        Of each layer, and last of the mean over layers; ends are NaN without an interval.
    heads : ndarray, shape (L, H)
    """

    name: str
    percent: NDArray[np.float64]
    low: NDArray[np.float64]
    high: NDArray[np.float64]
    heads: NDArray[np.float64]

    @property
    def excludes(self) -> NDArray[np.bool_]:
        """Whether the interval lies on one side of 0; False without one."""
        return (self.low > 0) | (self.high < 0)

    def told(self, pictures: str) -> str:
        """What came out, in one line."""
        whole = f"{self.name}: attention distance {self.percent[-1]:+.2f} %, mean over layers"
        if np.isnan(self.low[-1]):
            return f"{whole}; no interval: that takes {FEWEST} pictures of each domain ({pictures})"
        says = "excludes 0" if self.excludes[-1] else "does not exclude 0: no difference is shown"
        layers = f"layer by layer it excludes 0 in {int(self.excludes[:-1].sum())} of {len(self.percent) - 1}"
        return f"{whole}; 95 % interval {self.low[-1]:+.2f} to {self.high[-1]:+.2f} % {says}; {layers} ({pictures})"


def domain_of(name: str, found: Sequence[FigureData]) -> Domain:
    """Stack what was found in the pictures of a domain, one at least."""

    def stacked(key: str) -> NDArray[np.float32]:
        return np.array([one.arrays[key] for one in found if key in one.arrays], np.float32)

    return Domain(
        name, stacked("distance_patches"), stacked("entropy"), stacked("dropped"), stacked("distance_before"),
        {key: stacked(key) for key in MASSES if any(key in one.arrays for one in found)},
        np.array([one.arrays["distance_patches"] for one in found if "untrained" in one.arrays], np.float32),
        stacked("untrained"),
    )  # fmt: skip


def change(
    name: str, first: NDArray[np.floating], then: NDArray[np.floating], *, paired: bool = False, seed: int = 0
) -> DomainChange:
    """Step 7 for distances [n, L, H] and [m, L, H]; paired ones are of the same pictures."""
    from scipy.stats import bootstrap

    one, two = (np.column_stack([x.mean(2), x.mean((1, 2))]).astype(np.float64) for x in (first, then))

    def percent(x: NDArray[np.float64], y: NDArray[np.float64], axis: int = 0) -> NDArray[np.float64]:
        base = x.mean(axis)
        return np.asarray(100 * (y.mean(axis) - base) / np.where(base > 0, base, np.nan))

    found = percent(one, two)
    low = high = np.full_like(found, np.nan)
    if min(len(one), len(two)) >= FEWEST and np.isfinite(found).all():
        interval = bootstrap(
            (one, two), percent, axis=0, paired=paired, n_resamples=RESAMPLES, confidence_level=LEVEL, batch=100,
            method="percentile", rng=np.random.default_rng(seed),
        ).confidence_interval  # fmt: skip
        low, high = np.asarray(interval.low), np.asarray(interval.high)
    return DomainChange(name, found, low, high, percent(first.astype(np.float64), then.astype(np.float64)))


def changes_of(domains: Sequence[Domain], *, seed: int = 0) -> list[DomainChange]:
    """The second domain against the first; and of each, where it is known, after against before."""
    found = []
    if len(domains) == 2:
        first, second = domains
        found.append(change(f"{second.name} against {first.name}", first.distance, second.distance, seed=seed))
    for domain in domains:
        if len(domain.before):
            name = f"after against before, {domain.name}"
            found.append(change(name, domain.before, domain.distance, paired=True, seed=seed))
    return found


def sections_of(domains: Sequence[Domain], changes: Sequence[DomainChange], grid: tuple[int, int]) -> list[Section]:
    """Tables of the domains and of each change, and the lines of trust."""
    longest = diagonal(grid)
    rows: list[dict[str, Any]] = []
    for domain in domains:
        far = domain.distance.mean((0, 2))
        masses = {key: values.mean((0, 2)) for key, values in domain.masses.items()}
        rows += [
            {
                "domain": domain.name, "layer": layer, "pictures": len(domain.distance),
                "distance_patches": float(far[layer]), "distance_diagonal": float(far[layer]) / longest,
                "uniform_patches": uniform_distance(grid), "entropy": float(domain.entropy[:, layer].mean()),
                "dropped_mass": float(domain.dropped[:, layer].mean()),
                **({"pictures_with_objects": len(domain.masses["fg_to_fg"])} if masses else {}),
                **{key: float(values[layer]) for key, values in masses.items()},
            }
            for layer in range(len(far))
        ]  # fmt: skip
    sections: list[Section] = [
        Table("domains", rows, title="Layer by layer, mean over heads and pictures", detail=True)
    ]
    for number, one in enumerate(changes):
        table = [
            {
                "layer": "mean" if layer == len(one.percent) - 1 else str(layer), "percent": float(one.percent[layer]),
                **({} if np.isnan(low) else {"low": float(low), "high": float(high)}),
                "excludes_0": "no interval" if np.isnan(low) else "yes" if one.excludes[layer] else "no",
            }
            for layer, (low, high) in enumerate(zip(one.low, one.high, strict=True))
        ]  # fmt: skip
        title = f"{one.name}: attention distance in per cent, 95 % interval over the pictures"
        sections.append(Table(f"change_{number}", table, title=title))
    if lines := trust_lines(domains):
        sections.append(Trust("trust", lines, title="can these distances be believed?"))
    return sections


def trust_lines(domains: Sequence[Domain]) -> list[Any]:
    """Distances, and their difference between domains, against those of models with randomised weights."""
    known = [domain for domain in domains if len(domain.checked)]
    if not known:
        return []
    table = np.mean([domain.checked.mean(0) for domain in known], 0)
    untrained = np.mean([domain.untrained.mean(0) for domain in known], 0)  # [U, L, H]
    lines = [weights_line(table, list(untrained))]
    if len(known) == 2:
        first, second = known
        value = apart(first.checked.mean(0), second.checked.mean(0))
        chance = [apart(*pair) for pair in zip(first.untrained.mean(0), second.untrained.mean(0), strict=True)]
        meaning = (
            "mean over layers of the difference between the domains, as share of the first; passes where it stands out "
            "from that of models with randomised weights on the same pictures"
        )
        lines.append(line("the domains differ for the model", value, chance, meaning, least=0.0))
    return lines


def apart(first: NDArray[np.floating], second: NDArray[np.floating]) -> float:
    """Mean over layers of |delta| as share of the first, of distances [L, H]."""
    one, two = first.mean(1), second.mean(1)
    return float(np.mean(np.abs(two - one) / np.where(one > 0, one, 1.0)))


def arrays_of(domains: Sequence[Domain], changes: Sequence[DomainChange]) -> dict[str, NDArray[Any]]:
    """What the figure of all pictures is drawn from."""
    arrays: dict[str, NDArray[Any]] = {}
    for domain in domains:
        arrays |= {
            f"{domain.name}_distance": domain.distance.mean(2), f"{domain.name}_entropy": domain.entropy.mean((0, 2)),
            f"{domain.name}_dropped": domain.dropped.mean((0, 2)),
            **{f"{domain.name}_{key}": values.mean((0, 2)) for key, values in domain.masses.items()},
        }  # fmt: skip
    if changes:
        arrays |= {
            "percent": np.stack([one.percent for one in changes]), "low": np.stack([one.low for one in changes]),
            "high": np.stack([one.high for one in changes]), "percent_heads": np.stack([one.heads for one in changes]),
        }  # fmt: skip
    return arrays
