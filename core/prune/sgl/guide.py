"""A guide's own run: its answer, how sure it was, which visual tokens mattered (methods/sgl.md, sections 3.1, 3.3)."""

from __future__ import annotations

import inspect
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from ...options import OptionError
from ..engine.hooks import pruned
from ..engine.moment import Moment, PruneStage, TokenChoice
from ..engine.prompts import is_visual
from ..engine.sites import VisionLanguageSite
from ..methods.base import Keep, top
from ..vlm.greedy import ends_of, greedy
from .importance import ReceivedAttention, TextRows, received_attention

_MADE = (
    "position_ids", "cache_position", "inputs_embeds", "labels", "past_key_values", "use_cache", "logits_to_keep",
    "mm_encoder_outputs",
)  # fmt: skip
"""Of a call, what ``generate`` makes itself."""
CONSISTENCY = Keep(share=0.05)
"""What a guide sees of a picture when it is asked whether it would say the same again."""


@dataclass(frozen=True, slots=True)
class GuideRun:
    """What a guide came to, for each prompt of a batch.

    Parameters
    ----------
    ids : list of Tensor of int64 [G_b]
        The answer, greedily; with the token that ended it.
    log_probabilities : list of Tensor [G_b], float32
        Of these tokens.
    received : ReceivedAttention
    """

    ids: list[Tensor]
    log_probabilities: list[Tensor]
    received: ReceivedAttention

    def confidence(self, sample: int = 0) -> float:
        """Geometric mean of the probabilities of an answer's tokens."""
        return float(self.log_probabilities[sample].mean().exp())


def run_guide(
    site: VisionLanguageSite, inputs: Mapping[str, Any], *, max_new_tokens: int = 10, rows: TextRows = "paper"
) -> GuideRun:
    """Let a model answer, all visual tokens there, and sum up the attention these get.

    Parameters
    ----------
    site : VisionLanguageSite
    inputs : mapping of str to Tensor
        What a processor gives, for one prompt or a left-padded batch.
    max_new_tokens : int
    rows : {"paper", "code"}
        See ``received_attention``.

    Raises
    ------
    UsageError
        If it cannot run.
    """
    with received_attention(site, rows=rows, stop=ends_of(site.model)) as received:
        found = greedy(site.model, _own(site, inputs), max_new_tokens=max_new_tokens, field="guide")
    return GuideRun([one.ids for one in found], [one.log_probabilities for one in found], received)


def consistency(
    site: VisionLanguageSite, inputs: Mapping[str, Any], answer: Tensor, importance: Tensor, *, keep: Keep
) -> float:
    """``consistencies`` of one prompt: its answer [G] and the importance of its visual tokens [V]."""
    return consistencies(site, inputs, [answer], [importance], keep=keep)[0]


@torch.no_grad()
def consistencies(
    site: VisionLanguageSite, inputs: Mapping[str, Any], answers: Sequence[Tensor], importance: Sequence[Tensor], *,
    keep: Keep,
) -> list[float]:  # fmt: skip
    """Probability of a model's own answers when it sees only the most important visual tokens (section 3.3).

    Parameters
    ----------
    site : VisionLanguageSite
    inputs : mapping of str to Tensor
        Of one prompt, or of a left-padded batch.
    answers : sequence of Tensor of int64 [G_b]
    importance : sequence of Tensor [V_b]
    keep : Keep
        How many visual tokens it sees; the others are not there from the first layer on.

    Returns
    -------
    list of float
        The product of the probabilities; of a long answer a very small number. 0 where the answer has the token of a
        picture in it: it cannot be read again, and is no answer.
    """

    def choose(moment: Moment) -> list[TokenChoice]:
        return [
            top(scores, numbers, keep.of(len(scores)))
            for scores, numbers in zip(importance, moment.numbers, strict=True)
        ]

    call = _own(site, inputs)
    longest = max(map(len, answers))
    tails = call["input_ids"][:, -1:].repeat(1, longest)  # behind a shorter answer any text does: it comes later
    readable = [not is_visual(site, answer).any() for answer in answers]
    for tail, answer, fine in zip(tails, answers, readable, strict=True):
        if fine:
            tail[: len(answer)] = answer
    for name in ("input_ids", "attention_mask", "mm_token_type_ids"):
        if (value := call.get(name)) is not None:
            more = tails if name == "input_ids" else torch.full_like(tails, int(name == "attention_mask"))
            call[name] = torch.cat([value, more.to(value)], 1)
    with pruned(site.model, [PruneStage(0, choose)], site=site):
        logits = site.model(**call, use_cache=False).logits[:, -longest - 1 : -1]
    likely = F.log_softmax(logits.float(), -1).gather(-1, tails[..., None])[..., 0]  # [B, longest]
    return [
        float(row[: len(answer)].sum().exp()) if fine else 0.0
        for row, answer, fine in zip(likely, answers, readable, strict=True)
    ]


def decisions_of(
    site: VisionLanguageSite, inputs: Mapping[str, Any], run: GuideRun, keep: Keep = CONSISTENCY
) -> list[float]:
    """How safe a guide's answer to each prompt is: mean of its confidence and its consistency (section 3.3)."""
    kept = consistencies(site, inputs, run.ids, run.received.importance(), keep=keep)
    return [(run.confidence(sample) + sure) / 2 for sample, sure in enumerate(kept)]


@contextmanager
def about_the_guide() -> Iterator[None]:
    """What cannot be of a model that is loaded inside is said of the guide."""
    try:
        yield
    except OptionError as error:
        raise OptionError(error.text.replace("{model}", "{guide}")) from None


def same_tokens(guide: int, large: int) -> None:
    """Raise ``OptionError`` where two models do not split a picture into equally many tokens."""
    if guide != large:
        raise OptionError(
            f"{{guide}}: it has {guide} visual tokens for a prompt for which the large model has {large}; each "
            "must show the same to both. Take a guide of the same family, with the same processor."
        )


def _own(site: VisionLanguageSite, inputs: Mapping[str, Any]) -> dict[str, Any]:
    """What ``generate`` of this model takes of a call; kinds of tokens (Qwen) made where they are missing."""
    takes = inspect.signature(site.model.forward).parameters
    call = {name: value for name, value in inputs.items() if name in takes and name not in _MADE and value is not None}
    ids: Tensor = call["input_ids"]
    if "mm_token_type_ids" in takes and "mm_token_type_ids" not in call:
        kinds = [kind * (ids == token).int() for kind, token in enumerate(site.tokens, 1)]  # 1: picture, 2: video
        call["mm_token_type_ids"] = torch.stack(kinds).sum(0, dtype=torch.int32)
    call.setdefault("attention_mask", torch.ones_like(ids))
    return call
