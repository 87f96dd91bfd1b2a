"""Whole maps of one loss, a tile of rows at a time: for the paper's normalisation by the whole matrix.

The gradient of the loss with respect to the attention of a layer is dO V^T, of which dO [T, D] is what is kept; the
attention of some rows is made again from queries and keys. No T x T map is in memory, but the graph of a whole pass is.
Specification: methods/lvlms-saliency.md, sections 3.1 and 7.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F

from ...models.hf import quiet
from ...models.hooks import attended
from ...models.softmax import Operands
from ...options import OptionError
from ...text import reason_of
from .matrices import saliency

ROWS = 256
"""Of a tile."""


class WholePass:
    """One pass over a whole text, with its graph.

    Parameters
    ----------
    model, decoder : Module
        See ``OneRow``.
    inputs : mapping of str to Tensor
        One prompt with the answer behind it.
    layers : tuple of int
        Those that are looked at.

    Raises
    ------
    UsageError
        If the model cannot run: too little memory for the graph of a whole pass.
    """

    def __init__(self, model: Any, decoder: Any, inputs: Mapping[str, Tensor], layers: tuple[int, ...]) -> None:
        self.layers = layers
        self._operands: dict[int, Operands] = {}
        self._out: dict[int, Tensor] = {}
        self._loss: tuple[int, int] | None = None
        self._gradients: dict[int, Tensor] = {}
        given = {name: value for name, value in inputs.items() if name != "attention_mask"}
        try:
            with torch.enable_grad(), attended(decoder, layers, self._attend), quiet():
                self.logits: Tensor = model(**given, use_cache=False).logits[0]
        except (RuntimeError, MemoryError) as error:
            raise OptionError(f"{{norm}} matrix: the whole pass failed ({reason_of(error)}). Use row.") from error

    def _attend(self, layer: int, operands: Operands) -> Tensor:
        q, k, v = operands.q, operands.k, operands.v
        out = F.scaled_dot_product_attention(
            q, k, v, operands.mask, is_causal=operands.causal, scale=operands.scale, enable_gqa=k.shape[1] < q.shape[1]
        )
        if layer == min(self.layers):  # what is below needs no gradient
            out = out.detach().requires_grad_()
        self._operands[layer] = Operands(
            q.detach(), k.detach(), v.detach(), operands.mask, operands.causal, operands.scale
        )
        self._out[layer] = out
        return out

    def _of_loss(self, row: int, token: int) -> None:
        """dO of every layer, of the loss of a token behind a row."""
        if self._loss == (row, token):
            return
        logits = self.logits[row].to(torch.promote_types(self.logits.dtype, torch.float32))
        outs = [self._out[layer] for layer in self.layers]
        found = torch.autograd.grad(-logits.log_softmax(-1)[token], outs, retain_graph=True)
        self._loss, self._gradients = (row, token), dict(zip(self.layers, found, strict=True))

    def tiles(self, row: int, token: int, layer: int, *, rows: int = ROWS) -> Iterator[tuple[Tensor, Tensor]]:
        """Attention and gradient of a layer, rows by rows, each [H, R, T].

        Parameters
        ----------
        row : int
            Position that predicts the token.
        token : int
        layer : int
        rows : int
            R at most.
        """
        self._of_loss(row, token)
        seen, d_out = self._operands[layer], self._gradients[layer][0]
        groups = seen.q.shape[1] // seen.k.shape[1]
        dtype = torch.promote_types(seen.q.dtype, torch.float32)
        k, v = (x[0].to(dtype).repeat_interleave(groups, 0) for x in (seen.k, seen.v))
        keys = torch.arange(k.shape[1], device=k.device)
        for start in range(0, seen.q.shape[2], rows):
            part = slice(start, start + rows)
            scores = seen.q[0, :, part].to(dtype) @ k.mT * seen.scale
            if seen.causal:
                scores = scores.masked_fill(keys > keys[part, None], -torch.inf)
            elif seen.mask is not None:
                mask = Operands(seen.q, seen.k, seen.v, seen.mask[..., part, :], False, seen.scale).bias()
                assert mask is not None
                scores = scores + mask[0].to(dtype)
            yield scores.softmax(-1), d_out[:, part].to(dtype) @ v.mT

    def frobenius(self, row: int, token: int) -> Tensor:
        """Norm of the saliency, mean over heads, of each layer's whole matrix, [L]."""
        totals = []
        for layer in self.layers:
            squares = [saliency(a, g).mean(0).square().sum() for a, g in self.tiles(row, token, layer)]
            totals.append(torch.stack(squares).sum().sqrt())
        return torch.stack(totals)
