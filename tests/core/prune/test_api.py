"""``attn.prune``: its example, its budgets and its words."""

from __future__ import annotations

import doctest
import inspect
from typing import Any

import pytest
import torch
from prunable import question, untrained

import attn
from attn.core.errors import UsageError
from attn.core.prune.api import keep_of


@torch.no_grad()
def test_the_example_of_its_documentation_runs() -> None:
    text = inspect.getdoc(attn.prune)
    assert text is not None
    known: dict[str, Any] = {"model": untrained("llava"), "inputs": question("llava")}
    example = doctest.DocTestParser().get_doctest(text, known, "attn.prune", None, None)
    said: list[str] = []
    results = doctest.DocTestRunner().run(example, out=said.append)
    assert not results.failed, "".join(said)
    assert results.attempted == 4


@pytest.mark.parametrize("keep", [0, 0.0, -1, -0.5, 1.01, 250.0, float("nan"), True, "25%", None])
def test_budgets_that_are_none(keep: Any) -> None:
    with pytest.raises(UsageError, match=r"keep: .* is no share above 0 and up to 1, and no number of tokens"):
        keep_of(keep)


@torch.no_grad()
def test_shares_and_numbers() -> None:
    model, inputs = untrained("llava"), question("llava")
    for keep, left in ((0.25, 4), (3, 3), (1, 1), (1.0, 16), (16, 16)):
        with attn.prune(model, "random", keep) as trace:
            model(**inputs)
        assert trace.last.visual[-1] == (left,)
        assert not trace.notes
    for keep, left, text in ((0.001, 1, "less than one: one stays"), (99, 16, "99 are more than its 16 visual tokens")):
        with pytest.warns(UserWarning, match=text), attn.prune(model, "random", keep) as trace:
            model(**inputs)
        assert trace.last.visual[-1] == (left,)
        assert text in trace.notes[0]


def test_what_it_is_asked_for_is_known() -> None:
    model = untrained("llava")
    cases: list[tuple[str, dict[str, Any]]] = [
        ("Did you mean fastv", {"method": "fastw"}),
        ("no setting 'layr'", {"method": "fastv", "layr": 2}),
        ("layer: Llava.* has decoder layers 0 to 3, not 4", {"method": "fastv", "layer": 4}),
    ]
    for message, arguments in cases:
        with pytest.raises(UsageError, match=message), attn.prune(model, **arguments):
            pass
    with pytest.raises(UsageError, match="Linear: visual tokens"), attn.prune(torch.nn.Linear(2, 2)):
        pass


def test_a_tower_that_is_an_image_transformer_itself() -> None:
    """DINOv2 in front of a language model: the language model is pruned, not the tower."""
    from transformers import Dinov2Config, LlamaConfig, LlavaConfig, LlavaForConditionalGeneration

    torch.manual_seed(0)
    tower = Dinov2Config(hidden_size=16, num_hidden_layers=2, num_attention_heads=2, image_size=28, patch_size=7)
    text = LlamaConfig(
        vocab_size=20, hidden_size=16, intermediate_size=24, num_hidden_layers=3, num_attention_heads=2,
        num_key_value_heads=2,
    )  # fmt: skip
    model = LlavaForConditionalGeneration(LlavaConfig(vision_config=tower, text_config=text, image_token_index=19))
    ids = torch.tensor([[1, *[19] * 16, 2, 3]])
    with attn.prune(model.eval(), "fastv", keep=0.25, layer=1) as trace, torch.inference_mode():
        model(input_ids=ids, attention_mask=torch.ones_like(ids), pixel_values=torch.randn(1, 3, 28, 28))
    assert [counts for (counts,) in trace.last.visual] == [16, 4, 4]
