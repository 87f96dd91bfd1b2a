"""Capture and edits against attention written out, on real classes, and what is left when they end: nothing."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import pytest
import torch
from small_models import HIDDEN, IMAGES, TEXTS, build, inputs, last_hidden
from torch import Tensor, nn
from torch.nn import functional as F

from attn.core.errors import UsageError
from attn.core.models.family import attention_modules, attention_places, layout_of
from attn.core.models.hooks import Seen, capture, edit, observed

SEVERAL = ["vit", "bert", "albert", "t5", "llama", "clip"]


@contextmanager
def untouched(model: nn.Module) -> Iterator[None]:
    """Nothing of a model may differ afterwards: weights, attributes, hooks, configuration."""

    def state() -> Any:
        return {
            name: (set(vars(module)), len(module._forward_hooks), len(module._forward_pre_hooks),
                   getattr(module, "scaling", None), str(getattr(module, "config", "")))
            for name, module in model.named_modules()
        }  # fmt: skip

    before, weights = state(), {name: (value, value.clone()) for name, value in model.state_dict().items()}
    implementation = getattr(model.config, "_attn_implementation", None) if hasattr(model, "config") else None
    yield
    assert state() == before
    assert all(torch.equal(value, weights[name][1]) for name, value in model.state_dict().items())
    assert all(value.data_ptr() == weights[name][0].data_ptr() for name, value in model.state_dict().items())
    if implementation:
        assert model.config._attn_implementation == implementation


def probabilities(seen: Seen) -> Tensor:
    """The whole matrix of what was captured."""
    k = seen.k.repeat_interleave(seen.q.shape[1] // seen.k.shape[1], 1)
    scores = seen.q @ k.mT * seen.scale
    if seen.causal:
        scores = scores.masked_fill(torch.ones(scores.shape[-2:], dtype=torch.bool).triu(1), -torch.inf)
    if seen.mask is not None:
        scores = scores.masked_fill(~seen.mask, -torch.inf) if seen.mask.dtype == torch.bool else scores + seen.mask
    return scores.softmax(-1)


class TestCapture:
    @pytest.mark.parametrize("name", IMAGES | TEXTS)
    def test_is_what_the_softmax_sees(self, name: str) -> None:
        model, given = build(name), inputs(name)
        model.set_attn_implementation("eager")
        plain, expected = last_hidden(model, given), dict[int, Tensor]()
        with observed(model, expected.__setitem__):
            last_hidden(model, given)
        with untouched(model), capture(model, what=("q", "k", "v", "hidden")) as seen:
            out = last_hidden(model, given)
        torch.testing.assert_close(out, plain, atol=1e-4, rtol=1e-4)
        assert [one.layer for one in seen] == ([0, 0] if name == "albert" else [0, 1])
        last = seen[-1]
        torch.testing.assert_close(probabilities(last), expected[last.layer], atol=1e-5, rtol=1e-4)
        if name in ("llama", "mistral", "qwen2", "qwen3"):
            assert last.k.shape[1] == last.v.shape[1] == 1
        assert last.hidden.shape == out.shape
        assert not any(value.requires_grad for value in (last.q, last.k, last.v, last.hidden))

    def test_only_what_is_asked_for(self) -> None:
        model = build("vit")
        with capture(model, "last:1", ["hidden"]) as seen:
            last_hidden(model, inputs("vit"))
        assert [(one.layer, one.q, one.k, one.v) for one in seen] == [(1, None, None, None)]
        with capture(model, [0], ["k"]) as seen:
            last_hidden(model, inputs("vit"))
        assert [(one.layer, one.q, one.hidden) for one in seen] == [(0, None, None)]
        with pytest.raises(UsageError, match="of q, k, v, hidden"), capture(model, what=["prob"]):
            pass

    @pytest.mark.parametrize("name", HIDDEN)
    def test_hidden_kernels_are_errors(self, name: str) -> None:
        model = build(name)
        with untouched(model), pytest.raises(UsageError, match="cannot be reached"), capture(model):
            last_hidden(model, inputs(name))

    @pytest.mark.parametrize("batch_first", [True, False])
    def test_attention_of_torch(self, batch_first: bool) -> None:
        torch.manual_seed(0)
        attend, x = nn.MultiheadAttention(16, 2, batch_first=batch_first).eval(), torch.randn(3, 5, 16)
        given = x if batch_first else x.transpose(0, 1)
        out_of = torch.ones(5, 5, dtype=torch.bool).triu(1)
        padding = torch.zeros(3, 5, dtype=torch.bool)
        padding[1, 3:] = True
        with capture(attend) as seen, torch.no_grad():
            out, prob = attend(given, given, given, key_padding_mask=padding, attn_mask=out_of)
        torch.testing.assert_close(probabilities(seen[0]).mean(1), prob)
        joined = (probabilities(seen[0]) @ seen[0].v).transpose(1, 2).flatten(2)
        torch.testing.assert_close(attend.out_proj(joined), out if batch_first else out.transpose(0, 1))


class TestHeads:
    @pytest.mark.parametrize("name", IMAGES | TEXTS | HIDDEN)
    def test_zero_is_zeroed_columns_of_the_projection(self, name: str) -> None:
        model, given = build(name), inputs(name)
        plain = last_hidden(model, given)
        with untouched(model), edit(model, heads={0: torch.tensor([1.0, 0.0])}):
            out = last_hidden(model, given)
        assert (out - plain).abs().max() > 1e-3
        assert torch.equal(last_hidden(model, given), plain)
        place = attention_places(model)[0]
        output = layout_of(place.module).output
        projection = place.module.get_submodule(output) if output else place.block.attention.output.dense
        projection.weight.data[:, 8:] = 0
        torch.testing.assert_close(out, last_hidden(model, given), atol=1e-5, rtol=1e-5)

    def test_attention_of_torch(self) -> None:
        attend, x = nn.MultiheadAttention(16, 2, batch_first=True).eval(), torch.randn(3, 5, 16)
        plain = attend(x, x, x)[0]
        with untouched(attend), edit(attend, heads={0: torch.tensor([0.0, 0.0])}):
            torch.testing.assert_close(attend(x, x, x)[0], attend.out_proj.bias.expand(3, 5, 16))
        assert torch.equal(attend(x, x, x)[0], plain)

    def test_factors_may_learn(self) -> None:
        model, factors = build("vit"), torch.ones(2, requires_grad=True)
        with edit(model, heads={1: factors}):
            model(**inputs("vit")).last_hidden_state.square().sum().backward()
        assert factors.grad is not None
        assert factors.grad.abs().min() > 0

    def test_wrong_numbers(self) -> None:
        with pytest.raises(UsageError, match="has 2 heads"), edit(build("vit"), heads={0: torch.ones(3)}):
            pass
        with pytest.raises(UsageError, match="from 0 to 1"), edit(build("vit"), heads={2: torch.ones(2)}):
            pass
        with pytest.raises(UsageError, match="several towers"), edit(build("llava (whole)"), heads={0: torch.ones(2)}):
            pass


class TestKeep:
    @pytest.mark.parametrize("name", [name for name in IMAGES if name != "dinov3"])
    def test_left_out_tokens_are_not_seen(self, name: str) -> None:
        """The same as attention that cannot see them, for those that stay."""
        model, given = build(name), inputs(name)
        plain = last_hidden(model, given)
        length = plain.shape[1]
        index = torch.cat([torch.arange(2), torch.arange(5, length, 2)])
        with untouched(model), edit(model, keep={1: index}):
            out = last_hidden(model, given)
        hide = torch.full((length,), -torch.inf)
        hide[index] = 0
        with edit(model, bias={1: hide}):
            expected = last_hidden(model, given)[:, index]
        torch.testing.assert_close(out, expected, atol=1e-5, rtol=1e-5)
        rows = torch.stack([index, index.flip(0).sort().values])
        with edit(model, keep={1: rows}):
            assert torch.equal(last_hidden(model, given), out)
        assert torch.equal(last_hidden(model, given), plain)

    def test_all_tokens_change_nothing(self) -> None:
        model, given = build("dinov2"), inputs("dinov2")
        with edit(model, keep={0: torch.arange(17), 1: torch.arange(17)}):
            out = last_hidden(model, given)
        assert torch.equal(out, last_hidden(model, given))

    @pytest.mark.parametrize("name", ["bert", "llama", "dinov3"])
    def test_positions_that_would_not_fit(self, name: str) -> None:
        model = build(name)
        with untouched(model), pytest.raises(UsageError, match="cannot be left out"):
            with edit(model, keep={0: torch.arange(3)}):
                last_hidden(model, inputs(name))

    @pytest.mark.parametrize("index", [[17], [-1], []])
    def test_tokens_that_are_not_there(self, index: list[int]) -> None:
        model = build("vit")
        with pytest.raises(UsageError, match="0 to 16"), edit(model, keep={0: torch.tensor(index, dtype=torch.int64)}):
            last_hidden(model, inputs("vit"))

    def test_causal_text_tower(self) -> None:
        model = build("clip text")
        with pytest.raises(UsageError, match="cannot be left out"), edit(model, keep={0: torch.arange(3)}):
            last_hidden(model, inputs("clip text"))


class TestBias:
    @pytest.mark.parametrize("name", ["vit", "dinov3", "bert", "t5", "llama", "mpnet", "clip text"])
    def test_is_added_to_the_logits(self, name: str) -> None:
        model, given = build(name), inputs(name)
        expected, biased = dict[int, Tensor](), dict[int, Tensor]()
        with observed(model, expected.__setitem__):
            plain = last_hidden(model, given)
        length = expected[0].shape[-1]
        bias = torch.randn(2, length, length, generator=torch.Generator().manual_seed(2))
        with untouched(model), observed(model, biased.__setitem__), edit(model, bias={0: bias}):
            assert not torch.equal(last_hidden(model, given), plain)
        logits = expected[0].double().log() + bias
        torch.testing.assert_close(biased[0].double(), logits.softmax(-1), atol=1e-5, rtol=1e-3)

    def test_comes_behind_the_temperature(self) -> None:
        model, given, prob = build("t5"), inputs("t5"), dict[int, Tensor]()
        bias = torch.linspace(-3, 3, 9)
        with observed(model, prob.__setitem__):
            last_hidden(model, given)
        both = dict[int, Tensor]()
        with observed(model, both.__setitem__), edit(model, temperature=0.5, bias={0: bias}):
            last_hidden(model, given)
        expected = (prob[0][0].double().log() / 0.5 + bias).softmax(-1)
        torch.testing.assert_close(both[0][0].double(), expected, atol=1e-5, rtol=1e-3)

    def test_hidden_kernel(self) -> None:
        attend, x = nn.MultiheadAttention(16, 2).eval(), torch.randn(3, 5, 16)
        with pytest.raises(UsageError, match="cannot be reached"), edit(attend, bias={0: torch.zeros(3)}):
            attend(x, x, x)


@pytest.mark.parametrize("name", SEVERAL)
def test_an_exception_restores_everything(name: str) -> None:
    model, given = build(name), inputs(name)
    plain = last_hidden(model, given)
    factors = {0: torch.zeros(2)}
    with untouched(model):
        with pytest.raises(RuntimeError, match="boom"):
            with edit(model, temperature=0.5, heads=factors, bias={0: torch.zeros(1)}), capture(model):
                raise RuntimeError("boom")
        with pytest.raises(UsageError, match="not a positive number"), edit(model, heads=factors, temperature=-1.0):
            pass
        with pytest.raises(UsageError, match="heads"), edit(model, temperature=0.5, heads={0: torch.ones(5)}):
            pass
    assert torch.equal(last_hidden(model, given), plain)


def test_edits_nest() -> None:
    model, given = build("vit"), inputs("vit")
    plain = last_hidden(model, given)
    with edit(model, temperature=0.5, heads={0: torch.tensor([0.0, 1.0])}):
        outer = last_hidden(model, given)
        with edit(model, temperature=1.0, heads={0: torch.tensor([1.0, 0.0])}):
            inner = last_hidden(model, given)
        assert torch.equal(last_hidden(model, given), outer)
    with edit(model, heads={0: torch.zeros(2)}):
        assert torch.equal(last_hidden(model, given), inner)
    assert torch.equal(last_hidden(model, given), plain)


def test_modules_of_torch_know_their_kernel() -> None:
    """The projection of torch's attention is made again from its weights: its own formulas must not have changed."""
    attend, x = attention_modules(nn.MultiheadAttention(16, 2, bias=False, batch_first=True))[0], torch.randn(1, 4, 16)
    with capture(attend, what=["v"]) as seen, torch.no_grad():
        attend(x, x, x)
    expected = F.linear(x, attend.in_proj_weight[32:]).view(1, 4, 2, 8).transpose(1, 2)
    torch.testing.assert_close(seen[0].v, expected)
