"""How near a method leaves one prompt to itself, in numbers for reports (methods/prune-evaluation.md, section 3)."""

from __future__ import annotations

import math
from collections.abc import Callable

import torch
from torch import Tensor

from ..engine.trace import Prefill
from ..vlm.ask import Answer
from .fidelity import (
    TextAttention,
    cosine,
    log_probability_change,
    perplexity_ratio,
    rank_agreement,
    top_overlap,
)  # fmt: skip


def nearness(whole: Answer, fewer: Answer, follow: Callable[[], Tensor]) -> dict[str, float]:
    """Of the last token of the prompt, and of the whole model's answer.

    Parameters
    ----------
    whole, fewer : Answer
    follow : callable () -> Tensor [G]
        Log-probabilities that the pruned model gives to the whole model's answer (``answer_log_probabilities``); asked
        only where the two answers do not say it.

    Returns
    -------
    dict
        ``top5_overlap``: share of the five most probable tokens that are the same. ``log_p_change``: |delta log p| of
        the whole model's answer, in nats. ``perplexity_ratio``: of the pruned model on it, over that of the whole one.
        ``last_token_cosine``: of its state in the last layer.
    """
    if torch.equal(whole.ids, fewer.ids):
        likely = fewer.log_probabilities
    elif len(whole.ids) == 1:
        likely = fewer.logits.log_softmax(-1)[whole.ids]
    else:
        likely = follow()
    return {
        "top5_overlap": top_overlap(whole.logits, fewer.logits),
        "log_p_change": log_probability_change(whole.log_probabilities, likely),
        "perplexity_ratio": perplexity_ratio(whole.log_probabilities, likely),
        "last_token_cosine": cosine(whole.state, fewer.state),
    }


def oracle_agreement(attention: TextAttention, prefill: Prefill, sample: int = 0) -> dict[str, float]:
    """How well the scores of a method's first choice agree with the attention of all layers of the whole model.

    Returns
    -------
    dict
        ``oracle_spearman``: correlation of ranks. ``oracle_overlap``: share of the best tokens that are the same, as
        many as the choice kept. NaN of a method without scores.
    """
    first = prefill.choices[min(prefill.choices)][sample] if prefill.choices else None
    oracle = attention.oracle
    if first is None or first.score is None or len(first.score) != len(oracle):
        return {"oracle_spearman": math.nan, "oracle_overlap": math.nan}
    return {
        "oracle_spearman": rank_agreement(first.score, oracle),
        "oracle_overlap": top_overlap(first.score, oracle, len(first.keep)),
    }
