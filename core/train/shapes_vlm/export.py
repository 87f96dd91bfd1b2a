"""The trained model as a folder that transformers loads, tokeniser and image processor included."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save

from ...io.atomic import write_bytes, write_text
from ...models.files import write_json
from ...prune.shapes.scenes import PATCH, SIDE
from ...prune.shapes.words import BOS, EOS, IMAGE, NUMBER, PAD, WORDS
from .data import MEAN, STD

TEMPLATE = (
    "{% for message in messages %}{% for part in message['content'] %}"
    "{% if part['type'] == 'image' %}<image>{% else %}{{ ' ' + part['text'] }}{% endif %}"
    "{% endfor %}{% endfor %}"
)
"""Of a prompt: the picture, then the question."""


def write_model(model: Any, weights: Path) -> None:
    """Write a folder of transformers around ``weights``, its file ``model.safetensors``; float16.

    Parameters
    ----------
    model : LlavaForConditionalGeneration
    weights : Path
    """
    folder = weights.parent
    state = {name: tensor.detach().cpu().half().contiguous() for name, tensor in model.state_dict().items()}
    state.pop("lm_head.weight")  # tied to the embeddings
    write_bytes(weights, save(state, {"format": "pt"}))
    config = model.config.to_dict() | {"architectures": [type(model).__name__], "dtype": "float16"}
    write_json(folder / "config.json", config)
    ends = {"bos_token_id": NUMBER[BOS], "eos_token_id": NUMBER[EOS], "pad_token_id": NUMBER[PAD]}
    # one word: with few of its visual tokens left the model answers right and then forgets to stop
    write_json(folder / "generation_config.json", {**ends, "max_new_tokens": 1, "do_sample": False})
    write_text(folder / "tokenizer.json", tokeniser().to_str(pretty=True) + "\n")
    special = {"bos_token": BOS, "eos_token": EOS, "pad_token": PAD, "extra_special_tokens": {"image_token": IMAGE}}
    write_json(folder / "tokenizer_config.json", {"tokenizer_class": "PreTrainedTokenizerFast", **special})
    square = {"height": SIDE, "width": SIDE}
    images = {
        "image_processor_type": "LlavaImageProcessor", "do_pad": True, "size": {"shortest_edge": SIDE},
        "crop_size": square, "image_mean": [MEAN] * 3, "image_std": [STD] * 3, "resample": 3,
        "do_resize": True, "do_center_crop": True, "do_rescale": True, "do_normalize": True, "do_convert_rgb": True,
    }  # fmt: skip
    write_json(folder / "preprocessor_config.json", images)
    joint = {
        "processor_class": "LlavaProcessor", "patch_size": PATCH, "num_additional_image_tokens": 1,
        "vision_feature_select_strategy": "default", "image_token": IMAGE,
    }  # fmt: skip
    write_json(folder / "processor_config.json", joint)
    write_text(folder / "chat_template.jinja", TEMPLATE)


def tokeniser() -> Any:
    """Words between spaces, small letters, no punctuation; a word that is not in the vocabulary is an error."""
    from tokenizers import AddedToken, Regex, Tokenizer, models, normalizers, pre_tokenizers, processors

    words = Tokenizer(models.WordLevel(dict(NUMBER)))  # without a token for unknown words, which would hide them
    words.normalizer = normalizers.Sequence([normalizers.Lowercase(), normalizers.Replace(Regex("[?.!,]"), "")])
    words.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    words.add_special_tokens([AddedToken(word, special=True, normalized=False) for word in (PAD, BOS, EOS, IMAGE)])
    words.post_processor = processors.TemplateProcessing(
        single=f"{BOS} $A", pair=f"{BOS} $A $B", special_tokens=[(BOS, NUMBER[BOS])]
    )
    assert words.get_vocab_size() == len(WORDS)
    return words


def rounded(model: Any) -> None:
    """Round the weights as the file holds them, so that what is measured is what is written."""
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.copy_(parameter.half().float())
