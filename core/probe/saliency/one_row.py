"""Saliency of the newest token's row alone: one forward pass of one token, and a backward pass of it for each loss.

Candidates for the next token differ in the loss only, and the loss of the last position reaches its own row of the
attention through that position alone: the keys and values of all tokens before are constants, taken from the cache. So
the gradient dO V^T of that row is exact, and no T x T map is made. Specification: methods/lvlms-saliency.md, section 7.
"""

from __future__ import annotations

import inspect
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from ...errors import AttnError
from ...models.family import attention_places, layout_of
from ...models.hf import quiet
from ...models.hooks import attended
from ...models.softmax import Operands
from ...options import OptionError
from ...prune.engine.checks import CACHES
from ...text import reason_of
from .locore import Locore
from .matrices import saliency

_ROWS = ("input_ids", "mm_token_type_ids")
"""Inputs with an entry for each token; the attention mask is left out: one prompt has no padding."""


@dataclass(frozen=True, slots=True)
class NextToken:
    """What a model says behind the newest token, and its attention for it.

    Parameters
    ----------
    logits : Tensor [V]
        float32 at least.
    attention : tuple of Tensor [Hkv, G, T or fewer]
        Of each layer, with their graph; a layer with a window has the last keys alone.
    tokens : int
        T, the newest one included.
    """

    logits: Tensor
    attention: tuple[Tensor, ...]
    tokens: int

    @property
    def log_probabilities(self) -> Tensor:
        """Of all tokens, in nats, without graph."""
        return self.logits.detach().log_softmax(-1)

    def rows(self, tokens: Tensor, layers: tuple[int, ...], *, signed: bool = False) -> Tensor:
        """Saliency of this row for each of K next tokens, mean over heads, [K, L, T].

        Parameters
        ----------
        tokens : Tensor of int64 [K]
        layers : tuple of int
            L of them; the pass goes back to the lowest.
        signed : bool
        """
        losses = -self.logits.log_softmax(-1)[tokens.to(self.logits.device)]
        kept = [self.attention[layer] for layer in layers]
        each = torch.eye(len(tokens), dtype=losses.dtype, device=losses.device)
        gradients = torch.autograd.grad(losses, kept, each, retain_graph=True, is_grads_batched=True)
        with torch.no_grad():
            found = [
                _whole(saliency(a, g, signed=signed).flatten(-3, -2).mean(-2), self.tokens)
                for a, g in zip(kept, gradients, strict=True)
            ]
            return torch.stack(found, 1)

    def mean_attention(self, layers: tuple[int, ...]) -> Tensor:
        """Attention of this row, mean over heads, [L, T]."""
        return torch.stack(
            [_whole(self.attention[layer].detach().flatten(0, 1).mean(0), self.tokens) for layer in layers]
        )


def _whole(row: Tensor, tokens: int) -> Tensor:
    """Rows of layers whose window leaves out the first tokens, with zeros for them."""
    return torch.nn.functional.pad(row, (tokens - row.shape[-1], 0))


class OneRow:
    """Runs a causal model token by token.

    Parameters
    ----------
    model : Module
        The one that generates, in eval mode.
    decoder : Module
        Its language model: the one tower that is meant.
    locore : Locore, optional

    Raises
    ------
    UsageError
        If the model's attention is of an unknown class, or it keeps no cache.
    """

    def __init__(self, model: Any, decoder: Any, locore: Locore | None = None) -> None:
        self.model, self.decoder, self.locore = model, decoder, locore
        places = attention_places(decoder)
        for place in places:
            layout_of(place.module)
        self.depth = len(places)
        known = inspect.signature(model.forward).parameters
        self._name = next((name for name in CACHES if name in known), "")
        if not self._name or "logits_to_keep" not in known:
            raise OptionError(f"{{model}}: {type(model).__name__} does not decode with a cache as transformers' do.")
        self._cache: Any = None
        self._read = 0
        self._gain: Tensor | None = None
        self._kept: dict[int, Tensor] = {}

    def start(self, inputs: Mapping[str, Tensor]) -> Tensor:
        """Read a prompt but for its last token, which is returned [1]: ``step`` takes it.

        Raises
        ------
        UsageError
            If the model cannot run.
        """
        ids = inputs["input_ids"]
        self._cache, self._read = None, ids.shape[1] - 1
        if ids.shape[1] > 1:
            first = {
                name: value[:, :-1] if name in _ROWS else value
                for name, value in inputs.items()
                if name != "attention_mask"
            }
            with torch.no_grad():
                out = self._run(first)
            self._cache = getattr(out, self._name)
        return ids[0, -1:]

    def step(self, token: Tensor, *, behind: int | None = None) -> NextToken:
        """Read one more token.

        Parameters
        ----------
        token : Tensor of int64 [1]
        behind : int, optional
            First key behind the image, where LocoRE acts on this row.
        """
        self._gain = self.locore.gain(self._read, behind) if self.locore is not None and behind is not None else None
        self._kept = {}
        inputs = {"input_ids": token.view(1, 1)} | ({} if self._cache is None else {self._name: self._cache})
        with torch.enable_grad(), attended(self.decoder, "all", self._attend):
            out = self._run(inputs)
        self._cache = getattr(out, self._name)
        for layer in self._cache.layers:
            layer.keys, layer.values = layer.keys.detach(), layer.values.detach()
        logits, self._read = out.logits[0, -1], self._read + 1
        return NextToken(
            logits.to(torch.promote_types(logits.dtype, torch.float32)),
            tuple(self._kept[n] for n in range(self.depth)),
            self._read,
        )

    def _run(self, inputs: Mapping[str, Any]) -> Any:
        try:
            with quiet():
                out = self.model(**inputs, use_cache=True, logits_to_keep=1)
        except AttnError:
            raise
        except Exception as error:  # of any kind: parts that do not fit, a device that is full
            family = self.model.config.model_type
            raise OptionError(f"{{model}}: {family} cannot answer ({reason_of(error)}).") from error
        if not bool(out.logits.detach().isfinite().all()):
            raise OptionError(
                "{model}: its logits are no finite numbers: damaged weights, or {dtype} holds none so large. Use "
                "float32."
            )
        return out

    def _attend(self, layer: int, operands: Operands) -> Tensor:
        """One row of attention, written out in float32 at least; the query heads of one key head are its rows."""
        q, k, v = operands.q, operands.k, operands.v
        dtype = torch.promote_types(q.dtype, torch.float32)
        grouped = q.reshape(1, k.shape[1], -1, q.shape[-1])  # [1, Hkv, G, D]
        scores = grouped.to(dtype) @ k.to(dtype).mT * operands.scale
        if (bias := operands.bias()) is not None:
            scores = scores + (bias if bias.shape[1] == 1 else bias.reshape(1, k.shape[1], -1, bias.shape[-1]))
        if self._gain is None or (self.locore is not None and self.locore.layers and layer not in self.locore.layers):
            attention = scores.softmax(-1)
        else:
            assert self.locore is not None
            attention = self.locore.attention(scores, self._gain[-scores.shape[-1] :])
        if not layer:  # what is below needs no gradient
            attention = attention.detach().requires_grad_()
        self._kept[layer] = attention[0]
        out = self._kept[layer][None] @ v.to(dtype)
        return out.to(q.dtype).reshape(*q.shape[:-1], v.shape[-1])
