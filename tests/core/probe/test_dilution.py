"""``attn probe dilution``: its numbers are those of the whole matrix, and what it cannot look at is told."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from small_causal_lms import MAKE, SLIDING, WINDOW, small_causal_lm
from small_languages import language_folder

from attn.core.models.turns import added_mask, turns_seen
from attn.core.options import OptionError
from attn.core.probe.dilution.measure import measure
from attn.core.probe.dilution.options import DilutionOptions, LongTexts
from attn.core.probe.dilution.run import run

TEMPLATE = "{% for m in messages %}{{ m['role'] }}: {{ m['content'] }}\n{% endfor %}"


def options(model: Path, *texts: Path, **changes: Any) -> DilutionOptions:
    given = LongTexts(tuple(map(str, texts)), str(model.parent / "out"))
    return DilutionOptions(str(model), given, device="cpu", **changes)


@pytest.mark.parametrize("name", MAKE)
def test_numbers_are_those_of_the_matrix(name: str) -> None:
    model, length, context = small_causal_lm(name, "eager"), 40, 30
    tokens, rows = torch.randint(3, 60, (length,)), torch.tensor([31, 35, 39])
    whole = model(input_ids=tokens[None], output_attentions=True).attentions
    found = measure(model, tokens, rows, context, sinks=2)
    place = torch.arange(length)
    for layer, map_ in enumerate(whole):
        a = map_[0, :, rows].double()  # [H, R, S]
        assert found.sink[layer] == pytest.approx(a[..., :2].sum(-1).mean(1).detach().numpy(), abs=1e-5)
        assert found.engagement[layer] == pytest.approx(a[..., 2:context].sum(-1).mean(1).detach().numpy(), abs=1e-5)
        keys = torch.minimum(rows + 1, torch.tensor(WINDOW if layer in SLIDING.get(name, ()) else length))
        entropy = (-(a * a.clamp_min(1e-300).log()).sum(-1) / keys.log()).mean(1)
        assert found.entropy[layer] == pytest.approx(entropy.detach().numpy(), abs=1e-5)
        tenth = (place >= 2) & ((place - 2) * 10 // (context - 2) == 3)
        assert found.depth[layer, :, 3] == pytest.approx(a[..., tenth].sum(-1).mean(1).detach().numpy(), abs=1e-5)
    assert found.depth.sum(-1) == pytest.approx(found.engagement, abs=1e-6)


def test_context_that_is_read_both_ways() -> None:
    model = small_causal_lm("llama", "eager")
    tokens, answer = torch.randint(3, 60, (20,)), torch.arange(20)[None] >= 15
    mask = added_mask(turns_seen(answer, torch.ones_like(answer)), torch.float32)
    rows = torch.arange(15, 20)
    whole = model(input_ids=tokens[None], attention_mask=mask, output_attentions=True).attentions
    found = measure(model, tokens, rows, 15, mask=mask)
    for layer, map_ in enumerate(whole):
        assert found.sink[layer] == pytest.approx(map_[0, :, 15:, 0].mean(1).detach().numpy(), abs=1e-5)


def test_texts_and_conversations(tmp_path: Path) -> None:
    model, before = language_folder(tmp_path / "model"), language_folder(tmp_path / "before", seed=1)
    (model / "chat_template.jinja").write_text(TEMPLATE)
    text, chat = tmp_path / "note.txt", tmp_path / "chat.jsonl"
    text.write_text("a long text. " * 20)
    told = [{"role": "user", "content": "how many?"}, {"role": "assistant", "content": "four"}]
    chat.write_text(json.dumps({"messages": told}) + "\n" + json.dumps({"messages": told[:1]}) + "\n")
    report = run(options(model, text, chat, compare=str(before), max_tokens=200))
    note, talk = report.items
    assert note.status == talk.status == "ok"
    assert note.metrics["tokens"] == 200
    assert any("60 tokens" in warning for warning in note.warnings)
    assert note.metrics["looking"] == 1
    assert talk.metrics["looking"] == len("assistant: four\n")
    assert any("1 of 2 conversations were left out" in warning for warning in talk.warnings)
    assert note.metrics["sink"] != note.metrics["sink_before"]
    with np.load(tmp_path / "out" / "note.dilution.npz") as arrays:
        assert arrays["sink"].shape == (3, 2)
        assert arrays["depth"].shape == (3, 2, 10)
        assert arrays["sink"].mean() == pytest.approx(note.metrics["sink"])
    again = run(options(model, text, compare=str(before), max_tokens=200))
    assert again.items[0].status == "skipped"
    assert not again.items[0].warnings
    assert "another model or other settings" in run(options(model, text)).items[0].warnings[0]


def test_what_cannot_be_looked_at(tmp_path: Path) -> None:
    model = language_folder(tmp_path / "model")
    short, chat = tmp_path / "short.txt", tmp_path / "chat.jsonl"
    short.write_text("a")
    item = run(options(model, short)).items[0]
    assert item.status == "failed"
    assert "of 1 tokens; 3 are the least" in str(item.error)
    chat.write_text('{"messages": [{"role": "user", "content": "a"}]}\n')
    with pytest.raises(OptionError, match="has no chat template"):
        run(options(model, chat))
    (model / "chat_template.jinja").write_text(TEMPLATE)
    from attn.core.probe.dilution.run import language_of

    language_of.cache_clear()
    assert "no conversation in which an assistant speaks" in str(run(options(model, chat)).items[0].error)
    slides = language_folder(tmp_path / "slides", "Mistral", sliding_window=8)
    with pytest.raises(OptionError, match="sliding windows"):
        run(options(slides, short, mask="turns"))
    other = language_folder(tmp_path / "other", num_hidden_layers=2)
    short.write_text("a b c d")
    with pytest.raises(OptionError, match="other layers or heads"):
        run(options(model, short, compare=str(other)))
