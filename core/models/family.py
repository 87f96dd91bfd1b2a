"""Where the attention logits of each model family are, and how to divide them by a temperature.

Specification: methods/tempscale.md, section 3.6. An unknown class of attention is an error: a model that is silently
left as it is would be measured as if it had been scaled.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any, Protocol

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.overrides import TorchFunctionMode

from ..errors import UsageError

Observer = Callable[[Tensor], None]
"""Gets the attention probabilities of a layer, [B, H, Lq, Lk]."""

PLAIN: Mapping[str, str] = {
    "BertSelfAttention": "query", "RobertaSelfAttention": "query", "XLMRobertaSelfAttention": "query",
    "XLMRobertaXLSelfAttention": "query", "CamembertSelfAttention": "query", "ElectraSelfAttention": "query",
    "AlbertAttention": "query", "AlbertSdpaAttention": "query",
    "DistilBertSelfAttention": "q_lin", "DistilBertSdpaAttention": "q_lin", "MultiHeadSelfAttention": "q_lin",
    "NomicBertAttention": "q_proj", "EuroBertAttention": "q_proj", "GteAttention": "q_proj",
    "JinaEmbeddingsV3Attention": "q_proj", "ModernBertAttention": "Wqkv",
    "LlamaAttention": "q_proj", "MistralAttention": "q_proj", "Qwen2Attention": "q_proj",
    "CLIPAttention": "q_proj", "SiglipAttention": "q_proj", "Siglip2Attention": "q_proj",
    "MultiheadAttention": "in_proj",
    # their queries are normalised behind the projection, so that only the attribute works
    "Qwen3Attention": "", "Gemma2Attention": "", "Gemma3Attention": "",
}  # fmt: skip
"""Scaled dot products and masks only: class -> its query projection, for where there is no attribute to set."""
SUMS = (
    "T5Attention", "MT5Attention", "UMT5Attention", "MPNetSelfAttention", "DisentangledSelfAttention",
    "JinaBertSelfAttention", "BloomAttention",
)  # fmt: skip
"""Logits with relative position terms or ALiBi: the sum is divided, in front of the softmax."""
FUSED = ("Wqkv", "in_proj")  # rows: queries, keys, values
POOLING = ("SiglipMultiheadAttentionPoolingHead", "Siglip2MultiheadAttentionPoolingHead")  # no layer of the encoder


class Site(Protocol):
    """One attention module whose temperature can be set; ``restore`` leaves no trace."""

    def set(self, tau: float) -> None:
        """Divide the untouched logits by ``tau``."""

    def restore(self) -> None:
        """Put the module back as it was found."""


class _Attribute:
    """BERT, Llama, CLIP and their kin: the factor on q·kᵀ is an attribute, and every kernel gets it."""

    def __init__(self, module: nn.Module, name: str) -> None:
        self.module, self.name = module, name
        self.value: float = getattr(module, name)

    def set(self, tau: float) -> None:
        setattr(self.module, self.name, self.value / tau)

    def restore(self) -> None:
        setattr(self.module, self.name, self.value)


class _Projection:
    """The fallback: queries divided at their projection. Exact where logits are q·kᵀ alone; rotations are linear."""

    def __init__(self, module: nn.Module, name: str) -> None:
        if name == "in_proj":
            found = [module.in_proj_weight, module.in_proj_bias]
        else:
            linear = module.get_submodule(name)
            found = [linear.weight, linear.bias]
        self.parameters = [p for p in found if isinstance(p, nn.Parameter)]
        if not self.parameters:
            raise UsageError(f"temperature: {type(module).__name__} has no query projection of its own.")
        self.parts = 3 if name in FUSED else 1
        self.values = [p.data for p in self.parameters]

    def set(self, tau: float) -> None:
        for parameter, value in zip(self.parameters, self.values, strict=True):
            scaled = value.clone()
            scaled[: len(value) // self.parts] /= tau
            parameter.data = scaled

    def restore(self) -> None:
        for parameter, value in zip(self.parameters, self.values, strict=True):
            parameter.data = value


class _Forward:
    """The whole forward of a module runs under a ``Softmax`` mode."""

    def __init__(self, module: nn.Module) -> None:
        self.module, self.own, self.forward = module, "forward" in vars(module), module.forward

    def set(self, tau: float) -> None:
        self.wrap(tau, None)

    def wrap(self, tau: float, observe: Observer | None) -> None:
        """Divide the logits by ``tau`` and show the probabilities to ``observe``."""

        def forward(*args: Any, **kwargs: Any) -> Any:
            with Softmax(tau, observe) as mode:
                out = self.forward(*args, **kwargs)
            if not mode.calls:  # a kernel that hides its softmax would leave the logits as they are
                raise UsageError(
                    f"temperature: {type(self.module).__name__} runs a kernel whose logits cannot be reached. "
                    "Load the model with attn_implementation='sdpa' or 'eager'."
                )
            return out

        self.module.forward = forward

    def restore(self) -> None:
        if self.own:
            self.module.forward = self.forward
        else:
            del self.module.forward


class Softmax(TorchFunctionMode):
    """While it is active, softmax(x) is softmax(x / tau), inside ``scaled_dot_product_attention`` too.

    Parameters
    ----------
    tau : float
    observe : Observer, optional
        Called with every result of a softmax; fused attention is computed once more for it.
    """

    def __init__(self, tau: float = 1.0, observe: Observer | None = None) -> None:
        super().__init__()
        self.tau, self.observe, self.calls = tau, observe, 0

    def __torch_function__(
        self, func: Any, types: Any, args: Sequence[Any] = (), kwargs: Mapping[str, Any] | None = None
    ) -> Any:
        if func in _SOFTMAX:
            return self._softmax(func, *args, **(kwargs or {}))
        if func is F.scaled_dot_product_attention:
            return self._sdpa(*args, **(kwargs or {}))
        return func(*args, **(kwargs or {}))

    def _softmax(self, func: Any, input: Tensor, *args: Any, **kwargs: Any) -> Any:
        self.calls += 1
        prob = func(divided(input, self.tau), *args, **kwargs)
        if self.observe:
            self.observe(prob)
        return prob

    def _sdpa(
        self, query: Tensor, key: Tensor, value: Tensor, attn_mask: Tensor | None = None, dropout_p: float = 0.0,
        is_causal: bool = False, scale: float | None = None, enable_gqa: bool = False,
    ) -> Tensor:  # fmt: skip
        self.calls += 1
        scale = (query.shape[-1] ** -0.5 if scale is None else scale) / self.tau
        if attn_mask is not None and attn_mask.is_floating_point():
            attn_mask = divided(attn_mask, self.tau)
        if self.observe:
            self.observe(_probabilities(query, key, attn_mask, is_causal, scale))
        return F.scaled_dot_product_attention(
            query, key, value, attn_mask, dropout_p, is_causal, scale=scale, enable_gqa=enable_gqa
        )


_SOFTMAX = (F.softmax, torch.softmax, Tensor.softmax)


def divided(scores: Tensor, tau: float) -> Tensor:
    """``scores`` / tau. The most negative finite value stands for a masked key and must not become -inf: a row of them
    would be NaN."""
    return (scores / tau).clamp(min=torch.finfo(scores.dtype).min)


def _probabilities(query: Tensor, key: Tensor, mask: Tensor | None, causal: bool, scale: float) -> Tensor:
    """What fused attention does not show: softmax(q kᵀ scale + mask), [B, Hq, Lq, Lk]."""
    key = key.repeat_interleave(query.shape[1] // key.shape[1], dim=1)
    scores = query @ key.mT * scale  # [B, Hq, Lq, Lk]
    if causal:
        mask = torch.ones(scores.shape[-2:], dtype=torch.bool, device=scores.device).tril()
    if mask is not None:
        scores = scores.masked_fill(~mask, -torch.inf) if mask.dtype == torch.bool else scores + mask
    return scores.softmax(-1)


def site(module: nn.Module) -> Site:
    """How the temperature of one attention module is set.

    Raises
    ------
    UsageError
        If its class is not in the table of families.
    """
    names = [cls.__name__ for cls in type(module).__mro__]
    if any(name in SUMS for name in names):
        return _Forward(module)
    known = next((name for name in names if name in PLAIN), None)
    if known is None:
        raise UsageError(
            f"temperature: {names[0]} is no attention that attn knows how to scale. "
            f"Known: {', '.join(sorted([*PLAIN, *SUMS]))}."
        )
    for name in ("scaling", "scale"):
        if isinstance(getattr(module, name, None), float):
            return _Attribute(module, name)
    if not PLAIN[known]:
        raise UsageError(f"temperature: {names[0]} has no scaling to set in this version of transformers. Upgrade it.")
    return _Projection(module, PLAIN[known])


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
    if getattr(getattr(model, "config", None), "is_encoder_decoder", False):
        whole: Any = model
        model = whole.get_encoder()
    towers: dict[str, list[nn.Module]] = {}
    for name, module in _innermost(model):
        tower = re.match(r"(.*?)(?:\.\d+|$)", name)  # everything before the first layer number
        towers.setdefault(tower[1] if tower else "", []).append(module)
    if not towers:
        raise UsageError(f"temperature: {type(model).__name__} has no attention that could be scaled.")
    return [modules[i] for modules in towers.values() for i in _numbers(layers, len(modules))]


def _innermost(model: nn.Module) -> Iterator[tuple[str, nn.Module]]:
    """Modules whose class is called attention and that hold no other such module."""
    found = {name: module for name, module in model.named_modules() if type(module).__name__.endswith("Attention")}
    heads = [name + "." for name, module in model.named_modules() if type(module).__name__ in POOLING]
    for name, module in found.items():
        inner = any(other.startswith(name + ".") for other in found) if name else len(found) > 1
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
