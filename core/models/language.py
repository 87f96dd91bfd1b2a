"""A small causal language model whose words are given, and any causal language model as a folder of transformers.

Recipes that need a language model of their own start here: what they write is read by ``load_model(FOLDER, "causal")``
and by everybody's tools.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from torch import nn

from ..io.atomic import atomic_path
from ..text import reason_of
from . import hf

PAD, BOS, EOS, UNKNOWN = "<pad>", "<bos>", "<eos>", "<unk>"
SPECIAL = (PAD, BOS, EOS, UNKNOWN)
"""The first words of every vocabulary, so that their tokens are 0 to 3."""


def small_language(
    vocabulary: int, *, width: int, layers: int, heads: int, positions: int, rope_theta: float = 1e4
) -> Any:
    """An untrained ``LlamaForCausalLM``, drawn from torch's generator; embeddings are not tied.

    Parameters
    ----------
    vocabulary : int
        Words, ``SPECIAL`` among them.
    width, layers, heads : int
        ``width`` is a multiple of twice ``heads``.
    positions : int
        Tokens that the model says it reads.
    rope_theta : float
        Base of the rotation of positions.
    """
    config = hf.transformers().LlamaConfig(
        vocab_size=vocabulary, hidden_size=width, intermediate_size=3 * width, num_hidden_layers=layers,
        num_attention_heads=heads, num_key_value_heads=heads, max_position_embeddings=positions,
        rope_parameters={"rope_type": "default", "rope_theta": rope_theta}, tie_word_embeddings=False,
        pad_token_id=0, bos_token_id=1, eos_token_id=2,
    )  # fmt: skip
    model = hf.transformers().LlamaForCausalLM(config)
    with torch.no_grad():  # outputs of unit size; what is added to the residual stream smaller, by their number
        for name, parameter in model.named_parameters():
            if parameter.ndim == 2:
                std = 1.0 if "embed_tokens" in name else parameter.shape[1] ** -0.5
                deep = any(part in name for part in ("o_proj", "down_proj"))
                nn.init.normal_(parameter, 0, std / (2 * layers) ** 0.5 if deep else std)
    return model


def word_tokeniser(words: Sequence[str], chat_template: str | None = None) -> Any:
    """A tokeniser of transformers: words between spaces, each a token, ``<bos>`` in front; others are ``<unk>``.

    Parameters
    ----------
    words : sequence of str
        Begin with ``SPECIAL``; a word's number is its token.
    chat_template : str, optional
        Jinja, as transformers has it.
    """
    from tokenizers import AddedToken, Tokenizer, models, pre_tokenizers, processors

    assert tuple(words[: len(SPECIAL)]) == SPECIAL
    core = Tokenizer(models.WordLevel({word: number for number, word in enumerate(words)}, UNKNOWN))
    core.pre_tokenizer = pre_tokenizers.WhitespaceSplit()  # type: ignore[assignment]
    core.add_special_tokens([AddedToken(word, special=True, normalized=False) for word in SPECIAL])
    core.post_processor = processors.TemplateProcessing(  # type: ignore[assignment]
        single=f"{BOS} $A", pair=f"{BOS} $A $B", special_tokens=[(BOS, 1)]
    )
    tokeniser = hf.transformers().PreTrainedTokenizerFast(
        tokenizer_object=core, pad_token=PAD, bos_token=BOS, eos_token=EOS, unk_token=UNKNOWN
    )
    tokeniser.chat_template = chat_template
    return tokeniser


def write_language(model: Any, tokeniser: Any, weights: Path) -> None:
    """Write a folder of transformers around ``weights``, its file ``model.safetensors``, in the model's own dtype.

    Parameters
    ----------
    model : PreTrainedModel
        A causal language model.
    tokeniser
        Of transformers.
    weights : Path
        Written last but whole: weights that are tied are written once, as transformers does.

    Raises
    ------
    InputError
        If it cannot be written.
    """
    from safetensors import SafetensorError
    from safetensors.torch import save_file

    folder, state = weights.parent, {}
    seen: set[tuple[int, torch.Size]] = set()
    for name, tensor in model.state_dict().items():
        place = (tensor.data_ptr(), tensor.shape)
        if place not in seen:
            state[name] = tensor.detach().cpu().contiguous()
        seen.add(place)
    with atomic_path(weights) as temporary:  # what the parts beside it raise of a full disk is told as its own
        with hf.quiet():
            model.config.save_pretrained(folder)
            if model.can_generate():
                model.generation_config.save_pretrained(folder)
            tokeniser.save_pretrained(folder)
        try:
            save_file(state, temporary, {"format": "pt"})
        except SafetensorError as error:
            raise OSError(reason_of(error)) from error
