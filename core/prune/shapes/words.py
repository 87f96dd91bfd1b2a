"""The words of the drawn world, and the questions and answers that are made of them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

SHAPES = ("circle", "square", "triangle", "cross", "ring", "star")
PLURALS = ("circles", "squares", "triangles", "crosses", "rings", "stars")
COLOURS = ("red", "green", "blue", "yellow", "purple", "cyan", "orange", "pink")
CELLS = (
    "top-left", "top", "top-right", "left", "centre", "right", "bottom-left", "bottom", "bottom-right",
)  # fmt: skip
"""Of a 3 x 3 grid, row by row."""
DIGITS = tuple(str(digit) for digit in range(10))
PAD, BOS, EOS, IMAGE = "<pad>", "<bos>", "<eos>", "<image>"
WORDS = (
    PAD, BOS, EOS, IMAGE, "what", "colour", "is", "the", "there", "a", "how", "many", "where", "of", "above", "below",
    "digit", "in", "box", *SHAPES, *PLURALS, *COLOURS, "yes", "no", *DIGITS, *CELLS,
)  # fmt: skip
"""The vocabulary: a word's number is its token."""
NUMBER: Mapping[str, int] = {word: number for number, word in enumerate(WORDS)}

TASKS = ("colour", "exists", "count", "where", "relation", "digit")
ANSWERS: Mapping[str, Sequence[str]] = {
    "colour": COLOURS, "exists": ("yes", "no"), "count": DIGITS[:5], "where": CELLS, "relation": SHAPES,
    "digit": DIGITS,
}  # fmt: skip

QUESTIONS: Mapping[str, Sequence[str | None]] = {
    "colour": ("what", "colour", "is", "the", None),
    "exists": ("is", "there", "a", None, None),
    "count": ("how", "many", None),
    "where": ("where", "is", "the", None, None),
    "beside": ("what", "is", None, "of", "the", None, None),
    "over": ("what", "is", None, "the", None, None),
    "digit": ("what", "digit", "is", "in", "the", "box"),
}
"""Forms of questions; None is filled in. A relation has two: left or right of something, above or below it."""
TASK_OF: Mapping[str, str] = {form: form for form in QUESTIONS} | {"beside": "relation", "over": "relation"}
FORMS_OF: Mapping[str, Sequence[str]] = {task: [form for form, of in TASK_OF.items() if of == task] for task in TASKS}


def numbers(words: Sequence[str]) -> list[int]:
    """Words as tokens. Raises ``KeyError`` for a word that is not in the vocabulary."""
    return [NUMBER[word] for word in words]
