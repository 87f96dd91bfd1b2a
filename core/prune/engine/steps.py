"""Decoding behind a pruned prompt: layers whose caches have lengths of their own.

Source: methods/pruning-peers.md, sections 8.2, 8.3 and 8.5.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor

from ...errors import UsageError
from .checks import Positions, has_pictures, is_eager
from .kept import KeptRows
from .prompts import is_visual
from .sites import VisionLanguageSite

_ATTRIBUTE = "attn_cached_prompts"


@dataclass(slots=True)
class CachedPrompts:
    """What of its prompts a cache holds. It is an attribute of the cache: a copy of that knows it, too.

    Parameters
    ----------
    length : int
        Of the prompts.
    positions : {"keep", "compact"}
    anew_in_front : bool
        What was left in front of the language model is numbered anew.
    layers : list of KeptRows or None
        Of each layer the rows in its cache; None: all of them.
    """

    length: int
    positions: Positions
    anew_in_front: bool
    layers: list[KeptRows | None] = field(default_factory=list)

    def stay_with(self, cache: Any) -> None:
        setattr(cache, _ATTRIBUTE, self)

    @property
    def samples(self) -> int:
        return next(len(rows.slots) for rows in self.layers if rows is not None)

    def held(self, layer: int) -> int:
        rows = self.layers[layer]
        return self.length if rows is None else rows.length


@dataclass(frozen=True, slots=True)
class Step:
    """One step of decoding.

    Parameters
    ----------
    site : VisionLanguageSite
    prompts : CachedPrompts
    done : int
        Steps before it.
    tail : Tensor of bool [B, done + 1]
        Which rows behind the prompts are seen.
    all_seen : bool
        They all are.
    numbered : bool
        The caller gave position ids.
    """

    site: VisionLanguageSite
    prompts: CachedPrompts
    done: int
    tail: Tensor
    all_seen: bool
    numbered: bool

    def in_text(self, kwargs: Mapping[str, Any]) -> dict[str, Any]:
        """What the language model gets instead of its own, if it began without some rows."""
        rows = self.prompts.layers[0]
        if rows is None:
            return {}
        given: dict[str, Any] = {"attention_mask": torch.cat([rows.alive, self.tail], 1).long()}
        if self.prompts.anew_in_front:
            given["position_ids"] = rows.behind(self.done)
        elif not self.numbered:  # they were counted in the cache, which is short
            ids = kwargs.get("position_ids")
            counted = torch.tensor([[rows.length + self.done]], device=rows.slots.device) if ids is None else ids
            given["position_ids"] = counted + self.prompts.length - rows.length
        return given

    def in_layer(self, number: int, hidden: Tensor) -> dict[str, Any]:
        """What a layer gets instead of its own, if fewer rows are in its cache than in that of the first."""
        rows = self.prompts.layers[number]
        if rows is None or rows is self.prompts.layers[0]:
            return {}
        seen = self.all_seen and not rows.padded
        given: dict[str, Any] = {
            "attention_mask": None if seen else rows.mask_of_step(self.tail, is_eager(self.site), hidden.dtype)
        }
        if self.prompts.positions == "compact":
            given["position_embeddings"] = self.site.rotary(hidden, rows.behind(self.done))
        return given


def step_of(site: VisionLanguageSite, call: Mapping[str, Any], cache: Any) -> Step | None:
    """What a call with a filled cache goes on from; None where whole prompts are in it.

    Raises
    ------
    UsageError
        If there is a picture in the call, or more than one token behind a pruned prompt, or the cache was changed.
    """
    ids = call.get("input_ids")
    tokens = ids if ids is not None else call["inputs_embeds"]
    if has_pictures(call) or (ids is not None and ids.shape[1] > 1 and is_visual(site, ids).any()):
        raise UsageError("a picture behind a cache cannot be pruned. Give the whole conversation, without a cache.")
    prompts: CachedPrompts | None = getattr(cache, _ATTRIBUTE, None)
    if prompts is None or not any(prompts.layers):
        return None
    if tokens.shape[1] > 1:
        raise UsageError(
            "behind a pruned prompt tokens come one by one: assisted decoding, prompts in chunks and a second turn on "
            "its cache cannot be used."
        )
    behind = {cache.get_seq_length(number) - prompts.held(number) for number in range(len(prompts.layers))}
    done = behind.pop()
    if len(prompts.layers) < site.depth or behind or done < 0 or prompts.samples != len(tokens):
        raise UsageError("the cache of a pruned prompt was cut, repeated or selected from: start with a new one.")
    tail = torch.ones(len(tokens), done + 1, dtype=torch.bool, device=tokens.device)
    if (mask := call.get("attention_mask")) is not None:
        tail &= mask[:, prompts.length :].bool()
    return Step(site, prompts, done, tail, bool(tail.all()), call.get("position_ids") is not None)
