"""The recipe of FocuSFT: its batches, its fast weights, runs that go on, conversations of users and what they lack."""

from __future__ import annotations

import errno
import json
from dataclasses import replace
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from small_causal_lms import small_causal_lm
from small_languages import language_folder

from attn.core.bundles import Compute
from attn.core.errors import AttnError, InputError
from attn.core.fit import loop as trainer
from attn.core.models.language import SPECIAL, small_language, word_tokeniser, write_language
from attn.core.models.load import load_model
from attn.core.models.turns import turns_seen
from attn.core.options import OptionError
from attn.core.train.focusft import recipe
from attn.core.train.focusft.fast import FastWeights, clipped, targets_of
from attn.core.train.focusft.judging import found
from attn.core.train.focusft.options import MODES, FocusOptions, parse_fast_layers, parse_modes
from attn.core.train.focusft.run import train_focusft
from attn.core.train.focusft.step import answer_loss
from attn.core.train.focusft.tasks import NUMBER, WORDS, TaskSize, draw

TEMPLATE = (
    "{% for m in messages %}<{{ m['role'][0] }}>{{ m['content'] }}\n{% endfor %}"
    "{% if add_generation_prompt %}<a>{% endif %}"
)


def options(folder: Path, **changes: Any) -> FocusOptions:
    small = FocusOptions(
        folder, pairs=16, width=16, depth=2, heads=2, base_steps=3, steps=4, warmup=1, batch=2, judged=4, rank=2,
        inner_rate=0.02, evaluate_every=2, compute=Compute(device="cpu", threads=1),
    )  # fmt: skip
    return replace(small, **changes)


@pytest.fixture(autouse=True)
def _without_curves(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(trainer, "_draw", lambda recipe, state, path: None)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A small language model of single letters that knows a chat template."""
    made = language_folder(tmp_path / "model")
    (made / "chat_template.jinja").write_text(TEMPLATE)
    return made


def chats(path: Path, count: int = 6) -> Path:
    rows = [
        [{"role": "user", "content": f"number {n}?"}, {"role": "assistant", "content": f"it is {n * n}"}]
        for n in range(count)
    ]
    path.write_text("".join(json.dumps({"messages": row}) + "\n" for row in rows))
    return path


def test_lookups_are_answered_by_their_context() -> None:
    drawn = draw((3,), 6, TaskSize("lookup", 4, 9, 6))
    for tokens, answer, real in zip(drawn.tokens.tolist(), drawn.answer.tolist(), drawn.real.tolist(), strict=True):
        words = [WORDS[token] for token, here in zip(tokens, real, strict=True) if here]
        first = words.index("ask")
        values = {key: value for key, value in pairwise(words[:first]) if key[0] == "k"}
        asked = [at for at, word in enumerate(words) if word == "ask"]
        assert [values[words[at + 1]] for at in asked] == [words[at + 2] for at in asked]
        assert [at + 2 for at in asked] == [at for at, learn in enumerate(answer) if learn]
    assert torch.equal(drawn.tokens, draw((3,), 6, TaskSize("lookup", 4, 9, 6)).tokens)


@pytest.mark.parametrize("size", [4, 16, 128])
def test_common_words_are_the_most_common(size: int) -> None:
    drawn = draw((4,), 3, TaskSize("common-words", size, size, 8))
    for tokens, answer in zip(drawn.tokens, drawn.answer, strict=True):
        words = tokens.tolist()
        context = words[1 : words.index(NUMBER["most"])]
        counts = sorted(((context.count(word), word) for word in set(context)), reverse=True)
        assert sorted(word for _, word in counts[:3]) == tokens[answer].tolist()
        assert counts[2][0] >= 2 * (counts[3][0] if len(counts) > 3 else 0)


def test_what_was_found_is_counted(monkeypatch: pytest.MonkeyPatch) -> None:
    """Of a model that always says the same words."""
    drawn = draw((5,), 3, TaskSize("common-words", 16, 16, 8))
    truth = drawn.tokens[drawn.answer].view(3, 3)

    class Says(torch.nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.weight = torch.nn.Parameter(torch.zeros(1))

        def forward(self, input_ids: Any, **other: Any) -> Any:
            logits = torch.zeros(*input_ids.shape, len(WORDS))
            logits[..., truth[0, 1]] = 1.0
            return type("Out", (), {"logits": logits})

    share = np.mean([truth[0, 1] in row for row in truth.tolist()]) / 3
    assert found(Says(), drawn, "common-words", both_ways=False) == pytest.approx(share)


@pytest.mark.parametrize("name", ["llama", "qwen2", "gemma3"])
def test_fast_weights_are_the_linear_layer_with_their_product_added(name: str) -> None:
    model = small_causal_lm(name, "sdpa")
    names = list(model.state_dict())
    fast = FastWeights(model, 0.5, ("gate_proj", "down_proj"), rank=2, alpha=6.0)
    fast.reset((1,))
    drawn = torch.randint(3, 60, (2, 9))
    plain = model(input_ids=drawn).logits
    with fast.on():
        assert torch.equal(model(input_ids=drawn).logits, plain)  # B is 0
        for up in fast.up.values():
            up.data.normal_()
        with_fast = model(input_ids=drawn).logits
    assert not torch.equal(with_fast, plain)
    assert torch.equal(model(input_ids=drawn).logits, plain)
    assert list(model.state_dict()) == names
    with torch.no_grad():
        for linear, module in fast.linear.items():
            module.weight += 3.0 * fast.up[linear] @ fast.down[linear]
    torch.testing.assert_close(model(input_ids=drawn).logits, with_fast, rtol=1e-4, atol=1e-5)


def test_the_lower_layers_are_computed_once_and_change_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    model = small_causal_lm("llama", "sdpa")
    drawn = draw((6,), 2, TaskSize("lookup", 4, 4, 2))
    drawn = replace(drawn, tokens=drawn.tokens % 60)
    calls = []
    model.model.layers[0].register_forward_hook(lambda *_: calls.append(1))
    own = model.model.layers[0].forward

    def adapted() -> tuple[list[float], list[torch.Tensor]]:
        fast = FastWeights(model, (1, 2), ("up_proj", "q_proj"), rank=2, alpha=4.0)
        fast.reset((2,))
        with fast.on():
            losses = fast.adapt(lambda: answer_loss(model, drawn, None), steps=3, rate=1.0, clip=1.0)
        return losses, [*fast.up.values(), *fast.down.values()]

    losses, tensors = adapted()
    assert losses[2] < losses[0]
    assert model.model.layers[0].forward == own
    assert all(parameter.requires_grad and parameter.grad is None for parameter in model.parameters())
    once = FastWeights._lower_once
    monkeypatch.setattr(FastWeights, "_lower_once", lambda self: once(type("", (), {"blocks": [], "first": 0})()))
    again = adapted()
    assert losses == again[0]
    assert all(torch.equal(one, other) for one, other in zip(tensors, again[1], strict=True))


def test_a_step_without_a_number_is_left_out() -> None:
    model = small_causal_lm("llama", "sdpa")
    fast = FastWeights(model, 0.5, ("up_proj",), rank=2, alpha=4.0)
    fast.reset((2,))
    before = [tensor.clone() for tensor in fast.down.values()]
    with fast.on():
        losses = fast.adapt(lambda: torch.tensor(float("nan")), steps=2, rate=1.0, clip=1.0)
    assert np.isnan(losses).all()
    assert all(torch.equal(one, other) for one, other in zip(before, fast.down.values(), strict=True))


def test_clipping() -> None:
    gradients = [torch.tensor([3.0, 4.0]), torch.tensor([0.3])]
    own = clipped(gradients, 1.0, together=False)
    assert torch.allclose(own[0], gradients[0] / 5)
    assert torch.equal(own[1], gradients[1])
    whole = clipped(gradients, 1.0, together=True)
    assert float(torch.cat(whole).norm()) == pytest.approx(1, abs=1e-5)
    assert all(
        torch.equal(one, other) for one, other in zip(clipped(gradients, 0, together=True), gradients, strict=True)
    )


def test_layers_and_targets_that_are_not_there() -> None:
    model = small_causal_lm("llama", "sdpa")
    assert list(targets_of(model, 0.35, ("q_proj",))) == [
        "model.layers.1.self_attn.q_proj",
        "model.layers.2.self_attn.q_proj",
    ]
    with pytest.raises(OptionError, match=r"w1 is not there in layer 1; its linear layers are down_proj, gate_proj"):
        targets_of(model, 0.35, ("w1",))
    with pytest.raises(OptionError, match="no layer 7, its last is 2"):
        targets_of(model, (7,), ("q_proj",))
    with pytest.raises(OptionError, match="has no layers under"):
        targets_of(torch.nn.Linear(2, 2), 0.35, ("q_proj",))
    model.model.layers[2].mlp.up_proj = torch.nn.Identity()  # as a quantised one: no nn.Linear
    with pytest.raises(OptionError, match="up_proj is no plain linear layer in layer 2"):
        targets_of(model, (2,), ("up_proj",))


def test_all_modes_from_one_start(tmp_path: Path) -> None:
    report = train_focusft(options(tmp_path / "run"))
    rows = report.sections[0].rows()
    assert [(row["mode"], row["pairs"]) for row in rows] == [
        (mode, n) for mode in ("before", *MODES) for n in (16, 32, 64)
    ]
    assert all(np.isfinite([row["accuracy"], row["sink"], row["engagement_trained"]]).all() for row in rows)
    loaded = load_model(str(tmp_path / "run"), "causal")
    best = torch.load(tmp_path / "run" / "best.pt")
    assert set(loaded.model.state_dict()) == set(best)  # the names of a plain model
    assert all(torch.equal(loaded.model.state_dict()[name], best[name]) for name in best)
    assert loaded.processor.tokeniser("k3 v1")["input_ids"] == [1, NUMBER["k3"], NUMBER["v1"]]
    lines = [json.loads(line) for line in (tmp_path / "run" / "metrics.jsonl").read_text().splitlines()]
    assert lines[0]["inner_last"] < lines[0]["inner_first"]
    assert "held_out_loss_adapted" not in (tmp_path / "run" / "sft" / "metrics.jsonl").read_text()


def test_a_run_that_was_stopped_goes_on(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    few = {"modes": ("focusft", "sft")}
    whole = train_focusft(options(tmp_path / "whole", **few)).items[0]
    lossy, calls = recipe.FocusRecipe.loss, iter(range(99))

    def until(self: Any, step: int) -> Any:
        if next(calls) == 6:  # 3 of the base, 3 of focusft
            raise KeyboardInterrupt
        return lossy(self, step)

    monkeypatch.setattr(recipe.FocusRecipe, "loss", until)
    assert train_focusft(options(tmp_path / "stopped", **few)).left
    assert not (tmp_path / "stopped" / "model.safetensors").exists()
    monkeypatch.setattr(recipe.FocusRecipe, "loss", lossy)
    went_on = train_focusft(options(tmp_path / "stopped", **few)).items[0]
    assert went_on.metrics == whole.metrics
    for name in ("model.safetensors", "config.json"):
        assert (tmp_path / "whole" / name).read_bytes() == (tmp_path / "stopped" / name).read_bytes()
    with pytest.raises(OptionError, match="holds another run"):
        train_focusft(options(tmp_path / "stopped", rank=3, **few))


def test_a_loss_that_is_no_number_keeps_the_last_checkpoint(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    lossy = recipe.FocusRecipe.loss
    monkeypatch.setattr(
        recipe.FocusRecipe, "loss", lambda self, step: lossy(self, step) * (float("nan") if step == 3 else 1)
    )
    with pytest.raises((AttnError, FloatingPointError), match="loss is nan at step 3"):
        train_focusft(options(tmp_path, base_steps=2))
    assert torch.load(tmp_path / "checkpoint.pt")["state"]["step"] == 2


def test_a_full_disk_is_told_in_one_line(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    save = torch.save

    def full(content: Any, path: Any) -> None:
        if "optimizer" in content:
            raise OSError(errno.ENOSPC, "No space left on device")
        save(content, path)

    monkeypatch.setattr(torch, "save", full)
    with pytest.raises(AttnError, match="No space left"):
        train_focusft(options(tmp_path))


def test_conversations_of_a_user(tmp_path: Path, folder: Path) -> None:
    data = chats(tmp_path / "chats.jsonl")
    asked = options(tmp_path / "run", model=str(folder), data=data, modes=("focusft", "sft"), held_out=0.3)
    report = train_focusft(asked)
    rows = report.sections[0].rows()
    assert [row["mode"] for row in rows] == ["before", "focusft", "sft"]
    assert rows[0]["perplexity"] == pytest.approx(np.exp(rows[0]["held_out_loss"]))
    assert report.items[0].details["learning_rate"] == 1e-5
    assert load_model(str(tmp_path / "run"), "causal").processor.tokeniser.chat_template == TEMPLATE


@pytest.mark.parametrize(
    ("lines", "message"),
    [
        ("", "holds no conversations"),
        ('{"text": "a"}\n', "line 1 has no 'messages'"),
        ('{"messages": []}\n', "no list of messages"),
        ('{"messages": [{"content": "a"}]}\n', "message 1 has no role"),
        ('{"messages": [{"role": "user", "content": 3}]}\n', "message 1 has no text"),
        ('{"messages": [{"role": "assistant", "content": "a"}]}\n', "begins with the assistant"),
        ('{"messages": [{"role": "user", "content": "a"}]}\n' * 3, "0 conversations with something to learn"),
        ("no json\n", "line 1 is no JSON"),
    ],
)
def test_what_is_no_conversation(tmp_path: Path, folder: Path, lines: str, message: str) -> None:
    (tmp_path / "chats.jsonl").write_text(lines)
    with pytest.raises(AttnError, match=message):
        train_focusft(options(tmp_path / "run", model=str(folder), data=tmp_path / "chats.jsonl"))


def test_models_that_cannot_be_tuned(tmp_path: Path, folder: Path) -> None:
    asked = options(tmp_path / "run", model=str(folder), data=chats(tmp_path / "chats.jsonl"))
    with pytest.raises(InputError, match=r"line 1 is of \d+ tokens, the most are 12"):
        train_focusft(replace(asked, max_length=12, truncate="error"))
    cut = train_focusft(replace(asked, max_length=21, steps=2, modes=("sft",)))
    assert "6 of 6 conversations were longer than 21 tokens and cut (right)" in cut.notices
    (folder / "chat_template.jinja").unlink()
    with pytest.raises(OptionError, match="has no chat template"):
        train_focusft(replace(asked, output=tmp_path / "untold"))
    slides = language_folder(tmp_path / "slides", "Mistral", sliding_window=8)
    (slides / "chat_template.jinja").write_text(TEMPLATE)
    with pytest.raises(OptionError, match=r"sliding windows.*sft or fast"):
        train_focusft(replace(asked, output=tmp_path / "window", model=str(slides)))


def test_turns_of_a_conversation_are_its_messages(tmp_path: Path, folder: Path) -> None:
    from attn.core.models.chat import Conversation, chat_tokens

    tokeniser = load_model(str(folder), "causal").processor.tokeniser
    messages = [
        {"role": role, "content": text}
        for role, text in (("user", "hi"), ("assistant", "ho"), ("user", "so"), ("assistant", "la"))
    ]
    made = chat_tokens(Path("x"), Conversation("line 1", messages, {}), tokeniser)
    learnt = "".join(tokeniser.decode([token]) for token, learn in zip(made.tokens, made.answer, strict=True) if learn)
    assert learnt == "ho\nla\n"
    assert made.whole
    seen = turns_seen(torch.tensor([made.answer]), torch.ones(1, len(made.tokens), dtype=torch.bool))[0, 0]
    assert bool(seen[0, 6])  # "<u>hi\n<a>" is one turn of context
    assert not bool(seen[0, 9])


def test_small_languages_are_folders(tmp_path: Path) -> None:
    torch.manual_seed(0)
    model = small_language(6, width=8, layers=1, heads=2, positions=32)
    write_language(model, word_tokeniser([*SPECIAL, "a", "c"]), tmp_path / "model.safetensors")
    loaded = load_model(str(tmp_path), "causal")
    assert loaded.processor.tokeniser.decode([4, 5]) == "a c"
    ids = torch.tensor([[1, 4, 5]])
    assert torch.equal(loaded.model(input_ids=ids).logits, model.eval()(input_ids=ids).logits)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"model": "m"}, "Give both, or neither"),
        ({"data": Path("d")}, "Give both, or neither"),
        ({"width": 18}, "multiple of twice"),
        ({"warmup": 4}, "leave nothing"),
    ],
)
def test_refuses(tmp_path: Path, changes: dict[str, Any], message: str) -> None:
    with pytest.raises(OptionError, match=message):
        options(tmp_path, **changes)


def test_lists_that_users_type() -> None:
    assert parse_fast_layers("0.35") == 0.35
    assert parse_fast_layers("3,5-7") == (3, 5, 6, 7)
    assert parse_modes("sft, focusft") == ("sft", "focusft")
    for parse, text in ((parse_fast_layers, "1.5"), (parse_fast_layers, "x"), (parse_fast_layers, "5-3")):
        with pytest.raises(ValueError, match="share"):
            parse(text)
    with pytest.raises(ValueError, match="'sgd' is none of"):
        parse_modes("sgd")
