"""What comes to the softmax of an attention, and what it may be made into: inside fused kernels, too."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.overrides import TorchFunctionMode

Observer = Callable[[Tensor], None]
"""Gets the attention probabilities of a layer, [B, H, Lq, Lk]."""


@dataclass(frozen=True, slots=True)
class Operands:
    """What one call of an attention kernel got: softmax(scale q kᵀ + mask) v.

    Parameters
    ----------
    q : Tensor [B, Hq, Lq, D]
    k, v : Tensor [B, Hq or Hkv, Lk, D]
    mask : Tensor or None
        Broadcasts to [B, Hq, Lq, Lk]; bool (True = keep) or added.
    causal : bool
    scale : float
    """

    q: Tensor
    k: Tensor
    v: Tensor
    mask: Tensor | None
    causal: bool
    scale: float

    def bias(self) -> Tensor | None:
        """Mask and causality as what is added to the logits, or None where every key is seen."""
        mask = self.mask
        if self.causal:
            ones = torch.ones(self.q.shape[-2], self.k.shape[-2], dtype=torch.bool, device=self.q.device)
            return added(ones.tril(), self.q.dtype)
        return None if mask is None else added(mask, self.q.dtype)

    def probabilities(self) -> Tensor:
        """The whole matrix, [B, Hq, Lq, Lk]: for short sequences."""
        key = self.k.repeat_interleave(self.q.shape[1] // self.k.shape[1], dim=1)
        scores = self.q @ key.mT * self.scale  # [B, Hq, Lq, Lk]
        bias = self.bias()
        return (scores if bias is None else scores + bias).softmax(-1)


class Softmax(TorchFunctionMode):
    """While it is active, softmax(x) is softmax(x / tau + bias), inside ``scaled_dot_product_attention`` too.

    Parameters
    ----------
    tau : float
    bias : Tensor, optional
        Broadcasts to the logits.
    observe : Observer, optional
        Called with every result of a softmax; fused attention is computed once more for it.
    record : callable (Operands), optional
        Called with what fused attention gets.
    attend : callable (Operands) -> Tensor, optional
        Computes fused attention in the place of ``scaled_dot_product_attention``; gives what that would.

    Attributes
    ----------
    calls, fused : int
        How many softmaxes were met, and how many of them inside fused attention.
    """

    def __init__(
        self, tau: float = 1.0, *, bias: Tensor | None = None, observe: Observer | None = None,
        record: Callable[[Operands], None] | None = None, attend: Callable[[Operands], Tensor] | None = None,
    ) -> None:  # fmt: skip
        super().__init__()
        self.tau, self.bias, self.observe, self.record, self.attend = tau, bias, observe, record, attend
        self.calls = self.fused = 0

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
        logits = divided(input, self.tau)
        prob = func(logits if self.bias is None else logits + self.bias.to(logits), *args, **kwargs)
        if self.observe:
            self.observe(prob)
        return prob

    def _sdpa(
        self, query: Tensor, key: Tensor, value: Tensor, attn_mask: Tensor | None = None, dropout_p: float = 0.0,
        is_causal: bool = False, scale: float | None = None, enable_gqa: bool = False,
    ) -> Tensor:  # fmt: skip
        self.calls += 1
        self.fused += 1
        scale = (query.shape[-1] ** -0.5 if scale is None else scale) / self.tau
        if attn_mask is not None and attn_mask.is_floating_point():
            attn_mask = divided(attn_mask, self.tau)
        operands = Operands(query, key, value, attn_mask, is_causal, scale)
        if self.bias is not None:
            own = operands.bias()
            bias = self.bias.to(query)
            attn_mask, is_causal = bias if own is None else own + bias, False
            attn_mask = attn_mask.expand(*attn_mask.shape[:-2], query.shape[-2], key.shape[-2])
            operands = Operands(query, key, value, attn_mask, is_causal, scale)
        if self.observe:
            self.observe(operands.probabilities())
        if self.record:
            self.record(operands)
        if self.attend:
            return self.attend(operands)
        return F.scaled_dot_product_attention(
            query, key, value, attn_mask, dropout_p, is_causal, scale=scale, enable_gqa=enable_gqa
        )


_SOFTMAX = (F.softmax, torch.softmax, Tensor.softmax)


def divided(scores: Tensor, tau: float) -> Tensor:
    """``scores`` / tau. The most negative finite value stands for a masked key and must not become -inf: a row of them
    would be NaN."""
    return (scores / tau).clamp(min=torch.finfo(scores.dtype).min)


def added(mask: Tensor, dtype: torch.dtype) -> Tensor:
    """A mask as what is added to logits: zero where a bool mask keeps, -inf elsewhere."""
    if mask.dtype != torch.bool:
        return mask
    return torch.zeros(mask.shape, dtype=dtype, device=mask.device).masked_fill(~mask, -torch.inf)


def torch_operands(module: Any, args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> Operands:
    """What ``torch.nn.MultiheadAttention`` will work on."""
    call = inspect.signature(nn.MultiheadAttention.forward).bind(module, *args, **kwargs).arguments
    inputs = [call["query"], call["key"], call["value"]]
    if not module.batch_first:
        inputs = [x.transpose(0, 1) for x in inputs]
    weights = module.in_proj_weight.chunk(3)
    biases = [None] * 3 if module.in_proj_bias is None else module.in_proj_bias.chunk(3)
    q, k, v = (
        F.linear(x, weight, bias).view(*x.shape[:2], module.num_heads, -1).transpose(1, 2)
        for x, weight, bias in zip(inputs, weights, biases, strict=True)
    )  # [B, H, L, D]
    mask: Tensor | None = None
    if (given := call.get("attn_mask")) is not None:  # its bool masks say what is left out
        mask = added(~given, q.dtype) if given.dtype == torch.bool else given
        mask = mask.view(-1, module.num_heads, *mask.shape[1:]) if mask.ndim == 3 else mask
    if (padding := call.get("key_padding_mask")) is not None:
        padded = (added(~padding, q.dtype) if padding.dtype == torch.bool else padding)[:, None, None]
        mask = padded if mask is None else mask + padded
    return Operands(q, k, v, mask, False, float(q.shape[-1] ** -0.5))
