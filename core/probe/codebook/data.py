"""Episodes of training, of development and of the test, which share no seed, no layout and, for one test, no target.

Every episode's seed comes from the run's seed, what it is for, and its number. Which layouts are kept apart is decided
by hash: of the grid, and of where the agent stands and looks.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass, field, replace

import numpy as np
import torch
from torch import Tensor

from ...errors import UsageError
from ...nets.task_codebook import action_index
from .views import ViewFeatures
from .world import COLOURS, TYPES, EpisodeStart, Goal, Thing, World

TRAINING, DEVELOPMENT, TEST, TARGETS, ADAPTING = range(5)
"""What episodes are for."""
HELD_OUT = frozenset(Thing(TYPES[1 + number % 3], colour) for number, colour in enumerate(COLOURS[1:]))
"""Targets that are never asked for in training: one of each colour, two of each type."""
TRIES = 50
"""Seeds for one episode that fits, at most."""


@dataclass(frozen=True, slots=True)
class Demonstration:
    """What the planner did.

    Parameters
    ----------
    case : EpisodeStart
    views : tuple of int
        What was seen before each action, by number (``ViewFeatures``); none where views were not kept.
    actions : tuple of int
    """

    case: EpisodeStart
    views: tuple[int, ...]
    actions: tuple[int, ...]


@dataclass(slots=True)
class LeftOut:
    """Episodes that were drawn and not taken, and why."""

    target: int = 0
    layout: int = 0
    planner: int = 0

    def notices(self) -> tuple[str, ...]:
        """For the user: what is not plain from the task."""
        texts = (
            (self.layout, "drawn layouts are also layouts of the tests: others were drawn in their place"),
            (self.planner, "episodes were left out in which the environment's planner did not reach its goal"),
        )
        return tuple(f"{count} {text}" for count, text in texts if count)


@dataclass(frozen=True, slots=True)
class Episodes:
    """Demonstrations, and what was left out in drawing them."""

    played: tuple[Demonstration, ...]
    left_out: LeftOut = field(default_factory=LeftOut)

    @property
    def cases(self) -> tuple[EpisodeStart, ...]:
        return tuple(one.case for one in self.played)

    def layouts(self) -> frozenset[str]:
        return frozenset(case.layout for case in self.cases)

    def digest(self) -> str:
        """Hash of all layouts, hexadecimal."""
        return hashlib.sha256("".join(case.layout for case in self.cases).encode()).hexdigest()


def is_held_out(goal: Goal) -> bool:
    """Whether a thing of the goal is never asked for in training."""
    return any(thing in HELD_OUT for thing in goal.things)


def draw_episodes(
    world: World, what_for: int, seed: int, count: int, *, held_out: bool, apart: Collection[str] = (),
    views: ViewFeatures | None = None, step: Callable[[int], None] = lambda done: None,
) -> Episodes:  # fmt: skip
    """Episodes, played by the environment's planner.

    Parameters
    ----------
    world : World
    what_for : int
        ``TRAINING`` and its like: decides the seeds with ``seed``.
    seed, count : int
    held_out : bool
        Whether targets are those of ``HELD_OUT``, or all others.
    apart : collection of str
        Layouts that are left out.
    views : ViewFeatures, optional
        Keeps what is seen.
    step : callable (done)

    Raises
    ------
    UsageError
        If far too few of the episodes that are drawn fit.
    """
    played: list[Demonstration] = []
    left, drawn = LeftOut(), 0
    while len(played) < count:
        if drawn >= TRIES * max(count, 20):
            raise UsageError(
                f"{world.name}: {len(played)} of {count} episodes after {drawn} draws: its missions leave too few "
                f"{'held-out ' if held_out else ''}targets. Name another environment."
            )
        case = world.begin(int(np.random.SeedSequence((what_for, seed, drawn)).generate_state(1)[0]))
        drawn += 1
        if is_held_out(case.goal) != held_out:
            left.target += 1
        elif case.layout in apart:
            left.layout += 1
        elif (one := demonstrate(world, case, views)) is None:
            left.planner += 1
        else:
            played.append(one)
            step(len(played))
    return Episodes(tuple(played), left)


def demonstrate(world: World, case: EpisodeStart, views: ViewFeatures | None) -> Demonstration | None:
    """The planner's episode, from where it has begun; None where it does not reach its goal."""
    planner = world.planner()
    seen: list[int] = []
    actions: list[int] = []
    reward, over = 0.0, False
    while not over:
        if views is not None:
            seen.append(views.row(world))
        action = planner.next()
        if action is None:
            return None
        actions.append(action)
        reward, over = world.act(action)
    if reward <= 0:
        return None
    return Demonstration(replace(case, steps=len(actions), moves=world.moves), tuple(seen), tuple(actions))


def seen_in(world: World, one: Demonstration, views: ViewFeatures) -> Demonstration:
    """The same episode, looked at by other views."""
    world.begin(one.case.seed)
    seen = []
    for action in one.actions:
        seen.append(views.row(world))
        world.act(action)
    return replace(one, views=tuple(seen))


@dataclass(frozen=True, slots=True)
class PaddedBatch:
    """B demonstrations, padded to T steps.

    Parameters
    ----------
    views : Tensor of int64 [B, T]
    goal : Tensor of int64 [B, 4]
        Its words.
    index : Tensor of int64 [B, T]
        ``action_index`` of the action before.
    actions : Tensor of int64 [B, T]
        What the planner does; -100 behind the end.
    """

    views: Tensor
    goal: Tensor
    index: Tensor
    actions: Tensor


def batch_of(played: Sequence[Demonstration]) -> PaddedBatch:
    """Demonstrations side by side."""
    longest = max(len(one.actions) for one in played)
    views = torch.zeros(len(played), longest, dtype=torch.int64)
    actions = torch.full((len(played), longest), -100)
    for row, one in enumerate(played):
        views[row, : len(one.views)] = torch.tensor(one.views)
        actions[row, : len(one.actions)] = torch.tensor(one.actions)
    before = actions.roll(1, 1).clamp_min(0)
    mask = torch.ones_like(before)
    mask[:, 0] = 0
    return PaddedBatch(
        views, torch.tensor([one.case.goal.words() for one in played]), action_index(before, mask), actions
    )


def check_disjoint(training: Episodes, others: Sequence[Episodes]) -> dict[str, int]:
    """How many episodes of others share seed or layout with one of training, and how many of training ask for what is
    held out: all 0, as they are drawn."""
    seeds, layouts = {case.seed for case in training.cases}, training.layouts()
    return {
        "seeds": sum(case.seed in seeds for other in others for case in other.cases),
        "layouts": sum(case.layout in layouts for other in others for case in other.cases),
        "targets": sum(is_held_out(case.goal) for case in training.cases),
    }
