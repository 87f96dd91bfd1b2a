"""Layer routers in a small language model: prompts, routes at prefill and in decoding, runs and their files."""

from __future__ import annotations

from dataclasses import replace
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest
import torch

from attn.core.bundles import Compute
from attn.core.errors import UsageError
from attn.core.fit import loop as trainer
from attn.core.models.language import small_language
from attn.core.models.load import load_model
from attn.core.options import OptionError
from attn.core.train.flux_router.options import RouterOptions, parse_targets
from attn.core.train.flux_router.recipe import RouterRecipe, optimizer
from attn.core.train.flux_router.routing import LayerRouters, RouterShape, read_routers, routed, write_routers
from attn.core.train.flux_router.run import static_choices, train_flux_router
from attn.core.train.flux_router.tasks import WORDS, draw_prompts

SHAPE = RouterShape(layers=3, head_dim=8, pool_size=100, sink=2, local=4, block_size=2)


@pytest.fixture(autouse=True)
def _without_curves(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(trainer, "_draw", lambda recipe, state, path: None)


def options(folder: Path, **changes: Any) -> RouterOptions:
    small = RouterOptions(
        folder, targets=(0.5,), width=16, heads=2, depth=2, pairs=4, gap=4, questions=2, judged=4, lm_steps=2, steps=4,
        warmup=1, batch=2, sink=2, local=4, block_size=2, evaluate_every=2, compute=Compute(device="cpu", threads=1),
    )  # fmt: skip
    return replace(small, **changes)


@pytest.fixture
def model() -> Any:
    torch.manual_seed(1)
    return small_language(len(WORDS), width=16, layers=3, heads=2, positions=64).eval().requires_grad_(False)


def test_a_needle_is_answered_far_back_and_a_continuation_near_by() -> None:
    needle = draw_prompts((1,), "needle", 3, pairs=5, gap=7, questions=4)
    near = draw_prompts((1,), "continuation", 3, pairs=5, gap=7, questions=4)
    assert needle.tokens.shape == near.tokens.shape == (3, 1 + 10 + 7 + 12)
    for tokens, answer in zip(needle.tokens.tolist(), needle.answer, strict=True):
        words = [WORDS[token] for token in tokens]
        values = {key: value for key, value in pairwise(words[:11]) if key[0] == "k"}
        assert [words[at] for at in answer.nonzero()[:, 0]] == [
            values[words[at + 1]] for at, word in enumerate(words) if word == "ask"
        ]
    for row in near.tokens:
        assert any(torch.equal(row[1 + period :], row[1:-period]) for period in range(2, 7))


def test_fixed_routes_are_dense_attention_or_not(model: Any) -> None:
    tokens = torch.randint(4, len(WORDS), (2, 21))
    plain = model(input_ids=tokens).logits
    with routed(model, None, SHAPE, fixed=[True] * 3):
        torch.testing.assert_close(model(input_ids=tokens).logits, plain)
    with routed(model, None, SHAPE, fixed=[True, False, True]):
        other = model(input_ids=tokens).logits
    torch.testing.assert_close(other[:, :4], plain[:, :4])  # within the window
    assert not torch.allclose(other, plain)
    assert torch.equal(model(input_ids=tokens).logits, plain)  # nothing is left behind


def test_each_prompt_is_routed_by_itself_and_decoding_keeps_to_it(model: Any) -> None:
    torch.manual_seed(2)
    routers = LayerRouters(SHAPE, 2).eval()
    tokens = torch.randint(4, len(WORDS), (4, 24))
    with routed(model, routers, SHAPE) as routes:
        model(input_ids=tokens[:, :20])
        queries = routes.queries[1]
    last: Any = routers.layers[1].last
    torch.nn.init.normal_(last.weight)
    with torch.no_grad():  # the second layer's router: half of the prompts either way
        last.bias.zero_()
        logits = routers.layers[1](queries).logits
        last.bias[1] = (logits[:, 0] - logits[:, 1]).median() + 1e-6
    with routed(model, routers, SHAPE) as routes:
        first = model(input_ids=tokens[:, :20], use_cache=True)
        chosen = [full.clone() for full in routes.full]
        steps = [
            model(input_ids=tokens[:, at : at + 1], past_key_values=first.past_key_values).logits
            for at in range(20, 24)
        ]  # fmt: skip
        assert all(map(torch.equal, chosen, routes.full))
    assert 0 < float(chosen[1].sum()) < 4
    for row, full in enumerate(torch.stack(chosen, 1).bool().tolist()):
        with routed(model, None, SHAPE, fixed=full):
            whole = model(input_ids=tokens[row : row + 1]).logits[:, 20:]
        torch.testing.assert_close(torch.cat(steps, 1)[row : row + 1], whole, rtol=1e-4, atol=1e-5)


def test_only_routers_learn_and_multipliers_climb(model: Any, tmp_path: Path) -> None:
    torch.manual_seed(3)
    routers = LayerRouters(SHAPE, 2).train()
    own = options(tmp_path, depth=3)
    recipe, steps = RouterRecipe(model, routers, own, 0.5), optimizer(routers, own)
    for group in steps.param_groups:
        group["lr"] = 1e-3
    before = routers.multipliers.detach().clone()
    loss = recipe.loss(0)
    loss.backward()
    assert all(parameter.grad is None for parameter in model.parameters())
    assert all(router.last.bias.grad.abs().sum() > 0 for router in routers.layers)  # type: ignore[union-attr, operator]
    steps.step()
    assert (routers.multipliers > before).all()  # every layer was full: both targets are missed


def test_a_prompt_with_padding_is_refused(model: Any) -> None:
    mask = torch.ones(2, 8, dtype=torch.int64)
    mask[0, :3] = 0
    with routed(model, None, SHAPE, fixed=[False] * 3), pytest.raises(ValueError, match="without padding"):
        model(input_ids=torch.full((2, 8), 5), attention_mask=mask)
    with pytest.raises(UsageError, match="4 layers"), routed(model, None, replace(SHAPE, layers=4)):
        pass


def test_a_run_goes_on_and_its_file_is_applied(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    whole = train_flux_router(options(tmp_path / "whole"))
    loss = RouterRecipe.loss

    def stopped(self: RouterRecipe, step: int) -> torch.Tensor:
        if step == 3:
            raise KeyboardInterrupt
        return loss(self, step)

    with monkeypatch.context() as patch:
        patch.setattr(RouterRecipe, "loss", stopped)
        assert train_flux_router(options(tmp_path / "parts")).left
    again = train_flux_router(options(tmp_path / "parts"))
    assert again.items[0].metrics == whole.items[0].metrics
    routers, other = (read_routers(tmp_path / name / "model.safetensors") for name in ("whole", "parts"))
    assert all(map(torch.equal, routers.state_dict().values(), other.state_dict().values()))
    language: Any = load_model(str(tmp_path / "whole/lm"), "causal", device=torch.device("cpu"), dtype="float32").model
    with routed(language, routers, routers.shape) as routes:
        language.generate(torch.tensor([[1, 5, 6, 7]]), max_new_tokens=2, do_sample=False)
    assert [len(full) for full in routes.full] == [1, 1]
    assert {row["sparse layers"] for row in whole.sections[0].rows()} >= {"none", "all", "routed", "random layers"}
    assert "read_routers" in (tmp_path / "whole/model.md").read_text()


def test_a_file_of_another_kind_is_refused(tmp_path: Path) -> None:
    write_routers(tmp_path / "a.safetensors", LayerRouters(SHAPE, 2), {})
    assert read_routers(tmp_path / "a.safetensors").shape == SHAPE
    (tmp_path / "b.safetensors").write_bytes(b"no")
    with pytest.raises(UsageError):
        read_routers(tmp_path / "b.safetensors")


def test_what_cannot_be_is_refused(tmp_path: Path) -> None:
    assert parse_targets("0.25,0.5,0.25") == (0.25, 0.5)
    with pytest.raises(ValueError, match="no share"):
        parse_targets("1.5")
    with pytest.raises(OptionError, match="warmup"):
        options(tmp_path, warmup=4)


def test_static_choices_have_as_many_sparse_layers() -> None:
    for routes in static_choices(4, 3, 1).values():
        assert all(one.count(False) == 3 for one in routes)
    assert static_choices(4, 1, 1)["last layers"] == [[True, True, True, False]]
