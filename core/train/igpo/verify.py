"""Rewards of completions: the answer in a box, a pattern, or a function of the user's: methods/igpo.md, section 3.3."""

from __future__ import annotations

import math
import re
from collections.abc import Callable

from ...errors import UsageError, shortened
from ...functions import own_function
from ...text import reason_of
from .questions import Reward

CORRECT = 3.0
TAGS = ("<reasoning>\n", "</reasoning>", "<answer>\n", "</answer>")
"""Each is worth an eighth where it is there exactly once."""
BOX = "\\boxed{"
Judge = Callable[[str, str, str], Reward]
"""Prompt, completion and answer to a verdict."""
_SPACES = re.compile(r"\\[!,;: ]|\\quad|\\left|\\right|\\\$|\$|\s+")


def boxed(text: str) -> str | None:
    """What is in the last ``\\boxed{...}``, braces within it balanced; None where there is none."""
    start = text.rfind(BOX)
    if start < 0:
        return None
    depth, begin = 1, start + len(BOX)
    for at in range(begin, len(text)):
        depth += {"{": 1, "}": -1}.get(text[at], 0)
        if depth == 0:
            return text[begin:at]
    return None


def plain_latex(text: str) -> str:
    """An answer without what only changes its looks."""
    text = _SPACES.sub("", text.strip()).replace("\\dfrac", "\\frac").replace("\\tfrac", "\\frac")
    text = re.sub(r"\\(?:text|mathrm|mbox)\{([^{}]*)\}", r"\1", text)
    text = re.sub(r"(?<=\d),(?=\d{3}(\D|$))", "", text).rstrip(".").removesuffix("\\%").removesuffix("%")
    text = re.sub(r"(?<![\d.])\.(?=\d)", "0.", text)
    return re.sub(r"^(-?\d+)\.0+$", r"\1", text)


def in_box(prompt: str, completion: str, answer: str) -> Reward:
    """The released rewards: 3 where the last box holds the answer, and up to 0.75 for the format."""
    found = boxed(completion)
    correct = found is not None and plain_latex(found) == plain_latex(answer)
    form = sum(0.125 for tag in TAGS if completion.count(tag) == 1) + 0.25 * (BOX in completion)
    return Reward(correct, CORRECT * correct + form)


def by_pattern(pattern: str) -> Judge:
    """Right where the group of the last match of ``pattern`` is the answer."""
    compiled = re.compile(pattern)

    def judge(prompt: str, completion: str, answer: str) -> Reward:
        found = [match[1] for match in compiled.finditer(completion)]
        right = bool(found) and found[-1] is not None and found[-1].strip() == answer.strip()
        return Reward(right, float(right))

    return judge


def by_function(name: str) -> Judge:
    """A function of the user's, ``MODULE:FUNCTION``, called with prompt, completion and answer.

    It says true or false, or a reward, above 0 where the completion is right.

    Raises
    ------
    OptionError
        If it cannot be imported.
    UsageError
        By the judge: if the function raises, or its answer is none of these.
    """
    found = own_function(name, "verifier")
    again = "Mend it and give the same command again: it goes on from the last evaluation."

    def judge(prompt: str, completion: str, answer: str) -> Reward:
        about = f"the verifier {name}, on an answer to {shortened(prompt, 60)!r},"
        try:
            value = found(prompt, completion, answer)
        except Exception as error:
            raise UsageError(f"{about} raised {type(error).__name__} ({reason_of(error)}). {again}") from None
        try:
            if isinstance(value, (str, bytes)) or value is None:
                raise TypeError
            reward = float(value)
        except (TypeError, ValueError):
            raise UsageError(f"{about} returned {shortened(repr(value), 60)}: neither true, false nor a number. "
                             f"{again}") from None  # fmt: skip
        if not math.isfinite(reward):
            raise UsageError(f"{about} returned {reward}, which is no reward. {again}")
        return Reward(reward > 0, reward)

    return judge
