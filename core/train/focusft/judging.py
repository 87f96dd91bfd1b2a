"""What a tuned model can do, and where it looks: the rows of the recipe's table."""

from __future__ import annotations

import math
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import numpy as np
import torch

from ...models.turns import context_length
from ...probe.dilution.measure import measure
from ...report.sections import Row
from .data import TEST
from .options import COMMON, QUESTIONS, TIMES, FocusOptions
from .recipe import FocusRecipe, may_turn
from .step import Dialogues, adapted, mask_of
from .tasks import TaskSize, draw

LOOKED_AT = 12
"""Sequences in which it is measured where answers look."""
LOOKED_BATCHES = 4
AT_ONCE = 4096
"""Tokens of a batch of the test."""


@torch.no_grad()
def found(model: Any, batch: Dialogues, task: str, *, both_ways: bool) -> float:
    """Share of questions answered right; of common words, the share of the true ones that were named.

    Words are chosen greedily, one after the other; a lookup's answer is one word.
    """
    mask = mask_of(model, batch, both_ways=both_ways)
    if task == "lookup":
        chosen = model(input_ids=batch.tokens, attention_mask=mask, use_cache=False).logits[:, :-1].argmax(-1)
        right = (chosen == batch.tokens[:, 1:])[batch.answer[:, 1:]]
        return float(right.double().mean())
    tokens, truth = batch.tokens.clone(), batch.tokens[batch.answer].view(-1, COMMON)
    row = torch.arange(len(tokens), device=tokens.device)
    first = context_length(batch.answer)
    for number in range(COMMON):
        logits = model(input_ids=tokens, attention_mask=mask, use_cache=False).logits
        tokens[row, first + number] = logits[row, first + number - 1].argmax(-1)
    named = tokens[batch.answer].view(-1, COMMON)
    return float((truth[:, :, None] == named[:, None, :]).any(2).double().mean())


def looking(recipe: FocusRecipe, batch: Dialogues, *, trained: bool, before: int = 0) -> dict[str, float]:
    """Sink mass, engagement and entropy, means over layers and heads, of answers in some sequences of a batch.

    Parameters
    ----------
    recipe : FocusRecipe
    batch : Dialogues
    trained : bool
        Under the mode's mask, with fast weights that have seen the answers: as in training. Else as it will be used.
    before : int
        1: of the tokens in front of those of answers, which name them. Of answers of one word what follows is not
        learnt, and says nothing.
    """
    rows = []
    for number in range(min(LOOKED_AT, len(batch.tokens))):
        real = batch.real[number]
        one = Dialogues(*(part[number, real][None] for part in (batch.tokens, batch.answer, batch.real)))
        mask = recipe.mask(one) if trained else None
        answers = one.answer[0].nonzero().squeeze(1) - before
        with _as_in_training(recipe, one, trained=trained):
            seen = measure(recipe.model, one.tokens[0], answers, int(context_length(one.answer)), mask=mask)
        rows.append([seen.sink.mean(), seen.engagement.mean(), seen.entropy.mean()])
    means = np.mean(rows, 0).tolist()
    return dict(zip(("sink", "engagement", "entropy"), means, strict=True))


@contextmanager
def _as_in_training(recipe: FocusRecipe, batch: Dialogues, *, trained: bool) -> Iterator[None]:
    if recipe.fast is None or not trained:
        yield
        return
    seed = (recipe.options.compute.seed, 2)
    with adapted(recipe.model, recipe.fast, batch, recipe.mask(batch), recipe.inner, seed):
        yield


def drawn_rows(recipe: FocusRecipe, options: FocusOptions) -> list[Row]:
    """A row for each length of the test."""
    rows: list[Row] = []
    for times in TIMES:
        size = times * options.pairs
        lengths = TaskSize(options.task, size, size, QUESTIONS)
        each = max(1, AT_ONCE // (4 * size))
        batches = [
            draw((TEST, size, first), min(each, options.judged - first), lengths).to(recipe.device)
            for first in range(0, options.judged, each)
        ]
        right = [[found(recipe.model, b, options.task, both_ways=way) for b in batches] for way in (False, True)]
        weights = [len(batch.tokens) for batch in batches]
        own, both = (float(np.average(part, weights=weights)) for part in right)
        inside = looking(recipe, batches[0], trained=True, before=1)
        rows.append(
            {"mode": recipe.mode, "pairs": size, "accuracy": own, "accuracy_turns": both,
             **looking(recipe, batches[0], trained=False, before=1), "sink_trained": inside["sink"],
             "engagement_trained": inside["engagement"]}
        )  # fmt: skip
    return rows


@torch.no_grad()
def chat_row(recipe: FocusRecipe, name: str) -> Row:
    """The row of a model on conversations that were held out, before or after it was tuned."""
    batches = [batch.to(recipe.device) for batch in recipe.source.held_out()]
    causal = recipe.held_out(batches, both_ways=False)
    turned = recipe.held_out(batches, both_ways=True) if may_turn(recipe.model) else math.nan
    row = {"mode": name, "held_out_loss": causal, "perplexity": math.exp(causal), "held_out_loss_turns": turned}
    looked = [looking(recipe, batch, trained=False) for batch in batches[:LOOKED_BATCHES]]
    return row | {key: float(np.mean([one[key] for one in looked])) for key in looked[0]}
