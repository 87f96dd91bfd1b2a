"""Level B of the evaluation: how near a pruned model stays to the whole one on one prompt."""

from __future__ import annotations

import math
from collections.abc import Callable

import pytest
import torch
from prunable import question, untrained
from torch import Tensor

from attn.core.prune.measure.nearness import nearness
from attn.core.prune.vlm.ask import Answer
from attn.core.prune.vlm.greedy import greedy


def answer(ids: list[int], logits: Tensor, state: Tensor) -> Answer:
    likely = logits.log_softmax(-1)[torch.tensor(ids)] if len(ids) == 1 else torch.full((len(ids),), -0.5)
    return Answer("", torch.tensor(ids), logits, likely, state)


def never() -> Tensor:
    raise AssertionError("the answers say it")


def following(values: Tensor) -> Callable[[], Tensor]:
    return lambda: values


LOGITS = torch.tensor([5.0, 4.0, 3.0, 2.0, 1.0, 0.0, -1.0])


def test_the_same_answer_from_the_same_numbers_is_as_near_as_can_be() -> None:
    one = answer([0], LOGITS, torch.ones(4))
    near = nearness(one, one, never)
    assert near["top5_overlap"] == near["perplexity_ratio"] == 1.0
    assert near["log_p_change"] == 0.0
    assert near["last_token_cosine"] == pytest.approx(1.0)


def test_an_answer_of_one_token_is_read_off_the_other_logits() -> None:
    whole, fewer = answer([0], LOGITS, torch.tensor([1.0, 0.0])), answer([6], LOGITS.flip(0), torch.tensor([0.0, 1.0]))
    near = nearness(whole, fewer, never)
    assert near["top5_overlap"] == pytest.approx(3 / 5)  # of 0..4 and 2..6
    assert near["log_p_change"] == pytest.approx(6.0)  # logits 5 and -1 of the same softmax
    assert near["perplexity_ratio"] == pytest.approx(math.exp(6.0))
    assert near["last_token_cosine"] == pytest.approx(0.0)


def test_a_longer_answer_is_followed() -> None:
    whole, fewer = answer([0, 1], LOGITS, torch.ones(2)), answer([0, 2], LOGITS, torch.ones(2))
    near = nearness(whole, fewer, following(torch.tensor([-0.5, -2.5])))
    assert near["log_p_change"] == pytest.approx(2.0)
    assert near["perplexity_ratio"] == pytest.approx(math.e)  # two tokens, a mean of one nat


@torch.no_grad()
def test_the_state_is_that_of_the_last_token_of_the_prompt() -> None:
    model, inputs = untrained("llava"), question("llava")
    (found,) = greedy(model, inputs, max_new_tokens=2)
    hidden = model.base_model(**inputs).last_hidden_state[0, -1]
    torch.testing.assert_close(found.state, hidden.float(), rtol=1e-5, atol=1e-6)
    torch.testing.assert_close(model.lm_head(found.state), found.logits[0], rtol=1e-4, atol=1e-5)
