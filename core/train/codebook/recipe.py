"""Loss and evaluation of the recipe: behaviour cloning. Specification: methods/embodied-codebook.md, section 5."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from ...fit.epochs import epoch_rows
from ...probe.codebook.agent import Agent
from ...probe.codebook.data import Demonstration, Episodes, batch_of
from ...probe.codebook.rollout import greedy, play, scores
from ...probe.codebook.views import ViewFeatures
from ...probe.codebook.world import World

AT_ONCE = 64
"""Demonstrations of a batch where nothing is learnt."""


@dataclass(frozen=True, slots=True)
class School:
    """What all agents of a run learn from and are judged by: views as they were recorded, in one set of colours."""

    views: ViewFeatures
    training: Episodes
    development: Episodes
    worlds: Sequence[World]

    def commonest(self) -> float:
        """Share of the action that the planner takes most often: what an agent is right in that looks at nothing."""
        counts = Counter(action for one in self.development.played for action in one.actions)
        return max(counts.values()) / counts.total()


class CloningRecipe:
    """Actions of the planner.

    Parameters
    ----------
    agent : Agent
    school : School
    batch : int
        Episodes per step.
    seed : int
    """

    score = "success"

    def __init__(self, agent: Agent, school: School, batch: int, seed: int) -> None:
        self.model: nn.Module = agent
        self.agent, self.school, self.batch, self.seed = agent, school, batch, seed
        self.stalled_below = ("accuracy", school.commonest() + 0.05)

    def loss(self, step: int) -> Tensor:
        played = self.school.training.played
        rows = epoch_rows(step, self.batch, len(played), self.seed)
        logits, actions = answers(self.agent, self.school.views, [played[row] for row in rows])
        return F.cross_entropy(logits, actions)

    def evaluate(self, model: nn.Module) -> Mapping[str, float]:
        """``scores`` of development episodes; ``accuracy``: share of the planner's actions there that are the
        agent's."""
        school = self.school
        right: list[Tensor] = []
        played = school.development.played
        for first in range(0, len(played), AT_ONCE):
            logits, actions = answers(self.agent, school.views, played[first : first + AT_ONCE])
            right.append(logits.argmax(-1) == actions)
        accuracy = float(torch.cat(right).double().mean())
        found = scores(play(school.worlds, school.development.cases, greedy(self.agent, school.views)))
        return found | {"accuracy": accuracy}


def answers(agent: Agent, views: ViewFeatures, played: Sequence[Demonstration]) -> tuple[Tensor, Tensor]:
    """Logits [n, 7] and the planner's actions int64 [n], of all steps of some demonstrations."""
    batch = batch_of(played)
    goal, index, actions = (x.to(views.device) for x in (batch.goal, batch.index, batch.actions))
    logits, _ = agent(views.features(batch.views), goal, index)
    taken = actions >= 0
    return logits[taken], actions[taken]
