"""Groups of completions, and what planted hints rescue of those that are all wrong: methods/igpo.md, section 3.3."""

from __future__ import annotations

import random
from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple

import torch
from torch import Tensor

from .options import IGPOOptions
from .parts import filled
from .planting import Planting, plant
from .policy import Policy
from .questions import Reward, TracedQuestion, TracedTask
from .sampling import complete


@dataclass(frozen=True, slots=True)
class Sampler:
    """How completions of a run are drawn; see ``options``."""

    completion: int
    block: int
    steps: int
    temperature: float
    group: int
    replace: int
    hint_least: float
    hint_most: float
    planting: Planting

    @classmethod
    def of(cls, options: IGPOOptions) -> Sampler:
        """Of complete options."""
        sampling, hints = options.sampling, options.hints
        planting = Planting(
            filled(hints.chunk_least), filled(hints.chunk_most), filled(hints.free_tail), filled(hints.stretch)
        )
        return cls(
            filled(sampling.completion), filled(sampling.block), filled(sampling.sampling_steps),
            filled(sampling.temperature), sampling.group, hints.replace, hints.hint_least, hints.hint_most, planting,
        )  # fmt: skip


class Planted(NamedTuple):
    """Masked sequences int64 [B, P + N] of questions, and which tokens of the completions are hints, bool [B, N]."""

    tokens: Tensor
    hints: Tensor


class Rollout(NamedTuple):
    """Completions of questions whose prompts have one length.

    Parameters
    ----------
    tokens : Tensor of int64 [B, P + N]
        G of each question, one question after the other.
    prompt : int
        P.
    hints : Tensor of bool [B, N]
    advantage : Tensor of float32 [B]
    correct : Tensor of bool [B]
    all_wrong, all_right, rescued : int
        Groups that were so before anything was replaced, and those all wrong that got something right.
    drawn : int
        Samples, those with hints and those thrown away among them.
    """

    tokens: Tensor
    prompt: int
    hints: Tensor
    advantage: Tensor
    correct: Tensor
    all_wrong: int
    all_right: int
    rescued: int
    drawn: int


def blank(questions: Sequence[TracedQuestion], sampler: Sampler, mask_id: int, device: torch.device) -> Planted:
    """Prompts, and completions that are masked altogether."""
    rows = [[*question.prompt, *[mask_id] * sampler.completion] for question in questions]
    tokens = torch.tensor(rows, dtype=torch.int64, device=device)
    return Planted(tokens, torch.zeros((len(rows), sampler.completion), dtype=torch.bool, device=device))


def planted(
    questions: Sequence[TracedQuestion], ratios: Sequence[float], sampler: Sampler, mask_id: int, rng: random.Random,
    device: torch.device,
) -> Planted:  # fmt: skip
    """``blank`` with a share of each trace planted."""
    tokens, hints = blank(questions, sampler, mask_id, torch.device("cpu"))
    for row, (question, ratio) in enumerate(zip(questions, ratios, strict=True)):
        first = len(question.prompt)
        for source, (start, end) in plant(len(question.trace), sampler.completion, ratio, sampler.planting, rng):
            tokens[row, first + start : first + end] = torch.tensor(question.trace[source : source + end - start])
            hints[row, start:end] = True
    return Planted(tokens.to(device), hints.to(device))


def judged(tokens: Tensor, questions: Sequence[TracedQuestion], task: TracedTask) -> list[Reward]:
    """What the completions of sequences are worth."""
    return [
        task.verify(question, task.decode(row[len(question.prompt) :]))
        for question, row in zip(questions, tokens.tolist(), strict=True)
    ]


def roll_out(
    policy: Policy, task: TracedTask, questions: Sequence[TracedQuestion], method: str, sampler: Sampler, seed: int,
    device: torch.device,
) -> Rollout:  # fmt: skip
    """G completions of each question; of groups all wrong the first samples are replaced by right ones of a second try.

    Parameters
    ----------
    policy : Policy
    task : TracedTask
    questions : sequence of TracedQuestion
        Whose prompts have one length.
    method : {"igpo", "grpo", "resample"}
        The second try has hints; there is none; it has no hints.
    sampler : Sampler
    seed : int
    device : torch.device
    """
    rng = random.Random(seed)
    noise = torch.Generator(device).manual_seed(seed)
    each = [question for question in questions for _ in range(sampler.group)]
    prompt = len(questions[0].prompt)

    def drawn(start: Tensor) -> Tensor:
        return complete(
            policy, start, prompt, steps=sampler.steps, block=sampler.block, temperature=sampler.temperature,
            generator=noise,
        )  # fmt: skip

    begun = blank(each, sampler, policy.mask_id, device)
    tokens, hints = drawn(begun.tokens), begun.hints
    verdicts = judged(tokens, each, task)
    right = torch.tensor([verdict.correct for verdict in verdicts]).view(len(questions), -1)
    wrong = (~right.any(1)).nonzero().flatten().tolist()
    rescued, count = 0, len(each)
    if wrong and method != "grpo":
        again = [questions[group] for group in wrong for _ in range(sampler.group)]
        if method == "igpo":
            ratios = [
                ratio
                for _ in wrong
                for ratio in sorted(rng.uniform(sampler.hint_least, sampler.hint_most) for _ in range(sampler.group))
            ]
            second = planted(again, ratios, sampler, policy.mask_id, rng, device)
        else:
            second = blank(again, sampler, policy.mask_id, device)
        found = drawn(second.tokens)
        count += len(again)
        better = judged(found, again, task)
        for number, group in enumerate(wrong):
            rows = range(number * sampler.group, (number + 1) * sampler.group)
            correct = [row for row in rows if better[row].correct]
            rescued += bool(correct)
            taken = rng.sample(correct, min(len(correct), sampler.replace))
            for place, row in enumerate(taken, group * sampler.group):
                tokens[place], hints[place], verdicts[place] = found[row], second.hints[row], better[row]
    reward = torch.tensor([verdict.reward for verdict in verdicts]).view(len(questions), -1)
    advantage = (reward - reward.mean(1, keepdim=True)).flatten()  # not divided by the standard deviation
    return Rollout(
        tokens, prompt, hints, advantage.to(device), torch.tensor([verdict.correct for verdict in verdicts]),
        len(wrong), int(right.all(1).sum()), rescued, count,
    )  # fmt: skip
