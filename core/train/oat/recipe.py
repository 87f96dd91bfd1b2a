"""Loss and evaluation of the recipe: methods/oat.md, sections 3.3 and 5."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from ...nets.oat import OAT
from ...probe.scanpath.compare import ScenePaths, compare
from ...probe.scanpath.model import SearchModel, SearchShape, drawn_paths, path_logits
from .data import SearchedScene, batches

DRAWN = 10
"""Paths of a scene in an evaluation of training."""
AT_ONCE = 32
"""Scenes of a batch where nothing is learnt."""


class OATRecipe:
    """The searchers' next fixation, under teacher forcing.

    Parameters
    ----------
    net : OAT
    shape : SearchShape
    training, development : sequence of SearchedScene
    batch : int
        Scenes per step, all their paths.
    seed : int
    """

    score = "sim"

    def __init__(
        self, net: OAT, shape: SearchShape, training: Sequence[SearchedScene], development: Sequence[SearchedScene],
        batch: int, seed: int,
    ) -> None:  # fmt: skip
        self.model: nn.Module = net
        self.net, self.shape, self.training, self.development = net, shape, training, development
        self.batch, self.seed = batch, seed
        count = np.mean([len(scene.objects.boxes) for scene in development])
        self.stalled_below = ("sim", 2 / float(count))  # twice what chance gives
        self._epoch, self._order = -1, list[list[int]]()

    def _rows(self, step: int) -> list[int]:
        """Numbers of a step's scenes. Every epoch has as many batches, whatever its order."""
        if not self._order:
            self._order = batches(self.training, self.batch, np.random.default_rng((self.seed, 7, 0)))
            self._epoch = 0
        epoch, place = divmod(step, len(self._order))
        if epoch != self._epoch:
            self._order = batches(self.training, self.batch, np.random.default_rng((self.seed, 7, epoch)))
            self._epoch = epoch
        return self._order[place]

    def loss(self, step: int) -> Tensor:
        scenes = [self.training[row] for row in self._rows(step)]
        return cross_entropy(*path_logits(self.net, [s.tensors for s in scenes], [s.paths for s in scenes]))

    def evaluate(self, model: nn.Module) -> Mapping[str, float]:
        """``sim``, ``nll`` (nats per fixation) under teacher forcing; ``ss`` and ``delta`` of drawn paths."""
        found = forced(self.net, self.development)
        drawn = sampled(SearchModel(self.net, self.shape, {}), self.development, DRAWN, self.seed)
        told = compare([replace(one, centres=None) for one in drawn], longest=self.shape.longest)
        return found | {name: told[name] for name in ("ss", "fed", "delta", "length")}


def cross_entropy(logits: Tensor, tokens: Tensor) -> Tensor:
    """Mean over fixations and EOS; PAD is ignored."""
    return F.cross_entropy(logits.flatten(0, 1), tokens.flatten(), ignore_index=logits.shape[-1] - 1)


@torch.no_grad()
def forced(net: OAT, scenes: Sequence[SearchedScene]) -> dict[str, float]:
    """Teacher forcing over all steps: ``sim``, mean probability of what was done, and ``nll`` in nats."""
    chances = []
    for rows in batches(scenes, AT_ONCE, np.random.default_rng(0)):
        chosen = [scenes[row] for row in rows]
        logits, tokens = path_logits(net, [s.tensors for s in chosen], [s.paths for s in chosen])
        chance = logits.softmax(-1).gather(-1, tokens[..., None])[..., 0]
        chances.append(chance[tokens != logits.shape[-1] - 1])
    every = torch.cat(chances).double()
    return {"sim": float(every.mean()), "nll": float(-every.log().mean())}


def sampled(model: SearchModel, scenes: Sequence[SearchedScene], count: int, seed: int) -> list[ScenePaths]:
    """So many drawn paths over each scene, beside those of its searchers."""
    device = model.net.readout.weight.device
    found = []
    for number, scene in enumerate(scenes):
        generator = torch.Generator(device).manual_seed(seed * 1_000_003 + number)
        found.append(beside(scene, drawn_paths(model, scene.tensors, count, generator)))
    return found


def beside(scene: SearchedScene, paths: Sequence[Sequence[int]]) -> ScenePaths:
    """Paths, and those of the scene's searchers."""
    objects = scene.objects
    return ScenePaths(paths, scene.paths, objects.target, objects.centres, objects.screen)
