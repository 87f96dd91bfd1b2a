"""What a model asks its layers to see, told in few numbers or refused: against transformers' own masks."""

import itertools

import pytest
import torch
import transformers as hf
from small_causal_lms import MAKE, TEXT, small_causal_lm
from transformers import masking_utils

import attn
from attn.core.attention.in_models import masks
from attn.core.attention.in_models.masks import Visible, decoded, describe, encoded

attn.register_attention()
pytestmark = pytest.mark.filterwarnings("ignore:.*to which the model gives a window:UserWarning")
IDS = torch.randint(3, 60, (2, 40), generator=torch.Generator().manual_seed(1))


def test_what_is_encoded_is_decoded():
    seen = [Visible(0, 0, 5, 5, 0), Visible(1, 2, 5, 5, 3)]
    assert decoded(encoded(seen, "cpu")) == seen
    assert decoded(torch.ones(2, 1, 5, 5, dtype=torch.bool)) is None
    assert decoded(torch.ones(2, 1, 3, 2, dtype=torch.int64)) is None


SLIDING = masking_utils.sliding_window_causal_mask_function
CHUNKS = masking_utils.chunked_causal_mask_function
BLOCKS = masking_utils.blockwise_overlay


@pytest.mark.parametrize("rows", [512, 7])
@pytest.mark.parametrize("skip", [True, False])
def test_windows_are_told_from_chunks_and_causal_attention(monkeypatch, skip, rows):
    monkeypatch.setattr(masks, "_ROWS", rows)
    given = {"batch_size": 2, "q_length": 20, "kv_length": 20, "allow_is_causal_skip": skip}
    assert decoded(describe(**given)) == [Visible(0, 0, 20, 20, 0), Visible(1, 0, 20, 20, 0)]
    window = decoded(describe(**given, mask_function=SLIDING(6), local_size=6))
    assert window == [Visible(0, 0, 20, 20, 6), Visible(1, 0, 20, 20, 6)]
    for size in (5, 7):  # 20 is a multiple of 5: the last row alone is that of a window
        pattern = CHUNKS(size, torch.zeros(2, dtype=torch.int64))
        ends = [*range(0, 20, size), 20]
        chunks = [Visible(row, *span, 20, size) for row in range(2) for span in itertools.pairwise(ends)]
        assert decoded(describe(**given, mask_function=pattern, local_size=size)) == chunks


def test_a_query_sees_its_chunk_and_queries_behind_the_first_chunk_are_left_alone():
    pattern = CHUNKS(8, torch.zeros(2, dtype=torch.int64))
    given = {"batch_size": 2, "kv_length": 20, "mask_function": pattern, "local_size": 8}
    for skip in (True, False):
        one = describe(**given, q_length=1, q_offset=19, allow_is_causal_skip=skip)
        assert decoded(one) == [Visible(0, 16, 20, 20, 8), Visible(1, 16, 20, 20, 8)]
        several = describe(**given, q_length=4, q_offset=16, allow_is_causal_skip=skip)
        truth = masking_utils.sdpa_mask(2, 4, 20, 16, mask_function=pattern, allow_is_causal_skip=False)
        assert decoded(several) is None
        assert torch.equal(several, truth)


def test_one_query_and_empty_keys_behind_it():
    one = describe(batch_size=1, q_length=1, kv_length=64, q_offset=torch.tensor(30), allow_is_causal_skip=False)
    assert decoded(one) == [Visible(0, 0, 31, 31, 0)]
    later = describe(batch_size=1, q_length=2, kv_length=9, q_offset=30, kv_offset=23, mask_function=SLIDING(8),
                     local_size=8)  # fmt: skip
    assert decoded(later) == [Visible(0, 0, 9, 9, 8)]


def test_padding_at_the_ends():
    valid = torch.tensor([[0, 0, 1, 1], [1, 1, 1, 0], [0, 1, 1, 0], [0, 0, 0, 0], [1, 1, 1, 1]]).bool()
    found = decoded(describe(batch_size=5, q_length=4, kv_length=4, attention_mask=valid))
    assert [(x.first, x.stop) for x in found] == [(2, 4), (0, 3), (1, 3), (0, 0), (0, 4)]
    hole = valid.index_put((torch.tensor(4), torch.tensor(1)), torch.tensor(False))
    assert decoded(describe(batch_size=5, q_length=4, kv_length=4, attention_mask=hole)) is None


@pytest.mark.parametrize("model", ["llama", "gemma3"])
def test_packed_sequences_are_found_by_their_positions(model):
    at = torch.stack([torch.cat([torch.arange(n), torch.arange(3), torch.arange(37 - n)]) for n in (25, 4)])
    plain, ours = small_causal_lm(model, "sdpa"), small_causal_lm(model, "attn:dense")
    with torch.no_grad():
        truth, found = (x(IDS, position_ids=at, use_cache=False).logits for x in (plain, ours))
    assert (truth - found).abs().max() <= 1e-4
    with attn.attention_log() as ran, torch.no_grad(), attn.attention_parameters(window=64):
        cut = small_causal_lm(model, "attn:window+sink")(IDS, position_ids=at, use_cache=False).logits
    assert (truth - cut).abs().max() <= 1e-4
    assert {x.len_k for x in ran} == {40}


def test_blocks_that_see_ahead_are_no_causal_attention():
    ids = torch.tensor([[-1] * 10 + [0] * 4 + [-1] * 6])
    pattern = masking_utils.or_masks(masking_utils.causal_mask_function, BLOCKS(ids))
    given = {"batch_size": 1, "q_length": 20, "kv_length": 20, "mask_function": pattern}
    found = describe(**given, allow_is_causal_skip=False)
    assert decoded(found) is None
    assert torch.equal(found, masking_utils.sdpa_mask(**given, allow_is_causal_skip=False))


def refusal(model, ids=IDS, **given):
    with pytest.raises(ValueError) as caught, torch.no_grad():  # noqa: PT011
        model(ids, **given)
    assert "\n" not in str(caught.value)
    return str(caught.value)


def test_what_no_operator_does_is_refused_with_the_layer_and_the_remedy():
    llama = small_causal_lm("llama", "attn:hip")
    hole = torch.ones_like(IDS).index_put((torch.tensor(0), torch.arange(10, 15)), torch.tensor(0))
    assert "attn:hip, layer 0: the mask [2, 1, 40, 40] is neither causal" in refusal(llama, attention_mask=hole)
    own = torch.zeros(2, 1, 40, 40)
    assert "pass no mask of your own, or use attn_implementation='sdpa'" in refusal(llama, attention_mask=own)
    assert "layer 0: the layer is asked for its attention weights" in refusal(llama, output_attentions=True)
    for layer in llama.model.layers:
        layer.self_attn.attention_dropout = 0.1
    assert "no operator has dropout, here 0.1. Set config.attention_dropout = 0" in refusal(llama.train())


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: hf.Gemma2ForCausalLM(hf.Gemma2Config(**TEXT, head_dim=8)), "layer 0: the layer soft-caps its scores"),
        (
            lambda: hf.GptOssForCausalLM(
                hf.GptOssConfig(**TEXT, head_dim=8, num_local_experts=2, num_experts_per_tok=1)
            ),
            "layer 0: the layer has sink weights",
        ),
        (
            lambda: hf.BertModel(hf.BertConfig(vocab_size=60, hidden_size=16, num_hidden_layers=1,
                                               num_attention_heads=2, intermediate_size=24)),
            "attention here is not causal. Pass attn_implementation={'text_config': 'attn:hip'}",
        ),
    ],
)  # fmt: skip
def test_models_whose_attention_is_another_are_refused(make, message):
    model = make().eval()
    model.set_attn_implementation("attn:hip")
    assert message in refusal(model)


def test_a_decoder_that_is_to_see_ahead_is_refused():
    model = small_causal_lm("llama", "attn:hip")
    model.config.is_causal = False
    assert "layer 0: attention here is not causal" in refusal(model)


def test_boundaries_of_sequences_must_agree_with_their_positions():
    model, ends = small_causal_lm("llama", "attn:hip"), torch.tensor([0, 25, 40], dtype=torch.int32)
    given = {"use_cache": False, "cu_seq_lens_q": ends, "cu_seq_lens_k": ends}
    assert "Pass position_ids that begin again with each" in refusal(model, IDS[:1], **given)
    at = torch.cat([torch.arange(25), torch.arange(15)])[None]
    with torch.no_grad():
        assert model(IDS[:1], position_ids=at, **given).logits.shape == (1, 40, 60)


@pytest.mark.parametrize("length", [1, 2, 3, 6])
def test_a_model_with_an_attention_of_its_own_does_not_run_with_what_is_no_mask(length):
    config = hf.BloomConfig(vocab_size=60, hidden_size=32, n_layer=2, n_head=4)
    model = hf.BloomForCausalLM._from_config(config, attn_implementation="attn:hip")
    with pytest.raises(RuntimeError):
        model(IDS[:1, :length])


def test_padding_on_both_sides_is_refused():
    both = torch.ones_like(IDS)
    both[0, :5] = both[1, -5:] = 0
    message = refusal(small_causal_lm("llama", "attn:hip"), attention_mask=both)
    assert message == "attn:hip, layer 0: the batch is padded on both sides. Pad it on the left."


@pytest.mark.parametrize("model", MAKE)
def test_a_static_cache_and_a_prompt_in_parts(model):
    plain, ours = small_causal_lm(model, "sdpa"), small_causal_lm(model, "attn:dense")
    given = {"attention_mask": torch.ones_like(IDS), "max_new_tokens": 6, "do_sample": False}
    truth = plain.generate(IDS, **given)
    assert torch.equal(ours.generate(IDS, **given, cache_implementation="static"), truth)
    cache = hf.DynamicCache(config=ours.config)
    with torch.no_grad(), attn.attention_log() as ran:
        parts = [ours(part, cache=cache).logits for part in IDS.split((25, 15), 1)]
        assert (torch.cat(parts, 1) - plain(IDS).logits).abs().max() <= 1e-4
    assert {x.phase for x in ran} == {"prefill", "extend"}
