"""The operators inside transformers' models: equal to the plain model where they leave nothing out."""

import copy
import sys

import numpy as np
import pytest
import torch
from small_causal_lms import MAKE, SLIDING, WINDOW, small_causal_lm
from small_vlms import coloured, loaded_vlm

import attn
from attn.core.attention.in_models import layer
from attn.core.attention.registry import OPERATORS
from attn.core.errors import UsageError
from attn.core.prune.vlm.ask import prepare

NAMES = attn.register_attention()
EVERYTHING = {
    "attn:dense": {}, "attn:hip": {"mask_k": 512}, "attn:dsa": {"top_k": 512}, "attn:hisa": {"top_k": 512},
    "attn:superlinear": {"sw_index": 30}, "attn:flux": {}, "attn:window+sink": {}, "attn:blocktopk": {},
    "attn:oracle": {}, "attn:flex": {"window": 1024},
}  # fmt: skip
"""Parameters with which nothing of 60 tokens is left out."""
IDS = torch.randint(3, 60, (2, 50), generator=torch.Generator().manual_seed(0))
LEFT = torch.ones_like(IDS).index_put((torch.tensor(1), torch.arange(20)), torch.tensor(0))
RIGHT = LEFT.flip(1)

pytestmark = pytest.mark.filterwarnings("ignore:.*to which the model gives a window:UserWarning")


def logits(model, mask=None, **params):
    with torch.no_grad(), attn.attention_parameters(**params):
        return model(IDS, attention_mask=mask).logits


def test_every_causal_operator_is_registered():
    causal = {name for name, row in OPERATORS.items() if not row.missing() and True in row.resolve().causal}
    assert {name.removeprefix("attn:") for name in NAMES} == {x for x in causal if not OPERATORS[x].resolve().grid}
    assert set(NAMES) == set(EVERYTHING) | {"attn:lightning"}


@pytest.mark.parametrize("padding", [None, LEFT, RIGHT], ids=["whole", "left", "right"])
@pytest.mark.parametrize("model", MAKE)
def test_dense_is_the_plain_model(model, padding):
    plain = logits(small_causal_lm(model, "sdpa"), padding)
    ours = logits(small_causal_lm(model, "attn:dense"), padding)
    valid = torch.ones_like(IDS).bool() if padding is None else padding.bool()
    assert (plain - ours)[valid].abs().max() <= 1e-4


@pytest.mark.parametrize("name", EVERYTHING)
def test_every_operator_is_the_plain_model_at_full_budget(name):
    plain, ours = (logits(small_causal_lm("llama", x), LEFT, **EVERYTHING[name]) for x in ("sdpa", name))
    assert (plain - ours)[LEFT.bool()].abs().max() <= 1e-4


@pytest.mark.parametrize("model", MAKE)
def test_generate_continues_alike(model):
    def tokens(implementation):
        return small_causal_lm(model, implementation).generate(
            IDS, attention_mask=LEFT, max_new_tokens=8, do_sample=False
        )

    assert torch.equal(tokens("sdpa"), tokens("attn:dense"))


def test_the_log_says_what_ran_where():
    model = small_causal_lm("gemma3", "attn:hip")
    with attn.attention_log() as ran, torch.no_grad():
        model.generate(IDS, max_new_tokens=2, do_sample=False)
    assert [(x.layer, x.operator, x.phase, x.len_q, x.len_k) for x in ran] == [
        (0, "window+sink", "prefill", 50, 50), (1, "hip", "prefill", 50, 50), (2, "window+sink", "prefill", 50, 50),
        (0, "window+sink", "decode", 1, WINDOW), (1, "hip", "decode", 1, 51), (2, "window+sink", "decode", 1, WINDOW),
    ]  # fmt: skip
    assert ran[0].why == f"the model's own window of {WINDOW}"
    assert ran[1].why == ""
    assert all(x.formulation and x.batch == 2 for x in ran)
    assert {x.layer for x in ran if x.why} == SLIDING["gemma3"]


def test_parameters_come_from_the_configuration_and_before_it_from_the_context():
    plain, cut = small_causal_lm("llama", "sdpa"), small_causal_lm("llama", "attn:window+sink")
    cut.config.attn_parameters = {"window": 8, "num_sinks": 1, "dense_layers": [1]}
    with attn.attention_log() as ran:
        found = logits(cut)
    assert [(x.operator, x.why) for x in ran] == [
        ("window+sink", ""), ("dense", "in dense_layers"), ("window+sink", ""),
    ]  # fmt: skip
    assert (found - logits(plain)).abs().max() > 1e-3
    assert (logits(cut, dense_layers=(0, 1, 2)) - logits(plain)).abs().max() <= 1e-4
    assert (logits(cut, window=64) - logits(plain)).abs().max() <= 1e-4
    assert torch.equal(logits(cut), found)


@pytest.mark.parametrize(
    ("params", "message"),
    [
        ({"windw": 8}, "attn:window.sink, layer 0: .* no parameter 'windw'. Did you mean window"),
        ({"window": 0}, "layer 0: window 0"),
        ({"windw": 8, "dense_layers": [0, 1, 2]}, "layer 0: .* no parameter 'windw'"),
        ({"window": "8"}, "layer 0: window.sink: window is '8'; a whole number is needed, as 1024"),
        ({"window": None}, "layer 0: window.sink: window is None; a whole number"),
        ({"scale": 2.0}, "layer 0: .* no parameter 'scale'"),
        ({"causal": False}, "layer 0: .* no parameter 'causal'"),
        ({"return_lse": True}, "layer 0: .* no parameter 'return_lse'"),
        ({"name": "hip"}, "layer 0: .* no parameter 'name'"),
        ({"lengths": [50, 20], "padding": "left"}, "layer 0: .* no parameter 'lengths'"),
        ({"dense_layers": [True]}, "dense_layers names layer True; the model has layers 0 to 2"),
        ({"dense_layers": [3]}, "dense_layers names layer 3; the model has layers 0 to 2"),
        ({"dense_layers": 1}, "dense_layers is 1; a list"),
    ],
)
def test_what_is_wrong_is_said_with_the_layer(params, message):
    with pytest.raises(ValueError, match=message):
        logits(small_causal_lm("llama", "attn:window+sink"), **params)


@pytest.mark.parametrize("valid", [slice(49, 50), slice(20, 50), slice(0, 30)], ids=["one", "left", "right"])
def test_a_row_that_is_padding_alone_is_padded_at_either_end(valid):
    mask = torch.zeros_like(IDS)
    mask[1, valid] = 1
    plain, ours = (logits(small_causal_lm("llama", x), mask) for x in ("sdpa", "attn:dense"))
    assert (plain - ours)[mask.bool()].abs().max() <= 1e-4
    assert ours.isfinite().all()


def test_a_padded_prompt_in_parts():
    given = {"attention_mask": LEFT, "max_new_tokens": 4, "do_sample": False, "prefill_chunk_size": 16}
    plain, ours = (small_causal_lm("llama", x).generate(IDS, **given) for x in ("sdpa", "attn:dense"))
    assert torch.equal(plain, ours)  # in the first part the second row is padding alone


def test_without_transformers_it_says_how_to_get_it(monkeypatch):
    monkeypatch.setitem(sys.modules, "transformers.masking_utils", None)
    with pytest.raises(UsageError, match=r"needs transformers 5 .* pip install 'transformers>=5'"):
        attn.register_attention()


def test_training_steps_have_the_plain_models_gradients():
    found = []
    for implementation in ("sdpa", "attn:dense"):
        model = small_causal_lm("llama", implementation).train()
        model.gradient_checkpointing_enable()
        model(IDS, attention_mask=LEFT, labels=IDS.masked_fill(LEFT == 0, -100)).loss.backward()
        found.append({name: p.grad for name, p in model.named_parameters()})
    torch.testing.assert_close(found[0], found[1], rtol=1e-3, atol=1e-5)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_half_precision(dtype):
    plain, ours = (small_causal_lm("llama", x).to(dtype) for x in ("sdpa", "attn:hip"))
    with attn.attention_parameters(mask_k=512), torch.no_grad():
        found = ours.generate(IDS, max_new_tokens=2, do_sample=False, output_logits=True, return_dict_in_generate=True)
    truth = plain(IDS).logits[:, -1]
    assert found.logits[0].dtype == torch.float32 or found.logits[0].dtype == dtype
    assert (found.logits[0].float() - truth.float()).abs().max() <= 2e-2


@pytest.mark.parametrize("model", ["llama", "gemma3"])
def test_autocast_is_that_of_the_plain_model(model):
    found = []
    for implementation in ("sdpa", "attn:dense"):
        one = small_causal_lm(model, implementation).train()
        with torch.autocast("cpu", torch.bfloat16):
            loss = one(IDS, attention_mask=LEFT, labels=IDS.masked_fill(LEFT == 0, -100)).loss
        loss.backward()
        with torch.autocast("cpu", torch.bfloat16):
            tokens = one.eval().generate(IDS, attention_mask=LEFT, max_new_tokens=3, do_sample=False)
        found.append((loss.item(), one.get_input_embeddings().weight.grad, tokens.shape))
    assert found[0][0] == pytest.approx(found[1][0], rel=1e-3)
    assert (found[0][1] - found[1][1]).abs().max() <= 2e-2 * found[0][1].abs().max()
    assert found[0][2] == found[1][2]


def test_layers_of_numpy_are_layers():
    model = small_causal_lm("llama", "attn:window+sink")
    layers = list(np.arange(2))
    assert torch.equal(logits(model, window=8, dense_layers=layers), logits(model, window=8, dense_layers=(0, 1)))


def test_beams():
    plain, ours = small_causal_lm("llama", "sdpa"), small_causal_lm("llama", "attn:dense")
    given = {"attention_mask": LEFT, "max_new_tokens": 4, "do_sample": False, "num_beams": 3}
    assert torch.equal(plain.generate(IDS, **given), ours.generate(IDS, **given))


@pytest.mark.slow
def test_compiled_models_leave_their_graph_around_it():
    plain, ours = small_causal_lm("llama", "sdpa"), small_causal_lm("llama", "attn:dense")
    compiled = torch.compile(ours, backend="eager")
    with torch.no_grad():
        assert (compiled(IDS, attention_mask=LEFT).logits - plain(IDS, attention_mask=LEFT).logits)[
            LEFT.bool()
        ].abs().max() <= 1e-4


def test_a_folder_is_loaded_with_it(tmp_path):
    from transformers import AutoModelForCausalLM

    saved = small_causal_lm("llama", "attn:window+sink")
    saved.config.attn_parameters = {"window": 8, "num_sinks": 1, "dense_layers": [0]}
    saved.save_pretrained(tmp_path)
    model = AutoModelForCausalLM.from_pretrained(tmp_path, attn_implementation="attn:window+sink").eval()
    assert model.config.attn_parameters == saved.config.attn_parameters
    assert torch.equal(logits(model), logits(saved))


def test_only_dictionaries_are_parameters():
    model = small_causal_lm("llama", "attn:dense")
    model.config.attn_parameters = ["window"]
    with pytest.raises(ValueError, match=r"layer 0: config.attn_parameters is \['window'\]; a dict"):
        logits(model)


def test_the_backend_holds_for_every_layer():
    model = small_causal_lm("gemma3", "attn:hip")
    with attn.attention_log() as ran:
        logits(model, backend="torch", dense_layers=[1])
    assert {(x.operator, x.formulation) for x in ran} == {
        ("window+sink", "block by block, torch"), ("dense", "block by block, torch"),
    }  # fmt: skip


def test_a_window_of_the_models_own_is_said_once():
    layer._warn_once.cache_clear()
    model = small_causal_lm("mistral, sliding", "attn:hip")
    with pytest.warns(UserWarning, match="window of 16 keys keep it: hip runs only in layers without one") as caught:
        model.generate(IDS, max_new_tokens=2, do_sample=False)
    assert len(caught) == 1


def test_the_text_part_of_a_vision_language_model():
    loaded = loaded_vlm("llava")
    plain, ours = loaded.model, copy.deepcopy(loaded.model)
    inputs = prepare(loaded, [coloured(48, 48)], "what colour is it").inputs
    ours.set_attn_implementation({"text_config": "attn:hip"})
    with torch.no_grad(), attn.attention_log() as ran, attn.attention_parameters(mask_k=512):
        assert (ours(**inputs).logits - plain(**inputs).logits).abs().max() <= 1e-4
    assert {x.operator for x in ran} == {"hip"}
