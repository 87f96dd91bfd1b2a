"""How near a pruned model stays to itself (methods/prune-evaluation.md, section 3). Natural logarithms, float32.

Necessary, not sufficient: a model can keep its answers and be wrong.
"""

from __future__ import annotations

import inspect
import math
from collections.abc import Mapping
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from ...errors import UsageError
from ..engine.checks import CACHES
from ..engine.hooks import pruned
from ..engine.moment import Moment, PruneStage, TokenChoice
from ..engine.sites import VisionLanguageSite, site_of
from ..engine.trace import Prefill
from ..methods.base import largest

TOP = 5


# -- logits behind the last token of the prompt


def divergence(whole: Tensor, fewer: Tensor) -> float:
    """KL(softmax whole || softmax fewer) in nats, of logits [V]."""
    p, q = whole.float().log_softmax(-1), fewer.float().log_softmax(-1)
    terms = p.exp() * (p - q)
    return float(terms.masked_fill(p == -torch.inf, 0).sum().clamp(min=0))  # 0 log 0 is 0


def same_top(whole: Tensor, fewer: Tensor) -> bool:
    """Whether the most probable token is the same, of logits [V]."""
    return bool(whole.argmax() == fewer.argmax())


def top_overlap(whole: Tensor, fewer: Tensor, count: int = TOP) -> float:
    """Share of the ``count`` largest of one that are among those of the other, of values [n]; all of them if n < count.

    For logits, and for a method's scores against the oracle's.
    """
    count = min(count, len(whole))
    one, other = (set(largest(values, count).tolist()) for values in (whole, fewer))
    return len(one & other) / count if count else math.nan


# -- answers


@torch.no_grad()
def answer_log_probabilities(model: nn.Module, inputs: Mapping[str, Tensor], answer: Tensor) -> Tensor:
    """Log-probabilities of a given answer, token by token, in nats.

    Parameters
    ----------
    model : Module
        Inside a ``prune`` block: of the pruned model. What is kept is chosen as for the prompt alone.
    inputs : mapping
        Of one prompt, without padding.
    answer : Tensor of int64 [G]

    Returns
    -------
    Tensor [G], float32
    """
    if len(inputs["input_ids"]) > 1:
        raise ValueError("answers are followed one prompt at a time")
    name = next(name for name in CACHES if name in inspect.signature(model.forward).parameters)
    out = model(**inputs, use_cache=True)
    found = []
    for number, token in enumerate(answer):
        found.append(out.logits[0, -1].float().log_softmax(-1)[token])
        if number + 1 < len(answer):
            out = model(input_ids=token.view(1, 1), use_cache=True, **{name: getattr(out, name)})
    return torch.stack(found)


def log_probability_change(whole: Tensor, fewer: Tensor) -> float:
    """|delta log p| of an answer, of the log-probabilities of its tokens [G]."""
    return float((fewer.float().sum() - whole.float().sum()).abs())


def perplexity_ratio(whole: Tensor, fewer: Tensor) -> float:
    """Perplexity of the pruned model on an answer, over that of the whole one; of log-probabilities [G]."""
    return math.exp(float(whole.float().mean() - fewer.float().mean()))


def same_answer(whole: str, fewer: str) -> bool:
    """Whether two greedy answers are the same; space around them does not count."""
    return whole.strip() == fewer.strip()


def cosine(whole: Tensor, fewer: Tensor) -> float:
    """Of two hidden states [D], such as those of the last token in the last layer."""
    return float(torch.cosine_similarity(whole.float(), fewer.float(), dim=-1))


# -- attention


@dataclass(frozen=True, slots=True)
class TextAttention:
    """Where the text behind a picture looks, in a whole pass of the model.

    Parameters
    ----------
    received : Tensor [L, V], float32
        Attention to each visual token in each layer, mean over heads and rows of the text.
    shares : Tensor [L, V], float32
        The same of what falls on visual tokens: each row of attention is divided by its sum over them first.
    """

    received: Tensor
    shares: Tensor

    def mass_kept(self, prefill: Prefill, sample: int = 0) -> float:
        """Share of the attention to visual tokens that falls on those that were kept.

        Mean over the layers from the first choice on; NaN where nothing was chosen.
        """
        if not prefill.choices:
            return math.nan
        masses = []
        for number in range(min(prefill.choices), len(self.shares)):
            keep = prefill.choices[max(layer for layer in prefill.choices if layer <= number)][sample].keep
            masses.append(float(self.shares[number, keep].sum()))
        return sum(masses) / len(masses)

    @property
    def oracle(self) -> Tensor:
        """The mean of ``received`` over all layers, [V]: what the best choice at a budget is made by."""
        return self.received.mean(0)


class TextWatch:
    """Looks at the attention of the text behind the pictures while a whole model runs, one layer at a time.

    Parameters
    ----------
    site : VisionLanguageSite

    Attributes
    ----------
    stages : list of PruneStage
        For ``pruned``: they take nothing out.
    """

    def __init__(self, site: VisionLanguageSite) -> None:
        self._found: dict[int, list[tuple[Tensor, Tensor]]] = {}  # layer -> received and shares of each prompt
        last = site.depth - 1
        self.stages = [PruneStage(layer, self._look, attention=("previous",)) for layer in range(1, last)]
        self.stages.append(PruneStage(last, self._look, attention=("previous", "next") if last else ("next",)))

    def _look(self, moment: Moment) -> list[TokenChoice]:
        rows = [moment.prompts.text_after(sample) for sample in range(moment.prompts.samples)]
        if not all(map(len, rows)):
            raise UsageError("no text follows the pictures: there is nothing whose attention could be looked at.")
        for which, layer in (("previous", moment.layer - 1), ("next", moment.layer)):
            if (moment.previous if which == "previous" else moment.next) is not None:
                self._found[layer] = [
                    (rows.mean((0, 1)), (rows / rows.sum(-1, keepdim=True)).mean((0, 1)))
                    for rows in moment.attention(rows, which)  # [H, R, V]
                ]
        return [TokenChoice(numbers) for numbers in moment.numbers]

    def seen(self) -> list[TextAttention]:
        """Of each prompt of the last call."""
        layers = [self._found[layer] for layer in sorted(self._found)]
        return [
            TextAttention(*(torch.stack(values) for values in zip(*of_prompt, strict=True)))
            for of_prompt in zip(*layers, strict=True)
        ]


def text_attention(model: nn.Module, inputs: Mapping[str, Tensor]) -> list[TextAttention]:
    """Of each prompt, the attention of the text behind its pictures: a pass of the whole model.

    Raises
    ------
    UsageError
        If no text follows a picture, or the attention is of a class whose rows cannot be worked out.
    """
    site = site_of(model)
    watch = TextWatch(site)
    with torch.no_grad(), pruned(site.model, watch.stages, site=site):
        site.model(**inputs)
    return watch.seen()


def rank_agreement(scores: Tensor, oracle: Tensor) -> float:
    """Spearman's correlation of two scores [V]; NaN where one of them is constant."""
    from scipy.stats import spearmanr

    one, other = scores.float().cpu(), oracle.float().cpu()
    if len(one) < 2 or bool((one == one[0]).all()) or bool((other == other[0]).all()):
        return math.nan
    return float(spearmanr(one, other).statistic)
