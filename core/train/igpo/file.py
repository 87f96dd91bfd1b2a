"""Questions of a file: JSON lines with a prompt, the reasoning that leads to its answer, and the answer."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from ...errors import InputError
from ...fit.epochs import epoch_rows
from ...io.records import json_lines, text_field
from ...options import OptionError
from .parts import SourceOptions
from .questions import Reward, TracedQuestion
from .verify import BOX, Judge, by_function, by_pattern, in_box

COLUMNS = ("prompt", "reasoning", "answer")
ANSWERS = ("The answer is", "####", "<answer>", BOX)
"""What the final answer of a trace begins with: from there on nothing is planted."""
INSTRUCTION = (
    "Think step by step between <reasoning> and </reasoning>, then give the final answer in \\boxed{} between <answer> "
    "and </answer>."
)
KIND = "accuracy"


def rows_of(path: Path) -> tuple[list[dict[str, str]], list[str]]:
    """Prompt, reasoning and answer of each line, each prompt once, and what the user should know.

    Raises
    ------
    InputError
        If the file cannot be read, holds no question, or a line lacks one of them.
    """
    rows: dict[str, dict[str, str]] = {}
    twice = 0
    for place, record in json_lines(path):
        row: dict[str, str] = {}
        for name in COLUMNS:
            value = record.get(name)
            if isinstance(value, (int, float)) and not isinstance(value, bool):  # an answer may be a number
                value = str(value)
            else:
                value = text_field(path, place, record, name)
            if value is None or not value.strip():
                what = f"{place} has no {name}" if value is None else f"{place} has an empty {name}"
                raise InputError(path, what, f"Every line needs {', '.join(COLUMNS)}")
            row[name] = value
        twice += row["prompt"] in rows
        rows.setdefault(row["prompt"], row)
    if not rows:
        raise InputError(path, "holds no questions", f"Write a JSON object with {', '.join(COLUMNS)} on each line")
    return list(rows.values()), [f"{twice} lines repeat a prompt and were left out"] * bool(twice)


def without_answer(reasoning: str) -> str:
    """A trace up to where its final answer begins."""
    return reasoning[: min((at for mark in ANSWERS if (at := reasoning.find(mark)) >= 0), default=len(reasoning))]


class FileQuestions:
    """The questions of a run on a file; see ``questions.TracedTask``.

    Parameters
    ----------
    source : SourceOptions
    tokeniser : Any
        Of transformers.
    mask_id, eos_id : int
    completion : int
    hint_answer : bool
    seed : int
    """

    kinds: tuple[str, ...] = (KIND,)
    shares: tuple[float, ...] = (1.0,)

    def __init__(
        self, source: SourceOptions, tokeniser: Any, mask_id: int, eos_id: int, completion: int, *, hint_answer: bool,
        seed: int,
    ) -> None:  # fmt: skip
        assert source.data is not None
        self.path, self.seed = source.data, seed
        self.tokeniser, self.mask_id, self.eos_id = tokeniser, mask_id, eos_id
        self.judge = _judge_of(source)
        instruction = INSTRUCTION if source.instruction is None else source.instruction
        rows, notes = rows_of(source.data)
        self.listed = [self._question(row, instruction, hint_answer=hint_answer) for row in rows]
        self.test, self.development, self.rehearsal = (
            list[TracedQuestion](),
            list[TracedQuestion](),
            list[TracedQuestion](),
        )
        self.training = self.listed
        long = sum(len(question.solution) > completion for question in self.listed)
        if long:
            notes.append(
                f"{long} of {len(rows)} traces with their answers are longer than a completion of {completion} tokens: "
                "stage 1 learns their beginnings, and hints come from there. Shorten them, or allow longer completions"
            )
        cut = sum(without_answer(row["reasoning"]) != row["reasoning"] for row in rows) if not hint_answer else 0
        if cut:
            notes.append(f"of {cut} of {len(rows)} traces the final answer is never planted")
        self.notes = tuple(notes)

    def split(self, judged: int) -> None:
        """Hold out ``judged`` questions for the test and half as many for evaluations. Raises ``OptionError``."""
        half = -(-judged // 2)
        if len(self.listed) <= judged + half:
            raise OptionError(
                f"{{judged}}: {judged}, and {half} for evaluations, leave nothing to train on of the "
                f"{len(self.listed)} questions of {self.path}. Give {max(1, len(self.listed) // 4)} or fewer."
            )
        order = [self.listed[row] for row in np.random.default_rng((self.seed, 3)).permutation(len(self.listed))]
        self.test, self.development = order[:judged], order[judged : judged + half]
        self.rehearsal, self.training = self.development, order[judged + half :]

    def _question(self, row: dict[str, str], instruction: str, *, hint_answer: bool) -> TracedQuestion:
        asked = f"{instruction}\n\n{row['prompt']}" if instruction else row["prompt"]
        if getattr(self.tokeniser, "chat_template", None):
            asked = self.tokeniser.apply_chat_template(
                [{"role": "user", "content": asked}], add_generation_prompt=True, tokenize=False
            )
        else:
            asked += "\n"
        shown = row["reasoning"] if hint_answer else without_answer(row["reasoning"])
        plain = without_answer(row["reasoning"]).rstrip()
        solution = f"<reasoning>\n{plain}\n</reasoning>\n<answer>\n{BOX}{row['answer']}}}\n</answer>"
        return TracedQuestion(
            row["prompt"], self._tokens(asked), self._tokens(f"<reasoning>\n{shown}"), self._tokens(solution),
            row["answer"], KIND,
        )  # fmt: skip

    def _tokens(self, text: str) -> tuple[int, ...]:
        return tuple(self.tokeniser(text, add_special_tokens=False)["input_ids"])

    def shown(self, count: int) -> list[TracedQuestion]:
        return self.listed[:count]

    def traces(self, step: int, count: int) -> list[TracedQuestion]:
        return [self.training[row] for row in epoch_rows(step, count, len(self.training), self.seed)]

    def questions(self, batch: int, count: int) -> list[TracedQuestion]:
        return [self.training[row] for row in epoch_rows(batch, count, len(self.training), self.seed + 1)]

    def decode(self, tokens: Sequence[int]) -> str:
        text: str = self.tokeniser.decode(list(tokens), skip_special_tokens=True)
        return text

    def verify(self, question: TracedQuestion, completion: str) -> Reward:
        return self.judge(question.text, completion, question.answer)


def _judge_of(source: SourceOptions) -> Judge:
    if source.verifier is not None:
        return by_function(source.verifier)
    return in_box if source.answer_pattern is None else by_pattern(source.answer_pattern)
