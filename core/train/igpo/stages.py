"""The two stages: supervised fine-tuning on traces, and policy optimisation: methods/igpo.md, sections 3.4 to 3.7.

A step of stage 2 draws completions once and learns from them ``inner`` times; for the loop these are so many steps. It
evaluates, and writes its checkpoint, between two sets of completions, so that a resumed run draws what it would have.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import groupby

import torch
from torch import Tensor, nn

from .estimate import filtered, log_probabilities, log_probabilities_and_entropy, mask_ratios, masked_positions
from .objective import ClippedObjective, terms
from .options import IGPOOptions
from .parts import filled
from .policy import Policy
from .questions import TracedQuestion, TracedTask
from .rollout import Rollout, Sampler, blank, judged, roll_out
from .sampling import complete

COUNTS = ("groups", "all_wrong", "all_right", "rescued", "samples")
"""What is counted of completions."""
MEANS = ("weight", "clipped", "kl", "ratio")
"""Terms of the objective that are told; the first is what the others are divided by."""
LEAST_MASKED = 0.01
"""Least share of a trace that stage 1 hides."""
AT_ONCE = 64
"""Questions of an evaluation that are answered together."""
TIMES = 4
"""How often an evaluation of stage 1 hides parts of every held-out solution."""
_EVALUATION = 97004
"""Seed of what an evaluation of stage 1 hides."""


def mixed_seed(*parts: int) -> int:
    """One seed of several numbers."""
    seed = 0
    for part in parts:
        seed = (seed * 1_000_003 + part) % 2**63
    return seed


def hiding_loss(
    policy: Policy, questions: Sequence[TracedQuestion], length: int, seed: int, device: torch.device
) -> Tensor:
    """LLaDA's loss: each token of a solution hidden with probability t ~ U(0.01, 1), its cross entropy divided by t.

    Solutions are cut at, or filled up with end of text to, ``length`` tokens; the sum is divided by all of them.
    """
    generator = torch.Generator().manual_seed(seed)
    total = torch.zeros((), device=device)
    for prompt, some in by_length(questions):
        solutions = [[*q.solution[:length], *[policy.eos_id] * (length - len(q.solution))] for q in some]
        targets = torch.tensor(solutions, device=device)
        t = LEAST_MASKED + (1 - LEAST_MASKED) * torch.rand((len(some), 1), generator=generator)
        hidden = (torch.rand(targets.shape, generator=generator) < t).to(device)
        prompts = torch.tensor([q.prompt for q in some], device=device)
        tokens = torch.cat([prompts, targets.masked_fill(hidden, policy.mask_id)], 1)
        logits = policy.logits(tokens, torch.arange(prompt, prompt + length, device=device))
        total = total - (log_probabilities(logits, targets) * hidden / t.to(device)).sum()
    return total / (len(questions) * length)


def by_length(questions: Sequence[TracedQuestion]) -> list[tuple[int, list[TracedQuestion]]]:
    """Questions whose prompts have one length, together."""
    ordered = sorted(questions, key=lambda question: len(question.prompt))
    return [(length, list(some)) for length, some in groupby(ordered, lambda question: len(question.prompt))]


@torch.no_grad()
def accuracy(
    policy: Policy, task: TracedTask, questions: Sequence[TracedQuestion], sampler: Sampler, device: torch.device
) -> dict[str, float]:
    """Share of the questions of each kind that are answered right at temperature 0, and ``right``, their mean as
    ``task`` weighs the kinds."""
    count, right = Counter[str](), Counter[str]()
    for prompt, some in by_length(questions):
        for first in range(0, len(some), AT_ONCE):
            part = some[first : first + AT_ONCE]
            start = blank(part, sampler, policy.mask_id, device).tokens
            done = complete(policy, start, prompt, steps=sampler.steps, block=sampler.block, temperature=0)
            for question, verdict in zip(part, judged(done, part, task), strict=True):
                count[question.kind] += 1
                right[question.kind] += verdict.correct
    shares = {kind: right[kind] / count[kind] for kind in task.kinds}
    return shares | {"right": sum(w * shares[kind] for kind, w in zip(task.kinds, task.shares, strict=True))}


class TraceRecipe:
    """Stage 1: traces and answers, from prompts.

    Parameters
    ----------
    policy : Policy
    task : TracedTask
    length, batch : int
        Tokens of a solution, and solutions of a step.
    seed : int
    device : torch.device
    """

    score = "likelihood"
    stalled_below = ("likelihood", -20.0)

    def __init__(
        self, policy: Policy, task: TracedTask, length: int, batch: int, seed: int, device: torch.device
    ) -> None:  # fmt: skip
        self.model: nn.Module = policy.trained
        self.policy, self.task, self.length, self.batch, self.seed, self.device = (
            policy, task, length, batch, seed, device,
        )  # fmt: skip

    def loss(self, step: int) -> Tensor:
        questions = self.task.traces(step, self.batch)
        return hiding_loss(self.policy, questions, self.length, mixed_seed(self.seed, step), self.device)

    def evaluate(self, model: nn.Module) -> Mapping[str, float]:
        """``likelihood``: minus the loss on held-out questions, always hidden alike."""
        held_out = self.task.rehearsal
        losses = [
            float(hiding_loss(self.policy, held_out, self.length, mixed_seed(_EVALUATION, number), self.device))
            for number in range(TIMES)
        ]
        return {"likelihood": -sum(losses) / TIMES}


@dataclass(frozen=True, slots=True)
class Update:
    """What an inner iteration learns from: inputs with masks, and what the old policy said.

    ``tokens`` int64 [B, P + N], ``targets``, ``old``, ``reference``, ``seen``, ``hints`` [B, N], ``entropy`` [B, N],
    ``advantage`` [B]; ``prompt`` P.
    """

    tokens: Tensor
    prompt: int
    targets: Tensor
    hints: Tensor
    old: Tensor
    entropy: Tensor
    reference: Tensor | None
    seen: Tensor
    advantage: Tensor

    @property
    def positions(self) -> Tensor:
        return torch.arange(self.prompt, self.tokens.shape[1], device=self.tokens.device)


class PolicyRecipe:
    """Stage 2.

    Parameters
    ----------
    policy : Policy
        Its ``start`` is the reference.
    task : TracedTask
    method : {"igpo", "grpo", "resample"}
    options : IGPOOptions
        Complete.
    device : torch.device
    """

    score = "right"
    stalled_below = ("right", 0.0)

    def __init__(
        self, policy: Policy, task: TracedTask, method: str, options: IGPOOptions, device: torch.device
    ) -> None:  # fmt: skip
        objective = options.objective
        self.model: nn.Module = policy.trained
        self.policy, self.task, self.method, self.options, self.device = policy, task, method, options, device
        self.sampler = Sampler.of(options)
        self.inner, self.count = filled(objective.inner), filled(options.sampling.questions)
        self.objective = ClippedObjective(
            objective.ratio, objective.clip_low, objective.clip_high, filled(objective.beta)
        )
        self.kept: dict[int, list[list[Update]]] = {}
        """Of each batch of a step: for each inner iteration, its updates."""
        self.told: dict[str, float] = {}
        """Sums since the last evaluation."""

    def loss(self, step: int) -> Tensor:
        accumulate = self.options.training.accumulate
        update, part = divmod(step, accumulate)
        number, inner = divmod(update, self.inner)
        if inner == 0:
            self.kept[part] = self.drawn(number * accumulate + part)
        value, weight = torch.zeros((), device=self.device), torch.zeros((), device=self.device)
        for one in self.kept[part][inner]:
            new = log_probabilities(self.policy.logits(one.tokens, one.positions), one.targets)
            found = terms(new, one.old, one.reference, one.advantage, one.seen, self.objective)
            value, weight = value + found.value, weight + found.weight
            self._tell(one, new.detach())
            self._add(**{name: float(getattr(found, name)) for name in MEANS})
        return value / weight.clamp_min(1)

    def drawn(self, batch: int) -> list[list[Update]]:
        """Completions of a batch's questions, and the updates of each inner iteration."""
        seed = self.options.compute.seed
        questions = self.task.questions(batch, self.count)
        one_block = self.sampler.block == self.sampler.completion
        # a block that is all end of text ends a group: several groups would wait for each other
        groups = [some for _, some in by_length(questions)] if one_block else [[question] for question in questions]
        self.model.eval()
        updates: list[list[Update]] = [[] for _ in range(self.inner)]
        for number, some in enumerate(groups):
            seeds = mixed_seed(seed, batch, number)
            rollout = roll_out(self.policy, self.task, some, self.method, self.sampler, seeds, self.device)
            self._add(
                groups=len(some), all_wrong=rollout.all_wrong, all_right=rollout.all_right, rescued=rollout.rescued,
                samples=rollout.drawn,
            )  # fmt: skip
            for inner, one in enumerate(self._estimated(rollout, seeds)):
                updates[inner].append(one)
        self.model.train()
        return updates

    def _estimated(self, rollout: Rollout, seed: int) -> list[Update]:
        generator = torch.Generator().manual_seed(seed)
        structured = self.options.objective.estimate == "structured"
        ratios = mask_ratios(self.inner, self.sampler.steps, generator if structured else None)
        targets = rollout.tokens[:, rollout.prompt :]
        positions = torch.arange(rollout.prompt, rollout.tokens.shape[1], device=self.device)
        updates: list[Update] = []
        for number, ratio in enumerate(ratios):
            if number and not structured:  # all see the same input
                updates.append(updates[0])
                continue
            masked = masked_positions((len(targets), targets.shape[1]), ratio, generator).to(self.device)
            tokens = rollout.tokens.clone()
            tokens[:, rollout.prompt :] = targets.masked_fill(masked, self.policy.mask_id)
            with torch.no_grad():
                old, entropy = log_probabilities_and_entropy(self.policy.logits(tokens, positions), targets)
            reference = None
            if self.objective.beta:
                reference = log_probabilities(self.policy.reference(tokens, positions), targets)
            seen = filtered(masked, rollout.hints, entropy, self.options.hints.entropy_keep)
            if self.options.objective.mask_after_eos:
                ended = (targets == self.policy.eos_id).cumsum(1)
                seen = seen & ((ended == 0) | ((ended == 1) & (targets == self.policy.eos_id)))
            updates.append(
                Update(tokens, rollout.prompt, targets, rollout.hints, old, entropy, reference, seen, rollout.advantage)
            )
        return updates

    def _add(self, **sums: float) -> None:
        for name, value in sums.items():
            self.told[name] = self.told.get(name, 0.0) + value

    def _tell(self, one: Update, new: Tensor) -> None:
        for name, where in (("hint", one.seen & one.hints), ("own", one.seen & ~one.hints)):
            sums = {"tokens": where.sum(), "nll": -new[where].sum(), "entropy": one.entropy[where].sum()}
            self._add(**{f"{name}_{what}": float(value) for what, value in sums.items()})

    def evaluate(self, model: nn.Module) -> Mapping[str, float]:
        """Accuracies on held-out questions, and what the updates since the last evaluation came to.

        Groups are counted (``all_wrong``, ``all_right``, ``mixed``, ``rescued``); ``hint_nll`` and ``own_nll`` are
        means over planted and generated tokens of the loss, in nats, as are their entropies under the old policy.
        """
        told, self.told = self.told, {}
        counts = {name: told.get(name, 0.0) for name in (*COUNTS, "hint_tokens")}
        counts["mixed"] = counts["groups"] - counts["all_wrong"] - counts["all_right"]

        def mean(name: str, over: str) -> float:
            return told[name] / told[over] if told.get(over) else float("nan")

        means = {name: mean(name, "weight") for name in MEANS[1:]}
        for name in ("hint", "own"):
            means |= {f"{name}_{what}": mean(f"{name}_{what}", f"{name}_tokens") for what in ("nll", "entropy")}
        found = accuracy(self.policy, self.task, self.task.development, self.sampler, self.device)
        return found | counts | means
