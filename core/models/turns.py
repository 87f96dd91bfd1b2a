"""Turns of a conversation, and the mask in which context is read in both directions and answers are written in one.

Paper: FocuSFT, arXiv 2605.09932. Specification: methods/focusft.md, section 3.2.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor


def turns(answer: Tensor) -> Tensor:
    """Number of the turn of every token, from 0: how often ``answer`` [B, S] has changed up to it; int64 [B, S]."""
    changed = answer[:, 1:] != answer[:, :-1]
    return torch.cat([torch.zeros_like(answer[:, :1], dtype=torch.int64), changed.to(torch.int64)], 1).cumsum(1)


def turns_seen(answer: Tensor, real: Tensor) -> Tensor:
    """Which keys a query may see: earlier turns whole, its own whole if it is context, up to itself if an answer.

    Parameters
    ----------
    answer : Tensor of bool [B, S]
        Tokens of answers.
    real : Tensor of bool [B, S]
        Tokens that are no padding.

    Returns
    -------
    Tensor of bool [B, 1, S, S]
    """
    turn = turns(answer)
    same = turn[:, :, None] == turn[:, None, :]
    earlier = turn[:, None, :] < turn[:, :, None]
    back = torch.ones(answer.shape[1], answer.shape[1], dtype=torch.bool, device=answer.device).tril()
    seen = earlier | (same & (~answer[:, :, None] | back))
    return (seen & real[:, :, None] & real[:, None, :])[:, None]


def context_length(answer: Tensor) -> Tensor:
    """Tokens before the first of an answer, all of them where there is none; int64 [B]."""
    first = answer.to(torch.int64).argmax(1)
    return torch.where(answer.any(1), first, answer.shape[1])


def prefix_seen(context: Tensor, real: Tensor) -> Tensor:
    """The same with one turn of context, ``context`` [B] tokens, and one answer behind it; bool [B, 1, S, S]."""
    place = torch.arange(real.shape[1], device=real.device)
    within = place < context[:, None]
    seen = (within[:, :, None] & within[:, None, :]) | (place <= place[:, None])
    return (seen & real[:, :, None] & real[:, None, :])[:, None]


def added_mask(seen: Tensor, dtype: torch.dtype) -> Tensor:
    """What is added to the logits: 0 or the least finite number. Minus infinity would make rows of padding NaN."""
    return torch.zeros(seen.shape, dtype=dtype, device=seen.device).masked_fill(~seen, torch.finfo(dtype).min)


def window_of(model: Any) -> bool:
    """Whether layers of a model attend in a sliding window, which a mask of our own would undo."""
    config = model.config
    kinds = getattr(config, "layer_types", None)
    if kinds is not None:
        return any("sliding" in kind or "chunked" in kind for kind in kinds)
    return getattr(config, "sliding_window", None) is not None
