"""Pruning in transformers' models against recorded ones: methods/pruning-peers.md, section 10."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
import transformers as hf
from torch import Tensor

from attn.core.prune.api import prune

TOLERANCE = 2e-5
"""Absolute, of section 10."""


def vectors(name: str) -> dict[str, Tensor]:
    with np.load(Path(__file__).parent / "vectors" / "pruning-peers" / f"{name}.npz") as file:
        return {key: torch.from_numpy(np.asarray(file[key])) for key in file.files}


def llava() -> hf.LlavaForConditionalGeneration:
    text = hf.LlamaConfig(
        vocab_size=60, hidden_size=32, intermediate_size=48, num_hidden_layers=4, num_attention_heads=4,
        num_key_value_heads=2, max_position_embeddings=128, pad_token_id=0,
    )  # fmt: skip
    vision = hf.CLIPVisionConfig(
        hidden_size=32, intermediate_size=48, num_hidden_layers=2, num_attention_heads=4, image_size=32, patch_size=8
    )
    return hf.LlavaForConditionalGeneration(
        hf.LlavaConfig(
            vision_config=vision, text_config=text, image_token_id=59, vision_feature_layer=-2, image_seq_length=16
        )
    ).eval()


@pytest.mark.parametrize("kernel", ["eager", "sdpa"])
@torch.no_grad()
def test_fastv_in_llava(kernel: str) -> None:
    v = vectors("hf_llava")
    model = llava()
    model.load_state_dict({name[2:]: value for name, value in v.items() if name.startswith("p.")})
    model.set_attn_implementation(kernel)
    inputs = {"input_ids": v["input_ids"], "pixel_values": v["in.pixel_values"]}
    with prune(model, "fastv", keep=0.5, layer=2) as trace:
        logits = model(**inputs).logits
        generated = model.generate(**inputs, max_new_tokens=4, do_sample=False)
    torch.testing.assert_close(logits, v["logits_pruned"], atol=TOLERANCE, rtol=0)
    assert torch.equal(generated, v["generated"])
    choice = trace.last.choices[2][0]
    assert choice.score is not None
    torch.testing.assert_close(choice.score, v["score"], atol=1e-6, rtol=0)
    assert trace.last.visual == [(16,), (16,), (8,), (8,)]
