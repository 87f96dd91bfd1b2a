"""Small folders of models with random weights, in the layouts that people have."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import torch

WORDS = "a the cat dog river town old new sits runs over under near far red blue photo of and is".split()
TEXTS = [
    "the cat sits near the old river",
    "a dog",
    "",
    "a red photo of the new town and the old town and the river and the far blue town near the old red dog",
    "blue",
    "the dog runs over the river and the cat is under the town",
]
SMALL = dict(hidden_size=16, num_hidden_layers=2, num_attention_heads=2, intermediate_size=24)


def tokeniser(special: bool = True, length: int | None = None) -> Any:
    """Whole words, with [CLS] and [SEP] around them if ``special``."""
    import tokenizers
    from tokenizers import models, normalizers, pre_tokenizers, processors
    from transformers import PreTrainedTokenizerFast

    vocab = {word: i for i, word in enumerate(["[PAD]", "[UNK]", "[CLS]", "[SEP]", *WORDS])}
    raw = tokenizers.Tokenizer(models.WordLevel(vocab, "[UNK]"))
    raw.normalizer = normalizers.Lowercase()
    raw.pre_tokenizer = pre_tokenizers.Whitespace()
    if special:
        raw.post_processor = processors.TemplateProcessing(
            single="[CLS] $A [SEP]", special_tokens=[("[CLS]", 2), ("[SEP]", 3)]
        )
    names = dict(pad_token="[PAD]", unk_token="[UNK]", cls_token="[CLS]", sep_token="[SEP]", eos_token="[SEP]")
    return PreTrainedTokenizerFast(tokenizer_object=raw, **names, **({"model_max_length": length} if length else {}))


def save(model: Any, folder: Path, seed: int = 0, std: float = 0.3) -> Path:
    """The model with weights that make a difference."""
    torch.manual_seed(seed)
    for parameter in model.parameters():
        noise = torch.randn_like(parameter)
        parameter.data = std * noise if parameter.ndim > 1 else parameter.data + 0.1 * noise
    model.save_pretrained(folder)
    return folder


def text_folder(folder: Path, kind: str = "bert", seed: int = 0, length: int | None = None) -> Path:
    """A plain folder of transformers: bert, roberta, distilbert, t5, llama."""
    import transformers as hf

    size = 4 + len(WORDS)
    match kind:
        case "bert":
            model = hf.BertModel(hf.BertConfig(vocab_size=size, max_position_embeddings=32, **SMALL))
        case "roberta":
            config = hf.RobertaConfig(vocab_size=size, max_position_embeddings=33, pad_token_id=0, **SMALL)
            model = hf.RobertaModel(config)
        case "distilbert":
            model = hf.DistilBertModel(
                hf.DistilBertConfig(
                    vocab_size=size, dim=16, n_layers=2, n_heads=2, hidden_dim=24, max_position_embeddings=32
                )
            )
        case "t5":
            model = hf.T5EncoderModel(
                hf.T5Config(vocab_size=size, d_model=16, d_kv=8, d_ff=24, num_layers=2, num_heads=2)
            )
        case _:
            config = hf.LlamaConfig(
                vocab_size=size, pad_token_id=0, num_key_value_heads=1, max_position_embeddings=64, **SMALL
            )
            model = hf.LlamaModel(config)
    save(model, folder, seed)
    tokeniser(special=kind != "llama", length=length).save_pretrained(folder)
    return folder


def sentence_folder(
    folder: Path, pooling: dict[str, Any] | None = None, *, dense: str | None = None, kind: str = "bert",
    prompts: dict[str, str] | None = None, max_seq_length: int | None = 16, normalise: bool = True,
) -> Path:  # fmt: skip
    """The layout of sentence-transformers."""
    text_folder(folder, kind)
    pooling = pooling or {"pooling_mode_mean_tokens": True}
    kinds = [("", "Transformer"), ("1_Pooling", "Pooling")]
    width = 16 * max(1, sum(value is True for value in pooling.values()))
    write(folder / "1_Pooling" / "config.json", {"word_embedding_dimension": 16, **pooling})
    if dense:
        from safetensors.torch import save_file

        kinds.append(("2_Dense", "Dense"))
        config = {"in_features": width, "out_features": 12, "bias": True, "activation_function": dense}
        write(folder / "2_Dense" / "config.json", config)
        torch.manual_seed(5)
        layer = {"linear.weight": torch.randn(12, width), "linear.bias": torch.randn(12)}
        save_file(layer, folder / "2_Dense" / "model.safetensors")
    if normalise:
        kinds.append((f"{len(kinds)}_Normalize", "Normalize"))
        (folder / kinds[-1][0]).mkdir(exist_ok=True)
    modules = [
        {"idx": i, "name": str(i), "path": path, "type": f"sentence_transformers.models.{kind}"}
        for i, (path, kind) in enumerate(kinds)
    ]
    write(folder / "modules.json", modules)
    write(folder / "sentence_bert_config.json", {"max_seq_length": max_seq_length, "do_lower_case": False})
    write(folder / "config_sentence_transformers.json", {"prompts": prompts or {}, "default_prompt_name": None})
    return folder


def dual_folder(folder: Path, kind: str = "clip") -> Path:
    """CLIP or SigLIP with its tokeniser and preprocessor_config.json; images of 32 pixels, texts of 16 tokens."""
    import transformers as hf

    name = {"clip": "CLIP", "siglip": "Siglip"}[kind]
    text = SMALL | dict(vocab_size=4 + len(WORDS), max_position_embeddings=16)
    special = dict(eos_token_id=3, bos_token_id=2, pad_token_id=0)
    projection = dict(projection_size=16) if kind == "siglip" else {}
    config = getattr(hf, f"{name}Config")(
        text_config=text | special | projection,
        vision_config=SMALL | dict(image_size=32, patch_size=16),
        **(dict(projection_dim=10) if kind == "clip" else {}),
    )
    save(getattr(hf, f"{name}Model")(config), folder)
    tokeniser(length=16).save_pretrained(folder)
    sizes: dict[str, Any] = {"size": {"height": 32, "width": 32}, "resample": 2}
    if kind == "clip":
        sizes = {"size": {"shortest_edge": 36}, "crop_size": {"height": 32, "width": 32}, "resample": 3}
    write(
        folder / "preprocessor_config.json",
        {"image_mean": [0.5, 0.4, 0.3], "image_std": [0.5, 0.25, 0.2], "do_center_crop": kind == "clip", **sizes},
    )
    return folder


def photos(count: int = 3) -> list[np.ndarray]:
    """Smooth random photos of different sizes, [3, H, W] float32 in [0, 1]."""
    generator = np.random.default_rng(0)
    sizes = [(40, 50), (90, 33), (32, 32)]
    return [
        np.kron(generator.random((3, h // 8 + 1, w // 8 + 1)), np.ones((8, 8)))[:, :h, :w].astype(np.float32)
        for h, w in (sizes[i % 3] for i in range(count))
    ]


def write(path: Path, value: Any) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(value))
