"""Causal language models of a few thousand random weights, of the families that name their layers' attention."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
import transformers as hf

TEXT: dict[str, Any] = dict(
    vocab_size=60, hidden_size=32, intermediate_size=48, num_hidden_layers=3, num_attention_heads=4,
    num_key_value_heads=2, pad_token_id=0, bos_token_id=1, eos_token_id=2,
)  # fmt: skip
WINDOW = 16
GEMMA = dict(head_dim=8, query_pre_attn_scalar=8, sliding_window=WINDOW)
MAKE: dict[str, Callable[[], Any]] = {
    "llama": lambda: hf.LlamaForCausalLM(hf.LlamaConfig(**TEXT)),
    "qwen2": lambda: hf.Qwen2ForCausalLM(hf.Qwen2Config(**TEXT)),
    "mistral": lambda: hf.MistralForCausalLM(hf.MistralConfig(**TEXT, sliding_window=None)),
    "qwen2, sliding": lambda: hf.Qwen2ForCausalLM(
        hf.Qwen2Config(**TEXT, use_sliding_window=True, sliding_window=WINDOW, max_window_layers=1)
    ),
    "mistral, sliding": lambda: hf.MistralForCausalLM(hf.MistralConfig(**TEXT, sliding_window=WINDOW)),
    "gemma3": lambda: hf.Gemma3ForCausalLM(
        hf.Gemma3TextConfig(**TEXT, **GEMMA, layer_types=["sliding_attention", "full_attention", "sliding_attention"])
    ),
}
SLIDING = {"qwen2, sliding": {1, 2}, "mistral, sliding": {0, 1, 2}, "gemma3": {0, 2}}
"""Layers with a window of the model's own."""


def small_causal_lm(name: str, implementation: str) -> Any:
    """A model of ``MAKE`` whose weights depend on the name alone."""
    torch.manual_seed(7)
    model = MAKE[name]().eval()
    model.set_attn_implementation(implementation)
    return model
