"""BERT's encoder of texts, from a folder, without transformers: what it takes to start at once.

Paper: "BERT" (arXiv 1810.04805). Importing transformers and a model of it takes seconds, the model itself milliseconds.
The vectors are those of transformers to rounding. ``load_bert`` takes a folder only where it understands all of it;
any other is left to transformers, which also says best what is wrong with one.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from ..errors import InputError
from ..io.weights import read_tensors
from ..options import OptionError
from .files import fingerprint, weight_files
from .loaded import Loaded, Processor
from .tokeniser import load_tokeniser

FAMILY = "bert"
_TABLES = {
    "embeddings.word_embeddings.weight": "words", "embeddings.position_embeddings.weight": "positions",
    "embeddings.token_type_embeddings.weight": "types", "embeddings.LayerNorm.weight": "norm.weight",
    "embeddings.LayerNorm.bias": "norm.bias",
}  # fmt: skip
_PARTS = {
    "attention.self": "attention", "attention.output.dense": "joined", "attention.output.LayerNorm": "norm1",
    "intermediate.dense": "wide", "output.dense": "narrow", "output.LayerNorm": "norm2",
}  # fmt: skip
"""What transformers calls the weights of the embeddings and the parts of a layer, and what they are called here."""
_UNUSED = ("pooler.", "cls.", "embeddings.position_ids")
"""Weights that checkpoints often have beside those of the encoder."""
_PLAIN = {
    "hidden_act": "gelu", "position_embedding_type": "absolute", "is_decoder": False, "add_cross_attention": False,
    "is_encoder_decoder": False, "chunk_size_feed_forward": 0, "quantization_config": None,
}  # fmt: skip
"""What a configuration says where it differs from BERT's paper in nothing; left out, it says the same."""


@dataclass(frozen=True, slots=True)
class BertSettings:
    """The shape of a BERT, under the names of its config.json.

    Parameters
    ----------
    hidden_size, num_hidden_layers, num_attention_heads, intermediate_size, max_position_embeddings, type_vocab_size,
    vocab_size : int
    layer_norm_eps : float
    pad_token_id : int or None
    """

    vocab_size: int = 30522
    hidden_size: int = 768
    num_hidden_layers: int = 12
    num_attention_heads: int = 12
    intermediate_size: int = 3072
    max_position_embeddings: int = 512
    type_vocab_size: int = 2
    layer_norm_eps: float = 1e-12
    pad_token_id: int | None = 0
    model_type: str = FAMILY

    @classmethod
    def of(cls, config: Mapping[str, Any]) -> BertSettings | None:
        """Those of config.json; None where it is no BERT as in the paper, or holds what cannot be one."""
        if config.get("model_type") != FAMILY or any(config.get(key, value) != value for key, value in _PLAIN.items()):
            return None
        given = {field.name: config[field.name] for field in fields(cls) if field.name in config}
        settings = cls(**given)
        sizes = [value for name, value in given.items() if name not in ("model_type", "layer_norm_eps", "pad_token_id")]
        if not all(type(size) is int and size > 0 for size in sizes):
            return None
        if not isinstance(settings.layer_norm_eps, float) or not isinstance(settings.pad_token_id, int | None):
            return None
        return settings if settings.hidden_size % settings.num_attention_heads == 0 else None

    def get_text_config(self) -> BertSettings:
        """As configurations of transformers say what texts need: the same."""
        return self


class BertStates(NamedTuple):
    """Hidden states.

    Parameters
    ----------
    last_hidden_state : Tensor [B, L, hidden_size]
    hidden_states : tuple of Tensor [B, L, hidden_size]
        Of the embeddings and of each layer, where they were asked for.
    """

    last_hidden_state: Tensor
    hidden_states: tuple[Tensor, ...] = ()


class PaddedSelfAttention(nn.Module):
    """softmax(q kᵀ scaling) v over the real tokens, heads side by side (section 3 of the paper, BERT's own biases)."""

    def __init__(self, settings: BertSettings) -> None:
        super().__init__()
        width = settings.hidden_size
        self.num_attention_heads = settings.num_attention_heads
        self.scaling = (width // settings.num_attention_heads) ** -0.5
        self.query, self.key, self.value = (nn.Linear(width, width) for _ in range(3))

    def forward(self, hidden: Tensor, real: Tensor | None) -> Tensor:
        """[B, L, D] -> [B, L, D]; ``real`` [B, 1, 1, L] is True where there is a token, None where all are."""
        q, k, v = (
            part(hidden).unflatten(-1, (self.num_attention_heads, -1)).transpose(1, 2)
            for part in (self.query, self.key, self.value)
        )  # [B, H, L, D / H]
        return F.scaled_dot_product_attention(q, k, v, real, scale=self.scaling).transpose(1, 2).flatten(-2)


class BertLayer(nn.Module):
    """Attention, then two linear layers, each added to what came in and normalised behind it."""

    def __init__(self, settings: BertSettings) -> None:
        super().__init__()
        width, eps = settings.hidden_size, settings.layer_norm_eps
        self.attention = PaddedSelfAttention(settings)
        self.joined = nn.Linear(width, width)
        self.norm1, self.norm2 = nn.LayerNorm(width, eps), nn.LayerNorm(width, eps)
        self.wide, self.narrow = (
            nn.Linear(width, settings.intermediate_size),
            nn.Linear(settings.intermediate_size, width),
        )

    def forward(self, hidden: Tensor, real: Tensor | None) -> Tensor:
        """[B, L, D] -> [B, L, D]; ``real`` as in ``PaddedSelfAttention``."""
        hidden = self.norm1(self.joined(self.attention(hidden, real)) + hidden)
        out: Tensor = self.norm2(self.narrow(F.gelu(self.wide(hidden))) + hidden)
        return out


class Bert(nn.Module):
    """Tokens to hidden states, called as the models of transformers are; every token is of the first type."""

    def __init__(self, settings: BertSettings) -> None:
        super().__init__()
        width = settings.hidden_size
        self.config = settings
        # no nn.Embedding: its first values, though they are never used, make torch import its compiler, for seconds
        self.words, self.positions, self.types = (
            nn.Parameter(torch.empty(rows, width))
            for rows in (settings.vocab_size, settings.max_position_embeddings, settings.type_vocab_size)
        )
        self.norm = nn.LayerNorm(width, settings.layer_norm_eps)
        self.layers = nn.ModuleList(BertLayer(settings) for _ in range(settings.num_hidden_layers))

    def forward(
        self, input_ids: Tensor, attention_mask: Tensor | None = None, output_hidden_states: bool = False
    ) -> BertStates:
        """Token ids and mask (1 = real; None: all are), [B, L] int64, to hidden states."""
        hidden = self.words[input_ids] + self.types[0] + self.positions[: input_ids.shape[1]]
        real = None if attention_mask is None or bool(attention_mask.all()) else attention_mask.bool()[:, None, None]
        states = [self.norm(hidden)]
        for layer in self.layers:
            states.append(layer(states[-1], real))
        return BertStates(states[-1], tuple(states) if output_hidden_states else ())


def load_bert(folder: Path, config: Mapping[str, Any], *, device: torch.device, dtype: torch.dtype) -> Loaded | None:
    """The encoder and the tokeniser of a folder; None where there is anything in it that is not BERT's alone.

    Parameters
    ----------
    folder : Path
    config : mapping
        Its config.json.
    device, dtype

    Raises
    ------
    UsageError
        If its weights are damaged, NaN or too many for the budget of memory.
    """
    settings = BertSettings.of(config)
    if settings is None or (folder / "adapter_config.json").exists():
        return None
    tokeniser = load_tokeniser(folder)
    files = weight_files(folder)
    if tokeniser is None or any(file.suffix != ".safetensors" for file in files):
        return None
    try:
        state = {name: value for file in files for name, value in read_tensors(file)[1].items()}
    except InputError as error:
        raise OptionError(f"{{model}}: {folder} cannot be loaded ({Path(error.path).name} {error.what}).") from None
    model = bert_of(settings, {name: value.to(device, dtype) for name, value in state.items()})
    return None if model is None else Loaded(model, Processor(tokeniser), FAMILY, fingerprint(files))


def bert_of(settings: BertSettings, state: Mapping[str, Tensor]) -> Bert | None:
    """The encoder, in eval mode, of weights by their names in transformers; None where they are not exactly its own."""
    own = {ours: value for name, value in state.items() if not (ours := _renamed(name)).startswith(_UNUSED)}
    with torch.device("meta"):  # nothing is drawn at random that the weights replace
        model = Bert(settings)
    if {name: value.shape for name, value in own.items()} != {n: v.shape for n, v in model.state_dict().items()}:
        return None
    model.load_state_dict(own, assign=True)
    return model.requires_grad_(False).eval()


def _renamed(name: str) -> str:
    """The name of a weight here, of that in a file of transformers."""
    name = name.removeprefix("bert.")
    if name in _TABLES:
        return _TABLES[name]
    if name.startswith("encoder.layer."):
        number, _, part = name.removeprefix("encoder.layer.").partition(".")
        for theirs, ours in _PARTS.items():
            if part.startswith(f"{theirs}."):
                return f"layers.{number}.{ours}.{part.removeprefix(theirs + '.')}"
    return name
