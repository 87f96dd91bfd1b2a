"""What planted hints look like: in the traces of a file, before anything is trained, and in groups they rescued."""

from __future__ import annotations

import random
from collections.abc import Sequence
from itertools import groupby
from typing import Any

import torch

from ...report.sections import Passage
from .options import IGPOOptions
from .policy import Policy
from .questions import TracedQuestion, TracedTask
from .rollout import Planted, Sampler, planted, roll_out

SHOWN = 4
"""Groups of a report."""
_SALT = 97005
"""First number of the seeds of what is only shown."""


def passage(name: str, title: str, question: TracedQuestion, row: Planted, task: TracedTask) -> Passage:
    """A question and its completion; what was planted is told from what is masked or was written."""
    tokens = row.tokens[len(question.prompt) :].tolist()
    spans = [(question.text, "prompt")]
    runs = groupby(zip(tokens, row.hints.tolist(), strict=True), lambda pair: (pair[1], pair[0] == task.mask_id))
    for (hint, masked), run in runs:
        inside = [token for token, _ in run]
        text = "·" * len(inside) if masked else task.decode(inside)
        spans.append((text, "planted" if hint else "masked" if masked else "written"))
    return Passage(name, [span for span in spans if span[0]], title=title)


def planting_report(
    task: TracedTask, questions: Sequence[TracedQuestion], options: IGPOOptions
) -> tuple[tuple[Passage, ...], list[dict[str, Any]]]:
    """A dry run: the hints of each question at the least and the greatest share, as passages and as rows.

    Parameters
    ----------
    task : TracedTask
    questions : sequence of TracedQuestion
    options : IGPOOptions
        Complete.
    """
    sampler = Sampler.of(options)
    passages, rows = [], []
    for number, question in enumerate(questions, 1):
        for share in sorted({sampler.hint_least, sampler.hint_most}):
            rng = random.Random(options.compute.seed * 1_000_003 + number)
            found = planted([question], [share], sampler, task.mask_id, rng, torch.device("cpu"))
            row = Planted(found.tokens[0], found.hints[0])
            name = f"question_{number}_at_{share:g}"
            passages.append(passage(name, f"question {number}, share {share:g}", question, row, task))
            completion = row.tokens[len(question.prompt) :]
            rows.append({
                "question": number, "share": share, "trace_tokens": len(question.trace),
                "planted_tokens": int(row.hints.sum()),
                "planted_share": int(row.hints.sum()) / max(1, len(question.trace)),
                "hints": [task.decode(part) for part in _parts(completion, row.hints)],
                "positions": row.hints.nonzero().flatten().tolist(),
            })  # fmt: skip
    return tuple(passages), rows


def _parts(tokens: torch.Tensor, hints: torch.Tensor) -> list[list[int]]:
    """The tokens of each stretch of hints."""
    pairs = zip(tokens.tolist(), hints.tolist(), strict=True)
    return [[token for token, _ in run] for hint, run in groupby(pairs, lambda pair: pair[1]) if hint]


def rescued_passages(
    policy: Policy, task: TracedTask, options: IGPOOptions, device: torch.device
) -> tuple[Passage, ...]:  # fmt: skip
    """Of a few groups all wrong that stage 2 began with: a right completion of hints, which are told from the rest."""
    sampler = Sampler.of(options)
    passages: list[Passage] = []
    for number in range(2 * SHOWN):
        (question,) = task.questions(_SALT + number, 1)
        found = roll_out(policy, task, [question], "igpo", sampler, _SALT + number, device)
        rows = (found.hints.any(1).cpu() & found.correct).nonzero().flatten().tolist()
        if rows and len(passages) < SHOWN:
            row = Planted(found.tokens[rows[0]], found.hints[rows[0]])
            name = f"rescued_{len(passages) + 1}"
            passages.append(passage(name, f"all {sampler.group} wrong; right with hints", question, row, task))
    return tuple(passages)
