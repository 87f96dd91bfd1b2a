"""Questions with known traces: what a policy is asked, and who says whether a completion is right."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple, Protocol


class TracedQuestion(NamedTuple):
    """A question with its trace, as text and as tokens.

    Parameters
    ----------
    text : str
        As the user knows it.
    prompt : tuple of int
    trace : tuple of int
        What hints are cut from.
    solution : tuple of int
        What stage 1 learns, without what fills it up.
    answer : str
    kind : str
        By which evaluations are told apart.
    """

    text: str
    prompt: tuple[int, ...]
    trace: tuple[int, ...]
    solution: tuple[int, ...]
    answer: str
    kind: str


class Reward(NamedTuple):
    """Whether a completion is right, and its reward."""

    correct: bool
    reward: float


class TracedTask(Protocol):
    """Where the questions of a run come from."""

    kinds: tuple[str, ...]
    shares: tuple[float, ...]
    """How much each kind counts in an evaluation."""
    test: list[TracedQuestion]
    development: list[TracedQuestion]
    rehearsal: list[TracedQuestion]
    """Held out, too, and of the kind that stage 1 learns."""
    mask_id: int
    eos_id: int

    def shown(self, count: int) -> list[TracedQuestion]:
        """The first ones, for people."""
        ...

    def traces(self, step: int, count: int) -> list[TracedQuestion]:
        """What a step of stage 1 learns, from seed and ``step``."""
        ...

    def questions(self, batch: int, count: int) -> list[TracedQuestion]:
        """What a batch of stage 2 asks, from seed and ``batch``."""
        ...

    def decode(self, tokens: Sequence[int]) -> str:
        """A completion as text."""
        ...

    def verify(self, question: TracedQuestion, completion: str) -> Reward: ...
