"""Small causal language models with random weights, and a tokeniser of single letters."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from encoder_folders import save

LETTERS = "".join(map(chr, range(32, 127))) + "\n"
SIZES = dict(
    vocab_size=2 + len(LETTERS), hidden_size=32, intermediate_size=48, num_hidden_layers=3, num_attention_heads=2,
    num_key_value_heads=1, head_dim=32, max_position_embeddings=4096, pad_token_id=0, bos_token_id=1, eos_token_id=1,
)  # fmt: skip


def letters() -> Any:
    """Each letter a token, nothing added."""
    import tokenizers
    from tokenizers import decoders, models, pre_tokenizers
    from transformers import PreTrainedTokenizerFast

    vocabulary = {letter: number for number, letter in enumerate(["<unk>", "<end>", *LETTERS])}
    raw = tokenizers.Tokenizer(models.WordLevel(vocabulary, "<unk>"))
    raw.pre_tokenizer = pre_tokenizers.Split(tokenizers.Regex("[\\s\\S]"), "isolated")
    raw.decoder = decoders.Fuse()
    return PreTrainedTokenizerFast(tokenizer_object=raw, unk_token="<unk>", eos_token="<end>", pad_token="<unk>")


def language_folder(folder: Path, kind: str = "Llama", seed: int = 0, **sizes: Any) -> Path:
    """A folder of transformers: ``kind`` is the beginning of the class's name."""
    import transformers

    model = getattr(transformers, f"{kind}ForCausalLM")
    torch.manual_seed(seed)
    save(model(model.config_class(**SIZES | sizes)), folder, seed)
    letters().save_pretrained(folder)
    return folder
