"""Pruning is exact: what runs with tokens taken out is what runs with their keys hidden.

Levels A1 to A7 of methods/prune-evaluation.md, section 2, for every class of model.
"""

from __future__ import annotations

import copy
from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Any

import pytest
import torch
from masked import Plan, hidden_by, masked, stages_of
from prunable import MAKE, TOKENS, question, together, untrained
from torch import Tensor

from attn.core.errors import UsageError
from attn.core.prune.engine.hooks import pruned
from attn.core.prune.engine.moment import Moment, PruneStage, TokenChoice

THREE = ((0, 2), (2, 2), (3, 2))
TOKEN_IDS = (59, 76, 77)
GREEDY: dict[str, Any] = dict(do_sample=False, max_new_tokens=4, return_dict_in_generate=True, output_logits=True)


def alike(layer: int, step: int, **other: Any) -> PruneStage:
    """Every ``step``-th token, the same in every prompt."""
    return PruneStage(layer, lambda moment: [TokenChoice(numbers[::step]) for numbers in moment.numbers], **other)


def close(one: Tensor, other: Tensor, tolerance: float = 1e-5) -> None:
    torch.testing.assert_close(one, other, atol=tolerance, rtol=0)


def gone(plan: Plan, inputs: dict[str, Tensor]) -> dict[int, Tensor]:
    return hidden_by(plan, torch.isin(inputs["input_ids"], torch.tensor(TOKEN_IDS)))


def hiding(model: Any, plan: Plan, inputs: dict[str, Tensor]) -> Any:
    """The model with the keys hidden that a plan takes out."""
    return masked(model, gone(plan, inputs), inputs["attention_mask"].bool())


@pytest.mark.parametrize(
    ("name", "kernel", "plan"),
    [(name, "sdpa", THREE) for name in MAKE]
    + [(name, "eager", THREE) for name in ("llava", "qwen2_5_vl")]
    + [("llava", kernel, ((layer, 2),)) for layer, kernel in ((0, "sdpa"), (0, "eager"), (3, "sdpa"))],
)
@torch.no_grad()
def test_equals_masking(name: str, kernel: str, plan: Plan) -> None:
    model, inputs = untrained(name, kernel=kernel), question(name)
    with hiding(model, plan, inputs):
        wanted, said = model(**inputs).logits, model.generate(**inputs, **GREEDY)
    with pruned(model, stages_of(plan)) as trace:
        out, answer = model(**inputs, use_cache=True), model.generate(**inputs, **GREEDY)
    slots = trace.last.slots
    assert slots is not None
    assert len(trace.prefills) == 2
    close(out.logits[0], wanted[0, slots[0]])
    assert torch.equal(answer.sequences, said.sequences)
    for one, other in zip(answer.logits, said.logits, strict=True):
        close(one, other)
    length, lost = inputs["input_ids"].shape[1], gone(plan, inputs)
    left = [length - max((int(lost[k].sum()) for k in lost if k <= layer), default=0) for layer in range(4)]
    assert [out.past_key_values.get_seq_length(layer) for layer in range(4)] == left
    assert [count for (count,) in trace.last.tokens] == left
    assert [count for (count,) in trace.last.visual] == [n - length + TOKENS[name] for n in left]


@pytest.mark.parametrize("name", MAKE)
@torch.no_grad()
def test_keeping_all_changes_nothing(name: str) -> None:
    model = untrained(name)
    inputs = together(name, [question(name), question(name, pictures=2, before=5)])
    wanted, said = model(**inputs, use_cache=True), model.generate(**inputs, **GREEDY)
    with pruned(model, [alike(0, 1, attention=("next",)), alike(2, 1, attention=("previous", "next"))]):
        out, answer = model(**inputs, use_cache=True), model.generate(**inputs, **GREEDY)
    assert torch.equal(out.logits, wanted.logits)
    assert torch.equal(answer.sequences, said.sequences)
    assert all(torch.equal(one, other) for one, other in zip(answer.logits, said.logits, strict=True))
    for one, other in zip(out.past_key_values.layers, wanted.past_key_values.layers, strict=True):
        assert torch.equal(one.keys, other.keys)


@pytest.mark.parametrize("name", ["llava", "qwen2_vl", "smolvlm", "internvl"])
@torch.no_grad()
def test_eager_and_sdpa_are_the_same(name: str) -> None:
    inputs = together(name, [question(name), question(name, pictures=2)])
    logits = []
    for kernel in ("eager", "sdpa"):
        model = untrained(name, kernel=kernel)
        with pruned(model, stages_of(THREE)):
            logits.append(torch.stack(model.generate(**inputs, **GREEDY).logits))
    close(*logits, tolerance=2e-5)


@pytest.mark.parametrize(
    ("name", "kernel"), [*((name, "sdpa") for name in MAKE), ("llava", "eager"), ("qwen2_5_vl", "eager")]
)
@torch.no_grad()
def test_batches_are_their_prompts(name: str, kernel: str) -> None:
    """Of different lengths, with different numbers of pictures and of tokens that stay, the first slot a pad."""
    model = untrained(name, kernel=kernel)
    prompts = [question(name, after=4), question(name, pictures=0, after=9), question(name, pictures=2, seed=1)]
    inputs = together(name, prompts)
    assert inputs["attention_mask"][0, 0] == inputs["attention_mask"][1, 0] == 0
    with pruned(model, stages_of(THREE)) as trace:
        batch, answers = model(**inputs), model.generate(**inputs, **GREEDY)
    slots = trace.last.slots
    assert slots is not None
    for b, prompt in enumerate(prompts):
        with pruned(model, stages_of(THREE, first=b)) as alone:
            one, answer = model(**prompt), model.generate(**prompt, **GREEDY)
        close(batch.logits[b, slots[b] >= 0], one.logits[0])
        assert torch.equal(answers.sequences[b, -4:], answer.sequences[0, -4:])
        for own, other in zip(answer.logits, answers.logits, strict=True):
            close(own[0], other[b])
        assert not alone.prefills if b == 1 else [v for (v,) in alone.last.visual] == [v[b] for v in trace.last.visual]


@pytest.mark.parametrize("name", ["llava", "qwen2_5_vl"])
@torch.no_grad()
def test_a_loop_of_ones_own(name: str) -> None:
    """Without position ids and masks, positions behind a shortened prompt go on where the prompt ended."""
    model, inputs = untrained(name), question(name)
    del inputs["attention_mask"]
    with pruned(model, stages_of(THREE)):
        said = model.generate(**inputs, **GREEDY)
        out, logits = model(**inputs, use_cache=True), []
        for _ in range(4):
            logits.append(out.logits[:, -1])
            out = model(input_ids=logits[-1].argmax(-1)[:, None], cache=out.past_key_values)
    for one, other in zip(logits, said.logits, strict=True):
        close(one, other)


def by_hand(plan: Plan, anew: Callable[[int], bool]) -> Tensor:
    """Logits of the language model run by hand; positions are counted anew behind the choices that ``anew`` names."""
    model, inputs = untrained("llava"), question("llava")
    text = model.model.language_model
    seen: list[Tensor] = []
    handle = text.layers[0].register_forward_pre_hook(lambda module, args: seen.append(args[0]))
    model(**inputs)
    handle.remove()
    hidden, slots = seen[0], torch.arange(inputs["input_ids"].shape[1])
    lost, positions = gone(plan, inputs), slots
    for number, layer in enumerate(text.layers):
        if number in lost:
            stays = ~lost[number][0, slots]
            hidden, slots, positions = hidden[:, stays], slots[stays], positions[stays]
            positions = torch.arange(len(slots)) if anew(number) else positions
        hidden = layer(hidden, position_embeddings=text.rotary_emb(hidden, positions[None]))
    logits: Tensor = model.lm_head(text.norm(hidden))
    return logits


def check_numbered(stages: Sequence[PruneStage], wanted: Tensor, **positions: Any) -> None:
    """A prompt has the wanted logits, its steps are those of whole prompts, and so is it in a batch."""
    model, inputs = untrained("llava"), question("llava")
    with pruned(model, stages, **positions):
        close(model(**inputs).logits, wanted)
        answer = model.generate(**inputs, **GREEDY)
        whole = model(input_ids=answer.sequences[:, :-1], pixel_values=inputs["pixel_values"]).logits
        batch = together("llava", [question("llava"), question("llava", after=9)])
        padded = model.generate(**batch, **GREEDY)
    close(torch.cat(answer.logits), whole[0, -4:])
    for one, other in zip(padded.logits, answer.logits, strict=True):
        close(one[0], other[0])


@pytest.mark.parametrize("plan", [((0, 2),), ((2, 3),), THREE], ids=["0", "2", "0 2 3"])
@torch.no_grad()
def test_compact_positions(plan: Plan) -> None:
    """Positions counted anew behind each choice; and steps equal whole prompts."""
    check_numbered(stages_of(plan), by_hand(plan, anew=lambda number: True), positions="compact")


@torch.no_grad()
def test_positions_numbered_anew_in_front_only() -> None:
    """What later choices leave keeps the positions that the choice in front of the language model gave."""
    front, *others = stages_of(THREE)
    check_numbered([replace(front, renumber=True), *others], by_hand(THREE, anew=lambda number: number == 0))


@torch.no_grad()
def test_what_generate_can_do() -> None:
    model, inputs = untrained("llava"), question("llava")
    ways: list[dict[str, Any]] = [
        dict(num_beams=3, do_sample=False), dict(do_sample=True, temperature=2.0),
        dict(num_beams=2, num_return_sequences=2, do_sample=False), dict(do_sample=True, num_return_sequences=3),
    ]  # fmt: skip
    for way in ways:
        with hiding(model, THREE[:2], inputs):
            torch.manual_seed(0)
            said = model.generate(**inputs, max_new_tokens=5, **way)
        with pruned(model, [alike(0, 2), alike(2, 2)]):
            torch.manual_seed(0)
            answer = model.generate(**inputs, max_new_tokens=5, **way)
        assert torch.equal(answer, said), way


@torch.no_grad()
def test_caches_know_their_prompts() -> None:
    """Two at a time, copies of one, and those of an earlier block."""
    model, inputs, other = untrained("llava"), question("llava"), question("llava", pictures=2, seed=3)
    step = torch.tensor([[5]])
    with pruned(model, stages_of(THREE)):
        lone = model(input_ids=step, cache=model(**inputs, use_cache=True).past_key_values).logits
        first, second = (model(**prompt, use_cache=True).past_key_values for prompt in (inputs, other))
        twin = copy.deepcopy(first)
        model(input_ids=step, cache=second)
        close(model(input_ids=step, cache=first).logits, lone)
        words = model(input_ids=torch.tensor([[3, 4, 5]]), use_cache=True)  # text alone, in between
        model(input_ids=torch.tensor([[3, 4]]), cache=words.past_key_values)
    with pruned(model, stages_of(((2, 4),))) as trace:
        close(model(input_ids=step, cache=twin).logits, lone)
    assert not trace.prefills


def test_the_model_is_as_it_was() -> None:
    model, inputs = untrained("llava"), question("llava")
    with torch.no_grad():
        wanted = model(**inputs).logits

    def fails(moment: Moment) -> list[TokenChoice]:
        raise KeyError("of the method")

    def once() -> None:
        with pruned(model, [*stages_of(((0, 2),), attention=("next",)), PruneStage(2, fails, attention=("previous",))]):
            model(**inputs)

    def hooks() -> int:
        return sum(len(module._forward_pre_hooks) + len(module._forward_hooks) for module in model.modules())

    before = hooks()
    for _ in range(2):
        with pytest.raises(KeyError, match="of the method"):
            once()
    assert hooks() == before
    with torch.no_grad():
        assert torch.equal(model(**inputs).logits, wanted)
        with pruned(model, stages_of(THREE)) as trace:  # a failed call in the block leaves the next one alone
            with pytest.raises(UsageError, match="labels"):
                model(**inputs, labels=inputs["input_ids"])
            model(**inputs)
    assert len(trace.prefills) == 1
    with pruned(model, []), pytest.raises(UsageError, match="is being pruned already"), pruned(model, []):
        pass


@torch.no_grad()
def test_a_method_may_run_the_model_itself() -> None:
    model, inputs, seen = untrained("llava"), question("llava"), []

    def choose(moment: Moment) -> list[TokenChoice]:
        assert set(moment.prompts.inputs) == set(inputs)
        seen.append(model(**moment.prompts.inputs, use_cache=False).logits)
        return [TokenChoice(numbers[::2]) for numbers in moment.numbers]

    wanted = model(**inputs).logits
    with pruned(model, stages_of(((0, 2),))):
        half = model(**inputs).logits
    with pruned(model, [PruneStage(0, choose)]) as trace:
        close(model(**inputs).logits, half)
    assert torch.equal(seen[0], wanted)
    assert len(trace.prefills) == 1


@torch.no_grad()
def test_merged_tokens_stand_in_their_places() -> None:
    model, inputs = untrained("llava"), question("llava")
    text = model.model.language_model

    def merge(moment: Moment) -> list[TokenChoice]:
        (places,) = moment.places
        return [TokenChoice(moment.numbers[0][::2], moment.hidden[0, places].unflatten(0, (-1, 2)).mean(1))]

    seen: list[Tensor] = []
    handle = text.layers[2].register_forward_pre_hook(lambda module, args: seen.append(args[0]), prepend=True)
    model(**inputs)
    handle.remove()
    handle = text.layers[2].self_attn.register_forward_pre_hook(
        lambda module, args, kwargs: seen.append(kwargs["hidden_states"]), with_kwargs=True
    )
    with pruned(model, [PruneStage(2, merge)]):
        model(**inputs)
    handle.remove()
    whole = seen[0]
    wanted = torch.cat([whole[:, :3], whole[:, 3:19].unflatten(1, (8, 2)).mean(2), whole[:, 19:]], 1)
    close(seen[1], text.layers[2].input_layernorm(wanted))


def test_gradients_go_through() -> None:
    model, inputs = untrained("llava"), question("llava")
    with pruned(model, stages_of(((2, 2),))):
        model(**inputs).logits[0, -1].square().sum().backward()
    pruned_gradient = model.model.language_model.layers[0].mlp.up_proj.weight.grad.clone()
    model.zero_grad()
    with hiding(model, ((2, 2),), inputs):
        model(**inputs).logits[0, -1].square().sum().backward()
    close(pruned_gradient, model.model.language_model.layers[0].mlp.up_proj.weight.grad, 1e-4)


@pytest.mark.parametrize("use_cache", [True, False])
@pytest.mark.parametrize("name", MAKE)
@torch.no_grad()
def test_rows_of_attention(name: str, use_cache: bool) -> None:
    """Of the layers in front and behind, from a batch of different lengths, before and behind a choice: eager ones."""
    inputs = together(name, [question(name), question(name, pictures=2)])
    eager = untrained(name, kernel="eager")
    plan = ((2, 2),)
    with hiding(eager, plan, inputs):
        wanted = eager(**inputs, output_attentions=True).attentions
    visual = torch.isin(inputs["input_ids"], torch.tensor(TOKEN_IDS))
    left = visual & ~gone(plan, inputs)[2]
    found: dict[int, list[Tensor]] = {}

    def choose(moment: Moment) -> list[TokenChoice]:
        rows = [last - torch.tensor([0, 2][: 2 - b]) for b, last in enumerate(moment.last_rows())]
        found[moment.layer] = moment.attention(rows, "next")
        if moment.layer:
            found[moment.layer - 1] = moment.attention(rows)
        return stages_of(plan)[0].choose(moment) if moment.layer == 2 else [TokenChoice(n) for n in moment.numbers]

    both = ("previous", "next")
    stages = [PruneStage(0, choose, ("next",)), PruneStage(2, choose, both), PruneStage(3, choose, both)]
    model = untrained(name)
    with pruned(model, stages):
        model(**inputs, use_cache=use_cache)
    for b in range(2):
        for layer in (0, 1, 2, 3):  # layer 2 is the one behind the choice at the last look
            seen = (visual if layer < 2 else left)[b]
            close(found[layer][b], wanted[layer][b][:, [-1, -3][: 2 - b]][..., seen], 1e-6)


def test_a_method_that_keeps_what_is_gone() -> None:
    model, inputs = untrained("llava"), question("llava")
    again = PruneStage(2, lambda moment: [TokenChoice(torch.tensor([0, 1]))])
    with pruned(model, [*stages_of(((0, 2),)), again]), pytest.raises(ValueError, match="layer 2, tokens were chosen"):
        model(**inputs)
