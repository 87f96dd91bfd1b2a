"""Two-digit sums with their steps written out: the questions of the small model, methods/igpo.md, section 5.

Stage 1 shows hardly any sum with a carry, so that the model cannot do them: every completion is wrong, and a method
that learns from right ones alone has nothing to learn from.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from ...options import OptionError
from .questions import Reward, TracedQuestion

CHARACTERS = "0123456789+=;|"
MASK, END = len(CHARACTERS), len(CHARACTERS) + 1
VOCABULARY = len(CHARACTERS) + 2
PROMPT = len("37+58=")
LONGEST = 48
"""Tokens of a long trace, at most."""
CARRIES_OF_TRACES, CARRIES_OF_QUESTIONS = 0.03, 0.75
"""Share of sums with a carry in stage 1, and in stage 2."""
REPEATS = 3
"""A step of a long trace is written once to three times."""
_SPLIT = 97001
"""Seed of what is held out: the same in every run, so that runs can be compared."""
_TRACES, _QUESTIONS = 97002, 97003
"""First numbers of the seeds of training."""


def encode(text: str) -> tuple[int, ...]:
    """Tokens of a text."""
    return tuple(CHARACTERS.index(letter) for letter in text)


def decode(tokens: Sequence[int]) -> str:
    """The text up to the first end of text; masks as ``_``."""
    text = "".join((CHARACTERS + "_\n")[token] for token in tokens)
    return text.partition("\n")[0]


def verify(completion: str, answer: str) -> Reward:
    """Right where what stands behind the last bar is the sum."""
    right = "|" in completion and completion.rpartition("|")[2] == answer
    return Reward(right, float(right))


def sum_question(a: int, b: int, repeats: tuple[int, int] = (1, 1), *, hint_answer: bool = False) -> TracedQuestion:
    """``37+58=``, its steps (each as often as ``repeats`` says) and ``|95``, which hints may show or not."""
    units = a % 10 + b % 10
    carry = units >= 10
    tens = f"{a // 10}+{b // 10}{'+1' * carry}={a // 10 + b // 10 + carry}"
    steps = [f"{a % 10}+{b % 10}={units}"] * repeats[0] + [tens] * repeats[1]
    prompt, trace, answer = f"{a:02d}+{b:02d}=", ";".join(steps), f"{a + b:02d}"
    solution = encode(f"{trace}|{answer}")
    hinted = solution if hint_answer else encode(trace)
    return TracedQuestion(prompt, encode(prompt), hinted, solution, answer, "carry" if carry else "no_carry")


class Sums:
    """The sums of a run.

    Parameters
    ----------
    seed : int
    judged : int
        Sums of each kind that are held out for the final test; half as many for evaluations.
    long : bool
        Traces repeat their steps.
    hint_answer : bool
        Hints may show the sum.
    """

    kinds: tuple[str, ...] = ("carry", "no_carry")
    shares: tuple[float, ...] = (CARRIES_OF_QUESTIONS, 1 - CARRIES_OF_QUESTIONS)
    """How much each kind counts in an evaluation: as often as stage 2 asks it."""
    mask_id, eos_id = MASK, END

    def __init__(self, seed: int, judged: int, *, long: bool, hint_answer: bool) -> None:
        self.seed, self.long, self.hint_answer = seed, long, hint_answer
        pairs = [(a, b) for a in range(100) for b in range(100) if a + b <= 99]
        order = np.random.default_rng(_SPLIT).permutation(len(pairs))
        by_kind: dict[str, list[tuple[int, int]]] = {kind: [] for kind in self.kinds}
        for number in order.tolist():
            a, b = pairs[number]
            by_kind["carry" if a % 10 + b % 10 >= 10 else "no_carry"].append((a, b))
        half, fewest = -(-judged // 2), min(map(len, by_kind.values()))
        if judged + half > fewest // 2:
            raise OptionError(
                f"{{judged}}: {judged} sums of each kind, and {half} for evaluations, leave less than half of the "
                f"{fewest} with a carry to train on. Give {fewest // 3} or fewer."
            )
        self.test = [sum_question(*pair) for kind in self.kinds for pair in by_kind[kind][:judged]]
        self.development = [
            sum_question(*pair) for kind in self.kinds for pair in by_kind[kind][judged : judged + half]
        ]
        self.rehearsal = [question for question in self.development if question.kind == "no_carry"]
        self.pairs = {kind: found[judged + half :] for kind, found in by_kind.items()}

    def shown(self, count: int) -> list[TracedQuestion]:
        return self.questions(0, count)

    def traces(self, step: int, count: int) -> list[TracedQuestion]:
        """What a step of stage 1 learns."""
        return self._drawn((_TRACES, self.seed, step), count, CARRIES_OF_TRACES)

    def questions(self, batch: int, count: int) -> list[TracedQuestion]:
        """What a step of stage 2 asks."""
        return self._drawn((_QUESTIONS, self.seed, batch), count, CARRIES_OF_QUESTIONS)

    def _drawn(self, seed: tuple[int, ...], count: int, carries: float) -> list[TracedQuestion]:
        rng = np.random.default_rng(seed)
        drawn = []
        for _ in range(count):
            pairs = self.pairs["carry" if rng.random() < carries else "no_carry"]
            repeats = tuple((1 + rng.integers(REPEATS, size=2)).tolist()) if self.long else (1, 1)
            drawn.append(sum_question(*pairs[rng.integers(len(pairs))], repeats, hint_answer=self.hint_answer))
        return drawn

    def decode(self, tokens: Sequence[int]) -> str:
        return decode(tokens)

    def verify(self, question: TracedQuestion, completion: str) -> Reward:
        return verify(completion, question.answer)
