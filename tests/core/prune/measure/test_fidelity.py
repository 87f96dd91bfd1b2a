"""Fidelity by hand: methods/prune-evaluation.md, section 3, and section 10, point 2."""

from __future__ import annotations

import math
from typing import Any

import pytest
import torch
from masked import stages_of
from prunable import question, together, untrained
from torch import Tensor

from attn.core.errors import UsageError
from attn.core.prune.engine.hooks import pruned
from attn.core.prune.engine.moment import TokenChoice
from attn.core.prune.engine.trace import Prefill
from attn.core.prune.measure.fidelity import (
    TextAttention,
    answer_log_probabilities,
    cosine,
    divergence,
    log_probability_change,
    perplexity_ratio,
    rank_agreement,
    same_answer,
    same_top,
    text_attention,
    top_overlap,
)

WHOLE = torch.tensor([0.5, 0.25, 0.125, 0.125]).log() + 3  # a constant of logits changes nothing
FEWER = torch.tensor([0.25, 0.5, 0.125, 0.125]).log() - 1


def test_divergence() -> None:
    """0.5 ln 2 + 0.25 ln 1/2 = 0.25 ln 2."""
    assert divergence(WHOLE, FEWER) == pytest.approx(0.25 * math.log(2), abs=1e-7)
    assert divergence(WHOLE, WHOLE) == 0
    assert divergence(WHOLE.bfloat16(), WHOLE.bfloat16()) == 0
    never = torch.tensor([0.0, 0.0, -math.inf])
    assert divergence(never, torch.tensor([0.0, 0.0, 0.0])) == pytest.approx(math.log(1.5))
    assert divergence(torch.tensor([0.0, 0.0, 0.0]), never) == math.inf


def test_tops() -> None:
    assert not same_top(WHOLE, FEWER)
    assert same_top(WHOLE, WHOLE * 2)
    one, other = torch.arange(10.0), torch.tensor([9, 8, 0, 0, 0, 7, 0, 6, 0, 5.0])
    assert top_overlap(one, other) == 3 / 5  # 5 to 9 and 0, 1, 5, 7, 9
    assert top_overlap(one, other, 1) == 0
    assert top_overlap(one[:3], other[:3]) == 1  # all there are
    assert math.isnan(top_overlap(one[:0], other[:0]))


def test_answers() -> None:
    whole, fewer = torch.tensor([0.5, 0.25]).log(), torch.tensor([0.25, 0.25]).log()
    assert log_probability_change(whole, fewer) == pytest.approx(math.log(2))
    assert perplexity_ratio(whole, fewer) == pytest.approx(math.sqrt(2))
    assert same_answer(" red\n", "red")
    assert not same_answer("red", "Red")
    assert cosine(torch.tensor([1.0, 0.0]), torch.tensor([3.0, 4.0])) == pytest.approx(0.6)


@pytest.mark.parametrize("name", ["llava", "qwen2_5_vl"])
@torch.no_grad()
def test_an_answer_is_followed_behind_the_choice_for_its_prompt(name: str) -> None:
    model, inputs = untrained(name), question(name)
    with pruned(model, stages_of(((0, 2), (2, 2)))) as trace:
        said = model.generate(
            **inputs, max_new_tokens=4, do_sample=False, return_dict_in_generate=True, output_logits=True
        )
        answer = said.sequences[0, inputs["input_ids"].shape[1] :]
        found = answer_log_probabilities(model, inputs, answer)
    wanted = torch.stack([row[0].log_softmax(-1)[token] for row, token in zip(said.logits, answer, strict=True)])
    torch.testing.assert_close(found, wanted, atol=1e-5, rtol=0)
    assert len(trace.prefills) == 2
    with pytest.raises(ValueError, match="one prompt at a time"):
        answer_log_probabilities(model, together(name, [inputs, inputs]), answer)


def prefill(*choices: tuple[int, list[int]]) -> Prefill:
    return Prefill((3,), 9, {layer: [TokenChoice(torch.tensor(kept))] for layer, kept in choices})


def test_mass_kept() -> None:
    shares = torch.tensor([[0.2, 0.3, 0.5], [0.1, 0.1, 0.8], [0.6, 0.2, 0.2]])
    attention = TextAttention(shares / 2, shares)
    assert attention.mass_kept(prefill((1, [0, 2]))) == pytest.approx((0.9 + 0.8) / 2)
    assert attention.mass_kept(prefill((0, [0, 2]), (2, [2]))) == pytest.approx((0.7 + 0.9 + 0.2) / 3)
    assert math.isnan(attention.mass_kept(prefill()))
    torch.testing.assert_close(attention.oracle, torch.tensor([0.15, 0.1, 0.25]))


def test_ranks() -> None:
    """1 - 6 (1 + 1) / (4 * 15) = 0.8."""
    assert rank_agreement(torch.tensor([1.0, 2, 3, 4]), torch.tensor([0.1, 0.2, 0.9, 0.8])) == pytest.approx(0.8)
    assert math.isnan(rank_agreement(torch.ones(4), torch.arange(4.0)))


@torch.no_grad()
def test_where_the_text_looks() -> None:
    """Of a batch, against eager attention; a model that is pruned elsewhere is looked at whole."""
    prompts = [question("qwen2_5_vl"), question("qwen2_5_vl", pictures=2, after=3)]
    inputs = together("qwen2_5_vl", prompts)
    eager: Any = untrained("qwen2_5_vl", kernel="eager")(**inputs, output_attentions=True).attentions
    found = text_attention(untrained("qwen2_5_vl"), inputs)
    for b, attention in enumerate(found):
        visual = (inputs["input_ids"][b] == 77).nonzero().flatten()
        rows = slice(int(visual[-1]) + 1, None)
        block: list[Tensor] = [layer[b, :, rows][..., visual] for layer in eager]
        wanted = torch.stack([part.mean((0, 1)) for part in block])
        torch.testing.assert_close(attention.received, wanted, atol=1e-6, rtol=0)
        wanted = torch.stack([(part / part.sum(-1, keepdim=True)).mean((0, 1)) for part in block])
        torch.testing.assert_close(attention.shares, wanted, atol=1e-5, rtol=0)
    bare = question("llava", after=0)
    for name in ("input_ids", "attention_mask"):
        bare[name] = bare[name][:, :-1]
    with pytest.raises(UsageError, match="no text follows the pictures"):
        text_attention(untrained("llava"), bare)
