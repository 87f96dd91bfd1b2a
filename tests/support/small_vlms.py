"""Tiny vision-language models with random weights and real processors: one folder for each kind that attn prunes.

``loaded_vlm(NAME)`` is a model as ``load_model`` gives it, built once per process in about a second; it is shared, so
leave it as it was. ``vlm_folder(FOLDER, NAME)`` writes the folder for tests that damage it or go through the command
line. ``NAMES`` are the kinds, for ``pytest.mark.parametrize``. Questions may use ``WORDS``; other words are [UNK].
``coloured(H, W)`` is a picture for them. A prompt: ``prepare(loaded_vlm("llava"), [coloured(40, 60)], "what is it")``.
"""

from __future__ import annotations

import functools
import tempfile
from pathlib import Path
from typing import Any

import numpy as np
import tokenizers
import torch
import transformers as hf
from encoder_folders import write
from tokenizers import models, pre_tokenizers

from attn.core.models.hf import for_pictures
from attn.core.models.load import load_model
from attn.core.models.loaded import Loaded
from attn.core.models.pictures import ColourPicture

WORDS = "what colour is the where a there how many of left in red green blue yes no it user assistant : \n ?".split(" ")
TEXT = dict(
    hidden_size=32, intermediate_size=48, num_hidden_layers=4, num_attention_heads=4, num_key_value_heads=2,
    max_position_embeddings=2048, pad_token_id=0, bos_token_id=2, eos_token_id=3,
)  # fmt: skip
TOWER = dict(hidden_size=32, intermediate_size=48, num_hidden_layers=3, num_attention_heads=4)
GREY = dict(image_mean=[0.5] * 3, image_std=[0.25] * 3)
PINPOINTS = [[32, 64], [64, 32], [64, 64], [96, 32], [32, 96]]
_IM = (
    "{% for message in messages %}<|im_start|>{{ message['role'] }}\n{% for part in message['content'] %}"
    "{% if part['type'] == 'text' %}{{ part['text'] }}{% else %}PICTURE{% endif %}{% endfor %}<|im_end|>\n"
    "{% endfor %}{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)
QWEN_TEMPLATE = _IM.replace(
    "PICTURE",
    "<|vision_start|>{% if part['type'] == 'video' %}<|video_pad|>{% else %}<|image_pad|>{% endif %}<|vision_end|>",
)
INTERNVL_TEMPLATE = _IM.replace("PICTURE", "<IMG_CONTEXT>\n")
IMAGE_TEMPLATE = (
    "{% for message in messages %}{{ message['role'] }} : {% for part in message['content'] %}"
    "{% if part['type'] == 'text' %}{{ part['text'] }}{% else %}<image>\n{% endif %}{% endfor %}\n{% endfor %}"
    "{% if add_generation_prompt %}assistant :{% endif %}"
)


def words(*special: str, **named: str) -> Any:
    """A tokeniser of whole words with special tokens; ``named`` ones are attributes of it as well."""
    vocab = {word: i for i, word in enumerate(["[PAD]", "[UNK]", "<s>", "</s>", *WORDS])}
    raw = tokenizers.Tokenizer(models.WordLevel(vocab, "[UNK]"))
    raw.pre_tokenizer = pre_tokenizers.Sequence(
        [pre_tokenizers.Split(" ", "removed"), pre_tokenizers.Split("\n", "isolated")]
    )
    tokeniser = hf.PreTrainedTokenizerFast(
        tokenizer_object=raw, pad_token="[PAD]", unk_token="[UNK]", bos_token="<s>", eos_token="</s>",
        extra_special_tokens=named,
    )  # fmt: skip
    tokeniser.add_special_tokens({"additional_special_tokens": list(special)}, replace_extra_special_tokens=False)
    return tokeniser


def _llava(pad: bool) -> tuple[Any, Any]:
    tokeniser = words("<image>")
    side = dict(size={"shortest_edge": 48}, crop_size={"height": 48, "width": 48}, **GREY)
    images = hf.LlavaImageProcessorPil(do_pad=True, **side) if pad else hf.CLIPImageProcessorPil(**side)
    config = hf.LlavaConfig(
        text_config=hf.LlamaConfig(vocab_size=len(tokeniser), **TEXT), image_seq_length=36,
        vision_config=hf.CLIPVisionConfig(image_size=48, patch_size=8, **TOWER),
        image_token_index=tokeniser.convert_tokens_to_ids("<image>"),
    )  # fmt: skip
    settings: dict[str, Any] = dict(
        patch_size=8, vision_feature_select_strategy="default", num_additional_image_tokens=1
    )
    template = IMAGE_TEMPLATE if pad else None
    return hf.LlavaForConditionalGeneration(config), hf.LlavaProcessor(
        images, tokeniser, chat_template=template, **settings
    )


def _llava_next() -> tuple[Any, Any]:
    tokeniser = words("<image>")
    images = hf.LlavaNextImageProcessorPil(
        size={"shortest_edge": 32}, crop_size={"height": 32, "width": 32}, image_grid_pinpoints=PINPOINTS, **GREY
    )
    config = hf.LlavaNextConfig(
        text_config=hf.LlamaConfig(vocab_size=len(tokeniser), **TEXT), image_grid_pinpoints=PINPOINTS,
        vision_config=hf.CLIPVisionConfig(image_size=32, patch_size=8, **TOWER), image_seq_length=16,
        image_token_index=tokeniser.convert_tokens_to_ids("<image>"),
    )  # fmt: skip
    return hf.LlavaNextForConditionalGeneration(config), hf.LlavaNextProcessor(
        images, tokeniser, patch_size=8, vision_feature_select_strategy="default", num_additional_image_tokens=1,
        chat_template=IMAGE_TEMPLATE,
    )  # fmt: skip


def _qwen(version: str) -> tuple[Any, Any]:
    marks = ("<|vision_start|>", "<|vision_end|>", "<|image_pad|>", "<|video_pad|>")
    tokeniser = words("<|im_start|>", "<|im_end|>", *marks)
    start, end, image, video = (tokeniser.convert_tokens_to_ids(mark) for mark in marks)
    ids = dict(image_token_id=image, video_token_id=video, vision_start_token_id=start, vision_end_token_id=end)
    rope = {"rope_type": "default", "rope_theta": 1e4, "mrope_section": [1, 1, 2]}
    text = dict(vocab_size=len(tokeniser), rope_parameters=rope, **TEXT)
    tower: dict[str, Any] = dict(depth=2, num_heads=4, patch_size=4, spatial_merge_size=2, temporal_patch_size=2)
    if version == "2":
        tower |= dict(embed_dim=32, hidden_size=32, mlp_ratio=2)
        config = hf.Qwen2VLConfig(text_config=text, vision_config=tower, **ids)
        model: Any = hf.Qwen2VLForConditionalGeneration(config)
    else:
        tower |= dict(hidden_size=32, intermediate_size=48, out_hidden_size=32, window_size=16)
        tower |= dict(fullatt_block_indexes=[1])
        model = hf.Qwen2_5_VLForConditionalGeneration(hf.Qwen2_5_VLConfig(text_config=text, vision_config=tower, **ids))
    images = hf.Qwen2VLImageProcessorPil(
        size={"shortest_edge": 16 * 16, "longest_edge": 72 * 72}, patch_size=4, merge_size=2, **GREY
    )
    name = "Qwen2VLProcessor" if version == "2" else "Qwen2_5_VLProcessor"
    return model, for_pictures(getattr(hf, name))(images, tokeniser, chat_template=QWEN_TEMPLATE)


def _idefics(smol: bool) -> tuple[Any, Any]:
    marks = [f"<row_{row}_col_{column}>" for row in range(1, 7) for column in range(1, 7)]
    tokeniser = words(
        "<|im_start|>", "<image>", "<fake_token_around_image>", "<global-img>", "<end_of_utterance>", *marks
    )
    size = dict(size={"longest_edge": 128 if smol else 96}, max_image_size={"longest_edge": 32}, **GREY)
    images = hf.SmolVLMImageProcessorPil(**size) if smol else hf.Idefics3ImageProcessorPil(**size)
    parts: dict[str, Any] = dict(
        text_config=hf.LlamaConfig(vocab_size=len(tokeniser), **TEXT),
        vision_config=TOWER | dict(image_size=32, patch_size=4), scale_factor=2, pad_token_id=0,
        image_token_id=tokeniser.convert_tokens_to_ids("<image>"),
    )  # fmt: skip
    processor = hf.Idefics3Processor(images, tokeniser, image_seq_len=16, chat_template=IMAGE_TEMPLATE)
    if smol:
        return hf.SmolVLMForConditionalGeneration(hf.SmolVLMConfig(**parts)), processor
    return hf.Idefics3ForConditionalGeneration(hf.Idefics3Config(**parts)), processor


def _internvl() -> tuple[Any, Any]:
    named = dict(
        start_image_token="<img>", end_image_token="</img>", context_image_token="<IMG_CONTEXT>", video_token="<video>"
    )
    tokeniser = words("<|im_start|>", "<|im_end|>", **named)
    images = hf.GotOcr2ImageProcessorPil(
        size={"height": 32, "width": 32}, crop_to_patches=True, min_patches=1, max_patches=6, **GREY
    )
    config = hf.InternVLConfig(
        text_config=hf.Qwen2Config(vocab_size=len(tokeniser), **TEXT), image_seq_length=16, downsample_ratio=0.5,
        vision_config=TOWER | dict(image_size=[32, 32], patch_size=[4, 4]),
        image_token_id=tokeniser.convert_tokens_to_ids("<IMG_CONTEXT>"),
    )  # fmt: skip
    processor = for_pictures(hf.InternVLProcessor)(
        images, tokeniser, image_seq_length=16, chat_template=INTERNVL_TEMPLATE
    )
    return hf.InternVLForConditionalGeneration(config), processor


def _llava_siglip() -> tuple[Any, Any]:
    tokeniser = words("<image>")
    config = hf.LlavaConfig(
        text_config=hf.LlamaConfig(vocab_size=len(tokeniser), **TEXT), image_seq_length=36,
        vision_config=hf.SiglipVisionConfig(image_size=48, patch_size=8, **TOWER),
        image_token_index=tokeniser.convert_tokens_to_ids("<image>"), vision_feature_select_strategy="full",
    )  # fmt: skip
    images = hf.SiglipImageProcessorPil(size={"height": 48, "width": 48}, **GREY)
    return hf.LlavaForConditionalGeneration(config), hf.LlavaProcessor(
        images, tokeniser, patch_size=8, vision_feature_select_strategy="full", chat_template=IMAGE_TEMPLATE
    )


_MAKE = {
    "llava": lambda: _llava(False),
    "llava padded": lambda: _llava(True),
    "llava-next": _llava_next,
    "qwen2-vl": lambda: _qwen("2"),
    "qwen2.5-vl": lambda: _qwen("2.5"),
    "smolvlm": lambda: _idefics(True),
    "idefics3": lambda: _idefics(False),
    "internvl": _internvl,
    "llava siglip": _llava_siglip,  # a tower without a class token
}
NAMES = tuple(name for name in _MAKE if name != "llava siglip")


def vlm_folder(folder: Path, name: str, seed: int = 0) -> Path:
    """A folder of the kind ``name``: weights and processor. Weights are large enough for attention to be uneven."""
    torch.manual_seed(seed)
    model, processor = _MAKE[name]()
    for parameter in model.parameters():
        noise = torch.randn_like(parameter)
        parameter.data = 0.15 * noise if parameter.ndim > 1 else parameter.data + 0.1 * noise
    model.generation_config.do_sample = False
    model.save_pretrained(folder)
    processor.save_pretrained(folder)
    if name.startswith("qwen"):
        write(folder / "video_preprocessor_config.json", {"size": {"shortest_edge": 16**2, "longest_edge": 72**2}})
    return folder


@functools.cache
def loaded_vlm(name: str, seed: int = 0) -> Loaded:
    """The same, loaded: shared by all tests of the process."""
    with tempfile.TemporaryDirectory() as folder:
        return load_model(str(vlm_folder(Path(folder), name, seed)), "vision-language")


def coloured(height: int, width: int, seed: int = 0) -> ColourPicture:
    """A picture of smooth random colours."""
    generator = np.random.default_rng(seed)
    cells = generator.random((3, height // 8 + 2, width // 8 + 2), np.float32)
    pixels = np.kron(cells, np.ones((1, 8, 8), np.float32))[:, :height, :width]
    return ColourPicture(np.ascontiguousarray(pixels), (height, width))
