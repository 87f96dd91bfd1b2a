"""One picture through one classifier: relevance, salient regions, and what the map is worth.

Specification: methods/salient-relevance.md, sections 3 and 6. The trust lines: methods/probe-peers.md, section 5.2.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from difflib import get_close_matches
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from ...errors import UsageError
from ...models.loaded import Loaded
from ...options import OptionError
from ...report.sections import TrustLine
from ...text import one_line
from ..trust.lines import UNTRAINED, removal_line, weights_line
from ..trust.randomised import randomised
from ..trust.removal import Removal, deletion_insertion
from .chain import WEIGHTED, Link, chain_of, forward, walked
from .composites import PropagationRules, pixel_bounds, rules_of
from .propagate import Relevance, gradient_times_input, propagate
from .regions import heat_map
from .saliency import SaliencySettings, context_saliency, resized

CELLS = 16
"""Of the picture's side, in deletion and insertion."""


@dataclass(frozen=True, slots=True)
class LookedThrough:
    """What was found in one picture.

    Parameters
    ----------
    relevance : Relevance
    heat : ndarray of uint8, shape (h, w, 3)
    salient : ndarray of float32, shape (h, w), in [0, 1]
        Of the picture as the model sees it.
    gradient : ndarray of float32, shape (h, w)
        Gradient times input, summed over the channels.
    removals : dict of str to Removal
        Of ``relevance``, ``salient`` and ``gradient``; empty where they were not asked for.
    lines : tuple of TrustLine
    """

    relevance: Relevance
    heat: NDArray[np.uint8]
    salient: NDArray[np.float32]
    gradient: NDArray[np.float32]
    removals: dict[str, Removal] = field(default_factory=dict)
    lines: tuple[TrustLine, ...] = ()

    @property
    def signed(self) -> NDArray[np.float32]:
        """Relevance summed over the channels, [h, w]."""
        return _summed(self.relevance.pixels)

    @property
    def probability(self) -> float:
        """Of the class in question."""
        return float(self.relevance.logits.double().softmax(0)[self.relevance.target])


@dataclass(frozen=True, slots=True)
class Looker:
    """A classifier, and how relevance is propagated through it.

    Parameters
    ----------
    loaded : Loaded
    composite : str
        See ``composites.rules_of``.
    epsilon : float or None
    settings : SaliencySettings
    seed : int
        Of randomised weights and random orders.
    """

    loaded: Loaded
    composite: str = "stable"
    epsilon: float | None = None
    settings: SaliencySettings = field(default_factory=SaliencySettings)
    seed: int = 0

    @property
    def rules(self) -> PropagationRules:
        images = self.loaded.processor.images
        assert images is not None
        return rules_of(self.composite, epsilon=self.epsilon, bounds=pixel_bounds(images.mean, images.std))

    def map(self, pixels: Tensor, target: int | None = None) -> Relevance:
        """Relevance alone, of a prepared picture [3, h, w]. Raises ``UsageError``, see ``chain.chain_of``."""
        return propagate(chain_of(self.loaded.model), self.rules, self.batch(pixels), target)

    def batch(self, pixels: Tensor) -> Tensor:
        """[1, 3, h, w], where and as the model takes it."""
        return pixels[None].to(next(self.loaded.model.parameters()))

    def look(
        self, pixels: Tensor, target: int | None = None, *, trust: bool = True,
        step: Callable[[int, int], None] = lambda done, of: None,
    ) -> LookedThrough:  # fmt: skip
        """Everything of a prepared picture.

        Parameters
        ----------
        pixels : Tensor, shape (3, h, w)
        target : int, optional
            Default: the class with the highest logit.
        trust : bool
            Deletion, insertion and randomised weights as well: about 900 forward passes.
        step : callable
            Told how much is done.
        """
        parts = 2 + (UNTRAINED + 3) * trust
        links = chain_of(self.loaded.model)
        found = propagate(links, self.rules, self.batch(pixels), target)
        step(1, parts)
        heat = heat_map(found.pixels)
        salient = self.salient(heat)
        gradient = _summed(gradient_times_input(links, self.batch(pixels), found.target))
        looked = LookedThrough(found, heat, salient, gradient)
        step(2, parts)
        if not trust:
            return looked
        maps = {"relevance": looked.signed, "salient": salient, "gradient": gradient}
        removals = {}
        for number, (name, values) in enumerate(maps.items(), 3):
            # random orders are the same for all maps: they are drawn once
            seeds = 8 if name == "relevance" else 1
            removals[name] = self.removal(links, pixels, values, found.target, seeds)
            step(number, parts)
        untrained, gaps = self.untrained(pixels, found.target, lambda done: step(done + 5, parts))
        lines = (weights_line(looked.signed, untrained), removal_line(removals["relevance"], gaps))
        return LookedThrough(found, heat, salient, gradient, removals, lines)

    def salient(self, heat: NDArray[np.uint8]) -> NDArray[np.float32]:
        """The SR map of a heat map, on the heat map's pixels."""
        rgb = torch.from_numpy(heat).permute(2, 0, 1).float() / 255
        final = context_saliency(rgb, self.settings).final
        return resized(final[None], (heat.shape[0], heat.shape[1]))[0].numpy()

    def removal(
        self, links: Sequence[Link], pixels: Tensor, values: NDArray[np.floating], target: int, seeds: int = 1
    ) -> Removal:
        """Deletion and insertion of a map, cell by cell; what is taken away becomes the mean colour of the preparation.

        Pixel by pixel, insertion shows a scatter of single pixels, which no network recognises as anything: it stays
        at chance however good the map is.
        """
        place = self.batch(pixels)[0]

        def predict(pictures: Tensor) -> Tensor:
            return forward(links, pictures).softmax(1)[:, target]

        return deletion_insertion(predict, place, in_cells(values), seeds=seeds, seed=self.seed)

    def untrained(
        self, pixels: Tensor, target: int, told: Callable[[int], None] = lambda done: None
    ) -> tuple[list[NDArray[np.float32]], list[float]]:
        """Maps of the class by models with randomised weights, and insertion less deletion of each, by its own map."""
        maps, gaps = [], []
        for number in range(UNTRAINED):
            with randomised(self.loaded.model, self.seed + 1 + number):
                links = chain_of(self.loaded.model)
                values = _summed(propagate(links, self.rules, self.batch(pixels), target).pixels)
                gaps.append(self.removal(links, pixels, values, target).gap)
            maps.append(values)
            told(number + 1)
        return maps, gaps


def check_classifier(loaded: Loaded) -> None:
    """Refuse a model whose chain is not all that it computes, or that names no classes.

    Raises
    ------
    UsageError
        In one line that says why.
    """
    images = loaded.processor.images
    if images is None:
        raise UsageError("it takes no pictures.")
    for name, value in loaded.model.state_dict().items():
        if not bool(torch.isfinite(value).all()):
            raise UsageError(f"it holds NaN or infinite weights ({one_line(name)}), which make every relevance NaN.")
    links = chain_of(loaded.model)
    last = [link.module for link in walked(links) if isinstance(link.module, WEIGHTED)][-1]
    if not isinstance(last, nn.Linear):
        raise UsageError(f"{type(loaded.model).__name__} has no classes: its last layer with weights is no linear one.")
    weight = next(loaded.model.parameters())
    noise = torch.randn(1, 3, *images.size, generator=torch.Generator().manual_seed(0)).to(weight)
    with torch.no_grad():
        output = loaded.model(noise.clone())
        whole, chained = getattr(output, "logits", output), forward(links, noise)
    if whole.shape != chained.shape or not torch.allclose(whole, chained, rtol=1e-3, atol=1e-3 * float(whole.std())):
        raise UsageError(f"{type(loaded.model).__name__} computes something else than the chain of its modules.")


def class_of(wanted: str | None, loaded: Loaded) -> int | None:
    """The number of a class that is named, or given by number.

    Raises
    ------
    OptionError
        If there is no such class: with those whose names are near.
    """
    if wanted is None:
        return None
    links, labels = list(walked(chain_of(loaded.model))), loaded.labels
    classes = [link.module for link in links if isinstance(link.module, nn.Linear)][-1].out_features
    folded = [name.casefold() for name in labels]
    if wanted.casefold() in folded:
        return folded.index(wanted.casefold())
    if wanted.isascii() and wanted.isdigit():
        if int(wanted) < classes:
            return int(wanted)
        raise OptionError(f"{{target}}: {wanted}: the model has {classes} classes, numbered from 0.")
    if not labels:
        raise OptionError(
            f"{{target}}: the classes of this model have no names. Give a number from 0 to {classes - 1}."
        )
    near = get_close_matches(wanted.casefold(), folded, n=4, cutoff=0.4)
    shown = ", ".join(labels[folded.index(name)] for name in near) or ", ".join(labels[:6])
    raise OptionError(f"{{target}}: no class named {wanted!r}. {'Near' if near else 'Some'}: {shown}.")


def in_cells(values: NDArray[np.floating]) -> NDArray[np.float64]:
    """The sums of a map over cells, at most ``CELLS`` down and across, that divide it evenly."""
    rows, columns = (next(n for n in range(CELLS, 0, -1) if side % n == 0) for side in values.shape)
    height, width = values.shape[0] // rows, values.shape[1] // columns
    out: NDArray[np.float64] = values.astype(np.float64).reshape(rows, height, columns, width).sum((1, 3))
    return out


def _summed(relevance: Tensor) -> NDArray[np.float32]:
    out: Any = relevance.sum(0).float().cpu().numpy()
    return np.asarray(out, np.float32)
