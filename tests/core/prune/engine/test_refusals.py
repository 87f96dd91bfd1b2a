"""What a pruned model cannot do is told in one line, while or before it runs."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
import transformers as hf
from masked import stages_of
from prunable import CLIP, LLAMA, TEXT, question, together, untrained
from torch import Tensor

from attn.core.errors import UsageError
from attn.core.prune.engine.hooks import pruned
from attn.core.prune.engine.sites import site_of

HALF = stages_of(((2, 2),))


def refused(message: str, call: Callable[[], Any]) -> None:
    with pytest.raises(UsageError, match=message) as caught:
        call()
    assert "\n" not in str(caught.value)


def begin(model: Any, stages: Any = HALF, **settings: Any) -> None:
    with pruned(model, stages, **settings):
        pass


def test_models_that_cannot_be_pruned() -> None:
    llama = hf.LlamaForCausalLM(LLAMA)
    refused("LlamaForCausalLM is a model of text alone.*Qwen2_5_VLForConditionalGeneration", lambda: site_of(llama))
    other = hf.VipLlavaForConditionalGeneration(hf.VipLlavaConfig(vision_config=CLIP, text_config=LLAMA))
    refused("VipLlavaFor.*: visual tokens of this class.*SmolVLM", lambda: site_of(other))
    refused("Linear: visual tokens of this class", lambda: site_of(torch.nn.Linear(2, 2)))
    learnt = hf.XGLMConfig(vocab_size=60, d_model=32, ffn_dim=48, num_layers=4, attention_heads=4)
    xglm = hf.LlavaForConditionalGeneration(hf.LlavaConfig(vision_config=CLIP, text_config=learnt, image_token_id=59))
    refused("Llava.*positions of XGLMModel are no rotary", lambda: begin(xglm))


def test_settings_that_a_model_does_not_have() -> None:
    model = untrained("llava")
    refused("layer: Llava.* has decoder layers 0 to 3, not 4", lambda: begin(model, stages_of(((4, 2),))))
    refused("decoder layers 0 to 3, not -1", lambda: begin(model, stages_of(((-1, 2),))))
    refused(
        "layer: there is no layer in front of 0", lambda: begin(model, stages_of(((0, 2),), attention=("previous",)))
    )
    refused("positions: 'new' is neither", lambda: begin(model, positions="new"))
    for name in ("qwen2_vl", "qwen2_5_vl"):
        refused("compact has no meaning in Qwen2", lambda name=name: begin(untrained(name), positions="compact"))
    sliding = hf.MistralConfig(vocab_size=60, sliding_window=8, **TEXT)
    mistral = hf.LlavaForConditionalGeneration(hf.LlavaConfig(vision_config=CLIP, text_config=sliding))
    refused("sliding windows", lambda: begin(mistral))
    model.model.language_model.layers[3].to("meta")
    refused("several devices. Load it onto one", lambda: begin(model))


STEP = torch.tensor([[5]])
CALLS: dict[str, tuple[str, Callable[[Any, dict[str, Tensor]], Any]]] = {
    "labels": ("labels: a pruned prompt has fewer rows", lambda m, i: m(**i, labels=i["input_ids"])),
    "logits of rows": ("logits_to_keep", lambda m, i: m(**i, logits_to_keep=3)),
    "assisted": ("Assisted decoding", lambda m, i: m.generate(**i, prompt_lookup_num_tokens=2, max_new_tokens=9)),
    "embeds": ("inputs_embeds.*Give input_ids", lambda m, i: m(inputs_embeds=torch.zeros(1, 4, 32))),
    "no tokens": ("no token of it stands for one", lambda m, i: m(**i | {"input_ids": i["input_ids"] % 50})),
    "no pictures": ("no picture came with it", lambda m, i: m(input_ids=i["input_ids"])),
    "static cache": ("static", lambda m, i: m.generate(**i, cache_implementation="static", max_new_tokens=3)),
    "sliding cache": (
        "DynamicSlidingWindowLayer cannot be shortened",
        lambda m, i: m(**i, cache=hf.DynamicCache(config=hf.MistralConfig(sliding_window=8, **TEXT))),
    ),
    "mask": ("attention_mask: one per token", lambda m, i: m(**i | {"attention_mask": torch.ones(1, 1, 25, 25)})),
    "language model": ("LlamaModel was called by itself", lambda m, i: m.model.language_model(STEP)),
    "second picture": (
        "picture behind a cache",
        lambda m, i: m(input_ids=i["input_ids"], pixel_values=i["pixel_values"], cache=m(**i, use_cache=True).cache),
    ),
    "chunks": ("prompts in chunks", lambda m, i: m.generate(**i, prefill_chunk_size=21, max_new_tokens=2)),
    "chunks through a picture": (
        "picture behind a cache", lambda m, i: m.generate(**i, prefill_chunk_size=9, max_new_tokens=2)
    ),
    "second turn": ("tokens come one by one", lambda m, i: m(STEP.expand(1, 3), cache=m(**i, use_cache=True).cache)),
    "cut cache": ("was cut, repeated or selected", lambda m, i: m(STEP, cache=cut(m(**i, use_cache=True).cache))),
    "repeated cache": (
        "was cut, repeated or selected",
        lambda m, i: m(STEP.expand(2, 1), cache=repeated(m(**i, use_cache=True).cache)),
    ),
}  # fmt: skip


def cut(cache: Any) -> Any:
    cache.layers[0].crop(-1)
    return cache


def repeated(cache: Any) -> Any:
    cache.batch_repeat_interleave(2)
    return cache


@pytest.mark.parametrize("case", CALLS)
@torch.no_grad()
def test_calls_inside_the_block(case: str) -> None:
    model, (message, call) = untrained("llava"), CALLS[case]
    with pruned(model, HALF):
        refused(message, lambda: call(model, question("llava")))
        assert model(**question("llava")).logits.shape[1] == 25 - 8  # and the next call is what it would have been


def test_training_and_other_kernels() -> None:
    model, inputs = untrained("llava"), question("llava")
    model.train()
    model.gradient_checkpointing_enable()
    with pruned(model, HALF):
        refused("gradient checkpointing runs layers again", lambda: model(**inputs))
    model.eval()
    model.model.language_model.config._attn_implementation = "flex_attention"
    with pruned(model, HALF):
        refused("attention 'flex_attention': .* under eager and sdpa", lambda: model(**inputs))


@torch.no_grad()
def test_text_goes_through() -> None:
    model, inputs = untrained("qwen2_5_vl"), question("qwen2_5_vl", pictures=0)
    wanted = model(**inputs).logits
    with pruned(model, HALF) as trace:
        assert torch.equal(model(**inputs).logits, wanted)
    assert not trace.prefills


@torch.no_grad()
def test_pictures_and_names_are_of_every_prompt() -> None:
    model = untrained("llava")
    batch = together("llava", [question("llava"), question("llava"), question("llava")])
    with pruned(model, HALF, ids=("a", "b")):
        refused("ids: 2 names for 3 prompts", lambda: model(**batch))
    with pruned(model, HALF, pictures=(None, None)):
        refused("pictures: of 2 prompts, and the model is given 3", lambda: model(**batch))
