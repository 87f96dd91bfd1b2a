"""Worlds of minigrid: what an agent is asked, sees and does, and what the environment's own planner would do.

Environment: BabyAI of minigrid (arXiv 1810.08272) and its bot. An agent sees the 7 x 7 cells before it, drawn as the
environment draws them.
"""

from __future__ import annotations

import contextlib
import hashlib
import io
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ...errors import UsageError, did_you_mean

TILE = 8
"""Pixels of a cell's side."""
TYPES = ("none", "box", "ball", "key", "door")
COLOURS = ("none", "red", "green", "blue", "purple", "yellow", "grey")
WORDS = 2 * (len(TYPES) + len(COLOURS))
"""Words of goals: type and colour of the object, and of the one it is to be put next to, each its own."""
ACTIONS = 7
FORWARD = 2
Picture = NDArray[np.float32]


@dataclass(frozen=True, slots=True)
class Thing:
    """What a mission names; "none": whatever it is."""

    type: str
    colour: str

    def __str__(self) -> str:
        return " ".join(word for word in (self.colour, self.type) if word != "none")

    def fits(self, other: Thing) -> bool:
        """Whether the other is what this names."""
        return self.type in ("none", other.type) and self.colour in ("none", other.colour)


@dataclass(frozen=True, slots=True)
class Goal:
    """One or two things: go to it or pick it up; or put it next to the other."""

    thing: Thing
    beside: Thing | None = None

    def __str__(self) -> str:
        return str(self.thing) if self.beside is None else f"{self.thing} to {self.beside}"

    @property
    def things(self) -> tuple[Thing, ...]:
        return (self.thing,) if self.beside is None else (self.thing, self.beside)

    def words(self) -> list[int]:
        """Numbers from 0 to ``WORDS`` - 1 of its four words."""
        numbers, first = [], 0
        for thing in (self.thing, self.beside or Thing("none", "none")):
            numbers += [first + TYPES.index(thing.type), first + len(TYPES) + COLOURS.index(thing.colour)]
            first += len(TYPES) + len(COLOURS)
        return numbers


@dataclass(frozen=True, slots=True)
class EpisodeStart:
    """An episode as it begins, and how the planner fares in it.

    Parameters
    ----------
    seed : int
    layout : str
        Hash of the grid, and of where the agent stands and looks.
    goal : Goal
    steps, moves : int
        Of the planner: actions, and cells that it walked.
    """

    seed: int
    layout: str
    goal: Goal
    steps: int = 0
    moves: int = 0


class World:
    """One environment, episode after episode.

    Parameters
    ----------
    name : str
        Of gymnasium, one of BabyAI whose missions name things by colour and type alone.

    Raises
    ------
    UsageError
        If minigrid is not installed or has no such environment.
    """

    def __init__(self, name: str) -> None:
        try:
            import gymnasium
            import minigrid  # registers its environments
        except ImportError as error:
            raise UsageError(
                f"{error.name} is not installed, which holds the environments: pip install 'attn[agents]'."
            ) from error
        known = [place for place in gymnasium.registry if place.startswith("BabyAI-")]
        if name not in known:
            hint = did_you_mean(name, known) or "Name one such as BabyAI-GoToLocal-v0."
            raise UsageError(f"{minigrid.__name__} has no environment of BabyAI named {name!r}. {hint}")
        self.name = name
        self._env: Any = gymnasium.make(name, disable_env_checker=True).unwrapped
        self.moves = 0

    def begin(self, seed: int) -> EpisodeStart:
        """A new episode.

        Raises
        ------
        UsageError
            If its mission is of another kind.
        """
        with contextlib.redirect_stdout(io.StringIO()):  # the environment prints what it drew and threw away
            self._env.reset(seed=seed)
        self.moves = 0
        grid = self._env.grid.encode().tobytes()
        place = f"{tuple(map(int, self._env.agent_pos))} {self._env.agent_dir}".encode()
        return EpisodeStart(seed, hashlib.sha256(grid + place).hexdigest(), self._goal())

    def _goal(self) -> Goal:
        told = self._env.instrs
        names = ("desc_move", "desc_fixed") if hasattr(told, "desc_move") else ("desc",)
        described: list[Any] = [getattr(told, name, None) for name in names]
        if any(one is None or one.loc is not None for one in described):
            raise UsageError(
                f"{self.name} asks to {self._env.mission!r}: only missions that name one thing, or one to be put next "
                "to another, by colour and type are known. Name another environment, such as BabyAI-GoToLocal-v0."
            )
        return Goal(*(Thing(one.type or "none", one.color or "none") for one in described))

    def seen(self) -> bytes:
        """What decides the picture: contents of the cells that are seen, what is carried among them."""
        return bytes(self._env.gen_obs()["image"].tobytes())

    def things_seen(self) -> list[Thing]:
        """The things in view, that carried among them."""
        from minigrid.core.constants import IDX_TO_COLOR, IDX_TO_OBJECT

        cells = self._env.gen_obs()["image"].reshape(-1, 3)
        named = [(IDX_TO_OBJECT[int(type_)], IDX_TO_COLOR.get(int(colour), "none")) for type_, colour, _ in cells]
        return [Thing(type_, colour) for type_, colour in named if type_ in TYPES]

    def picture(self) -> Picture:
        """The view as the environment draws it [3, 56, 56], in [0, 1]."""
        drawn = self._env.get_pov_render(TILE)
        return np.ascontiguousarray(drawn.transpose(2, 0, 1), dtype=np.float32) / np.float32(255)

    def act(self, action: int) -> tuple[float, bool]:
        """Do it: the environment's reward, and whether the episode is over."""
        before = tuple(self._env.agent_pos)
        with contextlib.redirect_stdout(io.StringIO()):
            _, reward, done, late, _ = self._env.step(action)
        self.moves += tuple(self._env.agent_pos) != before
        return float(reward), bool(done or late)

    def planner(self) -> Planner:
        """The environment's own, for the episode that has begun."""
        return Planner(self._env)


class Planner:
    """The bot of BabyAI, which sees the same cells as the agent and remembers them."""

    def __init__(self, env: Any) -> None:
        from minigrid.utils.baby_ai_bot import BabyAIBot

        bot: Any = BabyAIBot
        self._bot, self._last = bot(env), None

    def next(self) -> int | None:
        """The next action; None where it does not know further, as happens where objects stand in its way."""
        try:
            with contextlib.redirect_stdout(io.StringIO()):
                self._last = self._bot.replan(self._last)
        except Exception:  # its own assertions, and errors of searches that found nothing
            return None
        return int(self._last) if self._last is not None else None
