"""One table of attention: per class, where its queries, keys, values, output, heads and norms are.

Temperature, capture, edits and pruning read it. A class that is not in it is an error that names it: a model that is
silently left as it is would be measured as if it had been changed.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from torch import nn

from ..errors import UsageError


@dataclass(frozen=True, slots=True)
class AttentionParts:
    """Where the parts of one class of attention are.

    Parameters
    ----------
    query, key, value : str
        Names of the projections inside the module. Three times one name: a fused projection whose rows are queries,
        keys, values (Bloom's: head by head). ``in_proj_weight``: the parameter of ``torch.nn.MultiheadAttention``.
    output : str
        The projection of the concatenated heads; empty where the module itself returns them.
    norm : str
        The normalisation of the block that the attention belongs to, by its name in the block.
    qk_norms : tuple of str
        Normalisations of queries and keys behind their projections.
    softmax : bool
        A temperature acts in front of the softmax: the logits have relative position terms or ALiBi, or no attribute is
        the factor on q·kᵀ.
    drops : bool
        Tokens can be left out between two blocks: positions are in the tokens already.
    """

    query: str = "q_proj"
    key: str = "k_proj"
    value: str = "v_proj"
    output: str = "o_proj"
    norm: str = "input_layernorm"
    qk_norms: tuple[str, ...] = ()
    softmax: bool = False
    drops: bool = False

    @property
    def fused(self) -> bool:
        """Queries, keys and values are rows of one projection."""
        return self.query == self.key


def _fused(name: str, output: str, norm: str, **other: Any) -> AttentionParts:
    return AttentionParts(name, name, name, output, norm, **other)


_BERT = AttentionParts("query", "key", "value", "", "attention.output.LayerNorm")
_DECODER = AttentionParts()
_NOMIC = replace(_DECODER, norm="post_attention_layernorm")
_DISTIL = AttentionParts("q_lin", "k_lin", "v_lin", "out_lin", "sa_layer_norm")
_ALBERT = AttentionParts("query", "key", "value", "dense", "albert_layers.0.attention.LayerNorm")
_T5 = AttentionParts("q", "k", "v", "o", "layer.0.layer_norm", softmax=True)
_CLIP = AttentionParts(output="out_proj", norm="layer_norm1", drops=True)
_VIT = AttentionParts(norm="layernorm_before", drops=True)
_DINO = AttentionParts(norm="norm1", drops=True)
_OLD_VIT = AttentionParts("query", "key", "value", "", "layernorm_before", drops=True)
_QWEN_VISION = _fused("qkv", "proj", "norm1")
_NORMED = replace(_DECODER, qk_norms=("q_norm", "k_norm"))

ATTENTIONS: Mapping[str, AttentionParts | tuple[AttentionParts, ...]] = {
    # encoders of text
    "PaddedSelfAttention": replace(_BERT, norm="norm1"),
    "BertSelfAttention": _BERT, "RobertaSelfAttention": _BERT, "XLMRobertaSelfAttention": _BERT,
    "XLMRobertaXLSelfAttention": replace(_BERT, norm="attention.self_attn_layer_norm"),
    "CamembertSelfAttention": _BERT, "ElectraSelfAttention": _BERT,
    "AlbertAttention": _ALBERT, "AlbertSdpaAttention": _ALBERT,
    "DistilBertSelfAttention": _DISTIL, "DistilBertSdpaAttention": _DISTIL, "MultiHeadSelfAttention": _DISTIL,
    "NomicBertAttention": _NOMIC, "JinaEmbeddingsV3Attention": _NOMIC,
    "EuroBertAttention": _DECODER, "GteAttention": _DECODER,
    "ModernBertAttention": _fused("Wqkv", "Wo", "attn_norm"),
    "T5Attention": _T5, "MT5Attention": _T5, "UMT5Attention": _T5,
    "MPNetSelfAttention": AttentionParts("q", "k", "v", "o", "attention.LayerNorm", softmax=True),
    "DisentangledSelfAttention": (
        AttentionParts("query_proj", "key_proj", "value_proj", "", "attention.output.LayerNorm", softmax=True),
        _fused("in_proj", "", "attention.output.LayerNorm", softmax=True),  # of DeBERTa's first version
    ),
    "JinaBertSelfAttention": replace(_BERT, softmax=True),
    # decoders
    "LlamaAttention": _DECODER, "MistralAttention": _DECODER, "Qwen2Attention": _DECODER, "SmolLM3Attention": _DECODER,
    "Qwen2VLAttention": _DECODER, "Qwen2_5_VLAttention": _DECODER,
    "Qwen3Attention": _NORMED, "Gemma3Attention": _NORMED, "Gemma2Attention": _DECODER,
    "BloomAttention": _fused("query_key_value", "dense", "input_layernorm", softmax=True),
    # towers of images, some of text as well
    "ViTAttention": _VIT, "ViTSelfAttention": _OLD_VIT, "DeiTAttention": _VIT, "DeiTSelfAttention": _OLD_VIT,
    "Dinov2Attention": _DINO, "Dinov2SelfAttention": replace(_OLD_VIT, norm="norm1"),
    "Dinov2WithRegistersAttention": _DINO, "Dinov2WithRegistersSelfAttention": replace(_OLD_VIT, norm="norm1"),
    "DINOv3ViTAttention": replace(_DINO, drops=False),
    "CLIPAttention": _CLIP, "SiglipAttention": _CLIP, "Siglip2Attention": _CLIP,
    "Idefics3VisionAttention": _CLIP, "SmolVLMVisionAttention": _CLIP,
    "InternVLVisionAttention": AttentionParts(
        output="projection_layer", norm="layernorm_before", qk_norms=("q_norm", "k_norm"), drops=True
    ),
    "VisionAttention": _QWEN_VISION, "Qwen2_5_VLVisionAttention": _QWEN_VISION,
    "PatchAttention": _fused("qkv", "proj", "norm1", drops=True),
    "SparsifinerAttention": _fused("qkv", "proj", "norm1"),
    "PIRAttention": AttentionParts("linear_q", "linear_k", "linear_v", "linear_merge", "norm1"),
    # timm, and torch as open_clip uses it
    "Attention": _fused("qkv", "proj", "norm1", qk_norms=("q_norm", "k_norm"), softmax=True, drops=True),
    "MultiheadAttention": _fused("in_proj_weight", "out_proj", "ln_1", drops=True),
}  # fmt: skip
POOLING = ("SiglipMultiheadAttentionPoolingHead", "Siglip2MultiheadAttentionPoolingHead")  # no layer of the encoder
_HEADS = ("num_attention_heads", "num_heads", "n_heads")


@dataclass(frozen=True, slots=True)
class Place:
    """One attention module of a model.

    Parameters
    ----------
    number : int
        Of its layer in its tower, from 0.
    module : Module
    block : Module
        The layer it belongs to; the module itself where there are no numbered layers.
    """

    number: int
    module: nn.Module
    block: nn.Module


def layout_of(module: nn.Module) -> AttentionParts:
    """Where the parts of an attention module are.

    Raises
    ------
    UsageError
        If its class is not in the table.
    """
    for cls in type(module).__mro__:
        layouts = ATTENTIONS.get(cls.__name__, ())
        for layout in (layouts,) if isinstance(layouts, AttentionParts) else layouts:
            parts = {layout.query, layout.key, layout.value, *filter(None, [layout.output])}
            if all(hasattr(module, part) for part in parts):  # several packages call a class of theirs Attention
                return layout
    raise UsageError(
        f"{type(module).__name__} is no attention that attn knows. Known: {', '.join(sorted(ATTENTIONS))}."
    )


def heads_of(module: nn.Module) -> int:
    """Number of query heads of an attention module. Raises ``UsageError`` where it does not say."""
    for holder in (module, getattr(module, "config", None)):
        for name in _HEADS:
            if isinstance(count := getattr(holder, name, None), int):
                return count
    raise UsageError(f"{type(module).__name__} does not say how many heads it has.")


def kv_groups_of(module: nn.Module) -> int:
    """How many query heads share one key head."""
    return int(getattr(module, "num_key_value_groups", 1) or 1)


def norm_of(place: Place) -> nn.Module:
    """The normalisation of a block that its attention belongs to. Raises ``UsageError`` where it is not there."""
    name = layout_of(place.module).norm
    try:
        return place.block.get_submodule(name)
    except AttributeError:
        raise UsageError(f"{type(place.block).__name__} has no normalisation {name!r}.") from None


def attention_modules(model: nn.Module, layers: str | Sequence[int] = "all") -> list[nn.Module]:
    """The self-attention modules of a model in order, one per layer; of an encoder-decoder, those of its encoder.

    Parameters
    ----------
    model : Module
    layers : "all", "last:K" or sequence of int
        Counted from 0, in each tower on its own.

    Raises
    ------
    UsageError
        If there is no attention, or a layer that is named does not exist.
    """
    return [place.module for place in attention_places(model, layers)]


def attention_places(model: nn.Module, layers: str | Sequence[int] = "all") -> list[Place]:
    """``attention_modules``, with number and block of each."""
    if getattr(getattr(model, "config", None), "is_encoder_decoder", False):
        whole: Any = model
        model = whole.get_encoder()
    towers: dict[str, list[Place]] = {}
    for name, module in _innermost(model):
        tower = re.match(r"(.*?)(?:(?:^|\.)\d+(?=\.|$)|$)", name)  # everything before the first layer number
        block = re.match(r"(?:.*?\.)?\d+(?=\.|$)", name)
        of = towers.setdefault(tower[1] if tower else "", [])
        of.append(Place(len(of), module, model.get_submodule(block[0]) if block else module))
    if not towers:
        raise UsageError(f"{type(model).__name__} has no attention that attn could reach.")
    return [places[i] for places in towers.values() for i in _numbers(layers, len(places))]


def _innermost(model: nn.Module) -> Iterator[tuple[str, nn.Module]]:
    """Modules whose class is called attention and that hold no other such module."""
    modules = {name: module for name, module in model.named_modules() if type(module).__name__.endswith("Attention")}
    heads = [name + "." for name, module in model.named_modules() if type(module).__name__ in POOLING]
    for name, module in modules.items():
        inner = any(other.startswith(name + ".") for other in modules) if name else len(modules) > 1
        if not inner and not any(name.startswith(head) for head in heads):
            yield name, module


def _numbers(layers: str | Sequence[int], count: int) -> Sequence[int]:
    """Which of ``count`` layers are meant."""
    if layers == "all":
        return range(count)
    if isinstance(layers, str):
        last = re.fullmatch(r"last:(\d+)", layers)
        if not last or not 1 <= int(last[1]) <= count:
            raise UsageError(f"layers: {layers!r} is neither 'all' nor 'last:K' with K from 1 to {count}.")
        return range(count - int(last[1]), count)
    if not layers or not all(0 <= layer < count for layer in layers):
        raise UsageError(f"layers: {list(layers)} must be numbers from 0 to {count - 1}.")
    return sorted(set(layers))
