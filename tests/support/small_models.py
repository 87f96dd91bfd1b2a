"""Small models with random weights of every family whose attention we reach into."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch
import transformers as hf
from encoder_folders import write
from PIL import Image
from torch import Tensor, nn

SMALL = dict(hidden_size=16, num_hidden_layers=2, num_attention_heads=2, intermediate_size=24)
VISION = SMALL | dict(image_size=16, patch_size=4)
TEXT = SMALL | dict(vocab_size=50, pad_token_id=0, bos_token_id=1, eos_token_id=2)
DECODER = TEXT | dict(num_key_value_heads=1)
SHORT = dict(vocab_size=50, pad_token_id=0, bos_token_id=1, eos_token_id=2)
T5 = dict(vocab_size=50, d_model=16, d_kv=8, d_ff=24, num_layers=2, num_heads=2)
QWEN_TEXT = DECODER | dict(rope_parameters={"rope_type": "default", "rope_theta": 1e4, "mrope_section": [2, 1, 1]})

IMAGES: dict[str, Callable[[], nn.Module]] = {
    "vit": lambda: hf.ViTModel(hf.ViTConfig(**VISION)),
    "deit": lambda: hf.DeiTModel(hf.DeiTConfig(**VISION)),
    "dinov2": lambda: hf.Dinov2Model(hf.Dinov2Config(**VISION)),
    "dinov2 with registers": lambda: hf.Dinov2WithRegistersModel(hf.Dinov2WithRegistersConfig(**VISION)),
    "dinov3": lambda: hf.DINOv3ViTModel(hf.DINOv3ViTConfig(**VISION)),
    "clip": lambda: hf.CLIPVisionModel(hf.CLIPVisionConfig(**VISION)),
    "siglip": lambda: hf.SiglipVisionModel(hf.SiglipVisionConfig(**VISION)),
    "internvl": lambda: hf.InternVLVisionModel(
        hf.InternVLVisionConfig(**VISION | dict(image_size=[16, 16], patch_size=[4, 4]))
    ),
}
TEXTS: dict[str, Callable[[], nn.Module]] = {
    "bert": lambda: hf.BertModel(hf.BertConfig(**TEXT)),
    "roberta": lambda: hf.RobertaModel(hf.RobertaConfig(**TEXT)),
    "electra": lambda: hf.ElectraModel(hf.ElectraConfig(**TEXT, embedding_size=16)),
    "albert": lambda: hf.AlbertModel(hf.AlbertConfig(**TEXT, embedding_size=8)),
    "distilbert": lambda: hf.DistilBertModel(
        hf.DistilBertConfig(vocab_size=50, dim=16, n_layers=2, n_heads=2, hidden_dim=24)
    ),
    "t5": lambda: hf.T5EncoderModel(hf.T5Config(**T5)),
    "modernbert": lambda: hf.ModernBertModel(hf.ModernBertConfig(**TEXT, sep_token_id=2, cls_token_id=1)),
    "nomic-bert": lambda: hf.NomicBertModel(hf.NomicBertConfig(**TEXT)),
    "llama": lambda: hf.LlamaModel(hf.LlamaConfig(**DECODER)),
    "mistral": lambda: hf.MistralModel(hf.MistralConfig(**DECODER)),
    "qwen2": lambda: hf.Qwen2Model(hf.Qwen2Config(**DECODER)),
    "qwen3": lambda: hf.Qwen3Model(hf.Qwen3Config(**DECODER, head_dim=8)),
    "smollm3": lambda: hf.SmolLM3Model(hf.SmolLM3Config(**DECODER)),
    "clip text": lambda: hf.CLIPTextModel(hf.CLIPTextConfig(**TEXT, max_position_embeddings=16)),
}
HIDDEN: dict[str, Callable[[], nn.Module]] = {
    "mpnet": lambda: hf.MPNetModel(hf.MPNetConfig(**TEXT)),
    "deberta": lambda: hf.DebertaModel(hf.DebertaConfig(**TEXT)),
    "deberta-v2": lambda: hf.DebertaV2Model(hf.DebertaV2Config(**TEXT)),
    "bloom": lambda: hf.BloomModel(hf.BloomConfig(**SHORT, hidden_size=16, n_layer=2, n_head=2)),
}
"""No kernel of theirs shows its queries and keys."""
VISION_LANGUAGE: dict[str, Callable[[], nn.Module]] = {
    "llava": lambda: hf.LlavaForConditionalGeneration(
        hf.LlavaConfig(
            text_config=hf.LlamaConfig(**DECODER), vision_config=hf.CLIPVisionConfig(**VISION), image_token_index=49
        )
    ),
    "qwen2-vl": lambda: hf.Qwen2VLForConditionalGeneration(
        hf.Qwen2VLConfig(
            text_config=QWEN_TEXT, vision_config=dict(depth=2, embed_dim=16, hidden_size=16, num_heads=2, patch_size=4)
        )
    ),
    "qwen2.5-vl": lambda: hf.Qwen2_5_VLForConditionalGeneration(
        hf.Qwen2_5_VLConfig(
            text_config=QWEN_TEXT,
            vision_config=dict(
                depth=2, hidden_size=16, intermediate_size=24, num_heads=2, patch_size=4, out_hidden_size=16
            ),
        )
    ),
    "idefics3": lambda: hf.Idefics3ForConditionalGeneration(
        hf.Idefics3Config(text_config=hf.LlamaConfig(**DECODER), vision_config=VISION, scale_factor=1, pad_token_id=0)
    ),
    "smolvlm": lambda: hf.SmolVLMForConditionalGeneration(
        hf.SmolVLMConfig(text_config=hf.LlamaConfig(**DECODER), vision_config=VISION, scale_factor=1, pad_token_id=0)
    ),
    "internvl": lambda: hf.InternVLForConditionalGeneration(
        hf.InternVLConfig(
            text_config=hf.Qwen2Config(**DECODER),
            vision_config=VISION | dict(image_size=[16, 16], patch_size=[4, 4]),
            image_token_id=49,
        )
    ),
}
ALL = IMAGES | TEXTS | HIDDEN | {f"{name} (whole)": make for name, make in VISION_LANGUAGE.items()}


def build(name: str, seed: int = 0) -> nn.Module:
    """A model in eval mode. Initial weights are so small that every attention is uniform: ours make a difference."""
    torch.manual_seed(seed)
    model = ALL[name]().eval()
    for parameter in model.parameters():
        noise = torch.randn_like(parameter)
        parameter.data = 0.4 * noise if parameter.ndim > 1 else parameter.data + 0.1 * noise
    return model


def inputs(name: str, batch: int = 2) -> dict[str, Tensor]:
    """What a model of ``IMAGES``, ``TEXTS`` or ``HIDDEN`` takes; the second text is padded."""
    generator = torch.Generator().manual_seed(1)
    if name in IMAGES:
        return {"pixel_values": torch.randn(batch, 3, 16, 16, generator=generator)}
    ids = torch.randint(3, 50, (batch, 9), generator=generator)
    mask = torch.ones_like(ids)
    mask[1:, 6:] = 0
    return {"input_ids": ids, "attention_mask": mask}


def last_hidden(model: Any, given: dict[str, Tensor]) -> Tensor:
    """Last hidden states, [B, L, width]."""
    with torch.no_grad():
        out: Tensor = model(**given).last_hidden_state
    return out


PREPROCESSOR = {
    "image_mean": [0.5] * 3, "image_std": [0.5] * 3, "size": {"shortest_edge": 16}, "crop_size": 16, "resample": 3,
}  # fmt: skip


def vision_folder(folder: Path, name: str = "dinov2 with registers") -> Path:
    """A folder of an image tower that takes squares of 16 pixels."""
    model: Any = build(name)
    model.save_pretrained(folder)
    write(folder / "preprocessor_config.json", PREPROCESSOR)
    return folder


def photo(path: Path, size: tuple[int, int] = (24, 48), seed: int = 0) -> Path:
    """A file of noise."""
    path.parent.mkdir(parents=True, exist_ok=True)
    pixels = np.random.default_rng(seed).integers(0, 255, (*size, 3), np.uint8)
    Image.fromarray(pixels).save(path)
    return path
