"""Every published pruner and baseline in models of every class: methods/pruning-peers.md, Part I."""

from __future__ import annotations

import dataclasses
import functools
from typing import Any

import pytest
import torch
from prunable import IDEFICS, MAKE, QWEN, question, together, untrained
from small_vlms import coloured, loaded_vlm

from attn.core.errors import UsageError
from attn.core.prune.api import prune
from attn.core.prune.engine.hooks import pruned
from attn.core.prune.engine.moment import Moment
from attn.core.prune.engine.sites import site_of
from attn.core.prune.methods.base import Keep, Schedule, layer_of
from attn.core.prune.methods.divprune import diverse
from attn.core.prune.methods.oracle import Oracle
from attn.core.prune.methods.sparsevlm import clusters, kept_beside_merged, with_merged
from attn.core.prune.methods.uniform import evenly, grid_middles
from attn.core.prune.named import pruner_of
from attn.core.prune.vlm.ask import prepare

WAYS: dict[str, tuple[str, dict[str, Any]]] = {
    "random": ("random", {"seed": 3}),
    "random inside": ("random", {"seed": 3, "layer": 2}),
    "uniform": ("uniform", {}),
    "uniform2d": ("uniform2d", {}),
    "fastv": ("fastv", {"layer": 2}),
    "visionzip": ("visionzip", {}),
    "sparsevlm": ("sparsevlm", {}),
    "sparsevlm plus": ("sparsevlm", {"plus": True, "layers": (1, 2, 3)}),
    "pyramiddrop": ("pyramiddrop", {}),
    "divprune": ("divprune", {}),
    "prumerge": ("prumerge", {"plus": False}),
    "prumerge plus": ("prumerge", {}),
    "prumerge adaptive": ("prumerge", {"adaptive": True}),
    "oracle": ("oracle", {}),
}
GREEDY: dict[str, Any] = dict(do_sample=False, max_new_tokens=3)
CASES = [
    (name, way)
    for name in MAKE
    for way in WAYS
    if not (way.startswith("prumerge") and name in QWEN + IDEFICS)
    and not (name in ("idefics3", "qwen2_vl") and way in ("random", "random inside", "uniform"))
]


@functools.cache
def model_of(name: str) -> Any:
    return untrained(name)


def prompts_of(name: str) -> list[dict[str, torch.Tensor]]:
    """One of one picture, and a longer one of two."""
    return [question(name, seed=1), question(name, pictures=2, before=6, seed=2)]


@pytest.mark.parametrize(("name", "way"), CASES)
@torch.no_grad()
def test_a_prompt_gets_the_same_in_any_batch(name: str, way: str) -> None:
    method, settings = WAYS[way]
    model, prompts = model_of(name), prompts_of(name)
    for positions in ("keep", "compact") if name in ("llava", "smolvlm") else ("keep",):
        options: dict[str, Any] = dict(positions=positions, keep=0.3, **settings)
        with prune(model, method, **options) as trace:
            said = model(**together(name, prompts), logits_to_keep=1).logits
        with prune(model, method, **options) as alone:
            for number, prompt in enumerate(prompts):
                torch.testing.assert_close(model(**prompt, logits_to_keep=1).logits[0], said[number], atol=1e-4, rtol=0)
                kept, wanted = alone.last.kept(), trace.last.kept(number)
                assert kept is not None
                assert wanted is not None
                assert torch.equal(kept, wanted)
                if way != "prumerge adaptive":
                    visual = torch.tensor([layer[0] for layer in alone.last.visual], dtype=torch.float64)
                    behind = visual[int(min(alone.last.choices)) :]
                    assert behind.mean() == pytest.approx(0.3 * alone.last.before[0], abs=0.75)


@pytest.mark.parametrize("way", WAYS)
@torch.no_grad()
def test_answers_of_a_batch(way: str) -> None:
    method, settings = WAYS[way]
    model, prompts = model_of("llava"), prompts_of("llava")
    with prune(model, method, keep=0.3, **settings):
        said = model.generate(**together("llava", prompts), **GREEDY)
    with prune(model, method, keep=0.3, **settings):
        for number, prompt in enumerate(prompts):
            assert torch.equal(model.generate(**prompt, **GREEDY)[0, -3:], said[number, -3:])


@pytest.mark.parametrize(("name", "way"), [case for case in CASES if case[1] != "prumerge adaptive"])
@torch.no_grad()
def test_all_kept_is_the_plain_model_and_one_is_enough(name: str, way: str) -> None:
    method, settings = WAYS[way]
    model, prompts = model_of(name), together(name, prompts_of(name))
    plain = model(**prompts).logits
    with prune(model, method, keep=1.0 if way != "fastv" else 10_000, **settings) as trace:
        assert torch.equal(model(**prompts).logits, plain)
    assert trace.last.retention() == 1
    with prune(model, method, keep=1, **settings) as trace:
        assert model(**prompts).logits.isfinite().all()
    assert trace.last.visual[-1] == (1, 1)


@pytest.mark.parametrize("way", WAYS)
@torch.no_grad()
def test_beams_and_half_precision(way: str) -> None:
    method, settings = WAYS[way]
    model, prompt = untrained("llava").bfloat16(), question("llava")
    prompt["pixel_values"] = prompt["pixel_values"].bfloat16()
    with prune(model, method, keep=0.5, **settings) as trace:
        model.generate(**prompt, num_beams=2, **GREEDY)
    first, second = trace.last.kept(0), trace.last.kept(1)
    assert first is not None
    assert second is not None
    assert torch.equal(first, second)


@pytest.mark.parametrize("way", ["visionzip", "uniform2d"])
@torch.no_grad()
def test_towers_without_a_class_token(way: str) -> None:
    method, settings = WAYS[way]
    loaded = loaded_vlm("llava siglip")
    inputs = prepare(loaded, [coloured(40, 60)], "what is it").inputs
    with prune(loaded, method, keep=9, **settings) as trace:
        loaded.model(**inputs)
    assert trace.last.visual[-1] == (9,)


@pytest.mark.parametrize("way", ["fastv", "visionzip", "sparsevlm", "sparsevlm plus", "pyramiddrop"])
@pytest.mark.parametrize("keep", [0.3, 0.8, 1.0])
@torch.no_grad()
def test_what_a_modifier_forbids_is_neither_kept_nor_merged(way: str, keep: float) -> None:
    """Such as padding under +debias."""
    method, settings = WAYS[way]
    model, prompt = model_of("llava"), question("llava")

    def forbid(moment: Moment, scores: list[torch.Tensor]) -> list[torch.Tensor]:
        return [
            score.masked_fill(numbers < 5, -torch.inf) for score, numbers in zip(scores, moment.numbers, strict=True)
        ]

    pruner = dataclasses.replace(pruner_of(method, settings), modifiers=(forbid,))
    site = site_of(model)
    with pruned(model, pruner.stages(site, Keep(share=keep)), site=site) as trace:
        assert model(**prompt).logits.isfinite().all()
    kept = trace.last.kept()
    assert kept is not None
    assert (kept >= 5).all()
    assert 1 <= len(kept) <= 11


@pytest.mark.parametrize("name", ["qwen2_5_vl", "smolvlm"])
def test_prumerge_needs_a_class_token(name: str) -> None:
    with pytest.raises(UsageError, match=f"prumerge: .*{type(model_of(name)).__name__} has no class token"):
        pruner_of("prumerge", {}).stages(site_of(model_of(name)), Keep(share=0.5))


@torch.no_grad()
def test_a_question_must_follow_for_sparsevlm() -> None:
    model, prompt = model_of("llava"), question("llava", before=4)
    prompt = {key: value[:, :20] if value.ndim == 2 else value for key, value in prompt.items()}
    with pytest.raises(UsageError, match="no text follows"), prune(model, "sparsevlm", keep=0.5):
        model(**prompt)


@torch.no_grad()
def test_names_draw() -> None:
    model, prompt = model_of("llava"), question("llava")
    kept = []
    for ids in (["a"], ["b"], ["a"]):
        with prune(model, "random", keep=0.5, ids=ids) as trace:
            model(**prompt)
        kept.append(trace.last.kept())
    assert torch.equal(kept[0], kept[2])  # type: ignore[arg-type]
    assert not torch.equal(kept[0], kept[1])  # type: ignore[arg-type]


@torch.no_grad()
def test_oracle_is_the_eager_sum() -> None:
    model, prompt = untrained("llava", kernel="eager"), question("llava")
    attention = model(**prompt, output_attentions=True).attentions
    wanted = sum(layer[0, :, 19:, 3:19].sum((0, 1)) for layer in attention)
    with prune(model, "oracle", keep=0.5, layer=1) as trace:
        model(**prompt)
    score = trace.last.choices[1][0].score
    assert score is not None
    torch.testing.assert_close(score, wanted, atol=1e-4, rtol=0)


@torch.no_grad()
def test_numbered_anew_the_order_is_the_papers() -> None:
    model, prompt = model_of("llava"), question("llava")
    found = []
    for positions in ("keep", "compact"):
        with prune(model, "visionzip", keep=8, contextual=0.5, positions=positions) as trace:
            model(**prompt)
        found.append(trace.last.choices[0][0])
    kept, anew = found
    assert torch.equal(kept.keep, anew.keep.sort().values)
    dominant, merged = anew.keep[:4], anew.keep[4:]
    assert (dominant.diff() > 0).all()
    assert (merged.diff() > 0).all()
    assert (anew.keep.diff() < 0).any()
    assert kept.features is not None
    assert anew.features is not None
    assert torch.equal(kept.features, anew.features[anew.keep.argsort()])


def test_equal_budgets_of_all_layers() -> None:
    site = site_of(model_of("llava"))
    assert Oracle().keep_for(site, 0.4) == Keep(share=0.4)
    share = pruner_of("fastv", {"layer": 2}).keep_for(site, 0.75).share
    assert share == pytest.approx(0.5)
    with pytest.raises(UsageError, match=r"cannot be reached: the 2 in front"):
        pruner_of("fastv", {"layer": 2}).keep_for(site, 0.5)


def test_schedules() -> None:
    schedule = Schedule.of((8, 16, 24), [(0.5, 0.25, 0.125)], 32, None)
    for keep in (0.01, 0.1, 0.2917, 0.5, 0.9, 1.0):
        shares = schedule.shares(keep)
        assert schedule.mean(shares) == pytest.approx(keep)
        assert list(shares) == sorted(shares, reverse=True)
    few = Schedule.of((3, 7, 16), [(0.6, 0.4, 0.2)], 4, None)  # the first two fall together
    assert (few.layers, few.rows) == ((1, 2), ((0.4, 0.2),))
    assert Schedule.of((8,), [(0.5,)], 1000, [7]).layers == (7,)
    for wanted in ((1, 2), (2, 1, 3), (1, 1, 3)):
        with pytest.raises(UsageError, match=r"layers=.*: 3 are wanted, rising"):
            Schedule.of((8, 16, 24), [(0.5, 0.25, 0.125)], 32, wanted)
    with pytest.raises(UsageError, match="too few"):
        Schedule.of((8,), [(0.5,)], 1, None)
    assert [layer_of(2, depth) for depth in (4, 12, 24, 28, 32, 80)] == [1, 1, 2, 2, 2, 5]


@pytest.mark.parametrize(
    ("method", "settings", "message"),
    [
        ("visionzip", {"contextual": 1.5}, "contextual: 1.5 is no share"),
        ("pyramiddrop", {"ratios": (0.5, 0.25)}, "ratios: 3 shares are wanted"),
        ("pyramiddrop", {"ratios": (0.5, 0.6, 0.1)}, "none above the one before it, not 0.5, 0.6, 0.1"),
        ("pyramiddrop", {"ratios": (0.5, 0.25, 0.0)}, "ratios: "),
        ("pyramiddrop", {"ratios": (0.5, 0.25), "layers": (2, 1)}, "layers=2,1: 2 are wanted, rising"),
        ("sparsevlm", {"layers": (1, 2)}, "layers=1,2: 3 are wanted"),
        ("sparsevlm", {"layers": (0, 1, 2)}, "layer: there is no layer in front of 0"),
        ("pyramiddrop", {"layers": (1, 2, 9)}, "settings layers=1,2,9: the model has decoder layers 0 to 3"),
    ],
)
def test_settings_that_cannot_be(method: str, settings: dict[str, Any], message: str) -> None:
    with pytest.raises(UsageError, match=message), prune(model_of("llava"), method, keep=0.5, **settings):
        pass


def test_merged_tokens_are_part_of_the_budget() -> None:
    assert with_merged((300, 200, 110)) == (309, 204, 113)
    for tokens in range(2, 80):
        for count in range(1, tokens):
            kept = kept_beside_merged(tokens, count)
            assert 1 <= kept <= count
            assert kept in (1, count) or kept + clusters(tokens - kept) <= count


def test_even_places() -> None:
    cpu = torch.device("cpu")
    assert evenly(10, 3, cpu).tolist() == [1, 5, 8]
    assert grid_middles(12, 12, 36, cpu).view(6, 6)[0].tolist() == [13, 15, 17, 19, 21, 23]
    for down, across in ((12, 12), (3, 9), (1, 7), (9, 2)):
        for count in range(down * across + 1):
            picked = grid_middles(down, across, count, cpu)
            assert len(picked) == count
            assert (picked.diff() > 0).all()


def test_diverse_is_the_obvious_loop() -> None:
    features = torch.randn(30, 5, generator=torch.Generator().manual_seed(0))
    unit = torch.nn.functional.normalize(features, dim=1)
    distance = 1 - unit @ unit.mT
    first = distance.masked_fill(torch.eye(30, dtype=torch.bool), torch.inf).min(1).values.argmax()
    order = [int(first)]
    while len(order) < 12:
        others = [token for token in range(30) if token not in order]
        order.append(max(others, key=lambda token: float(distance[token, order].min())))
    assert diverse(features, 12).tolist() == order
    assert diverse(features[:1], 1).tolist() == [0]
