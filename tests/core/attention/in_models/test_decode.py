"""Decoders that keep their choice of keys from step to step, layer by layer."""

import pytest
import torch
from small_causal_lms import small_causal_lm

import attn

attn.register_attention()
IDS = torch.randint(3, 60, (2, 120), generator=torch.Generator().manual_seed(1))
LEFT = torch.ones_like(IDS).index_put((torch.tensor(1), torch.arange(40)), torch.tensor(0))
CUT = {"mask_k": 16, "sliding_window": 16, "sink": 4}
BOTH = "tree search, numba + attention, numba"


def generate(model, mask=LEFT, steps=8, **params):
    with attn.attention_parameters(**params), attn.attention_log() as ran:
        tokens = model.generate(IDS, attention_mask=mask, max_new_tokens=steps, do_sample=False)
    return tokens, [x for x in ran if x.layer == 0 and x.phase == "decode"]


@pytest.mark.parametrize("mask", [LEFT, torch.ones_like(IDS)], ids=["padded", "whole"])
def test_the_search_is_refreshed_as_asked(mask):
    model = small_causal_lm("llama", "attn:hip")
    every, ran = generate(model, mask, **CUT)
    assert [x.formulation for x in ran] == [BOTH] * 7
    for _ in range(2):  # another text begins anew
        _, ran = generate(model, mask, **CUT, mask_refresh=3)
        assert [x.formulation == BOTH for x in ran] == [True, False, False, True, False, False, True]
    again, _ = generate(model, mask, **CUT, mask_refresh=1)
    assert torch.equal(every, again)


def test_at_full_budget_it_continues_as_the_plain_model():
    truth, _ = generate(small_causal_lm("llama", "sdpa"))
    found, ran = generate(small_causal_lm("llama", "attn:hip"), mask_k=256, mask_refresh=4)
    assert torch.equal(found, truth)
    assert len(ran) == 7


def test_what_a_decoder_cannot_do_is_said():
    model = small_causal_lm("llama", "attn:hip")
    with pytest.raises(ValueError, match="layer 0: a decoder with mask_refresh chooses its backend itself"):
        generate(model, **CUT, mask_refresh=3, backend="torch")
    with pytest.raises(ValueError, match="layer 0: hip: with mask_refresh=16 steps"):
        generate(model, mask_k=16, sliding_window=8, mask_refresh=16)


def test_lightning_knows_its_layer_and_says_what_it_is():
    model = small_causal_lm("llama", "attn:lightning")
    with pytest.warns(UserWarning, match="the model must have been trained with it"), torch.no_grad():
        by_layer = model(IDS).logits
    with attn.attention_parameters(layer=0, num_layers=1), torch.no_grad():
        assert (model(IDS).logits - by_layer).abs().max() > 1e-4
    for params in ({}, {"backend": "torch"}):  # with the state kept, and from the whole cache in every step
        with torch.no_grad(), attn.attention_parameters(**params):
            cache = model(IDS[:, :-5]).past_key_values
            steps = [model(token, cache=cache).logits for token in IDS[:, -5:].split(1, 1)]
        torch.testing.assert_close(torch.cat(steps, 1), by_layer[:, -5:], rtol=1e-4, atol=1e-5)
    given = {"attention_mask": LEFT, "max_new_tokens": 4, "do_sample": False, "num_beams": 3}
    kept = model.generate(IDS, **given)  # beams are reordered
    with attn.attention_parameters(backend="torch"):
        assert torch.equal(model.generate(IDS, **given), kept)


def test_a_second_text_begins_anew():
    model = small_causal_lm("llama", "attn:hip")
    with torch.no_grad(), attn.attention_parameters(**CUT, mask_refresh=8):
        first, second = (model(ids).past_key_values for ids in (IDS[:, :100], IDS[:, 18:]))
        with attn.attention_log() as ran:
            for cache, token in ((first, 3), (first, 4), (second, 5), (first, 6)):
                model(torch.full((2, 1), token), cache=cache)
    found = [x.formulation == BOTH for x in ran if x.layer == 1]
    assert found == [True, False, True, True]  # the second has one key more, as the first would have


@pytest.mark.parametrize(
    ("name", "params"),
    [("hisa", {"top_k": 512}), ("dsa", {"top_k": 512}), ("hip", {"mask_k": 512, "mask_refresh": 8}), ("lightning", {})],
)
@pytest.mark.filterwarnings("ignore:.*the model must have been trained with it")
def test_a_cache_of_inference_mode_goes_on_outside_it(name, params):
    model, found = small_causal_lm("llama", f"attn:{name}"), []
    with attn.attention_parameters(**params):
        for mode in (torch.inference_mode, torch.no_grad):
            with mode():
                cache = model(IDS[:, :-4]).past_key_values
                model(IDS[:, -4:-3], cache=cache)
                model(IDS[:, -3:-2], cache=cache)
            with torch.no_grad():
                model(IDS[:, -2:-1], cache=cache)
                found.append(model(IDS[:, -1:], cache=cache).logits)
    torch.testing.assert_close(*found, rtol=1e-5, atol=1e-6)
