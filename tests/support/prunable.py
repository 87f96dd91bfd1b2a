"""Vision-language models of every class that tokens can be taken out of: those of the golden vectors
(methods/pruning-peers.md, section 10) and three more of their size. No processors: see ``small_vlms``.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch
import transformers as hf
from torch import Tensor

TEXT = dict(
    hidden_size=32, intermediate_size=48, num_hidden_layers=4, num_attention_heads=4, num_key_value_heads=2,
    max_position_embeddings=128, pad_token_id=0,
)  # fmt: skip
TOWER = dict(hidden_size=32, intermediate_size=48, num_hidden_layers=2, num_attention_heads=4)
QWEN_IDS = dict(image_token_id=77, video_token_id=76, vision_start_token_id=75, vision_end_token_id=74)
QWEN_TEXT = TEXT | dict(
    vocab_size=80, rope_parameters={"rope_type": "default", "rope_theta": 1e4, "mrope_section": [1, 1, 2]}
)
QWEN_TOWER = dict(depth=2, num_heads=4, patch_size=4, spatial_merge_size=2, temporal_patch_size=2)
LLAMA = hf.LlamaConfig(vocab_size=60, **TEXT)
CLIP = hf.CLIPVisionConfig(image_size=32, patch_size=8, **TOWER)


def _llava() -> Any:
    config = hf.LlavaConfig(
        vision_config=CLIP, text_config=LLAMA, image_token_id=59, vision_feature_layer=-2, image_seq_length=16
    )
    return hf.LlavaForConditionalGeneration(config)


def _llava_next() -> Any:
    config = hf.LlavaNextConfig(
        vision_config=CLIP, text_config=LLAMA, image_token_id=59, image_grid_pinpoints=[[32, 64], [64, 32]],
        image_seq_length=16,
    )  # fmt: skip
    return hf.LlavaNextForConditionalGeneration(config)


def _qwen2_vl() -> Any:
    tower = QWEN_TOWER | dict(embed_dim=32, hidden_size=32, mlp_ratio=2)
    return hf.Qwen2VLForConditionalGeneration(hf.Qwen2VLConfig(text_config=QWEN_TEXT, vision_config=tower, **QWEN_IDS))


def _qwen2_5_vl() -> Any:
    tower = QWEN_TOWER | dict(
        hidden_size=32, intermediate_size=48, out_hidden_size=32, window_size=16, fullatt_block_indexes=[1]
    )
    config = hf.Qwen2_5_VLConfig(text_config=QWEN_TEXT, vision_config=tower, **QWEN_IDS)
    return hf.Qwen2_5_VLForConditionalGeneration(config)


def _idefics(config: Any, model: Any) -> Any:
    tower = TOWER | dict(image_size=32, patch_size=4)
    return model(
        config(vision_config=tower, text_config=LLAMA, image_token_id=59, scale_factor=2, pad_token_id=0)
    )  # fmt: skip


def _internvl() -> Any:
    config = hf.InternVLConfig(
        vision_config=TOWER | dict(image_size=[32, 32], patch_size=[4, 4]), image_seq_length=16,
        text_config=hf.Qwen2Config(vocab_size=60, **TEXT), image_token_id=59, downsample_ratio=0.5,
    )  # fmt: skip
    return hf.InternVLForConditionalGeneration(config)


MAKE: dict[str, Callable[[], Any]] = {
    "llava": _llava,
    "llava_next": _llava_next,
    "qwen2_vl": _qwen2_vl,
    "qwen2_5_vl": _qwen2_5_vl,
    "smolvlm": lambda: _idefics(hf.SmolVLMConfig, hf.SmolVLMForConditionalGeneration),
    "idefics3": lambda: _idefics(hf.Idefics3Config, hf.Idefics3ForConditionalGeneration),
    "internvl": _internvl,
}
QWEN = ("qwen2_vl", "qwen2_5_vl")
IDEFICS = ("smolvlm", "idefics3")
TOKENS = dict.fromkeys(MAKE, 16) | dict.fromkeys(QWEN, 24) | {"llava_next": 16 + 8 * (4 + 1)}
"""Of one picture of ``question``."""


def untrained(name: str, *, kernel: str = "sdpa", seed: int = 0) -> Any:
    """A model with weights large enough for its attention to be uneven."""
    torch.manual_seed(seed)
    model = MAKE[name]().eval()
    for parameter in model.parameters():
        noise = torch.randn_like(parameter)
        parameter.data = 0.2 * noise if parameter.ndim > 1 else parameter.data + 0.1 * noise
    model.set_attn_implementation(kernel)
    model.generation_config.eos_token_id = None  # answers have the length that is asked for
    return model


def question(name: str, *, before: int = 3, pictures: int = 1, after: int = 5, seed: int = 0) -> dict[str, Tensor]:
    """What a model of ``MAKE`` is called with for one prompt of ``pictures`` pictures."""
    generator = torch.Generator().manual_seed(seed)
    qwen = name in QWEN
    text = torch.randint(1, 58, (before + after + pictures,), generator=generator).tolist()
    picture = 77 if qwen else 59
    ids = text[:before]
    for number in range(pictures):
        ids += [picture] * TOKENS[name] if not qwen else [75, *[picture] * TOKENS[name], 74]
        ids.append(text[before + after + number])
    tokens = torch.tensor([ids + text[before : before + after]])
    inputs = {"input_ids": tokens, "attention_mask": torch.ones_like(tokens)}
    if qwen:
        inputs["mm_token_type_ids"] = (tokens == picture).int()
    if not pictures:
        return inputs
    if qwen:
        pixels = torch.randn(96 * pictures, 3 * 2 * 4 * 4, generator=generator)
        return inputs | {"pixel_values": pixels, "image_grid_thw": torch.tensor([[1, 8, 12]] * pictures)}
    if name == "llava_next":
        pixels = torch.randn(pictures, 3, 3, 32, 32, generator=generator)
        return inputs | {"pixel_values": pixels, "image_sizes": torch.tensor([[64, 32]] * pictures)}
    pixels = torch.randn(pictures, 3, 32, 32, generator=generator)
    return inputs | {"pixel_values": pixels[None] if name in IDEFICS else pixels}


def together(name: str, prompts: Sequence[dict[str, Tensor]]) -> dict[str, Tensor]:
    """Prompts as one batch, padded on the left."""
    longest = max(prompt["input_ids"].shape[1] for prompt in prompts)
    batch: dict[str, list[Tensor]] = {}
    for prompt in prompts:
        for key, value in prompt.items():
            if key in ("input_ids", "attention_mask", "mm_token_type_ids"):
                value = torch.nn.functional.pad(value, (longest - value.shape[1], 0))
            batch.setdefault(key, []).append(value)
    if name in IDEFICS and "pixel_values" in batch:  # empty pictures fill up
        most = max(value.shape[1] for value in batch["pixel_values"])
        filled = [torch.nn.functional.pad(v, (0,) * 7 + (most - v.shape[1],)) for v in batch["pixel_values"]]
        batch["pixel_values"] = [
            *filled, *[torch.zeros_like(filled[0])] * (len(prompts) - len(filled))
        ]  # fmt: skip
    return {key: torch.cat(values) for key, values in batch.items()}
