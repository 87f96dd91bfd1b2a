"""One batch of bilevel fine-tuning: the fast weights adapted on it, then the loss of the model with them.

Paper: FocuSFT, arXiv 2605.09932. Specification: methods/focusft.md, sections 3.4, 3.5 and 3.7.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from ...models.turns import added_mask, turns_seen
from .fast import FastWeights


@dataclass(frozen=True, slots=True)
class Dialogues:
    """B conversations of S tokens, padded on the right.

    Parameters
    ----------
    tokens : Tensor of int64 [B, S]
    answer : Tensor of bool [B, S]
        Tokens to learn: those of answers.
    real : Tensor of bool [B, S]
        Tokens that are no padding.
    """

    tokens: Tensor
    answer: Tensor
    real: Tensor

    def to(self, device: torch.device) -> Dialogues:
        """The same on a device."""
        return Dialogues(self.tokens.to(device), self.answer.to(device), self.real.to(device))


@dataclass(frozen=True, slots=True)
class Inner:
    """The inner loop; see ``FastWeights.adapt``."""

    steps: int = 2
    rate: float = 1.0
    clip: float = 1.0
    together: bool = False


def mask_of(model: nn.Module, batch: Dialogues, *, both_ways: bool) -> Tensor | None:
    """What the model is given as its mask: [B, 1, S, S], or None for plain causal attention.

    Padding is on the right: causal attention never comes to see it.
    """
    if not both_ways:
        return None
    place = batch.tokens.device.type
    mixed = torch.is_autocast_enabled(place)  # a mask that is rounded to the precision of the logits would be infinite
    dtype = torch.get_autocast_dtype(place) if mixed else next(model.parameters()).dtype
    return added_mask(turns_seen(batch.answer, batch.real), dtype)


def answer_loss(model: Any, batch: Dialogues, mask: Tensor | None) -> Tensor:
    """Mean cross entropy of the answers' tokens, each given those before it; 0 without any."""
    wanted = batch.answer[:, 1:]
    places = wanted.any(0).nonzero().squeeze(1)  # logits are made where some row needs them
    out = model(input_ids=batch.tokens, attention_mask=mask, use_cache=False, logits_to_keep=places)
    each = F.cross_entropy(out.logits.float().flatten(0, 1), batch.tokens[:, places + 1].flatten(), reduction="none")
    here = wanted[:, places].flatten()
    return (each * here).sum() / here.sum().clamp_min(1)


@contextmanager
def adapted(
    model: nn.Module, fast: FastWeights, batch: Dialogues, mask: Tensor | None, inner: Inner, seed: tuple[int, ...]
) -> Iterator[list[float]]:
    """The model with fast weights adapted on a batch, and the losses before each step; none without answers."""
    fast.reset(seed)
    with fast.on():
        losses: list[float] = []
        if batch.answer[:, 1:].any():
            losses = fast.adapt(
                lambda: answer_loss(model, batch, mask), steps=inner.steps, rate=inner.rate, clip=inner.clip,
                together=inner.together,
            )  # fmt: skip
        for tensor in (*fast.down.values(), *fast.up.values()):
            tensor.requires_grad_(False)  # values that are fixed: the outer step is of first order
        yield losses
