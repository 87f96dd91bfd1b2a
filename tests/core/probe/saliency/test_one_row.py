"""One-token passes over a cache against whole passes with their graph, for every class of model."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from small_causal_lms import MAKE, SLIDING, small_causal_lm
from small_vlms import NAMES, coloured, loaded_vlm

from attn.core.errors import UsageError
from attn.core.models.family import attention_modules
from attn.core.models.loaded import Loaded
from attn.core.probe.saliency.decode import Decoding, decode
from attn.core.probe.saliency.locore import Locore
from attn.core.probe.saliency.matrices import default_layers, saliency
from attn.core.probe.saliency.one_row import OneRow
from attn.core.probe.saliency.question import SpannedPrompt, about_picture, decoder_of
from attn.core.probe.saliency.sgrs import Sgrs
from attn.core.probe.saliency.whole import WholePass


def question(name: str) -> tuple[Loaded, SpannedPrompt]:
    loaded = loaded_vlm(name)
    return loaded, about_picture(loaded, coloured(40, 60), "what colour is it", "photo")


@pytest.mark.parametrize("name", NAMES)
def test_rows_of_an_answer_are_those_of_a_whole_pass(name: str) -> None:
    loaded, asked = question(name)
    answer = decode(loaded, asked, Decoding((0, 2), longest=2))
    ids = torch.tensor([token.id for token in answer.tokens])
    whole = WholePass(loaded.model, decoder_of(loaded), asked.answered(ids), (0, 2))
    for number, token in enumerate(answer.tokens):
        row = len(asked.ids) - 1 + number
        for place, layer in enumerate((0, 2)):
            attention, gradient = (torch.cat(p, 1) for p in zip(*whole.tiles(row, token.id, layer), strict=True))
            wanted = saliency(attention, gradient).mean(0)[row, : row + 1].numpy()
            np.testing.assert_allclose(token.rows[place], wanted, rtol=2e-3, atol=2e-5 * wanted.max())
        assert np.allclose(token.shares.sum(1), 1)
        assert np.allclose(token.attention_shares.sum(1), 1)
        assert token.score == pytest.approx(token.spans[0], rel=1e-5)
    assert asked.system > 0
    assert asked.behind - asked.system >= len(asked.visual)
    assert not any("forward" in vars(module) for module in attention_modules(decoder_of(loaded)))


@pytest.mark.parametrize("name", MAKE)
@pytest.mark.parametrize("kernel", ["sdpa", "eager"])
def test_rows_of_a_text_are_those_of_eager_attention(name: str, kernel: str) -> None:
    """Windows of the model's own, whose caches forget the first keys, among them."""
    model = small_causal_lm(name, kernel)
    ids = torch.randint(3, 60, (1, 24), generator=torch.Generator().manual_seed(1))
    reader = OneRow(model, model)
    seen = reader.step(reader.start({"input_ids": ids}))
    found = seen.rows(torch.tensor([7, 9]), (0, 1, 2))
    eager = small_causal_lm(name, "eager")
    out = eager(input_ids=ids, output_attentions=True)
    for number, token in enumerate((7, 9)):
        loss = -out.logits[0, -1].float().log_softmax(-1)[token]
        gradients = torch.autograd.grad(loss, out.attentions, retain_graph=True)
        wanted = [(a * g).abs()[0, :, -1].mean(0) for a, g in zip(out.attentions, gradients, strict=True)]
        torch.testing.assert_close(found[number], torch.stack(wanted), rtol=1e-3, atol=1e-7)
    for layer in SLIDING.get(name, ()):
        assert not found[:, layer, :8].any()


def test_locore_acts_from_the_second_token_on() -> None:
    loaded, asked = question("llava")
    plain = decode(loaded, asked, Decoding((1,), longest=3))
    forced = [token.id for token in plain.tokens]

    def change(locore: Locore, first: bool = False) -> list[float]:
        other = decode(loaded, asked, Decoding((1,), longest=3, locore=locore, first=first), forced=forced)
        return [abs(a.probability - b.probability) for a, b in zip(plain.tokens, other.tokens, strict=True)]

    assert change(Locore(0.0)) == pytest.approx([0, 0, 0], abs=1e-6)
    first, *others = change(Locore(1.0))
    assert first == 0
    assert min(others) > 1e-6
    assert change(Locore(1.0), first=True)[0] > 1e-6
    assert change(Locore(1.0, layers=(3,)))[1] != pytest.approx(others[0])


def test_sgrs_draws_by_seed_and_as_released_takes_the_first_draw() -> None:
    loaded, asked = question("llava")
    how = Decoding((1,), sgrs=Sgrs(alpha=1.0), rejects=True, longest=6)
    first, again = decode(loaded, asked, how), decode(loaded, asked, how)
    assert [token.id for token in first.tokens] == [token.id for token in again.tokens]
    assert any(token.tries > 1 for token in first.tokens)
    scores: list[float] = []
    for token in first.tokens:
        assert token.threshold == pytest.approx(np.mean(scores[-5:]) if scores else 0)
        assert token.fallback or token.score >= token.threshold
        scores.append(token.score)
    released = decode(loaded, asked, Decoding((1,), rejects=True, released=True, longest=6))
    assert {(token.tries, token.score, token.threshold) for token in released.tokens} == {(1, 0.0, 0.0)}


def test_the_whole_matrix_as_norm() -> None:
    loaded, asked = question("llava")
    row = decode(loaded, asked, Decoding((1, 2), longest=2))
    matrix = decode(loaded, asked, Decoding((1, 2), norm="matrix", longest=2))
    assert [token.id for token in row.tokens] == [token.id for token in matrix.tokens]
    assert all(0 < m.score < r.score for m, r in zip(matrix.tokens, row.tokens, strict=True))


def test_a_model_is_as_it_was_after_a_failure() -> None:
    loaded, _ = question("llava")
    reader = OneRow(loaded.model, decoder_of(loaded))
    before = decoder_of(loaded).config._attn_implementation
    with pytest.raises(UsageError, match="cannot answer"):
        reader.step(torch.tensor([10**6]))
    assert decoder_of(loaded).config._attn_implementation == before
    assert not any("forward" in vars(module) for module in attention_modules(decoder_of(loaded)))


def test_layers_of_the_released_code_at_other_depths() -> None:
    assert default_layers(32) == (6, 7, 8)
    assert default_layers(30) == (6, 7, 8)
    assert default_layers(4) == (1,)
    assert default_layers(1) == (0,)
