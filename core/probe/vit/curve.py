"""Heads taken out one after the other in the order of a ranking: does the ranking predict what that costs?

Specification: methods/vit-analytics.md, sections 3.1 and 6: the area under the curve of what is left, least important
heads first, must beat random orders, and most important first must be worst.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.nn import functional as F

from .importance import ranked
from .restart import Ablation, HeadSite

BATCH = 16
ORDERS = 6
"""Random ones."""


@dataclass(slots=True)
class Pruning:
    """A model that loses heads, on some pictures.

    Parameters
    ----------
    site : HeadSite
    pixels : Tensor [B, C, h, w]
    target : Tensor of int64 [B] or None
        Class of each picture; None: the model is no classifier.
    ablation, means
        See ``HeadSite.without``.
    points : int
        Of a curve beside its start.
    told : callable
        Called after each pass over the pictures.
    """

    site: HeadSite
    pixels: Tensor
    target: Tensor | None
    ablation: Ablation = "zero"
    means: Tensor | None = None
    points: int = 8
    told: Callable[[], None] = lambda: None
    known: dict[bytes, dict[str, float]] = field(default_factory=dict)
    features: Tensor | None = None

    @property
    def counts(self) -> list[int]:
        """How many heads are gone at each point."""
        total = self.site.depth * self.site.heads
        return sorted({round(share * total) for share in np.linspace(0, 1, self.points + 1)})

    @torch.no_grad()
    def left(self, gone: NDArray[np.bool_]) -> dict[str, float]:
        """What is left without heads [L, H]: ``accuracy`` and ``probability`` of the classes, or ``cosine``."""
        if (key := gone.tobytes()) in self.known:
            return self.known[key]
        heads = torch.from_numpy(gone).to(self.pixels.device)
        parts: list[tuple[Tensor, Tensor | None]] = []
        with self.site.ablated(heads, self.ablation, self.means):
            for part in self.pixels.split(BATCH):  # type: ignore[no-untyped-call]
                says = self.site.says(part)
                parts.append((says.feature, says.logits))
        self.told()
        feature = torch.cat([one for one, _ in parts])
        if self.target is None:
            if self.features is None:
                self.features = feature if not gone.any() else self._plain()
            found = {"cosine": float(F.cosine_similarity(feature, self.features).mean())}
        else:
            logits = torch.cat([one for _, one in parts if one is not None])
            chosen = logits.softmax(-1).gather(1, self.target[:, None])
            found = {
                "accuracy": float((logits.argmax(-1) == self.target).double().mean()),
                "probability": float(chosen.mean()),
            }  # fmt: skip
        self.known[key] = found
        return found

    def _plain(self) -> Tensor:
        parts = self.pixels.split(BATCH)  # type: ignore[no-untyped-call]
        return torch.cat([self.site.says(part).feature for part in parts])

    def curve(self, order: NDArray[np.int64]) -> dict[str, list[float]]:
        """What is left along an order of heads, by score, a value for each of ``counts``."""
        found: dict[str, list[float]] = {}
        for count in self.counts:
            gone = np.zeros(self.site.depth * self.site.heads, bool)
            gone[order[:count]] = True
            for name, value in self.left(gone.reshape(self.site.depth, self.site.heads)).items():
                found.setdefault(name, []).append(value)
        return found

    def area(self, values: Sequence[float]) -> float:
        """Under a curve, over the share of heads that are gone: 1 where nothing is lost."""
        share = np.array(self.counts) / self.counts[-1]
        heights = np.array(values)
        return float(((heights[1:] + heights[:-1]) / 2 * np.diff(share)).sum())


@dataclass(frozen=True, slots=True)
class Curves:
    """What is left along the orders of rankings, of their reverses, and of chance.

    Parameters
    ----------
    counts : list of int
        Heads gone.
    least, most : dict of str to dict of str to list of float
        By ranking and score; least important heads first, and most important ones.
    random : dict of str to ndarray, shape (S, P)
        By score.
    areas : callable
    """

    counts: list[int]
    least: dict[str, dict[str, list[float]]]
    most: dict[str, dict[str, list[float]]]
    random: dict[str, NDArray[np.float64]]
    least_area: dict[str, dict[str, float]]
    most_area: dict[str, dict[str, float]]
    random_area: dict[str, NDArray[np.float64]]

    @property
    def scores(self) -> list[str]:
        return list(self.random)

    def gap(self, ranking: str, score: str) -> float:
        """Area with the least important heads first minus that with the most important first."""
        return self.least_area[ranking][score] - self.most_area[ranking][score]

    def chance(self, score: str) -> NDArray[np.float64]:
        """The same gap of random orders: one's area minus the next one's."""
        areas = self.random_area[score]
        return areas - np.roll(areas, 1)

    def rows(self) -> list[dict[str, float | str | None]]:
        """A row for each ranking, the best gap first, and one of chance."""
        first = self.scores[0]
        rows: list[dict[str, float | str | None]] = []
        for ranking in sorted(self.least, key=lambda name: -self.gap(name, self.scores[-1])):
            row: dict[str, float | str | None] = {"ranking": ranking}
            for score in self.scores:
                row |= {
                    f"{score}_least_first": self.least_area[ranking][score],
                    f"{score}_most_first": self.most_area[ranking][score], f"{score}_gap": self.gap(ranking, score),
                }  # fmt: skip
            rows.append(row)
        chance: dict[str, float | str | None] = {"ranking": f"random ({len(self.random_area[first])} orders)"}
        for score in self.scores:
            mean = float(self.random_area[score].mean())
            chance |= {f"{score}_least_first": mean, f"{score}_most_first": mean, f"{score}_gap": 0.0}
        return [*rows, chance]


def curves_of(
    pruning: Pruning, rankings: Mapping[str, NDArray[np.float64]], *, seed: int, orders: int = ORDERS
) -> Curves:
    """Curves of rankings, [L, H] each, both ways round, and of random orders."""
    least, most = {}, {}
    for name, values in rankings.items():
        order = ranked(values)
        least[name], most[name] = pruning.curve(order), pruning.curve(order[::-1])
    total = pruning.site.depth * pruning.site.heads
    draws = [pruning.curve(np.random.default_rng((seed, number)).permutation(total)) for number in range(orders)]
    random = {score: np.array([draw[score] for draw in draws]) for score in draws[0]}

    def areas(curves: Mapping[str, Mapping[str, list[float]]]) -> dict[str, dict[str, float]]:
        return {name: {score: pruning.area(values) for score, values in one.items()} for name, one in curves.items()}

    random_area = {score: np.array([pruning.area(one) for one in values]) for score, values in random.items()}
    return Curves(pruning.counts, least, most, random, areas(least), areas(most), random_area)
