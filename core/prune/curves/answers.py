"""Whether an answer is right (methods/prune-evaluation.md, section 5)."""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Sequence
from typing import Literal

Rule = Literal["exact", "vqa"]
RULES: dict[Rule, str] = {
    "exact": "an answer is right if it equals an accepted one; case, punctuation and blanks aside",
    "vqa": "VQA accuracy: the mean over every nine of ten people of min(1, matches / 3); case, punctuation and blanks "
    "aside, articles and number words as they are written",
}
"""What reports say of each."""
_APOSTROPHES = "'’ʼ"


def normalised(text: str) -> str:
    """An answer as it is compared: in lower case, without punctuation but for the point in numbers, one blank between
    words.

    >>> normalised(" Top-Left. ")
    'top left'
    >>> normalised("1,200.50 €")
    '1200.50 €'
    """
    text = unicodedata.normalize("NFKC", text).casefold()
    text = re.sub(r"(?<=\d),(?=\d{3}\b)", "", text)
    kept = []
    for place, letter in enumerate(text):
        between = 0 < place < len(text) - 1 and text[place - 1].isdigit() and text[place + 1].isdigit()
        if letter in _APOSTROPHES or (letter == "." and between):
            kept.append("" if letter in _APOSTROPHES else letter)
        else:
            kept.append(" " if unicodedata.category(letter).startswith("P") else letter)
    return " ".join("".join(kept).split())


def judged(answer: str, accepted: Sequence[str], rule: Rule) -> float:
    """The score of an answer, 0 to 1.

    Parameters
    ----------
    answer : str
    accepted : sequence of str
        Not empty; for ``"vqa"`` what people answered, two of them at least.
    rule : {"exact", "vqa"}
        See ``RULES``.
    """
    given = normalised(answer)
    matches = sum(normalised(text) == given for text in accepted)
    if rule == "exact":
        return float(matches > 0)
    without = [min(1.0, count / 3) for count in (matches - 1, matches)]  # one who agrees is left out, or who does not
    return (matches * without[0] + (len(accepted) - matches) * without[1]) / len(accepted)
