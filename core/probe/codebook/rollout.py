"""An agent in its world: success, and how directly. Specification: methods/embodied-codebook.md, section 6."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from ...nets.task_codebook import action_index
from .agent import Agent
from .views import ViewFeatures
from .world import ACTIONS, EpisodeStart, World

TOGETHER = 50
"""Episodes side by side."""


@dataclass(frozen=True, slots=True)
class Played:
    """An episode: whether its goal was reached, the environment's reward, actions taken, cells walked."""

    case: EpisodeStart
    success: bool
    reward: float
    steps: int
    moves: int


Choose = Callable[[Sequence[World], list[int]], list[int]]
"""(worlds, actions before, -1 at the start) -> an action for each."""
Policy = Callable[[Sequence[EpisodeStart]], Choose]
"""What acts in a round of episodes that go side by side."""


def play(worlds: Sequence[World], cases: Sequence[EpisodeStart], policy: Policy) -> list[Played]:
    """Every case once, as many side by side as there are worlds.

    Parameters
    ----------
    worlds : sequence of World
    cases : sequence of EpisodeStart
    policy : callable
        See ``Policy``.
    """
    played: list[Played] = []
    for first in range(0, len(cases), len(worlds)):
        round_ = cases[first : first + len(worlds)]
        here = worlds[: len(round_)]
        for world, case in zip(here, round_, strict=True):
            world.begin(case.seed)
        choose = policy(round_)
        actions, done = [-1] * len(round_), [False] * len(round_)
        rewards, steps = [0.0] * len(round_), [0] * len(round_)
        while not all(done):
            actions = choose(here, actions)
            for number, world in enumerate(here):
                if not done[number]:
                    rewards[number], done[number] = world.act(actions[number])
                    steps[number] += 1
        played += [
            Played(case, reward > 0, reward, count, world.moves)
            for case, reward, count, world in zip(round_, rewards, steps, here, strict=True)
        ]
    return played


def greedy(agent: Agent, views: ViewFeatures) -> Policy:
    """The agent's likeliest actions, in eval mode."""

    def begin(cases: Sequence[EpisodeStart]) -> Choose:
        goal = torch.tensor([case.goal.words() for case in cases], device=views.device)
        state: Tensor | None = None

        @torch.inference_mode()
        def choose(worlds: Sequence[World], before: list[int]) -> list[int]:
            nonlocal state
            last = torch.tensor(before, device=views.device)[:, None]
            index = action_index(last, (last >= 0).long())
            rows = torch.tensor([views.row(world) for world in worlds])[:, None]
            logits, state = agent(views.features(rows), goal, index, state)
            return [int(action) for action in logits[:, 0].argmax(-1)]

        return choose

    return begin


def at_random(seed: int) -> Policy:
    """Actions drawn evenly: what success means in this world."""
    draw = np.random.default_rng(seed)

    def begin(cases: Sequence[EpisodeStart]) -> Choose:
        def choose(worlds: Sequence[World], before: list[int]) -> list[int]:
            return [int(action) for action in draw.integers(ACTIONS, size=len(worlds))]

        return choose

    return begin


def scores(played: Sequence[Played]) -> dict[str, float]:
    """Means over episodes.

    Returns
    -------
    dict: ``success``, ``reward`` (the environment's), ``spl`` (success times l / max(l, p), l the planner's cells and p
    the agent's; 1 where neither walks), ``sel`` (the same with actions) and ``steps``.
    """

    def ratio(planned: int, own: int) -> float:
        return planned / longest if (longest := max(planned, own)) else 1.0

    rows = [
        (one.success, one.reward, one.success * ratio(one.case.moves, one.moves),
         one.success * ratio(one.case.steps, one.steps), one.steps)
        for one in played
    ]  # fmt: skip
    means = np.mean(np.array(rows, np.float64), 0)
    return dict(zip(("success", "reward", "spl", "sel", "steps"), map(float, means), strict=True))
