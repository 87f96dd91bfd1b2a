"""The slow, obvious reference of pruning: no token goes, its keys are hidden from every row from a layer on."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from functools import partial
from typing import Any

import torch
from torch import Tensor

from attn.core.prune.engine.moment import Moment, PruneStage, TokenChoice
from attn.core.prune.engine.sites import site_of


@contextmanager
def masked(model: Any, hidden: Mapping[int, Tensor], valid: Tensor) -> Iterator[None]:
    """Hide keys while a model runs.

    Parameters
    ----------
    model : Module
    hidden : mapping of layer to Tensor of bool [B, N]
        Keys that are hidden from this layer on.
    valid : Tensor of bool [B, N]
        What is no padding.
    """
    site = site_of(model)

    def hook(number: int, layer: Any, args: Any, kwargs: dict[str, Any]) -> tuple[Any, Any]:
        cache = kwargs.get("cache", kwargs.get("past_key_values"))
        rows = args[0].shape[1]
        keys = rows + (cache.get_seq_length(number) if cache is not None else 0)
        seen = valid.clone()
        for start, gone in hidden.items():
            if number >= start:
                seen &= ~gone
        batch, length = seen.shape
        seen = seen.repeat(args[0].shape[0] // batch, 1)  # beams
        seen = torch.cat([seen, torch.ones(len(seen), keys - length, dtype=torch.bool)], 1)
        place = torch.arange(keys - rows, keys)[:, None]
        mask = ((torch.arange(keys) <= place) & seen[:, None] | (torch.arange(keys) == place))[:, None]
        if model.config._attn_implementation == "eager":
            mask = torch.zeros(mask.shape).masked_fill(~mask, torch.finfo(torch.float32).min)
        return args, {**kwargs, "attention_mask": mask}

    with ExitStack() as stack:
        for number, layer in enumerate(site.layers):
            handle = layer.register_forward_pre_hook(partial(hook, number), with_kwargs=True)
            stack.callback(handle.remove)
        yield


Plan = Sequence[tuple[int, int]]
"""Layers, and of how many tokens one is kept in front of each."""


def kept(numbers: Tensor, step: int, prompt: int) -> Tensor:
    """Every ``step``-th token of the first prompt; fewer and others of the next ones."""
    return numbers[prompt % step :: step + prompt]


def stages_of(plan: Plan, first: int = 0, attention: Sequence[str] = ()) -> list[PruneStage]:
    """The stages of a plan; the first prompt of a batch is prompt ``first``."""

    def choose(step: int, moment: Moment) -> list[TokenChoice]:
        return [TokenChoice(kept(numbers, step, first + b)) for b, numbers in enumerate(moment.numbers)]

    return [PruneStage(layer, partial(choose, step), attention) for layer, step in plan]


def hidden_by(plan: Plan, visual: Tensor) -> dict[int, Tensor]:
    """Which of the ``visual`` keys [B, N] are gone from each layer of a plan on."""
    found = {}
    numbers = [row.nonzero().flatten() for row in visual]
    for layer, step in plan:
        numbers = [kept(those, step, b) for b, those in enumerate(numbers)]
        gone = visual.clone()
        for b, those in enumerate(numbers):
            gone[b, those] = False
        found[layer] = gone
    return found
